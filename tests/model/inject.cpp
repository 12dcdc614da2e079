/* The inject queue alone: pushes of several threads against the owner that takes, sleeps and
 * closes. */
#include "model.hpp"

#include "../../csrc/core/inject.c"

using namespace pac_model;

struct Node {
    struct pac_runnable runnable;
    PAC_CELL(int) written; /* before the push, without an order of its own */
    unsigned by;
    int number;
    bool taken, refused;
};

template <typename T, int N> struct Model : Case<T, N> {
    struct pac_inject queue;
    Node nodes[N][2];
    int last[N]; /* the owner: of each producer, what came last */
    int count;   /* the owner: of all */

    void before()
    {
        Case<T, N>::before();
        pac_inject_init(&queue);
        count = 0;
        for (unsigned by = 0; by < N; by++) {
            last[by] = 0;
            for (int i = 0; i < 2; i++) {
                nodes[by][i].written = 0;
                nodes[by][i].by = by;
                nodes[by][i].number = i + 1;
                nodes[by][i].taken = nodes[by][i].refused = false;
            }
        }
    }

    enum pac_inject_result push(Node &node)
    {
        node.written = node.number;
        return pac_inject_push(&queue, &node.runnable);
    }

    /* The owner: what comes from one producer comes in order, and with what was written. */
    void look_at(struct pac_run_queue *taken)
    {
        struct pac_runnable *r;
        while ((r = pac_run_queue_pop(taken)) != NULL) {
            Node *node = PAC_CONTAINER_OF(r, Node, runnable);
            RL_ASSERT(node->written == node->number);
            RL_ASSERT(!node->taken && node->number == last[node->by] + 1);
            node->taken = true;
            last[node->by] = node->number;
            count++;
        }
        RL_ASSERT(taken->length == 0);
    }

    void take()
    {
        struct pac_run_queue taken;
        pac_run_queue_init(&taken);
        pac_inject_take(&queue, &taken);
        look_at(&taken);
    }

    void close()
    {
        struct pac_run_queue rest;
        pac_run_queue_init(&rest);
        pac_inject_close(&queue, &rest);
        look_at(&rest);
    }
};

/* Two producers of two each, and the owner takes as it likes. */
struct pushes_against_takes : Model<pushes_against_takes, 3> {
    void thread(unsigned index)
    {
        if (index == 0) {
            while (count < 4) {
                take();
                rl::yield(1, $);
            }
            return;
        }
        for (Node &node : nodes[index]) {
            enum pac_inject_result result = push(node);
            RL_ASSERT(result == PAC_INJECT_DONE);
        }
    }
};

/* Two go on pushing while the owner takes once and closes: each node is taken, or refused, and who
 * is refused once is refused for ever and sees what the owner did before. */
struct pushes_against_close : Model<pushes_against_close, 3> {
    PAC_CELL(int) closing;

    void before()
    {
        Model::before();
        closing = 0;
    }

    void thread(unsigned index)
    {
        if (index == 0) {
            take();
            closing = 1;
            close();
            close(); /* the second time finds nothing, and says nothing */
            return;
        }
        bool refused = false;
        for (Node &node : nodes[index]) {
            node.refused = push(node) == PAC_INJECT_CLOSED;
            RL_ASSERT(node.refused || !refused);
            refused = node.refused;
            RL_ASSERT(!refused || closing == 1);
        }
    }

    void after()
    {
        for (int by = 1; by < 3; by++) {
            for (Node &node : nodes[by]) {
                RL_ASSERT(node.taken != node.refused);
            }
        }
        Model::after();
    }
};

/* Three producers of one each. */
struct three_against_close : Model<three_against_close, 4> {
    void thread(unsigned index)
    {
        if (index == 0) {
            take();
            close();
        }
        else {
            nodes[index][0].refused = push(nodes[index][0]) == PAC_INJECT_CLOSED;
        }
    }

    void after()
    {
        for (int by = 1; by < 4; by++) {
            RL_ASSERT(nodes[by][0].taken != nodes[by][0].refused);
        }
        Model::after();
    }
};

/* The owner goes to sleep twice: as many producers learn that they must unpark it as tokens were
 * taken from it, and it never sleeps on a queue that is not empty. */
struct tokens_are_conserved : Model<tokens_are_conserved, 3> {
    PAC_ATOMIC(int) unparks;
    int taken_away;

    void before()
    {
        Model::before();
        pac_atomic_init(&unparks, 0);
        taken_away = 0;
    }

    void thread(unsigned index)
    {
        if (index > 0) {
            for (Node &node : nodes[index]) {
                if (push(node) == PAC_INJECT_UNPARK) {
                    pac_atomic_add(&unparks, 1, PAC_RELAXED);
                }
            }
            return;
        }
        for (int i = 0; i < 2; i++) {
            if (pac_inject_park(&queue)) {
                taken_away += pac_inject_unpark(&queue);
            }
            take();
        }
    }

    void after()
    {
        RL_ASSERT(pac_atomic_load(&unparks, PAC_RELAXED) == taken_away);
        take();
        RL_ASSERT(count == 4);
        Model::after();
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(pushes_against_takes);
    CHECK_MODEL(pushes_against_close);
    CHECK_MODEL(three_against_close);
    CHECK_MODEL(tokens_are_conserved);
    return !ok;
}
