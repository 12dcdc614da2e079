/* leaf.h - a future whose event the test makes happen, for the tests of what polls others. */
#ifndef PAC_TEST_LEAF_H
#define PAC_TEST_LEAF_H

#include "testing.h"

#include <string.h>

struct leaf {
    struct pac_future future;
    char letter;   /* what it writes into the logs below */
    bool happened; /* READY from now on */
    int output;    /* the letter, once READY */
    struct pac_waker waker;
    const struct pac_waker *last_seen; /* the waker of the last poll, as an address */
    int polls;
    int drops;
};

/* One letter for each poll of a leaf, and for each drop (and whatever a test adds), in order. */
static char leaf_polls[4096];
static char leaf_drops[4096];

static inline void
leaf_log(char *text, char letter)
{
    size_t length = strlen(text);
    CHECK(length + 1 < sizeof leaf_polls);
    text[length] = letter;
    text[length + 1] = '\0';
}

static inline enum pac_poll
leaf_poll(struct pac_future *f, struct pac_context *cx)
{
    struct leaf *leaf = PAC_CONTAINER_OF(f, struct leaf, future);
    CHECK_INT(leaf->drops, 0);
    leaf_log(leaf_polls, leaf->letter);
    leaf->polls++;
    leaf->last_seen = cx->waker;
    if (leaf->happened) {
        leaf->output = leaf->letter;
        return PAC_READY;
    }
    if (!pac_waker_will_wake(&leaf->waker, cx->waker)) {
        struct pac_waker old = leaf->waker;
        leaf->waker = pac_waker_clone(cx->waker);
        pac_waker_drop(&old);
    }
    return PAC_PENDING;
}

static inline void
leaf_drop(struct pac_future *f)
{
    struct leaf *leaf = PAC_CONTAINER_OF(f, struct leaf, future);
    leaf->drops++;
    leaf_log(leaf_drops, leaf->letter);
    pac_waker_drop(&leaf->waker);
}

static const struct pac_future_vtable leaf_vtable = {
    .poll = leaf_poll,
    .drop = leaf_drop,
};

static inline void
leaf_init(struct leaf *leaf, char letter)
{
    *leaf = (struct leaf){.future = {&leaf_vtable}, .letter = letter, .waker = PAC_NO_WAKER};
}

static inline void
leaf_happen(struct leaf *leaf)
{
    leaf->happened = true;
    pac_waker_wake(&leaf->waker);
}

#endif
