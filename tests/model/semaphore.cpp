/* A semaphore against acquires of one and of many that wait, are cancelled and closed: permits are
 * conserved, and nobody overtakes. */
#include "model.hpp"

#include "../../csrc/core/budget.c"
#include "../../csrc/core/semaphore.c"

using namespace pac_model;

template <typename T, int N> struct Model : Case<T, N> {
    struct pac_semaphore semaphore;
    PAC_CELL(int) data; /* written by who has all permits, read by who has one */

    void before(uint64_t permits, uint64_t limit)
    {
        Case<T, N>::before();
        pac_semaphore_init(&semaphore, permits, limit);
        data = 0;
    }

    void release(uint64_t n)
    {
        enum pac_status status = pac_semaphore_release(&semaphore, n);
        RL_ASSERT(status == PAC_OK);
    }

    void after(uint64_t permits)
    {
        RL_ASSERT(semaphore.available == permits);
        RL_ASSERT(pac_list_is_empty(&semaphore.waiters));
        Case<T, N>::after();
    }
};

/* Two permits: one task takes both, one takes one, one gives its place in the line up. */
struct many_and_one_and_cancel : Model<many_and_one_and_cancel, 3> {
    void before()
    {
        Model::before(2, 2);
    }

    void thread(unsigned index)
    {
        struct pac_acquire a;
        pac_acquire_init(&a, &semaphore, index == 0 ? 2 : 1);
        if (index == 2) {
            if (look(&a.future, sleepers[2])) {
                release(1);
            }
            pac_acquire_drop(&a);
            return;
        }
        await(&a.future, sleepers[index]);
        RL_ASSERT(pac_acquire_status(&a) == PAC_OK);
        if (index == 0) {
            data = 1;
            release(2);
        }
        else {
            (void)(int)data;
            release(1);
        }
        pac_acquire_drop(&a);
    }

    void after()
    {
        Model::after(2);
    }
};

/* Permits come one by one. Who wants two came first: who wants one has it only after that. */
struct many_is_not_starved : Model<many_is_not_starved, 3> {
    struct pac_acquire many;

    void before()
    {
        Model::before(0, 3);
        pac_acquire_init(&many, &semaphore, 2);
        bool ready = look(&many.future, sleepers[0]);
        RL_ASSERT(!ready);
    }

    void thread(unsigned index)
    {
        struct pac_acquire one;
        switch (index) {
            case 0:
                await(&many.future, sleepers[0]);
                break;
            case 1:
                release(1);
                release(1);
                release(1);
                break;
            default:
                pac_acquire_init(&one, &semaphore, 1);
                await(&one.future, sleepers[2]);
                RL_ASSERT(pac_atomic_load(&many.mark, PAC_RELAXED) == MARK_GRANTED);
                RL_ASSERT(pac_semaphore_available(&semaphore) == 0);
        }
    }

    void after()
    {
        Model::after(0);
    }
};

/* Closed while one waits with a part of what it wants, and the rest is on its way. */
struct closed_while_waiting : Model<closed_while_waiting, 3> {
    void before()
    {
        Model::before(1, 2);
    }

    void thread(unsigned index)
    {
        struct pac_acquire a;
        switch (index) {
            case 0:
                pac_acquire_init(&a, &semaphore, 2);
                await(&a.future, sleepers[0]);
                if (pac_acquire_status(&a) == PAC_OK) {
                    release(2);
                }
                pac_acquire_drop(&a);
                break;
            case 1:
                pac_semaphore_close(&semaphore);
                break;
            default:
                release(1);
        }
    }

    void after()
    {
        Model::after(2);
    }
};

/* An acquire moves to another waker and is dropped by another thread's hand, maybe with its permit:
 * that goes on to the one behind it. */
struct dropped_passes_on : Model<dropped_passes_on, 3> {
    struct pac_acquire first;

    void before()
    {
        Model::before(0, 1);
        pac_acquire_init(&first, &semaphore, 1);
        bool ready = look(&first.future, sleepers[0]);
        RL_ASSERT(!ready);
    }

    void thread(unsigned index)
    {
        struct pac_acquire a;
        switch (index) {
            case 0:
                data = 1;
                release(1);
                break;
            case 1:
                if (look(&first.future, sleepers[1])) {
                    release(1);
                }
                pac_acquire_drop(&first);
                break;
            default:
                pac_acquire_init(&a, &semaphore, 1);
                await(&a.future, sleepers[2]);
                RL_ASSERT(data == 1);
        }
    }

    void after()
    {
        Model::after(0);
    }
};

/* The acquire moves to another task while it is granted: the newest waker is woken, or the poll
 * sees it. */
struct newest_waker_wins : Model<newest_waker_wins, 2> {
    void before()
    {
        Model::before(0, 1);
    }

    void thread(unsigned index)
    {
        if (index == 1) {
            release(1);
            return;
        }
        struct pac_acquire a;
        pac_acquire_init(&a, &semaphore, 1);
        if (!look(&a.future, sleepers[0])) {
            await(&a.future, sleepers[1]);
        }
    }

    void after()
    {
        Model::after(0);
    }
};

/* Who wants two and has been given one gives up, while the rest comes and the semaphore is closed:
 * whatever it has been given is there again afterwards. */
struct many_is_cancelled_and_closed : Model<many_is_cancelled_and_closed, 3> {
    struct pac_acquire many;

    void before()
    {
        Model::before(1, 2);
        pac_acquire_init(&many, &semaphore, 2);
        bool ready = look(&many.future, sleepers[0]);
        RL_ASSERT(!ready);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                if (look(&many.future, sleepers[0]) && pac_acquire_status(&many) == PAC_OK) {
                    release(2);
                }
                pac_acquire_drop(&many);
                break;
            case 1:
                pac_semaphore_close(&semaphore);
                break;
            default:
                release(1);
        }
    }

    void after()
    {
        Model::after(2);
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(many_and_one_and_cancel);
    CHECK_MODEL(many_is_not_starved);
    CHECK_MODEL(closed_while_waiting);
    CHECK_MODEL(dropped_passes_on);
    CHECK_MODEL(newest_waker_wins);
    CHECK_MODEL(many_is_cancelled_and_closed);
    return !ok;
}
