/* A barrier: what was written before it is read after it, one is the leader, a wait that is dropped
 * has not arrived. */
#include "model.hpp"

#include "../../csrc/core/budget.c"
#include "../../csrc/core/notify.c"

#include "../../csrc/core/barrier.c"

using namespace pac_model;

template <typename T, int N> struct Model : Case<T, N> {
    struct pac_barrier barrier;
    PAC_CELL(int) written[N];
    PAC_ATOMIC(int) leaders;

    void before(uint64_t parties)
    {
        Case<T, N>::before();
        pac_barrier_init(&barrier, parties);
        pac_atomic_init(&leaders, 0);
        for (int i = 0; i < N; i++) {
            written[i] = 0;
        }
    }

    void wait(unsigned index)
    {
        struct pac_barrier_wait w;
        pac_barrier_wait_init(&w, &barrier);
        await(&w.future, this->sleepers[index]);
        pac_atomic_add(&leaders, w.is_leader, PAC_RELAXED);
        pac_barrier_wait_drop(&w);
    }

    void after(int expected)
    {
        RL_ASSERT(pac_atomic_load(&leaders, PAC_RELAXED) == expected);
        RL_ASSERT(barrier.arrived == 0);
        RL_ASSERT(pac_list_is_empty(&barrier.notify.waiters));
        Case<T, N>::after();
    }
};

struct three_meet : Model<three_meet, 3> {
    void before()
    {
        Model::before(3);
    }

    void thread(unsigned index)
    {
        written[index] = 1;
        wait(index);
        RL_ASSERT(written[0] == 1 && written[1] == 1 && written[2] == 1);
    }

    void after()
    {
        Model::after(1);
    }
};

/* The fast one arrives for the second time while the broadcast of the first is still on its way. */
struct twice : Model<twice, 2> {
    void before()
    {
        Model::before(2);
    }

    void thread(unsigned index)
    {
        for (int round = 1; round <= 2; round++) {
            written[index] = round;
            wait(index);
            RL_ASSERT(written[1 - index] == round);
            wait(index);
        }
    }

    void after()
    {
        Model::after(4);
    }
};

/* Two arrive and are dropped, ready or not: nobody is counted afterwards. */
struct dropped_has_not_arrived : Model<dropped_has_not_arrived, 3> {
    void before()
    {
        Model::before(2);
    }

    void thread(unsigned index)
    {
        struct pac_barrier_wait w;
        pac_barrier_wait_init(&w, &barrier);
        (void)look(&w.future, sleepers[index]);
        pac_atomic_add(&leaders, w.is_leader, PAC_RELAXED);
        pac_barrier_wait_drop(&w);
    }

    void after()
    {
        int opened = (int)pac_atomic_load(&barrier.generation, PAC_RELAXED);
        Model::after(opened);
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(three_meet, 1);
    CHECK_MODEL(twice, 1);
    CHECK_MODEL(dropped_has_not_arrived, 1);
    return !ok;
}
