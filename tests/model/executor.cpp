/* The executor itself, with its tasks, inject queue, parking and timers, against wakes, cancels
 * and last references from other threads, also while it closes. */
#include "system.hpp"

using pac_model::Sleeper;

/* ---- futures -------------------------------------------------------------------------------- */

/* READY once `events` of the others have happened; keeps a waker for each of them. */
struct Waiting {
    struct pac_future future;
    int events;
    int polls;
    PAC_CELL(bool) dropped;
    rl::atomic<int> happened;
    struct pac_waker wakers[2];

    void happen(int by) /* on the thread `by` - 1, which owns that waker */
    {
        happened($).fetch_add(1, rl::mo_relaxed);
        pac_waker_wake(&wakers[by - 1]);
    }
};

static enum pac_poll
waiting_poll(struct pac_future *f, struct pac_context *cx)
{
    Waiting *self = PAC_CONTAINER_OF(f, Waiting, future);
    RL_ASSERT(!self->dropped);
    self->polls++;
    /* No order of its own: that the count is up to date at the poll after a wake is the task's
     * doing. */
    return self->happened($).load(rl::mo_relaxed) == self->events ? PAC_READY : PAC_PENDING;
}

static void
waiting_drop(struct pac_future *f)
{
    Waiting *self = PAC_CONTAINER_OF(f, Waiting, future);
    RL_ASSERT(!self->dropped);
    self->dropped = true;
}

static const struct pac_future_vtable waiting_vtable = {waiting_poll, waiting_drop};

template <typename T, int N> struct Model : rl::test_suite<T, N> {
    EventCounter counter;
    struct pac_executor *executor;
    Waiting waiting;
    struct pac_task *task;

    /* One task that waits for `events` wakes, by wakers that other threads own. */
    void before(int events, int wakers)
    {
        pac_model::running = true;
        system_begin(&counter);
        enum pac_status status;
        executor = pac_executor_new(NULL, &status);
        waiting.future.vtable = &waiting_vtable;
        waiting.events = events;
        waiting.polls = 0;
        waiting.dropped = false;
        waiting.happened($).store(0, rl::mo_relaxed);
        task = pac_executor_spawn_idle(executor, &waiting.future, &status);
        for (int i = 0; i < wakers; i++) {
            struct pac_waker waker = pac_task_waker(task);
            waiting.wakers[i] = pac_waker_clone(&waker);
        }
    }

    void run_until_ended()
    {
        struct pac_join_handle handle;
        pac_join_handle_init(&handle, task);
        enum pac_status status = pac_executor_block_on(executor, &handle.future);
        RL_ASSERT(status == PAC_OK);
    }

    void close()
    {
        pac_executor_close(executor);
        pac_executor_free(executor);
    }

    void after()
    {
        RL_ASSERT(waiting.dropped);
        RL_ASSERT(pac_model::blocks == NULL); /* every block was freed */
        pac_model::running = false;
    }
};

/* ---- models --------------------------------------------------------------------------------- */

/* Two threads wake one task, which ends after both: no wake is lost, however they meet the
 * executor's polling and its way to sleep. */
struct two_wakes : Model<two_wakes, 3> {
    void before()
    {
        Model::before(2, 2);
    }

    void thread(unsigned index)
    {
        if (index == 0) {
            run_until_ended();
            close();
        }
        else {
            waiting.happen((int)index);
        }
    }
};

/* A wake, and the last reference given up elsewhere, while the executor closes. */
struct wake_while_closing : Model<wake_while_closing, 3> {
    void before()
    {
        Model::before(2, 2);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                pac_task_unref(task);
                close();
                break;
            case 1:
                waiting.happen(1);
                break;
            default:
                pac_waker_drop(&waiting.wakers[1]);
        }
    }
};

/* The same, with the executor running a turn before it closes. */
struct wake_while_turning : Model<wake_while_turning, 2> {
    void before()
    {
        Model::before(1, 1);
    }

    void thread(unsigned index)
    {
        if (index == 1) {
            waiting.happen(1);
            return;
        }
        struct pac_scheduler *entered = pac_executor_enter(executor);
        enum pac_status status = pac_executor_turn(executor);
        RL_ASSERT(status == PAC_OK);
        pac_executor_leave(entered);
        /* As a foreign loop does before it waits. */
        if (pac_executor_next_ns(executor) == 0) {
            entered = pac_executor_enter(executor);
            status = pac_executor_turn(executor);
            pac_executor_leave(entered);
        }
        pac_task_unref(task);
        close();
    }
};

/* Cancelled from one thread, woken from another: it ends once, either way. */
struct cancel_and_wake : Model<cancel_and_wake, 3> {
    void before()
    {
        Model::before(1, 1);
        pac_task_ref(task); /* the canceller's */
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                run_until_ended();
                close();
                break;
            case 1:
                waiting.happen(1);
                break;
            default:
                pac_task_cancel(task);
                pac_task_unref(task);
        }
    }
};

/* A joiner on another thread polls, moves to a second waker, and meets the end of the task. */
struct join_elsewhere : Model<join_elsewhere, 2> {
    Sleeper first, second;

    void before()
    {
        Model::before(1, 1);
        pac_task_ref(task); /* run_until_stopped's below */
    }

    void thread(unsigned index)
    {
        if (index == 0) {
            waiting.happen(1);
            struct pac_scheduler *entered = pac_executor_enter(executor);
            while (!pac_task_is_complete(task)) {
                enum pac_status status = pac_executor_turn(executor);
                RL_ASSERT(status == PAC_OK);
            }
            pac_executor_leave(entered);
            pac_task_unref(task);
            close();
            return;
        }
        struct pac_join_handle handle;
        struct pac_waker one = first.waker(), two = second.waker();
        struct pac_context cx = {&one};
        pac_join_handle_init(&handle, task);
        if (pac_join_handle_poll(&handle, &cx) != PAC_READY) {
            cx.waker = &two;
            while (pac_join_handle_poll(&handle, &cx) != PAC_READY) {
                second.sleep();
            }
        }
        RL_ASSERT(waiting.dropped); /* its destructors have run before it counts as ended */
        pac_join_handle_drop(&handle);
    }

    void after()
    {
        RL_ASSERT(first.wakers_alive() == 0 && second.wakers_alive() == 0);
        Model::after();
    }
};

/* A wake against a sleep that has a deadline. */
static void
timer_fired(struct pac_timer *timer)
{
}

struct wake_against_deadline : Model<wake_against_deadline, 2> {
    struct pac_timer timer;

    void before()
    {
        Model::before(1, 1);
        std::memset((void *)&timer, 0, sizeof timer);
        timer.fire = timer_fired;
        pac_wheel_insert(&executor->wheel, &timer, 1000000);
    }

    void thread(unsigned index)
    {
        if (index == 1) {
            waiting.happen(1);
            return;
        }
        run_until_ended();
        close();
    }
};

int
main(int argc, char **argv)
{
    pac_model::Search search = pac_model::parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(two_wakes, 1);
    CHECK_MODEL(wake_while_closing);
    CHECK_MODEL(wake_while_turning);
    CHECK_MODEL(cancel_and_wake, 1);
    CHECK_MODEL(join_elsewhere);
    CHECK_MODEL(wake_against_deadline);
    return !ok;
}
