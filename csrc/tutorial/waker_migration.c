/* waker_migration.c - a future may be polled by one task now and by another one later.
 *
 * Shows: a delay is polled by a first task, which then passes it on and waits for
 * something else. A second task awaits it to its end: first on the same executor, then
 * on another executor in another thread. When the time has come, only the task that
 * polled it last is woken. A task is polled once when it starts and once each time it
 * is woken, so polls count wakes.
 */
#define _POSIX_C_SOURCE 200809L
#include "async.h"
#include "delay.h"
#include "notify.h"
#include "tutorial.h"

#include <pthread.h>

/* ---- the task that the delay moves to ------------------------------------------------------- */

struct second {
    struct pac_async async;
    struct pac_delay *delay;
    struct pac_notify *finished;
    PAC_ATOMIC(int) *polls_of_first;
    int polls;
    int polls_of_first_at_end;
    uint64_t ready_ns;
};

static enum pac_poll
second_poll(struct pac_future *future, struct pac_context *cx)
{
    struct second *self = PAC_ASYNC_SELF(future, struct second);
    self->polls++;
    show("second: poll %d in %s", self->polls, pac_async_state_name(&self->async));
    PAC_ASYNC_BEGIN(self);
    PAC_AWAIT(1, self, &self->delay->future, cx);
    self->ready_ns = pac_clock_ns();
    self->polls_of_first_at_end = pac_atomic_load(self->polls_of_first, PAC_RELAXED);
    show("second: the delay is over, the first was polled %d times by now",
         self->polls_of_first_at_end);
    pac_notify_one(self->finished);
    PAC_ASYNC_END(self);
}

static const struct pac_future_vtable second_vtable = {second_poll, pac_async_drop};

/* ---- the task that it moves from ------------------------------------------------------------ */

struct first {
    struct pac_async async;
    struct pac_delay delay;
    struct pac_notify finished;
    struct pac_notified notified;
    struct second second;
    void (*start_second)(struct first *self);
    struct pac_executor *executor;
    pthread_t thread;
    PAC_ATOMIC(int) polls;
};

static enum pac_poll
first_poll(struct pac_future *future, struct pac_context *cx)
{
    struct first *self = PAC_ASYNC_SELF(future, struct first);
    int polls = pac_atomic_add(&self->polls, 1, PAC_RELAXED) + 1;
    show("first: poll %d in %s", polls, pac_async_state_name(&self->async));
    PAC_ASYNC_BEGIN(self);
    claim(pac_delay_poll(&self->delay, cx) == PAC_PENDING, "the delay is PENDING");
    show("first: passes the delay on");
    self->start_second(self);
    PAC_AWAIT(1, self, &self->notified.future, cx);
    show("first: the second has finished");
    PAC_ASYNC_END(self);
}

static const struct pac_future_vtable first_vtable = {first_poll, pac_async_drop};

static void
play(struct first *f, unsigned ms, void (*start_second)(struct first *self))
{
    *f = (struct first){.start_second = start_second, .executor = new_executor()};
    pac_async_init(&f->async, &first_vtable, NULL);
    pac_delay_init(&f->delay, pac_clock_ns() + milliseconds(ms));
    pac_notify_init(&f->finished);
    pac_notified_init(&f->notified, &f->finished);
    f->second = (struct second){.delay = &f->delay, .finished = &f->finished};
    f->second.polls_of_first = &f->polls;
    pac_async_init(&f->second.async, &second_vtable, NULL);
    run_to_end(f->executor, &f->async.future);
}

static void
check(struct first *f)
{
    int polls = pac_atomic_load(&f->polls, PAC_RELAXED);
    show("wakes: first %d (that the second has finished), second %d (the delay)", polls - 1,
         f->second.polls - 1);
    claim(f->second.ready_ns >= f->delay.deadline_ns, "the delay was not early");
    claim(f->second.polls == 2, "the delay woke the second task, once");
    claim(f->second.polls_of_first_at_end == 1, "the delay did not wake the first one");
    claim(polls <= 2, "which was woken only by what it waited for itself");
}

/* ---- on the same executor ------------------------------------------------------------------- */

static void
spawn_here(struct first *self)
{
    enum pac_status status;
    struct pac_task *task = pac_executor_spawn(self->executor, &self->second.async.future, &status);
    claim(task != NULL, "the second task is spawned");
    pac_task_unref(task);
}

/* ---- on another executor, in another thread ------------------------------------------------- */

static void *
other_thread(void *argument)
{
    struct first *self = argument;
    struct pac_executor *ex = new_executor();
    run_to_end(ex, &self->second.async.future);
    end_executor(ex);
    return NULL;
}

static void
start_thread(struct first *self)
{
    claim(pthread_create(&self->thread, NULL, other_thread, self) == 0,
          "the second task is started in a thread");
}

int
main(void)
{
    struct first f;

    show("from one task to another");
    play(&f, 100, spawn_here);
    end_executor(f.executor);
    check(&f);

    show("from one executor to another");
    play(&f, 500, start_thread); /* by then the thread has polled it, also on a busy machine */
    pthread_join(f.thread, NULL);
    end_executor(f.executor);
    check(&f);
    return 0;
}
