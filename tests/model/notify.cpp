/* Notify's three kinds of notification against waiters that poll, change their waker and are
 * dropped. The batch of wakers holds two, so three waiters take a broadcast in two rounds. */
#include "model.hpp"

#include "../../csrc/core/budget.c"
#include "../../csrc/core/notify.c"

using pac_model::Sleeper;

static void
wait_for(struct pac_notified *f, Sleeper &sleeper)
{
    struct pac_waker waker = sleeper.waker();
    struct pac_context cx = {&waker};
    while (pac_notified_poll(f, &cx) != PAC_READY) {
        sleeper.sleep();
    }
}

static void
wait_once(struct pac_notify *n, Sleeper &sleeper)
{
    struct pac_notified f;
    pac_notified_init(&f, n);
    wait_for(&f, sleeper);
    pac_notified_drop(&f);
}

/* Poll once and be dropped; true: it was ready. */
static bool
look_once(struct pac_notify *n, Sleeper &sleeper)
{
    struct pac_waker waker = sleeper.waker();
    struct pac_context cx = {&waker};
    struct pac_notified f;
    pac_notified_init(&f, n);
    bool ready = pac_notified_poll(&f, &cx) == PAC_READY;
    pac_notified_drop(&f);
    return ready;
}

static bool
take_stored_permit(struct pac_notify *n)
{
    struct pac_notified f;
    pac_notified_init(&f, n);
    bool ready = pac_notified_enable(&f);
    pac_notified_drop(&f);
    return ready;
}

template <typename T, int N> struct Model : rl::test_suite<T, N> {
    struct pac_notify notify;
    Sleeper sleepers[N];
    PAC_CELL(int) data; /* written before a notification, read after it */

    void before()
    {
        pac_model::running = true;
        pac_notify_init(&notify);
        data = 0;
    }

    void after()
    {
        RL_ASSERT(pac_list_is_empty(&notify.waiters));
        for (Sleeper &sleeper : sleepers) {
            RL_ASSERT(sleeper.wakers_alive() == 0);
        }
        pac_model::running = false;
    }
};

/* One notification, one waiter: it arrives whichever comes first, and carries what was written. */
struct one_waits : Model<one_waits, 2> {
    void thread(unsigned index)
    {
        if (index == 0) {
            data = 1;
            pac_notify_one(&notify);
        }
        else {
            wait_once(&notify, sleepers[index]);
            RL_ASSERT(data == 1);
            RL_ASSERT(!take_stored_permit(&notify));
        }
    }
};

/* Two notifications from two threads, two waiters; by the oldest and by the newest. */
struct two_wait : Model<two_wait, 4> {
    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                wait_once(&notify, sleepers[0]);
                pac_notify_one(&notify); /* the second may have met a permit that was there */
                break;
            case 1:
                wait_once(&notify, sleepers[1]);
                pac_notify_one(&notify);
                break;
            case 2:
                pac_notify_one(&notify);
                break;
            default:
                pac_notify_last(&notify);
        }
    }
};

/* A waiter is dropped while a notification is on its way: the other one gets it. */
struct dropped_waiter_passes_on : Model<dropped_waiter_passes_on, 3> {
    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                pac_notify_one(&notify);
                break;
            case 1:
                if (look_once(&notify, sleepers[1])) {
                    pac_notify_one(&notify); /* it was ours: give it to the other one */
                }
                break;
            default:
                wait_once(&notify, sleepers[2]);
        }
    }

    void after()
    {
        RL_ASSERT(!take_stored_permit(&notify)); /* there was one, and the last has taken it */
        Model::after();
    }
};

/* Everything that was made before a broadcast gets it, polled or not, and it stores nothing. */
struct broadcast : Model<broadcast, 3> {
    struct pac_notified made[3];

    void before()
    {
        Model::before();
        for (struct pac_notified &f : made) {
            pac_notified_init(&f, &notify);
        }
    }

    void thread(unsigned index)
    {
        if (index == 0) {
            data = 1;
            pac_notify_waiters(&notify);
            wait_for(&made[0], sleepers[0]);
        }
        else {
            wait_for(&made[index], sleepers[index]);
            RL_ASSERT(data == 1);
        }
        pac_notified_drop(&made[index]);
    }

    void after()
    {
        RL_ASSERT(!take_stored_permit(&notify));
        Model::after();
    }
};

/* Once one of them is seen ready, all that were made before the broadcast are, however many
 * batches it takes; and what was made after it is not. */
struct broadcast_is_atomic : Model<broadcast_is_atomic, 2> {
    struct pac_notified made[3];

    void before()
    {
        Model::before();
        for (struct pac_notified &f : made) {
            pac_notified_init(&f, &notify);
            bool ready = pac_notified_enable(&f);
            RL_ASSERT(!ready);
        }
    }

    void thread(unsigned index)
    {
        if (index == 0) {
            pac_notify_waiters(&notify);
            return;
        }
        wait_for(&made[2], sleepers[1]);
        struct pac_notified later;
        pac_notified_init(&later, &notify);
        RL_ASSERT(!pac_notified_enable(&later));
        RL_ASSERT(pac_notified_enable(&made[0]));
        RL_ASSERT(pac_notified_enable(&made[1]));
        pac_notified_drop(&later);
        for (struct pac_notified &f : made) {
            pac_notified_drop(&f);
        }
    }
};

/* A permit and a broadcast at once: the broadcast does not eat the permit. */
struct broadcast_and_permit : Model<broadcast_and_permit, 3> {
    struct pac_notified made;

    void before()
    {
        Model::before();
        pac_notified_init(&made, &notify);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                pac_notify_waiters(&notify);
                break;
            case 1:
                pac_notify_one(&notify);
                break;
            default:
                wait_for(&made, sleepers[2]);
                pac_notified_drop(&made);
        }
    }

    void after()
    {
        bool by_broadcast = pac_atomic_load(&made.mark, PAC_RELAXED) == MARK_ALL;
        RL_ASSERT(take_stored_permit(&notify) == by_broadcast);
        Model::after();
    }
};

/* The future moves to another task while it is notified: the newest waker is woken, or the poll
 * sees it. */
struct newest_waker_wins : Model<newest_waker_wins, 2> {
    void thread(unsigned index)
    {
        if (index == 0) {
            pac_notify_one(&notify);
            return;
        }
        struct pac_waker waker = sleepers[0].waker();
        struct pac_context cx = {&waker};
        struct pac_notified f;
        pac_notified_init(&f, &notify);
        if (pac_notified_poll(&f, &cx) != PAC_READY) {
            wait_for(&f, sleepers[1]);
        }
        pac_notified_drop(&f);
    }
};

/* Two are dropped with the mark of a notification between them, a third waits. */
struct chain_of_drops : Model<chain_of_drops, 3> {
    struct pac_notified made[2];

    void before()
    {
        Model::before();
        for (struct pac_notified &f : made) {
            pac_notified_init(&f, &notify);
            bool ready = pac_notified_enable(&f);
            RL_ASSERT(!ready);
        }
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                pac_notify_one(&notify);
                break;
            case 1:
                pac_notified_drop(&made[0]);
                pac_notified_drop(&made[1]);
                break;
            default:
                wait_once(&notify, sleepers[2]);
        }
    }
};

/* Two wait for the newest's notification, and the newest goes: it passes on to the newest of those
 * that are left, not to the oldest. */
struct last_passes_on_to_the_newest : Model<last_passes_on_to_the_newest, 3> {
    struct pac_notified made[3];

    void before()
    {
        Model::before();
        for (struct pac_notified &f : made) {
            pac_notified_init(&f, &notify);
            bool ready = pac_notified_enable(&f);
            RL_ASSERT(!ready);
        }
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                pac_notify_last(&notify);
                break;
            case 1:
                pac_notified_drop(&made[2]);
                break;
            default:
                wait_for(&made[1], sleepers[2]);
                pac_notified_drop(&made[1]);
        }
    }

    void after()
    {
        RL_ASSERT(pac_atomic_load(&made[0].mark, PAC_RELAXED) == MARK_NONE);
        pac_notified_drop(&made[0]);
        RL_ASSERT(!take_stored_permit(&notify));
        Model::after();
    }
};

/* Three wait, the batch holds two, and one goes while they are being woken: a broadcast is not
 * passed on, and the others have it. */
struct dropped_in_a_broadcast : Model<dropped_in_a_broadcast, 3> {
    struct pac_notified made[3];

    void before()
    {
        Model::before();
        for (int i = 0; i < 3; i++) {
            pac_notified_init(&made[i], &notify);
            struct pac_waker waker = sleepers[i].waker();
            struct pac_context cx = {&waker};
            bool ready = pac_notified_poll(&made[i], &cx) == PAC_READY;
            RL_ASSERT(!ready);
        }
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                pac_notify_waiters(&notify);
                wait_for(&made[0], sleepers[0]);
                break;
            case 1:
                break; /* leaves the list, whichever that is now */
            default:
                wait_for(&made[2], sleepers[2]);
        }
        pac_notified_drop(&made[index]);
    }

    void after()
    {
        RL_ASSERT(!take_stored_permit(&notify));
        Model::after();
    }
};

/* Two take things from a common place: each enables, looks there, and only then waits. Nothing is
 * left lying while somebody waits for it, though the second notification may find the first still
 * stored as a permit. */
struct enable_then_look : Model<enable_then_look, 3> {
    PAC_ATOMIC(int) things;

    void before()
    {
        Model::before();
        pac_atomic_init(&things, 0);
    }

    bool take()
    {
        int now = pac_atomic_load(&things, PAC_RELAXED);
        while (now > 0) {
            if (pac_atomic_cas(&things, &now, now - 1, PAC_RELAXED, PAC_RELAXED)) {
                return true;
            }
        }
        return false;
    }

    void thread(unsigned index)
    {
        if (index == 0) {
            for (int i = 0; i < 2; i++) {
                /* No order of its own: it is Notify's doing that who waits finds it. */
                pac_atomic_add(&things, 1, PAC_RELAXED);
                pac_notify_one(&notify);
            }
            return;
        }
        for (;;) {
            struct pac_notified f;
            pac_notified_init(&f, &notify);
            bool ready = pac_notified_enable(&f);
            bool taken = take();
            if (!taken && !ready) {
                wait_for(&f, sleepers[index]);
            }
            pac_notified_drop(&f);
            if (taken) {
                return;
            }
        }
    }
};

int
main(int argc, char **argv)
{
    pac_model::Search search = pac_model::parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(one_waits);
    CHECK_MODEL(two_wait, 1);
    CHECK_MODEL(dropped_waiter_passes_on);
    CHECK_MODEL(broadcast);
    CHECK_MODEL(broadcast_is_atomic);
    CHECK_MODEL(broadcast_and_permit);
    CHECK_MODEL(newest_waker_wins);
    CHECK_MODEL(chain_of_drops);
    CHECK_MODEL(last_passes_on_to_the_newest);
    CHECK_MODEL(dropped_in_a_broadcast);
    CHECK_MODEL(enable_then_look, 1);
    return !ok;
}
