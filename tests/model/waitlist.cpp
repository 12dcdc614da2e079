/* Who waits for a flag that a lock guards: all are woken, in two batches, while some leave or move
 * to another task. */
#include "model.hpp"

#include "../../csrc/core/budget.c"
#include "../../csrc/core/waitlist.c"

using namespace pac_model;

template <typename T, int N> struct Model : Case<T, N> {
    struct pac_lock lock;
    struct pac_list list;
    PAC_CELL(bool) flag;
    PAC_CELL(int) data;

    void before()
    {
        Case<T, N>::before();
        pac_atomic_init(&lock.held, 0);
        pac_list_init(&list);
        flag = false;
        data = 0;
    }

    void set()
    {
        data = 1;
        pac_lock_acquire(&lock);
        flag = true;
        pac_waiters_wake_all(&list, &lock);
    }

    void after()
    {
        RL_ASSERT(pac_list_is_empty(&list));
        Case<T, N>::after();
    }
};

struct woken_or_seen : Model<woken_or_seen, 3> {
    void thread(unsigned index)
    {
        if (index == 0) {
            set();
            return;
        }
        struct pac_flag_wait f;
        pac_flag_wait_init(&f, &lock, &list, &flag);
        if (index == 2 && !look(&f.future, sleepers[0])) {
            await(&f.future, sleepers[2]); /* the newest waker */
        }
        else if (index == 1) {
            await(&f.future, sleepers[1]);
        }
        RL_ASSERT(data == 1);
        pac_flag_wait_drop(&f);
    }
};

/* Three wait and the batch holds two: one of them goes before it was woken, or meanwhile. */
struct two_batches : Model<two_batches, 3> {
    struct pac_flag_wait made[3];

    void before()
    {
        Model::before();
        for (int i = 0; i < 3; i++) {
            pac_flag_wait_init(&made[i], &lock, &list, &flag);
            bool ready = look(&made[i].future, sleepers[i]);
            RL_ASSERT(!ready);
        }
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                set();
                await(&made[0].future, sleepers[0]);
                break;
            case 1:
                break; /* leaves the list, whichever that is now */
            default:
                await(&made[2].future, sleepers[2]);
                RL_ASSERT(data == 1);
        }
        pac_flag_wait_drop(&made[index]);
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(woken_or_seen);
    CHECK_MODEL(two_batches);
    return !ok;
}
