/* Cancellation tokens: what is cancelled with what, who is woken, and that nothing is lost when
 * tokens are given up, in any order and on any thread. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* pthread_barrier_t */
#endif
#include "cancellation_token.h"
#include "testing.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

/* Whatever hangs is a lost wake-up or a deadlock. */
enum { WATCHDOG_S = 100 };

typedef struct pac_cancellation_token token;

static bool
is_cancelled(token *t)
{
    return pac_cancellation_token_is_cancelled(t);
}

static token *
root_new(void)
{
    token *t = pac_cancellation_token_new();
    CHECK(t != NULL);
    return t;
}

static token *
child_of(token *t)
{
    token *child = pac_cancellation_token_child(t);
    CHECK(child != NULL);
    return child;
}

static void
give_up(token *t)
{
    pac_cancellation_token_unref(t);
}

/* ---- one that waits, with a waker that counts and may run something ------------------------- */

struct waiter {
    struct pac_cancelled future;
    struct counting_waker count;
    void (*on_wake)(void *arg);
    void *arg;
};

static const struct pac_waker_vtable waiter_waker_vtable;

static struct pac_waker
waiter_clone(void *data)
{
    counting_clone(&((struct waiter *)data)->count);
    return (struct pac_waker){&waiter_waker_vtable, data};
}

static void
waiter_wake_by_ref(void *data)
{
    struct waiter *w = data;
    counting_wake_by_ref(&w->count);
    if (w->on_wake != NULL) {
        w->on_wake(w->arg);
    }
}

static void
waiter_wake(void *data)
{
    struct waiter *w = data;
    waiter_wake_by_ref(w);
    counting_drop(&w->count);
}

static void
waiter_waker_drop(void *data)
{
    counting_drop(&((struct waiter *)data)->count);
}

static const struct pac_waker_vtable waiter_waker_vtable = {
    .clone = waiter_clone,
    .wake = waiter_wake,
    .wake_by_ref = waiter_wake_by_ref,
    .drop = waiter_waker_drop,
};

static void
waiter_init(struct waiter *w, token *t)
{
    pac_cancelled_init(&w->future, t);
    counting_waker_init(&w->count);
    w->on_wake = NULL;
    w->arg = NULL;
}

static enum pac_poll
waiter_poll(struct waiter *w)
{
    struct pac_waker waker = {&waiter_waker_vtable, w};
    struct pac_context cx = {&waker};
    return pac_future_poll(&w->future.future, &cx);
}

static void
waiter_drop(struct waiter *w)
{
    pac_future_drop(&w->future.future);
    CHECK_INT(counting_live(&w->count), 0);
}

/* ---- what is cancelled with what ------------------------------------------------------------ */

static void
cancelling_reaches_all_below_and_nothing_else(void)
{
    token *root = root_new(), *a = child_of(root), *b = child_of(root);
    token *a1 = child_of(a), *a2 = child_of(a), *a11 = child_of(a1);
    pac_cancellation_token_cancel(a);
    CHECK(is_cancelled(a) && is_cancelled(a1) && is_cancelled(a2) && is_cancelled(a11));
    CHECK(!is_cancelled(root) && !is_cancelled(b));
    pac_cancellation_token_cancel(a);
    pac_cancellation_token_cancel(a11);
    CHECK(!is_cancelled(root) && !is_cancelled(b));
    pac_cancellation_token_cancel(root);
    CHECK(is_cancelled(root) && is_cancelled(b));
    token *all[] = {root, a, b, a1, a2, a11};
    for (int i = 0; i < 6; i++) {
        give_up(all[i]);
    }
}

static void
child_of_a_cancelled_token_is_cancelled(void)
{
    token *root = root_new();
    pac_cancellation_token_cancel(root);
    token *child = child_of(root), *grandchild = child_of(child);
    CHECK(is_cancelled(child) && is_cancelled(grandchild));
    give_up(root);
    give_up(child);
    give_up(grandchild);
}

static void
references_are_counted(void)
{
    token *root = root_new();
    CHECK(pac_cancellation_token_ref(root) == root);
    give_up(root);
    pac_cancellation_token_cancel(root);
    CHECK(is_cancelled(root));
    give_up(root);
    give_up(NULL);
}

static void
giving_up_does_not_cancel(void)
{
    token *root = root_new(), *child = child_of(root);
    give_up(root);
    CHECK(!is_cancelled(child));
    token *grandchild = child_of(child);
    pac_cancellation_token_cancel(child);
    CHECK(is_cancelled(grandchild));
    give_up(child);
    give_up(grandchild);
}

static void
children_of_one_given_up_belong_to_its_parent(void)
{
    token *root = root_new(), *inner = child_of(root), *sibling = child_of(root);
    token *a = child_of(inner), *b = child_of(inner), *a1 = child_of(a);
    give_up(inner);
    CHECK(!is_cancelled(a) && !is_cancelled(b));
    give_up(a);
    pac_cancellation_token_cancel(sibling);
    CHECK(!is_cancelled(b) && !is_cancelled(a1));
    pac_cancellation_token_cancel(root);
    CHECK(is_cancelled(b) && is_cancelled(a1));
    give_up(root);
    give_up(sibling);
    give_up(b);
    give_up(a1);
}

/* They stand in a circle without a head: leaving it, and children put into it, in every order. */
static void
children_of_a_root_given_up_are_on_their_own(void)
{
    static const int orders[6][3] = {
        {0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0},
    };
    for (int k = 0; k < 6; k++) {
        token *root = root_new(), *child[3], *grandchild[3];
        for (int i = 0; i < 3; i++) {
            child[i] = child_of(root);
            grandchild[i] = child_of(child[i]);
        }
        give_up(root);
        const int *order = orders[k];
        give_up(child[order[0]]);
        pac_cancellation_token_cancel(child[order[1]]);
        CHECK(is_cancelled(grandchild[order[1]]));
        CHECK(!is_cancelled(grandchild[order[0]]) && !is_cancelled(grandchild[order[2]]));
        CHECK(!is_cancelled(child[order[2]]));
        give_up(child[order[1]]);
        give_up(child[order[2]]);
        pac_cancellation_token_cancel(grandchild[order[0]]);
        CHECK(!is_cancelled(grandchild[order[2]]));
        for (int i = 0; i < 3; i++) {
            give_up(grandchild[order[i]]);
        }
    }
}

/* ---- a model: a table of parents ------------------------------------------------------------ */

enum { MODEL_TOKENS = 40, MODEL_STEPS = 400, MODEL_RUNS = 100 };

struct model {
    token *tokens[MODEL_TOKENS]; /* NULL: given up, or not made yet */
    int parent[MODEL_TOKENS];    /* -1: none */
    bool cancelled[MODEL_TOKENS];
    int made;
};

static void
model_cancel(struct model *m, int i)
{
    m->cancelled[i] = true;
    /* A parent is always older than its child, or was when that was made; so repeat. */
    for (bool again = true; again;) {
        again = false;
        for (int k = 0; k < m->made; k++) {
            if (m->parent[k] >= 0 && m->cancelled[m->parent[k]] && !m->cancelled[k]) {
                m->cancelled[k] = again = true;
            }
        }
    }
}

static void
model_give_up(struct model *m, int i)
{
    give_up(m->tokens[i]);
    m->tokens[i] = NULL;
    for (int k = 0; k < m->made; k++) {
        if (m->parent[k] == i) {
            m->parent[k] = m->parent[i];
        }
    }
}

static void
model_step(struct model *m)
{
    int i = m->made == 0 ? 0 : rand() % m->made;
    if (m->made < MODEL_TOKENS && (m->made == 0 || rand() % 3 == 0)) {
        bool is_root = m->made == 0 || m->tokens[i] == NULL;
        m->tokens[m->made] = is_root ? root_new() : child_of(m->tokens[i]);
        m->parent[m->made] = is_root ? -1 : i;
        m->cancelled[m->made] = !is_root && m->cancelled[i];
        m->made++;
    }
    else if (m->tokens[i] != NULL && rand() % 8 == 0) {
        pac_cancellation_token_cancel(m->tokens[i]);
        model_cancel(m, i);
    }
    else if (m->tokens[i] != NULL && rand() % 4 == 0) {
        model_give_up(m, i);
    }
}

static void
random_trees_are_as_the_table_says(void)
{
    int wrong = 0;
    srand(1);
    for (int run = 0; run < MODEL_RUNS; run++) {
        struct model m = {.made = 0};
        for (int step = 0; step < MODEL_STEPS; step++) {
            model_step(&m);
            for (int k = 0; k < m.made; k++) {
                wrong += m.tokens[k] != NULL && is_cancelled(m.tokens[k]) != m.cancelled[k];
            }
        }
        for (int k = 0; k < m.made; k++) {
            give_up(m.tokens[k]);
        }
    }
    CHECK_INT(wrong, 0);
}

/* ---- depth ---------------------------------------------------------------------------------- */

enum { DEPTH = 100000, SMALL_STACK = 64 * 1024 };

static void *
long_chain(void *unused)
{
    (void)unused;
    static token *chain[DEPTH];
    for (int round = 0; round < 3; round++) {
        chain[0] = root_new();
        for (int i = 1; i < DEPTH; i++) {
            chain[i] = child_of(chain[i - 1]);
        }
        if (round < 2) {
            pac_cancellation_token_cancel(chain[0]);
            CHECK(is_cancelled(chain[DEPTH - 1]));
        }
        for (int i = 0; i < DEPTH; i++) {
            give_up(chain[round == 0 ? i : DEPTH - 1 - i]);
        }
    }
    return NULL;
}

static void
a_long_chain_needs_no_stack(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, SMALL_STACK);
    CHECK_INT(pthread_create(&thread, &attributes, long_chain, NULL), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
}

/* token = child of token, again and again, keeping the newest only: nothing piles up. */
static void
a_chain_of_those_given_up_leaves_nothing(void)
{
    token *root = root_new(), *newest = child_of(root);
#ifdef PAC_DEBUG
    int64_t before = pac_atomic_load(&pac_debug_counts.allocations, PAC_RELAXED);
#endif
    for (int i = 0; i < 1000; i++) {
        token *child = child_of(newest);
        give_up(newest);
        newest = child;
    }
#ifdef PAC_DEBUG
    CHECK_INT(pac_atomic_load(&pac_debug_counts.allocations, PAC_RELAXED), before);
#endif
    pac_cancellation_token_cancel(root);
    CHECK(is_cancelled(newest));
    give_up(newest);
    give_up(root);
}

/* ---- waiting -------------------------------------------------------------------------------- */

static void
waiter_is_woken_once_and_ready(void)
{
    struct waiter w;
    token *t = root_new();
    waiter_init(&w, t);
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    CHECK_INT(counting_clones(&w.count), 1);
    pac_cancellation_token_cancel(t);
    pac_cancellation_token_cancel(t);
    CHECK_INT(counting_wakes(&w.count), 1);
    CHECK_INT(counting_live(&w.count), 0);
    CHECK_INT(waiter_poll(&w), PAC_READY);
    CHECK_INT(waiter_poll(&w), PAC_READY);
    waiter_drop(&w);
    waiter_drop(&w);
    give_up(t);
}

static void
waiting_for_a_cancelled_token_keeps_no_waker(void)
{
    struct waiter w;
    token *t = root_new();
    waiter_init(&w, t);
    pac_cancellation_token_cancel(t);
    CHECK_INT(waiter_poll(&w), PAC_READY);
    CHECK_INT(counting_clones(&w.count), 0);
    waiter_drop(&w);
    give_up(t);
}

static void
only_the_newest_waker_is_woken(void)
{
    struct waiter first, second;
    token *t = root_new();
    waiter_init(&first, t);
    waiter_init(&second, t);
    struct pac_waker waker = {&waiter_waker_vtable, &second};
    struct pac_context cx = {&waker};
    CHECK_INT(waiter_poll(&first), PAC_PENDING);
    CHECK_INT(pac_future_poll(&first.future.future, &cx), PAC_PENDING);
    CHECK_INT(counting_live(&first.count), 0);
    pac_cancellation_token_cancel(t);
    CHECK_INT(counting_wakes(&first.count), 0);
    CHECK_INT(counting_wakes(&second.count), 1);
    waiter_drop(&first);
    waiter_drop(&second);
    give_up(t);
}

static void
dropped_waiter_is_not_woken(void)
{
    struct waiter w[3];
    token *t = root_new();
    for (int i = 0; i < 3; i++) {
        waiter_init(&w[i], t);
        CHECK_INT(waiter_poll(&w[i]), PAC_PENDING);
    }
    waiter_drop(&w[1]);
    pac_cancellation_token_cancel(t);
    CHECK_INT(counting_wakes(&w[0].count), 1);
    CHECK_INT(counting_wakes(&w[1].count), 0);
    CHECK_INT(counting_wakes(&w[2].count), 1);
    waiter_drop(&w[0]);
    waiter_drop(&w[2]);
    give_up(t);
}

static void
waiters_of_all_descendants_are_woken(void)
{
    enum { CROWD = 100 };
    static struct waiter w[CROWD];
    token *root = root_new(), *child = child_of(root), *grandchild = child_of(child);
    token *where[] = {root, child, grandchild};
    for (int i = 0; i < CROWD; i++) {
        waiter_init(&w[i], where[i % 3]);
        CHECK_INT(waiter_poll(&w[i]), PAC_PENDING);
    }
    pac_cancellation_token_cancel(root);
    for (int i = 0; i < CROWD; i++) {
        CHECK_INT(counting_wakes(&w[i].count), 1);
        CHECK_INT(waiter_poll(&w[i]), PAC_READY);
        waiter_drop(&w[i]);
    }
    give_up(root);
    give_up(child);
    give_up(grandchild);
}

static void
an_empty_budget_lets_others_run(void)
{
    struct waiter w;
    token *t = root_new();
    waiter_init(&w, t);
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    pac_cancellation_token_cancel(t);
    pac_budget_left = 0;
    CHECK_INT(waiter_poll(&w), PAC_PENDING);
    CHECK_INT(counting_wakes(&w.count), 2);
    pac_budget_left = 1;
    CHECK_INT(waiter_poll(&w), PAC_READY);
    CHECK_INT(pac_budget_left, 0);
    pac_budget_left = PAC_BUDGET_UNLIMITED;
    waiter_drop(&w);
    give_up(t);
}

/* ---- wakes that come back ------------------------------------------------------------------- */

enum { RING = 80 };

struct ring {
    struct waiter w[RING];
    token *root, *child;
    int dropped;
};

/* The first one's wake: drops the last waiter, which is still to be woken, gives the child up and
 * cancels once more. */
static void
meddle(void *arg)
{
    struct ring *r = arg;
    waiter_drop(&r->w[RING - 1]);
    give_up(r->child);
    token *late = child_of(r->root);
    CHECK(is_cancelled(late));
    give_up(late);
    pac_cancellation_token_cancel(r->root);
    r->dropped++;
}

static void
a_wake_may_change_everything(void)
{
    static struct ring r;
    r.root = root_new();
    r.child = child_of(r.root);
    for (int i = 0; i < RING; i++) {
        waiter_init(&r.w[i], r.root);
        CHECK_INT(waiter_poll(&r.w[i]), PAC_PENDING);
    }
    r.w[0].on_wake = meddle;
    r.w[0].arg = &r;
    pac_cancellation_token_cancel(r.root);
    CHECK_INT(r.dropped, 1);
    for (int i = 0; i < RING; i++) {
        CHECK_INT(counting_wakes(&r.w[i].count), i < RING - 1);
        waiter_drop(&r.w[i]);
    }
    give_up(r.root);
}

/* ---- no memory ------------------------------------------------------------------------------ */

#ifdef PAC_DEBUG
static bool
make_a_family(void)
{
    bool complete = false;
    token *t = pac_cancellation_token_new();
    if (t != NULL) {
        token *child = pac_cancellation_token_child(t);
        token *grandchild = child != NULL ? pac_cancellation_token_child(child) : NULL;
        complete = grandchild != NULL;
        pac_cancellation_token_cancel(t);
        CHECK(child == NULL || pac_cancellation_token_is_cancelled(child));
        pac_cancellation_token_unref(child);
        pac_cancellation_token_unref(t);
        CHECK(grandchild == NULL || pac_cancellation_token_is_cancelled(grandchild));
        pac_cancellation_token_unref(grandchild);
    }
    return complete;
}

static void
out_of_memory_is_told(void)
{
    check_without_memory(make_a_family, 4);
}
#endif

/* ---- threads -------------------------------------------------------------------------------- */

enum { THREADS = 4, ROUNDS = 200, STEPS = 40, HELD = 8 };

struct crowd {
    token *root;
    pthread_barrier_t start, end;
    PAC_ATOMIC(int) not_cancelled;
    PAC_ATOMIC(int) seed;
};

/* Make, give up, wait and now and then cancel; at the end of a round, all that still descends from
 * the root must be cancelled with it. */
static void *
crowd_thread(void *arg)
{
    struct crowd *c = arg;
    unsigned seed = (unsigned)pac_atomic_add(&c->seed, 1, PAC_RELAXED);
    bool is_first = seed == 0;
    for (int round = 0; round < ROUNDS; round++) {
        token *held[HELD];
        struct waiter w[HELD];
        pthread_barrier_wait(&c->start);
        for (int i = 0; i < HELD; i++) {
            held[i] = child_of(c->root);
            waiter_init(&w[i], held[i]);
        }
        for (int step = 0; step < STEPS; step++) {
            int i = rand_r(&seed) % HELD, k = rand_r(&seed) % HELD;
            switch (rand_r(&seed) % 4) {
                case 0:
                    waiter_poll(&w[i]);
                    break;
                case 1: {
                    token *child = child_of(held[k]);
                    pac_cancelled_drop(&w[i].future);
                    give_up(held[i]);
                    held[i] = child;
                    pac_cancelled_init(&w[i].future, child);
                    break;
                }
                case 2:
                    if (rand_r(&seed) % 8 == 0) {
                        pac_cancellation_token_cancel(held[i]);
                    }
                    break;
                case 3:
                    if (is_first && step > STEPS / 2) {
                        pac_cancellation_token_cancel(c->root);
                    }
                    break;
            }
        }
        if (is_first) {
            pac_cancellation_token_cancel(c->root);
        }
        pthread_barrier_wait(&c->end);
        for (int i = 0; i < HELD; i++) {
            if (!is_cancelled(held[i]) || waiter_poll(&w[i]) != PAC_READY) {
                pac_atomic_add(&c->not_cancelled, 1, PAC_RELAXED);
            }
            pac_cancelled_drop(&w[i].future);
            give_up(held[i]);
        }
        pthread_barrier_wait(&c->end);
    }
    return NULL;
}

static void
threads_cancel_while_others_make_and_give_up(void)
{
    static struct crowd c;
    pthread_t threads[THREADS];
    pac_atomic_init(&c.not_cancelled, 0);
    pac_atomic_init(&c.seed, 0);
    pthread_barrier_init(&c.start, NULL, THREADS + 1);
    pthread_barrier_init(&c.end, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, crowd_thread, &c);
    }
    for (int round = 0; round < ROUNDS; round++) {
        c.root = root_new();
        pthread_barrier_wait(&c.start);
        pthread_barrier_wait(&c.end);
        pthread_barrier_wait(&c.end);
        give_up(c.root);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_INT(pac_atomic_load(&c.not_cancelled, PAC_RELAXED), 0);
    pthread_barrier_destroy(&c.start);
    pthread_barrier_destroy(&c.end);
}

/* Cancel against poll: the waiter sees the token cancelled, or it is woken. */
struct duel {
    token *t;
    int written; /* before cancel: must be seen by who is let go on */
    pthread_barrier_t start, end;
};

enum { DUELS = 2000 };

static void *
cancelling_thread(void *arg)
{
    struct duel *d = arg;
    for (int i = 1; i <= DUELS; i++) {
        pthread_barrier_wait(&d->start);
        d->written = i;
        pac_cancellation_token_cancel(d->t);
        pthread_barrier_wait(&d->end);
    }
    return NULL;
}

static void
no_cancel_is_lost_between_polls(void)
{
    static struct duel d;
    pthread_t thread;
    int wrong = 0;
    pthread_barrier_init(&d.start, NULL, 2);
    pthread_barrier_init(&d.end, NULL, 2);
    pthread_create(&thread, NULL, cancelling_thread, &d);
    for (int i = 1; i <= DUELS; i++) {
        struct waiter w;
        d.t = root_new();
        token *child = child_of(d.t);
        waiter_init(&w, child);
        pthread_barrier_wait(&d.start);
        while (waiter_poll(&w) == PAC_PENDING) {
            while (counting_wakes(&w.count) == 0) {
                sched_yield();
            }
        }
        wrong += d.written != i;
        pthread_barrier_wait(&d.end);
        waiter_drop(&w);
        give_up(child);
        give_up(d.t);
    }
    pthread_join(thread, NULL);
    CHECK_INT(wrong, 0);
    pthread_barrier_destroy(&d.start);
    pthread_barrier_destroy(&d.end);
}

int
main(void)
{
    alarm(WATCHDOG_S);
    RUN(cancelling_reaches_all_below_and_nothing_else);
    RUN(child_of_a_cancelled_token_is_cancelled);
    RUN(references_are_counted);
    RUN(giving_up_does_not_cancel);
    RUN(children_of_one_given_up_belong_to_its_parent);
    RUN(children_of_a_root_given_up_are_on_their_own);
    RUN(random_trees_are_as_the_table_says);
    RUN(a_long_chain_needs_no_stack);
    RUN(a_chain_of_those_given_up_leaves_nothing);
    RUN(waiter_is_woken_once_and_ready);
    RUN(waiting_for_a_cancelled_token_keeps_no_waker);
    RUN(only_the_newest_waker_is_woken);
    RUN(dropped_waiter_is_not_woken);
    RUN(waiters_of_all_descendants_are_woken);
    RUN(an_empty_budget_lets_others_run);
    RUN(a_wake_may_change_everything);
#ifdef PAC_DEBUG
    RUN(out_of_memory_is_told);
#endif
    RUN(threads_cancel_while_others_make_and_give_up);
    RUN(no_cancel_is_lost_between_polls);
    return TESTING_RESULT();
}
