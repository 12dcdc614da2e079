/* The state word alone: one executor polls, the others wake, cancel, join and give references up.
 * The queue holds at most the one task, and orders only who submits it with who takes it: what a
 * wake-up that submits nothing hands over must come by the word. */
#include "model.hpp"

#include "../../csrc/core/task_state.c"

using namespace pac_model;

struct Task {
    struct pac_task_state state;
    PAC_CELL(int) memory; /* read by whoever gives a reference up, written by who frees */
    PAC_CELL(int) future; /* written by each poll, and by the drop of the future */
    PAC_CELL(int) joiner; /* the slot of the join waker */
};

/* A queue with room for one, which closes. */
class Queue {
  public:
    void open()
    {
        queued_ = false;
        closed_ = false;
    }

    bool submit() /* false: closed */
    {
        mutex_.lock($);
        RL_ASSERT(!queued_);
        bool open = !closed_;
        queued_ = open;
        condition_.notify_all($);
        mutex_.unlock($);
        return open;
    }

    void take()
    {
        mutex_.lock($);
        while (!queued_) {
            condition_.wait(mutex_, $);
        }
        queued_ = false;
        mutex_.unlock($);
    }

    bool close() /* was the task still in it? */
    {
        mutex_.lock($);
        bool queued = queued_;
        queued_ = false;
        closed_ = true;
        mutex_.unlock($);
        return queued;
    }

  private:
    rl::mutex mutex_;
    rl::condition_variable_any condition_;
    bool queued_, closed_;
};

template <typename T, int N> struct Model : Case<T, N> {
    Task *task;
    Queue queue;
    PAC_ATOMIC(int) happened;
    int wanted; /* the future is ready once so much has happened */
    bool ended, cancelled;
    int woken_joiner;

    /* An idle task: one reference is the executor's, the others are the threads'. */
    void before(int events, unsigned references)
    {
        Case<T, N>::before();
        queue.open();
        task = static_cast<Task *>(pac_alloc(sizeof *task));
        pac_task_state_init_idle(&task->state, 1 + references);
        task->memory = 1;
        task->future = 0;
        task->joiner = 0;
        pac_atomic_init(&happened, 0);
        wanted = events;
        ended = cancelled = false;
        woken_joiner = 0;
    }

    void fulfil(enum pac_task_duty duty)
    {
        if (duty == PAC_TASK_FREE) {
            task->memory = 0;
            pac_free(task);
        }
        else if (duty == PAC_TASK_SUBMIT && !queue.submit()) {
            unref();
        }
    }

    void use()
    {
        RL_ASSERT(task->memory == 1);
    }

    void unref()
    {
        use();
        fulfil(pac_task_ref_dec(&task->state));
    }

    void happen()
    {
        /* No order of its own: that the poll to come sees it is the word's doing. */
        pac_atomic_add(&happened, 1, PAC_RELAXED);
    }

    void wake() /* gives a reference up */
    {
        happen();
        use();
        fulfil(pac_task_transition_to_notified_by_val(&task->state));
    }

    void wake_by_ref()
    {
        happen();
        fulfil(pac_task_transition_to_notified_by_ref(&task->state));
    }

    void cancel()
    {
        fulfil(pac_task_transition_to_cancelled(&task->state));
    }

    /* ---- the executor's thread ---- */

    void complete(bool by_cancel)
    {
        RL_ASSERT(!ended);
        task->future = -1; /* dropped */
        ended = true;
        cancelled = by_cancel;
        if (pac_task_transition_to_complete(&task->state)) {
            woken_joiner = task->joiner;
            if (woken_joiner > 0) {
                this->sleepers[woken_joiner].waker().vtable->wake_by_ref(
                    &this->sleepers[woken_joiner]);
            }
        }
        unref(); /* the list's; the queue's keeps the memory */
    }

    void run()
    {
        enum pac_task_duty duty = pac_task_transition_to_running(&task->state);
        if (duty == PAC_TASK_POLL) {
            RL_ASSERT(task->future >= 0);
            task->future++;
            if (pac_atomic_load(&happened, PAC_RELAXED) == wanted) {
                complete(false);
                unref();
                return;
            }
            duty = pac_task_transition_to_idle(&task->state);
        }
        if (duty == PAC_TASK_CANCEL) {
            complete(true);
            unref();
            return;
        }
        fulfil(duty);
    }

    void run_until_ended()
    {
        while (!ended) {
            queue.take();
            run();
        }
        bool queued = queue.close();
        RL_ASSERT(!queued); /* who has ended is queued no more */
    }

    void after()
    {
        RL_ASSERT(ended);
        Case<T, N>::after();
    }
};

/* Woken by value and by reference: neither is lost, wherever the poll is. */
struct two_wakes : Model<two_wakes, 3> {
    void before()
    {
        Model::before(2, 2);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                run_until_ended();
                break;
            case 1:
                wake();
                break;
            default:
                wake_by_ref();
                unref();
        }
    }
};

/* Three wake: the third may find the task notified by the second while the first is being polled. */
struct three_wakes : Model<three_wakes, 4> {
    void before()
    {
        Model::before(3, 3);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                run_until_ended();
                break;
            case 1:
                wake_by_ref();
                unref();
                break;
            default:
                wake();
        }
    }
};

/* Cancelled, and woken with what it waits for: it ends once, either way, and the last reference may
 * be anybody's. */
struct cancel_against_wake : Model<cancel_against_wake, 4> {
    void before()
    {
        Model::before(1, 3);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                run_until_ended();
                RL_ASSERT(cancelled || pac_atomic_load(&happened, PAC_RELAXED) == 1);
                break;
            case 1:
                wake();
                break;
            case 2:
                cancel();
                unref();
                break;
            default:
                unref();
        }
    }
};

/* Cancelled by two, and not woken at all: a request alone lets it end. */
struct cancelled_by_two : Model<cancelled_by_two, 3> {
    void before()
    {
        Model::before(1, 2);
    }

    void thread(unsigned index)
    {
        if (index == 0) {
            run_until_ended();
            RL_ASSERT(cancelled);
            return;
        }
        cancel();
        unref();
    }
};

/* A joiner changes its waker and goes, or waits for the end: the slot is never used by two. */
struct join_against_end : Model<join_against_end, 3> {
    void before()
    {
        Model::before(1, 2);
    }

    bool set(int waker) /* false: it has ended */
    {
        task->joiner = waker;
        if (!pac_task_set_join_waker(&task->state)) {
            task->joiner = 0;
            return false;
        }
        return true;
    }

    void join()
    {
        if (set(1) && pac_task_unset_join_waker(&task->state) && set(2)) {
            sleepers[2].sleep();
            RL_ASSERT(woken_joiner == 2);
        }
        else if (!(pac_task_state_load(&task->state) & PAC_TASK_JOIN_WAKER)) {
            RL_ASSERT(woken_joiner == 0); /* told by the word, so nobody was woken */
        }
        RL_ASSERT(task->future == -1); /* dropped before it counts as ended */
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                run_until_ended();
                break;
            case 1:
                wake();
                break;
            default:
                join();
                unref();
        }
    }
};

/* The joiner goes without waiting. */
struct joiner_goes : Model<joiner_goes, 3> {
    void before()
    {
        Model::before(1, 2);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                run_until_ended();
                break;
            case 1:
                wake();
                break;
            default:
                task->joiner = -1;
                if (pac_task_set_join_waker(&task->state) &&
                    pac_task_unset_join_waker(&task->state)) {
                    task->joiner = 0; /* its own again, to drop */
                }
                unref();
        }
    }
};

/* The executor closes while the task is woken, maybe queued, and given up: shutting down takes it
 * from an idle or queued state, and the queue's reference goes with the queue. */
struct shutdown_against_wake : Model<shutdown_against_wake, 3> {
    void before()
    {
        Model::before(2, 2);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                if (pac_task_transition_to_shutdown(&task->state)) {
                    pac_task_ref_inc(&task->state);
                    complete(true);
                    unref();
                }
                if (queue.close()) {
                    run(); /* finds that it has ended */
                }
                break;
            case 1:
                wake();
                break;
            default:
                wake_by_ref();
                unref();
        }
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(two_wakes);
    CHECK_MODEL(three_wakes);
    CHECK_MODEL(cancel_against_wake);
    CHECK_MODEL(cancelled_by_two);
    CHECK_MODEL(join_against_end);
    CHECK_MODEL(joiner_goes);
    CHECK_MODEL(shutdown_against_wake);
    return !ok;
}
