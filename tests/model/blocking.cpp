/* A plain thread that waits for a future, against wakes, deadlines and signals. In the futex's place
 * stands a mutex with a condition; the checker chooses whether a deadline or a signal comes first. */
#include "model.hpp"

#include <cerrno>

#include "../../csrc/core/atomic_waker.c"
#include "../../csrc/core/budget.c"

using namespace pac_model;

struct Futex {
    rl::mutex mutex;
    rl::condition_variable_any condition;
};

static Futex *futex; /* of the execution in progress */
static bool signals;

static int
word_wait(PAC_ATOMIC(uint32_t) *word, uint32_t value, uint64_t deadline_ns)
{
    int error = 0;
    futex->mutex.lock($);
    if (pac_atomic_load(word, PAC_RELAXED) != value) {
        error = EAGAIN;
    }
    else if (deadline_ns != PAC_NEVER && rl::rand(2) == 1) {
        error = ETIMEDOUT;
    }
    else if (signals && rl::rand(2) == 1) {
        error = EINTR;
    }
    else {
        futex->condition.wait(futex->mutex, $);
    }
    futex->mutex.unlock($);
    return error;
}

static void
word_wake(PAC_ATOMIC(uint32_t) *word)
{
    futex->mutex.lock($);
    futex->condition.notify_all($);
    futex->mutex.unlock($);
}

#include "../../csrc/core/blocking.c"

/* READY once `wanted` things have happened. */
struct Waiting {
    struct pac_future future;
    struct pac_atomic_waker slot;
    PAC_ATOMIC(int) happened;
    int wanted;
};

static enum pac_poll
waiting_poll(struct pac_future *f, struct pac_context *cx)
{
    Waiting *self = PAC_CONTAINER_OF(f, Waiting, future);
    pac_atomic_waker_register(&self->slot, cx->waker);
    /* No order of its own: that it is up to date after a wake is the waker's doing. */
    if (pac_atomic_load(&self->happened, PAC_RELAXED) == self->wanted) {
        return PAC_READY;
    }
    rl::yield(1, $); /* as in Sleeper::sleep */
    return PAC_PENDING;
}

static const struct pac_future_vtable waiting_vtable = {waiting_poll, NULL};

template <typename T, int N> struct Model : Case<T, N> {
    Futex own_futex;
    Waiting waiting;

    void before(int wanted)
    {
        Case<T, N>::before();
        futex = &own_futex;
        signals = false;
        pac_budget_left.reset(PAC_BUDGET_UNLIMITED);
        waiting.future.vtable = &waiting_vtable;
        pac_atomic_waker_init(&waiting.slot);
        pac_atomic_init(&waiting.happened, 0);
        waiting.wanted = wanted;
    }

    void happen()
    {
        pac_atomic_add(&waiting.happened, 1, PAC_RELAXED);
        pac_atomic_waker_wake(&waiting.slot);
    }

    void after()
    {
        pac_atomic_waker_fini(&waiting.slot);
        Case<T, N>::after();
    }
};

struct two_wakes : Model<two_wakes, 3> {
    void before()
    {
        Model::before(2);
    }

    void thread(unsigned index)
    {
        if (index > 0) {
            happen();
            return;
        }
        enum pac_status status = pac_blocking_wait(&waiting.future, PAC_NEVER, NULL);
        RL_ASSERT(status == PAC_OK);
    }
};

/* A waker of its own, kept by another thread that wakes it twice, and may be later than the end of
 * the wait. */
struct wake_after_the_end : Model<wake_after_the_end, 2> {
    struct pac_waker kept;
    rl::mutex mutex;
    rl::condition_variable_any condition;
    bool is_kept;

    void before()
    {
        Model::before(1);
        is_kept = false;
    }

    struct Keeping {
        struct pac_future future;
        wake_after_the_end *model;
    };

    static enum pac_poll keeping_poll(struct pac_future *f, struct pac_context *cx)
    {
        wake_after_the_end *self = PAC_CONTAINER_OF(f, Keeping, future)->model;
        self->mutex.lock($);
        if (!self->is_kept) {
            self->is_kept = true;
            self->kept = pac_waker_clone(cx->waker);
            self->condition.notify_all($);
        }
        self->mutex.unlock($);
        return pac_atomic_load(&self->waiting.happened, PAC_RELAXED) == 1 ? PAC_READY : PAC_PENDING;
    }

    void thread(unsigned index)
    {
        static const struct pac_future_vtable vtable = {keeping_poll, NULL};
        if (index == 0) {
            Keeping keeping = {{&vtable}, this};
            enum pac_status status = pac_blocking_wait(&keeping.future, PAC_NEVER, NULL);
            RL_ASSERT(status == PAC_OK);
            return;
        }
        mutex.lock($);
        while (!is_kept) {
            condition.wait(mutex, $);
        }
        mutex.unlock($);
        pac_atomic_add(&waiting.happened, 1, PAC_RELAXED);
        pac_waker_wake_by_ref(&kept);
        pac_waker_wake(&kept);
    }
};

/* A deadline that comes first, or not, and signals: what has come is not lost by either. */
struct deadline_and_signals : Model<deadline_and_signals, 2> {
    PAC_CELL(bool) asleep;

    void before()
    {
        Model::before(1);
        asleep = false;
        signals = true;
    }

    static void leave(void *arg)
    {
        RL_ASSERT(!static_cast<deadline_and_signals *>(arg)->asleep);
        static_cast<deadline_and_signals *>(arg)->asleep = true;
    }

    static bool enter(void *arg, bool interrupted)
    {
        static_cast<deadline_and_signals *>(arg)->asleep = false;
        if (interrupted) {
            signals = false; /* one is enough */
        }
        return true;
    }

    void thread(unsigned index)
    {
        if (index == 1) {
            happen();
            return;
        }
        struct pac_blocking_hooks hooks = {leave, enter, this};
        enum pac_status status = pac_blocking_wait(&waiting.future, 1000, &hooks);
        RL_ASSERT(!asleep);
        if (status == PAC_TIMED_OUT) {
            signals = false; /* without a hook it would sleep again for ever */
            status = pac_blocking_wait(&waiting.future, PAC_NEVER, NULL);
        }
        RL_ASSERT(status == PAC_OK);
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(two_wakes);
    CHECK_MODEL(wake_after_the_end);
    CHECK_MODEL(deadline_and_signals);
    return !ok;
}
