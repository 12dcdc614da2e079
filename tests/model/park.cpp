/* Going to sleep and being woken: the owner's park against unparks, deadlines, an earlier deadline
 * that another thread asks for, and closing. */
#include "kernel.hpp"

#include "../../csrc/core/inject.c"
#include "../../csrc/core/park.c"

using namespace pac_model;

struct Node {
    struct pac_runnable runnable;
    PAC_CELL(uint64_t) deadline_ns; /* of a timer that the owner is to arm; 0: none */
};

template <typename T, int N> struct Model : Case<T, N> {
    EventCounter counter;
    struct pac_reactor reactor;
    struct pac_inject inject;
    struct pac_park_hooks hooks;
    Node nodes[N];
    uint64_t deadline_ns; /* the owner: of its earliest timer */
    int taken;            /* the owner */

    void before()
    {
        Case<T, N>::before();
        kernel_begin(&counter);
        enum pac_status status = pac_reactor_init(&reactor);
        RL_ASSERT(status == PAC_OK);
        pac_inject_init(&inject);
        hooks = {NULL, NULL, NULL};
        for (Node &node : nodes) {
            node.deadline_ns = 0;
        }
        deadline_ns = PAC_NEVER;
        taken = 0;
    }

    /* As pac_scheduler_inject does. */
    void push(Node &node)
    {
        enum pac_inject_result result = pac_inject_push(&inject, &node.runnable);
        if (result == PAC_INJECT_UNPARK) {
            pac_reactor_unpark(&reactor);
        }
    }

    void look_at(struct pac_run_queue *queue)
    {
        struct pac_runnable *r;
        while ((r = pac_run_queue_pop(queue)) != NULL) {
            uint64_t wanted_ns = PAC_CONTAINER_OF(r, Node, runnable)->deadline_ns;
            if (wanted_ns != 0 && wanted_ns < deadline_ns) {
                deadline_ns = wanted_ns;
            }
            taken++;
        }
    }

    /* One turn of the owner's. */
    enum pac_status sleep()
    {
        bool waited;
        enum pac_status status = pac_park(&reactor, &inject, deadline_ns, &hooks, &waited);
        struct pac_run_queue queue;
        pac_run_queue_init(&queue);
        pac_inject_take(&inject, &queue);
        look_at(&queue);
        return status;
    }

    /* As an executor does: nobody may write to the descriptor afterwards. */
    void close()
    {
        struct pac_run_queue rest;
        pac_run_queue_init(&rest);
        pac_inject_close(&inject, &rest);
        look_at(&rest);
        pac_reactor_fini(&reactor);
    }
};

/* Two come, and the owner sleeps until both have. */
struct two_unparks : Model<two_unparks, 3> {
    void thread(unsigned index)
    {
        if (index > 0) {
            push(nodes[index]);
            return;
        }
        while (taken < 2) {
            enum pac_status status = sleep();
            RL_ASSERT(status == PAC_OK);
        }
        close();
    }
};

/* The deadline comes first, or one that unparks, or both: no token is left behind, and the owner
 * closes its descriptor only after the last write to it. */
struct deadline_against_unparks : Model<deadline_against_unparks, 3> {
    void before()
    {
        Model::before();
        deadline_ns = 1000;
    }

    void thread(unsigned index)
    {
        if (index > 0) {
            push(nodes[index]);
            return;
        }
        for (int i = 0; i < 2 && taken < 2; i++) {
            enum pac_status status = sleep();
            RL_ASSERT(status == PAC_OK);
            deadline_ns += 1000;
        }
        close();
    }
};

/* The owner sleeps without a deadline, and another thread asks for a timer: it sleeps anew, for so
 * long. A second asks for an earlier one still. */
struct earlier_timer : Model<earlier_timer, 3> {
    void before()
    {
        Model::before();
        deadlines_come = true;
    }

    void thread(unsigned index)
    {
        if (index > 0) {
            nodes[index].deadline_ns = 500 * index;
            push(nodes[index]);
            return;
        }
        while (taken < 2 || clock_ns < deadline_ns) {
            if (clock_ns >= deadline_ns) {
                deadline_ns = PAC_NEVER; /* it has fired */
            }
            enum pac_status status = sleep();
            RL_ASSERT(status == PAC_OK);
        }
        close();
    }
};

/* The owner holds a lock, as an interpreter does, and gives it up only to sleep: who needs that lock
 * to bring its news gets it. Then a hook ends the run, whatever the sleep has brought. */
struct lock_is_given_up : Model<lock_is_given_up, 3> {
    rl::mutex interpreter;
    PAC_CELL(int) object; /* what the lock guards */
    bool stop;

    void before()
    {
        Model::before();
        object = 0;
        stop = false;
        hooks = {give_up, take_back, this};
    }

    static void give_up(void *self)
    {
        static_cast<lock_is_given_up *>(self)->interpreter.unlock($);
    }

    static bool take_back(void *self, bool interrupted)
    {
        static_cast<lock_is_given_up *>(self)->interpreter.lock($);
        return !static_cast<lock_is_given_up *>(self)->stop;
    }

    void thread(unsigned index)
    {
        if (index > 0) {
            interpreter.lock($);
            object = object + 1;
            interpreter.unlock($);
            push(nodes[index]);
            return;
        }
        interpreter.lock($);
        while (taken < 2) {
            enum pac_status status = sleep();
            RL_ASSERT(status == PAC_OK);
        }
        RL_ASSERT(object == 2);
        stop = true;
        deadline_ns = clock_ns + 1;
        deadlines_come = true;
        enum pac_status status = sleep();
        RL_ASSERT(status == PAC_INTERRUPTED);
        interpreter.unlock($);
        close();
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(two_unparks);
    CHECK_MODEL(deadline_against_unparks);
    CHECK_MODEL(earlier_timer);
    CHECK_MODEL(lock_is_given_up);
    return !ok;
}
