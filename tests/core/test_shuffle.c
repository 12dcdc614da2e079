/* The order of a seed: what may change places, what may not, and that it repeats. */
#include "shuffle.h"

#include "testing.h"

#include <string.h>

enum { NODES = 40, SEEDS = 2000 };

static const struct pac_runnable_vtable task_vtable, callback_vtable;
static struct pac_runnable nodes[NODES];
static struct pac_shuffle shuffle;

/* Queue a node for each letter, a task for a capital; then shuffle. The order as letters, with a
 * dot before those that are put off. */
static const char *
shuffled(const char *letters, uint64_t seed)
{
    static char order[NODES + 2];
    struct pac_random random = {seed};
    struct pac_run_queue queue;
    struct pac_runnable *r;
    size_t n = 0;
    pac_run_queue_init(&queue);
    for (size_t i = 0; letters[i] != 0; i++) {
        nodes[i].vtable = letters[i] < 'a' ? &task_vtable : &callback_vtable;
        pac_run_queue_push(&queue, &nodes[i]);
    }
    size_t length = queue.length;
    size_t count = pac_shuffle_queue(&shuffle, &queue, &task_vtable, &random);
    CHECK_INT(queue.length, length);
    CHECK(count > 0 || length == 0);
    for (size_t i = 0; (r = pac_run_queue_pop(&queue)) != NULL; i++) {
        if (i == count) {
            order[n++] = '.';
        }
        order[n++] = letters[r - nodes];
    }
    order[n] = 0;
    return order;
}

static size_t
place(const char *order, char letter)
{
    const char *found = strchr(order, letter);
    CHECK(found != NULL);
    return found == NULL ? 0 : (size_t)(found - order);
}

static void
a_seed_repeats_and_another_one_differs(void)
{
    char first[NODES + 2];
    int same = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        strcpy(first, shuffled("ABCDEFGHIJKLMNOP", seed));
        CHECK(strcmp(first, shuffled("ABCDEFGHIJKLMNOP", seed)) == 0);
        same += strcmp(first, shuffled("ABCDEFGHIJKLMNOP", seed + 1)) == 0;
    }
    CHECK(same < 3);
}

static void
callbacks_keep_their_order_and_no_task_overtakes_one(void)
{
    const char *const letters = "AabBCcDdE";
    int behind = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        const char *order = shuffled(letters, seed);
        CHECK(place(order, 'a') < place(order, 'b'));
        CHECK(place(order, 'b') < place(order, 'c'));
        CHECK(place(order, 'c') < place(order, 'd'));
        CHECK(place(order, 'B') > place(order, 'b'));
        CHECK(place(order, 'C') > place(order, 'b'));
        CHECK(place(order, 'D') > place(order, 'c'));
        CHECK(place(order, 'E') > place(order, 'd'));
        behind += place(order, 'A') > place(order, 'd');
        /* Only tasks are put off. */
        const char *later = strchr(order, '.');
        CHECK(later == NULL || strpbrk(later, "abcd") == NULL);
    }
    CHECK(behind > 0);
}

/* Each of three tasks comes first, and each is put off, about as often as the others. */
static void
every_order_comes(void)
{
    int first[3] = {0}, put_off[3] = {0};
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        const char *order = shuffled("ABC", seed), *later = strchr(order, '.');
        first[order[0] - 'A']++;
        for (int i = 0; i < 3; i++) {
            put_off[i] += later != NULL && strchr(later, 'A' + i) != NULL;
        }
    }
    for (int i = 0; i < 3; i++) {
        CHECK(first[i] > SEEDS / 4 && first[i] < SEEDS / 2);
        CHECK(put_off[i] > SEEDS / 10 && put_off[i] < SEEDS / 3);
    }
}

static void
too_short_to_shuffle(void)
{
    CHECK(strcmp(shuffled("", 1), "") == 0);
    CHECK(strcmp(shuffled("A", 1), "A") == 0);
    CHECK(strcmp(shuffled("abcd", 1), "abcd") == 0);
}

#ifdef PAC_DEBUG
/* The second queue needs more memory than the first has left. */
static bool
shuffle_twice(void)
{
    bool first = strcmp(shuffled("ABCDEFGH", 7), "ABCDEFGH") != 0;
    bool second = strcmp(shuffled("ABCDEFGHIJKLMNOPQRST", 7), "ABCDEFGHIJKLMNOPQRST") != 0;
    pac_shuffle_fini(&shuffle);
    return first && second;
}

static void
without_memory_the_order_stays(void)
{
    pac_shuffle_fini(&shuffle);
    pac_alloc_fail_after(1, true);
    CHECK(strcmp(shuffled("ABCDEFGH", 7), "ABCDEFGH") == 0);
    pac_alloc_fail_after(0, false);
    CHECK(strcmp(shuffled("ABCDEFGH", 7), "ABCDEFGH") != 0);
    pac_shuffle_fini(&shuffle);
    check_without_memory(shuffle_twice, 2);
}
#endif

int
main(void)
{
    RUN(a_seed_repeats_and_another_one_differs);
    RUN(callbacks_keep_their_order_and_no_task_overtakes_one);
    RUN(every_order_comes);
    RUN(too_short_to_shuffle);
#ifdef PAC_DEBUG
    RUN(without_memory_the_order_stays);
#endif
    pac_shuffle_fini(&shuffle);
    return TESTING_RESULT();
}
