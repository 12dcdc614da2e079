/* One task registers its waker while two threads wake: the last condition made true is always
 * seen, by the look after registering or by a wake. */
#include "model.hpp"

#include "../../csrc/core/atomic_waker.c"

using pac_model::Sleeper;

struct register_against_two_wakes : rl::test_suite<register_against_two_wakes, 3> {
    struct pac_atomic_waker slot;
    rl::atomic<int> conditions;
    Sleeper first, second; /* the task moves to another waker in between */

    void before()
    {
        pac_model::running = true;
        pac_atomic_waker_init(&slot);
        conditions($).store(0, rl::mo_relaxed);
    }

    void thread(unsigned index)
    {
        if (index > 0) {
            conditions($).fetch_add(1, rl::mo_relaxed);
            pac_atomic_waker_wake(&slot);
            return;
        }
        struct pac_waker one = first.waker(), two = second.waker();
        pac_atomic_waker_register(&slot, &one);
        if (conditions($).load(rl::mo_relaxed) == 2) {
            return;
        }
        for (;;) {
            pac_atomic_waker_register(&slot, &two);
            if (conditions($).load(rl::mo_relaxed) == 2) {
                return;
            }
            second.sleep();
        }
    }

    void after()
    {
        pac_atomic_waker_fini(&slot);
        RL_ASSERT(first.wakers_alive() == 0 && second.wakers_alive() == 0);
        pac_model::running = false;
    }
};

int
main(int argc, char **argv)
{
    pac_model::Search search = pac_model::parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(register_against_two_wakes);
    return !ok;
}
