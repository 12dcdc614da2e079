/* An event: who waits is let go by any set() since then, also if clear() follows at once. */
#include "model.hpp"

#include "../../csrc/core/budget.c"
#include "../../csrc/core/notify.c"

#include "../../csrc/core/event.c"

using namespace pac_model;

template <typename T, int N> struct Model : Case<T, N> {
    struct pac_event event;
    PAC_CELL(int) data;

    void before()
    {
        Case<T, N>::before();
        pac_event_init(&event);
        data = 0;
    }

    void wait_for(struct pac_event_wait *w, Sleeper &sleeper)
    {
        await(&w->future, sleeper);
        pac_event_wait_drop(w);
    }

    void after()
    {
        RL_ASSERT(pac_list_is_empty(&event.notify.waiters));
        Case<T, N>::after();
    }
};

/* Made before it was set and cleared: both go on, and see what was written before. */
struct set_and_cleared : Model<set_and_cleared, 3> {
    struct pac_event_wait made[3];

    void before()
    {
        Model::before();
        for (struct pac_event_wait &w : made) {
            pac_event_wait_init(&w, &event);
        }
    }

    void thread(unsigned index)
    {
        if (index == 0) {
            data = 1;
            pac_event_set(&event);
            pac_event_clear(&event);
            pac_event_wait_drop(&made[0]);
            return;
        }
        wait_for(&made[index], sleepers[index]);
        RL_ASSERT(data == 1);
    }
};

/* Two set it at once: that is one time. Each goes on seeing what the one who came first wrote. */
struct set_by_two : Model<set_by_two, 3> {
    void thread(unsigned index)
    {
        if (index == 0) {
            data = 1;
            pac_event_set(&event);
            return;
        }
        if (index == 1) {
            if (pac_event_is_set(&event)) {
                RL_ASSERT(data == 1);
            }
            pac_event_set(&event);
            return;
        }
        struct pac_event_wait w;
        pac_event_wait_init(&w, &event);
        wait_for(&w, sleepers[2]);
        RL_ASSERT(pac_event_is_set(&event));
    }

    void after()
    {
        RL_ASSERT(pac_atomic_load(&event.state, PAC_RELAXED) == (ONE_TIME | SET));
        Model::after();
    }
};

/* A wait may be made between a set and its broadcast, which is not meant for it and does not let it
 * go for good: the next set does. */
struct second_time : Model<second_time, 2> {
    void thread(unsigned index)
    {
        if (index == 0) {
            pac_event_set(&event);
            pac_event_clear(&event);
            data = 1;
            pac_event_set(&event);
            return;
        }
        for (Sleeper &sleeper : sleepers) {
            struct pac_event_wait w;
            pac_event_wait_init(&w, &event);
            uint64_t seen = w.seen;
            wait_for(&w, sleeper);
            if (seen == ONE_TIME) {
                RL_ASSERT(data == 1); /* made after the first time, so it was the second */
            }
        }
    }
};

/* One that has begun to wait is dropped while the event is set. */
struct dropped_while_set : Model<dropped_while_set, 3> {
    void thread(unsigned index)
    {
        struct pac_event_wait w;
        switch (index) {
            case 0:
                data = 1;
                pac_event_set(&event);
                break;
            case 1:
                pac_event_wait_init(&w, &event);
                (void)look(&w.future, sleepers[1]);
                pac_event_wait_drop(&w);
                break;
            default:
                pac_event_wait_init(&w, &event);
                wait_for(&w, sleepers[2]);
                RL_ASSERT(data == 1);
        }
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(set_and_cleared, 1);
    CHECK_MODEL(set_by_two, 1);
    CHECK_MODEL(second_time);
    CHECK_MODEL(dropped_while_set, 1);
    return !ok;
}
