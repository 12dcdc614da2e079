/* The executor itself, with its tasks, inject queue, parking and timers, against wakes, cancels
 * and last references from other threads, also while it closes.
 *
 * In the reactor's place stands a counter that a thread can wait for: what the kernel's eventfd
 * is. Its clock stands still unless a wait has a deadline; then the checker chooses whether the
 * deadline comes first. */
#include "model.hpp"

#include "../../csrc/core/budget.c"
#include "../../csrc/core/inject.c"
#include "../../csrc/core/park.c"
#include "../../csrc/core/scheduler.c"
#include "../../csrc/core/shuffle.c"
#include "../../csrc/core/task_state.c"

#include "../../csrc/core/task.c"

#define root executor_root /* rl has a root of its own */
#include "../../csrc/core/executor.c"

using pac_model::Sleeper;

/* ---- the system ----------------------------------------------------------------------------- */

/* One thread's affair, and so in no need of a model: a wheel for a single timer. */
void
pac_wheel_init(struct pac_wheel *w, uint64_t now_ns)
{
    pac_list_init(&w->immediate);
    pac_list_init(&w->slots[0][0]);
}

void
pac_wheel_init_exact(struct pac_wheel *w, uint64_t now_ns)
{
    pac_wheel_init(w, now_ns);
}

void
pac_wheel_insert(struct pac_wheel *w, struct pac_timer *t, uint64_t deadline_ns)
{
    t->deadline_ns = deadline_ns;
    pac_list_push_back(&w->slots[0][0], &t->node);
}

void
pac_wheel_remove(struct pac_wheel *w, struct pac_timer *t)
{
    pac_list_remove(&t->node);
}

uint64_t
pac_wheel_next_ns(const struct pac_wheel *w)
{
    struct pac_list_node *node = pac_list_first(&w->slots[0][0]);
    return node == NULL ? PAC_NEVER : PAC_LIST_ENTRY(node, struct pac_timer, node)->deadline_ns;
}

void
pac_wheel_advance(struct pac_wheel *w, uint64_t now_ns, struct pac_list *expired)
{
    if (pac_wheel_next_ns(w) <= now_ns) {
        pac_list_splice_back(expired, &w->slots[0][0]);
    }
}

struct pac_timer *
pac_wheel_pop_expired(struct pac_list *expired)
{
    struct pac_list_node *node = pac_list_pop_front(expired);
    return node == NULL ? NULL : PAC_LIST_ENTRY(node, struct pac_timer, node);
}

struct EventCounter {
    rl::mutex mutex;
    rl::condition_variable_any condition;
    int count = 0;

    void add()
    {
        mutex.lock($);
        count++;
        condition.notify_all($);
        mutex.unlock($);
    }

    int take(bool wait)
    {
        mutex.lock($);
        while (wait && count == 0) {
            condition.wait(mutex, $);
        }
        int taken = count;
        count = 0;
        mutex.unlock($);
        return taken;
    }
};

static EventCounter *event_counter; /* of the execution in progress */
static uint64_t clock_ns;

uint64_t
pac_clock_ns(void)
{
    return clock_ns;
}

uint64_t
pac_ticks(void)
{
    return clock_ns;
}

enum pac_status
pac_reactor_init(struct pac_reactor *r)
{
    r->pending_unparks = 0;
    return PAC_OK;
}

enum pac_status
pac_reactor_wait(struct pac_reactor *r, uint64_t deadline_ns)
{
    bool wait = deadline_ns > clock_ns;
    if (wait && deadline_ns != PAC_NEVER && rl::rand(2) == 1) {
        clock_ns = deadline_ns;
        wait = false;
    }
    r->pending_unparks -= event_counter->take(wait);
    return PAC_OK;
}

void
pac_reactor_dispatch(struct pac_reactor *r)
{
}

void
pac_reactor_unpark(struct pac_reactor *r)
{
    event_counter->add();
}

void
pac_reactor_fini(struct pac_reactor *r)
{
    while (r->pending_unparks > 0) {
        r->pending_unparks -= event_counter->take(true);
    }
    RL_ASSERT(r->pending_unparks == 0);
}

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
        event_counter = &counter;
        clock_ns = 1;
        pac_current_scheduler.reset(NULL);
        pac_budget_left.reset(PAC_BUDGET_UNLIMITED);
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
