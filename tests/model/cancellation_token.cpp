/* A tree of tokens: cancelled, given children, given up and waited for on several threads. */
#include "model.hpp"

#include "../../csrc/core/budget.c"

#include "../../csrc/core/cancellation_token.c"

using namespace pac_model;

template <typename T, int N> struct Model : Case<T, N> {
    struct pac_cancellation_token *root_token;
    PAC_CELL(int) data; /* written before cancelling */

    void before()
    {
        Case<T, N>::before();
        root_token = pac_cancellation_token_new();
        data = 0;
    }

    void cancel()
    {
        data = 1;
        pac_cancellation_token_cancel(root_token);
    }

    void wait(struct pac_cancellation_token *t, Sleeper &sleeper)
    {
        struct pac_cancelled f;
        pac_cancelled_init(&f, t);
        await(&f.future, sleeper);
        RL_ASSERT(data == 1);
        pac_cancelled_drop(&f);
    }

    void after()
    {
        pac_cancellation_token_unref(root_token);
        Case<T, N>::after();
    }
};

/* Cancelled while a child and its child are made: they are cancelled too. */
struct child_is_made : Model<child_is_made, 3> {
    void thread(unsigned index)
    {
        struct pac_cancellation_token *child, *grandchild;
        switch (index) {
            case 0:
                cancel();
                break;
            case 1:
                child = pac_cancellation_token_child(root_token);
                grandchild = pac_cancellation_token_child(child);
                pac_cancellation_token_unref(child);
                wait(grandchild, sleepers[1]);
                pac_cancellation_token_unref(grandchild);
                break;
            default:
                wait(root_token, sleepers[2]);
        }
    }
};

/* Cancelled while the token in the middle is given up: what is below it is cancelled all the same,
 * and its last reference may go while the canceller is at it. */
struct middle_is_dropped : Model<middle_is_dropped, 3> {
    struct pac_cancellation_token *middle, *leaf;

    void before()
    {
        Model::before();
        middle = pac_cancellation_token_child(root_token);
        leaf = pac_cancellation_token_child(middle);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                cancel();
                RL_ASSERT(pac_cancellation_token_is_cancelled(leaf));
                break;
            case 1:
                pac_cancellation_token_unref(middle);
                break;
            default:
                wait(leaf, sleepers[2]);
        }
    }

    void after()
    {
        pac_cancellation_token_unref(leaf);
        Model::after();
    }
};

/* Cancelled by two at once, from above and below; when either returns, it holds. */
struct cancelled_by_two : Model<cancelled_by_two, 3> {
    struct pac_cancellation_token *child;

    void before()
    {
        Model::before();
        child = pac_cancellation_token_child(root_token);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                cancel();
                RL_ASSERT(pac_cancellation_token_is_cancelled(child));
                break;
            case 1:
                pac_cancellation_token_cancel(child);
                RL_ASSERT(pac_cancellation_token_is_cancelled(child));
                break;
            default:
                pac_cancellation_token_cancel(root_token);
                RL_ASSERT(pac_cancellation_token_is_cancelled(child));
        }
    }

    void after()
    {
        pac_cancellation_token_unref(child);
        Model::after();
    }
};

/* Three wait and the batch holds two: one is dropped meanwhile, one moves to another task. */
struct waiter_is_dropped : Model<waiter_is_dropped, 3> {
    struct pac_cancelled made[3];

    void before()
    {
        Model::before();
        for (int i = 0; i < 3; i++) {
            pac_cancelled_init(&made[i], root_token);
            bool ready = look(&made[i].future, sleepers[i]);
            RL_ASSERT(!ready);
        }
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                cancel();
                break;
            case 1:
                break;
            default:
                if (!look(&made[2].future, sleepers[0])) {
                    await(&made[2].future, sleepers[2]);
                }
                RL_ASSERT(data == 1);
        }
        pac_cancelled_drop(&made[index]);
    }
};

/* The whole tree is given up by three threads, the token in the middle by two of them, one of which
 * cancels it, while the one below it gets a child: the lock goes with the last of them. */
struct given_up_by_all : Case<given_up_by_all, 3> {
    struct pac_cancellation_token *top, *middle, *leaf;

    void before()
    {
        Case::before();
        top = pac_cancellation_token_new();
        middle = pac_cancellation_token_child(top);
        leaf = pac_cancellation_token_child(middle);
        pac_cancellation_token_ref(middle); /* one for each of the first two threads */
    }

    void thread(unsigned index)
    {
        struct pac_cancellation_token *child;
        switch (index) {
            case 0:
                pac_cancellation_token_unref(top);
                pac_cancellation_token_unref(middle);
                break;
            case 1:
                pac_cancellation_token_cancel(middle);
                pac_cancellation_token_unref(middle);
                break;
            default:
                child = pac_cancellation_token_child(leaf);
                pac_cancellation_token_unref(leaf);
                pac_cancellation_token_unref(child);
        }
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(child_is_made, 1);
    CHECK_MODEL(middle_is_dropped);
    CHECK_MODEL(cancelled_by_two);
    CHECK_MODEL(waiter_is_dropped);
    CHECK_MODEL(given_up_by_all);
    return !ok;
}
