/* A delay in the hands of another thread than its executor's: polled, reset and dropped there, and
 * moved to an executor of that thread, while the timer fires and the executor closes. */
#include "system.hpp"

#include "../../csrc/core/atomic_waker.c"

#include "../../csrc/core/delay.c"

using namespace pac_model;

void
pac_timer_init(struct pac_timer *t, void (*fire)(struct pac_timer *timer))
{
    t->node = (struct pac_list_node){NULL, NULL};
    t->fire = fire;
}

/* The delay is armed for the time 500 on the thread 0, and the thread 1's from then on. */
template <typename T> struct Model : Case<T, 2> {
    EventCounter counter;
    struct pac_executor *executor;
    struct pac_delay delay;

    void before()
    {
        Case<T, 2>::before();
        system_begin(&counter);
        enum pac_status status;
        executor = pac_executor_new(NULL, &status);
        arm();
    }

    void arm()
    {
        struct pac_scheduler *entered = pac_executor_enter(executor);
        pac_delay_init(&delay, 500);
        bool ready = look(&delay.future, this->sleepers[0]);
        RL_ASSERT(!ready);
        pac_executor_leave(entered);
    }

    void turn(uint64_t now_ns)
    {
        clock_ns = now_ns;
        struct pac_scheduler *entered = pac_executor_enter(executor);
        enum pac_status status = pac_executor_turn(executor);
        RL_ASSERT(status == PAC_OK);
        pac_executor_leave(entered);
    }

    void turn_and_close()
    {
        turn(600);
        turn(1000);
        pac_executor_close(executor);
        pac_executor_free(executor);
    }
};

struct dropped_elsewhere : Model<dropped_elsewhere> {
    void thread(unsigned index)
    {
        if (index == 0) {
            turn_and_close();
        }
        else {
            pac_delay_drop(&delay);
        }
    }
};

/* The wake, or the end of the executor, is not lost, and comes to the newest waker. */
struct polled_elsewhere : Model<polled_elsewhere> {
    void thread(unsigned index)
    {
        if (index == 0) {
            turn_and_close();
            return;
        }
        await(&delay.future, sleepers[1]);
        RL_ASSERT(delay.status == PAC_OK || delay.status == PAC_CLOSED);
        RL_ASSERT(delay.status == PAC_CLOSED || pac_delay_is_elapsed(&delay));
        pac_delay_drop(&delay);
    }
};

/* To a time that comes: never before it. */
struct reset_elsewhere : Model<reset_elsewhere> {
    void thread(unsigned index)
    {
        if (index == 0) {
            turn_and_close();
            return;
        }
        pac_delay_reset(&delay, 800);
        await(&delay.future, sleepers[1]);
        if (delay.status == PAC_OK) {
            RL_ASSERT(pac_atomic_load(&delay.entry->fired_ns, PAC_RELAXED) > 800);
        }
        pac_delay_drop(&delay);
    }
};

/* Two requests in a row, of which the second finds the first on its way or not. */
struct reset_and_dropped : Model<reset_and_dropped> {
    void thread(unsigned index)
    {
        if (index == 0) {
            turn_and_close();
            return;
        }
        pac_delay_reset(&delay, 800);
        pac_delay_reset(&delay, PAC_NEVER);
        pac_delay_drop(&delay);
    }
};

/* The owner sleeps without a deadline; a reset to an earlier time ends that sleep. */
struct reset_wakes_the_owner : Model<reset_wakes_the_owner> {
    void before()
    {
        Model::before();
        struct pac_scheduler *entered = pac_executor_enter(executor);
        pac_delay_reset(&delay, PAC_NEVER);
        pac_executor_leave(entered);
        deadlines_come = true;
    }

    void thread(unsigned index)
    {
        if (index == 1) {
            pac_delay_reset(&delay, 700);
            return;
        }
        enum pac_status status = pac_executor_block_on(executor, &delay.future);
        RL_ASSERT(status == PAC_OK && delay.status == PAC_OK);
        pac_executor_close(executor);
        pac_executor_free(executor);
    }
};

/* The thread 1 has an executor too, and polls the delay under it: so the delay moves there. */
template <typename T> struct Moving : Model<T> {
    EventCounter counters[2];
    struct pac_executor *other;
    Sleeper has_moved;

    void before()
    {
        Case<T, 2>::before();
        system_begin(counters, 2);
        enum pac_status status;
        this->executor = pac_executor_new(NULL, &status);
        other = pac_executor_new(NULL, &status);
        this->arm();
        deadlines_come = true;
    }

    /* By a task of the other executor, to the end. */
    void await_on_the_other()
    {
        enum pac_status status = pac_executor_block_on(other, &this->delay.future);
        RL_ASSERT(status == PAC_OK);
        /* What becomes of the first executor is nothing to it any more. */
        RL_ASSERT(this->delay.status == PAC_OK);
        pac_delay_drop(&this->delay);
        pac_executor_close(other);
        pac_executor_free(other);
    }
};

/* While the first executor fires it, and closes: the newest waker is the one that is woken. */
struct moves_to_another_executor : Moving<moves_to_another_executor> {
    void thread(unsigned index)
    {
        if (index == 0) {
            turn_and_close();
        }
        else {
            await_on_the_other();
        }
    }
};

/* Before it is due: the task that awaited it first is left in peace when that time has come. */
struct moves_before_it_is_due : Moving<moves_before_it_is_due> {
    void thread(unsigned index)
    {
        if (index == 0) {
            has_moved.sleep();
            turn_and_close();
            RL_ASSERT(!sleepers[0].was_woken());
            return;
        }
        struct pac_scheduler *entered = pac_executor_enter(other);
        bool ready = look(&delay.future, sleepers[1]);
        RL_ASSERT(!ready);
        pac_executor_leave(entered);
        struct pac_waker waker = has_moved.waker();
        pac_waker_wake_by_ref(&waker);
        await_on_the_other();
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(dropped_elsewhere);
    CHECK_MODEL(polled_elsewhere);
    CHECK_MODEL(reset_elsewhere);
    CHECK_MODEL(reset_and_dropped);
    CHECK_MODEL(reset_wakes_the_owner);
    CHECK_MODEL(moves_to_another_executor);
    CHECK_MODEL(moves_before_it_is_due);
    return !ok;
}
