/* list.c - two intrusive lists against two arrays. */
#include "list.h"

#include "fuzz.h"

#include <string.h>

enum { NODES = 10 };

static struct pac_list lists[2];
static struct pac_list_node nodes[NODES];
static struct pac_list_node *model[2][NODES];
static size_t lengths[2];

static void
model_insert(int which, size_t at, struct pac_list_node *node)
{
    memmove(&model[which][at + 1], &model[which][at], (lengths[which] - at) * sizeof node);
    model[which][at] = node;
    lengths[which]++;
}

/* Where it stands: which list and place; false: in none. */
static bool
model_find(const struct pac_list_node *node, int *which, size_t *at)
{
    for (*which = 0; *which < 2; ++*which) {
        for (*at = 0; *at < lengths[*which]; ++*at) {
            if (model[*which][*at] == node) {
                return true;
            }
        }
    }
    return false;
}

static void
model_remove(const struct pac_list_node *node)
{
    int which;
    size_t at;
    if (model_find(node, &which, &at)) {
        lengths[which]--;
        memmove(&model[which][at], &model[which][at + 1], (lengths[which] - at) * sizeof node);
    }
}

static void
check(int which)
{
    const struct pac_list *list = &lists[which];
    const struct pac_list_node *node = &list->head;
    size_t n = lengths[which];
    for (size_t i = 0; i < n; i++) {
        FUZZ_CHECK(node->next == model[which][i]);
        FUZZ_CHECK(node->next->prev == node);
        node = node->next;
    }
    FUZZ_CHECK(node->next == &list->head && list->head.prev == node);
    FUZZ_CHECK(pac_list_is_empty(list) == (n == 0));
    FUZZ_CHECK(pac_list_first(list) == (n > 0 ? model[which][0] : NULL));
    FUZZ_CHECK(pac_list_last(list) == (n > 0 ? model[which][n - 1] : NULL));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    for (int i = 0; i < 2; i++) {
        pac_list_init(&lists[i]);
        lengths[i] = 0;
    }
    memset(nodes, 0, sizeof nodes);
    while (!input_is_over(&in)) {
        int which = (int)input_below(&in, 2), other;
        struct pac_list_node *node = &nodes[input_below(&in, NODES)], *out;
        size_t at;
        bool linked = model_find(node, &other, &at);
        FUZZ_CHECK(pac_list_is_linked(node) == linked);
        switch (input_below(&in, 7)) {
            case 0:
                if (!linked) {
                    pac_list_push_back(&lists[which], node);
                    model_insert(which, lengths[which], node);
                }
                break;
            case 1:
                if (!linked) {
                    pac_list_push_front(&lists[which], node);
                    model_insert(which, 0, node);
                }
                break;
            case 2:
                pac_list_remove(node);
                model_remove(node);
                break;
            case 3:
                out = pac_list_pop_front(&lists[which]);
                FUZZ_CHECK(out == (lengths[which] > 0 ? model[which][0] : NULL));
                model_remove(out);
                break;
            case 4:
                out = pac_list_pop_back(&lists[which]);
                FUZZ_CHECK(out == (lengths[which] > 0 ? model[which][lengths[which] - 1] : NULL));
                model_remove(out);
                break;
            case 5:
                pac_list_splice_back(&lists[which], &lists[!which]);
                while (lengths[!which] > 0) {
                    out = model[!which][0];
                    model_remove(out);
                    model_insert(which, lengths[which], out);
                }
                break;
            default:
                out = &nodes[input_below(&in, NODES)];
                if (linked && !pac_list_is_linked(out)) {
                    pac_list_insert_before(node, out);
                    model_insert(other, at, out);
                }
        }
        check(0);
        check(1);
    }
    return 0;
}
