/* A promise: whatever meets, its value has one owner, the future is woken, and one side is told that
 * it is the last. */
#include "system.hpp"

#include "../../csrc/core/atomic_waker.c"
#include "../../csrc/core/wake_group.c"

#include "../../csrc/core/promise.c"

using namespace pac_model;

template <typename T, int N> struct Model : Case<T, N> {
    struct pac_promise promise;
    Item item;
    rl::atomic<int> ends; /* how often a side was told that it is the last */

    void before(int handles = 1)
    {
        Case<T, N>::before();
        pac_promise_init(&promise);
        for (int i = 1; i < handles; i++) {
            pac_promise_ref(&promise);
        }
        item.make(7);
        ends($).store(0, rl::mo_relaxed);
    }

    void told(bool last)
    {
        if (last) {
            pac_promise_fini(&promise);
            ends($).fetch_add(1, rl::mo_relaxed);
        }
    }

    /* On a maker's thread: keep it, and take the value back if that is refused. */
    bool keep()
    {
        bool kept = pac_promise_complete(&promise, &item, NULL) == PAC_OK;
        if (!kept) {
            item.end();
        }
        return kept;
    }

    void drop_handle()
    {
        told(pac_promise_unref(&promise, NULL));
    }

    /* On the future's thread: what came of it; a value is used up. */
    enum pac_promise_outcome leave()
    {
        void *value = NULL;
        enum pac_promise_outcome outcome = pac_promise_give_up(&promise, &value);
        if (outcome == PAC_PROMISE_KEPT) {
            RL_ASSERT(static_cast<Item *>(value)->end() == 7);
        }
        told(pac_promise_let_go(&promise));
        return outcome;
    }

    void after()
    {
        RL_ASSERT(item.has_ended());
        RL_ASSERT(ends($).load(rl::mo_relaxed) == 1);
        Case<T, N>::after();
    }
};

/* The future moves to another task meanwhile. */
struct keep_and_await : Model<keep_and_await, 2> {
    void thread(unsigned index)
    {
        if (index == 0) {
            bool kept = keep();
            RL_ASSERT(kept);
            drop_handle();
            return;
        }
        if (!look(&promise.future, sleepers[0])) {
            await(&promise.future, sleepers[1]);
        }
        enum pac_promise_outcome outcome = leave();
        RL_ASSERT(outcome == PAC_PROMISE_KEPT);
    }
};

/* The future looks once and goes. Who tries again is told the same: it was kept, or given up. */
struct keep_and_give_up : Model<keep_and_give_up, 2> {
    void thread(unsigned index)
    {
        if (index == 0) {
            bool kept = keep();
            enum pac_status again = pac_promise_complete(&promise, &item, NULL);
            RL_ASSERT(again == (kept ? PAC_FULL : PAC_CLOSED));
            drop_handle();
            return;
        }
        (void)look(&promise.future, sleepers[1]);
        enum pac_promise_outcome outcome = leave();
        RL_ASSERT(outcome == PAC_PROMISE_KEPT || outcome == PAC_PROMISE_PENDING);
    }
};

/* Two want to keep it: one does. The second one's value is destroyed with what keep says. */
struct two_makers : Model<two_makers, 3> {
    Item second;

    void before()
    {
        Model::before(2);
        second.make(8);
    }

    void thread(unsigned index)
    {
        void *value = NULL;
        switch (index) {
            case 0:
                keep();
                drop_handle();
                break;
            case 1:
                if (pac_promise_fail(&promise, &second, NULL) != PAC_OK) {
                    second.end();
                }
                drop_handle();
                break;
            default:
                await(&promise.future, sleepers[2]);
                if (pac_promise_give_up(&promise, &value) == PAC_PROMISE_KEPT) {
                    RL_ASSERT(static_cast<Item *>(value)->end() == 7);
                }
                else {
                    RL_ASSERT(static_cast<Item *>(value)->end() == 8);
                }
                told(pac_promise_let_go(&promise));
        }
    }

    void after()
    {
        RL_ASSERT(second.has_ended());
        Model::after();
    }
};

/* Nobody keeps it: the future learns that when the last of two handles goes. */
struct broken : Model<broken, 3> {
    void before()
    {
        Model::before(2);
        item.end();
    }

    void thread(unsigned index)
    {
        if (index < 2) {
            drop_handle();
            return;
        }
        await(&promise.future, sleepers[2]);
        enum pac_promise_outcome outcome = leave();
        RL_ASSERT(outcome == PAC_PROMISE_BROKEN);
    }
};

/* ---- with a group, and the executor that it wakes ------------------------------------------- */

/* READY once both promises are kept. */
struct Both {
    struct pac_future future;
    struct pac_promise promises[2];
};

static enum pac_poll
both_poll(struct pac_future *f, struct pac_context *cx)
{
    Both *self = PAC_CONTAINER_OF(f, Both, future);
    bool first = pac_promise_poll(&self->promises[0], cx) == PAC_READY;
    bool second = pac_promise_poll(&self->promises[1], cx) == PAC_READY;
    return first && second ? PAC_READY : PAC_PENDING;
}

static void
both_drop(struct pac_future *f)
{
    Both *self = PAC_CONTAINER_OF(f, Both, future);
    for (struct pac_promise &promise : self->promises) {
        pac_future_drop(&promise.future);
    }
}

static const struct pac_future_vtable both_vtable = {both_poll, both_drop};

struct grouped : rl::test_suite<grouped, 2> {
    EventCounter counter;
    struct pac_executor *executor;
    Both both;

    void before()
    {
        running = true;
        system_begin(&counter);
        enum pac_status status;
        executor = pac_executor_new(NULL, &status);
        both.future.vtable = &both_vtable;
        for (struct pac_promise &promise : both.promises) {
            pac_promise_init(&promise);
        }
    }

    void thread(unsigned index)
    {
        if (index == 0) {
            enum pac_status status = pac_executor_block_on(executor, &both.future);
            RL_ASSERT(status == PAC_OK);
            pac_executor_close(executor);
            pac_executor_free(executor);
            return;
        }
        struct pac_wake_group group;
        pac_wake_group_init(&group);
        for (struct pac_promise &promise : both.promises) {
            enum pac_status status = pac_promise_complete(&promise, NULL, &group);
            RL_ASSERT(status == PAC_OK);
        }
        pac_wake_group_wake(&group);
    }

    void after()
    {
        for (struct pac_promise &promise : both.promises) {
            pac_promise_fini(&promise);
        }
        RL_ASSERT(blocks == nullptr); /* every block was freed */
        running = false;
    }
};

/* A group against closing: the tasks that it holds are ended meanwhile, and every reference goes. */
static enum pac_poll
never_poll(struct pac_future *f, struct pac_context *cx)
{
    return PAC_PENDING;
}

static void
never_drop(struct pac_future *f)
{
}

static const struct pac_future_vtable never_vtable = {never_poll, never_drop};

struct group_while_closing : rl::test_suite<group_while_closing, 2> {
    EventCounter counter;
    struct pac_executor *executor;
    struct pac_future futures[2];
    struct pac_waker wakers[2];

    void before()
    {
        running = true;
        system_begin(&counter);
        enum pac_status status;
        executor = pac_executor_new(NULL, &status);
        for (int i = 0; i < 2; i++) {
            futures[i].vtable = &never_vtable;
            /* The caller's reference becomes the waker's. */
            wakers[i] = pac_task_waker(pac_executor_spawn_idle(executor, &futures[i], &status));
        }
    }

    void thread(unsigned index)
    {
        if (index == 0) {
            pac_executor_close(executor);
            pac_executor_free(executor);
            return;
        }
        struct pac_wake_group group;
        pac_wake_group_init(&group);
        for (struct pac_waker &waker : wakers) {
            pac_wake_group_add(&group, &waker);
        }
        pac_wake_group_wake(&group);
    }

    void after()
    {
        RL_ASSERT(blocks == nullptr); /* every block was freed */
        running = false;
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(keep_and_await);
    CHECK_MODEL(keep_and_give_up);
    CHECK_MODEL(two_makers, 1);
    CHECK_MODEL(broken, 1);
    CHECK_MODEL(grouped);
    CHECK_MODEL(group_while_closing);
    return !ok;
}
