/* queues.c - the ready queue, the inject queue with its sleep token, and the shuffle, against
 * arrays. */
#include "fuzz.h"
#include "inject.h"
#include "shuffle.h"

#include <string.h>

enum { RUNNABLES = 24 };

struct line {
    struct pac_runnable *items[RUNNABLES];
    size_t length;
};

static struct pac_runnable runnables[RUNNABLES];
static bool queued[RUNNABLES];
static struct line ready, injected;
static const struct pac_runnable_vtable task_vtable, other_vtable;

static void
append(struct line *line, struct pac_runnable *r)
{
    line->items[line->length++] = r;
}

static struct pac_runnable *
take_first(struct line *line)
{
    if (line->length == 0) {
        return NULL;
    }
    struct pac_runnable *first = line->items[0];
    line->length--;
    memmove(line->items, line->items + 1, line->length * sizeof first);
    return first;
}

static struct pac_runnable *
free_one(struct input *in)
{
    size_t i = input_below(in, RUNNABLES);
    if (queued[i]) {
        return NULL;
    }
    queued[i] = true;
    runnables[i].vtable = i % 3 == 0 ? &other_vtable : &task_vtable;
    return &runnables[i];
}

static void
check_queue(const struct pac_run_queue *q)
{
    const struct pac_runnable *r = q->first;
    FUZZ_CHECK(q->length == ready.length);
    for (size_t i = 0; i < ready.length; i++, r = r->next) {
        FUZZ_CHECK(r == ready.items[i]);
        FUZZ_CHECK(i + 1 < ready.length || r == q->last);
    }
    FUZZ_CHECK(r == NULL);
}

/* Where `r` stands; all of a line is in the other one too. */
static size_t
place_of(const struct line *line, const struct pac_runnable *r)
{
    size_t at = 0;
    while (at < line->length && line->items[at] != r) {
        at++;
    }
    return at;
}

static void
shuffle(struct pac_shuffle *s, struct pac_run_queue *q, struct pac_random *random)
{
    struct line after = {{NULL}, 0};
    size_t count = pac_shuffle_queue(s, q, &task_vtable, random);
    FUZZ_CHECK(count <= q->length && (count > 0 || q->length == 0));
    for (struct pac_runnable *r = q->first; r != NULL; r = r->next) {
        FUZZ_CHECK(after.length < RUNNABLES);
        append(&after, r);
    }
    FUZZ_CHECK(after.length == ready.length);
    for (size_t i = 0; i < ready.length; i++) {
        size_t at = place_of(&after, ready.items[i]);
        FUZZ_CHECK(at < after.length);
        /* What is no task keeps its order, is not put off, and no task overtakes it. */
        for (size_t j = i + 1; j < ready.length && ready.items[i]->vtable != &task_vtable; j++) {
            FUZZ_CHECK(at < place_of(&after, ready.items[j]));
        }
        FUZZ_CHECK(ready.items[i]->vtable == &task_vtable || at < count);
    }
    ready = after;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    struct pac_run_queue q;
    struct pac_inject inject;
    struct pac_shuffle s = {NULL, 0};
    struct pac_random random = {input_byte(&in)};
    struct pac_runnable *r;
    bool parked = false, taken = false, closed = false;
    pac_run_queue_init(&q);
    pac_inject_init(&inject);
    memset(queued, 0, sizeof queued);
    ready.length = injected.length = 0;
    while (!input_is_over(&in)) {
        switch (input_below(&in, 8)) {
            case 0:
                if ((r = free_one(&in)) != NULL) {
                    pac_run_queue_push(&q, r);
                    append(&ready, r);
                }
                break;
            case 1:
                r = pac_run_queue_pop(&q);
                FUZZ_CHECK(r == take_first(&ready));
                if (r != NULL) {
                    queued[r - runnables] = false;
                }
                break;
            case 2:
            case 3:
                if ((r = free_one(&in)) != NULL) {
                    enum pac_inject_result result = pac_inject_push(&inject, r);
                    /* Exactly the first one that comes while the owner sleeps. */
                    FUZZ_CHECK(result == (closed             ? PAC_INJECT_CLOSED
                                          : parked && !taken ? PAC_INJECT_UNPARK
                                                             : PAC_INJECT_DONE));
                    taken |= result == PAC_INJECT_UNPARK;
                    if (closed) {
                        queued[r - runnables] = false;
                    }
                    else {
                        append(&injected, r);
                    }
                }
                break;
            case 4:
                if (!closed && (!parked || taken)) {
                    parked = taken = false; /* as after unpark, which changes nothing then */
                    FUZZ_CHECK(pac_inject_has_work(&inject) == (injected.length > 0));
                    pac_inject_take(&inject, &q);
                    while ((r = take_first(&injected)) != NULL) {
                        append(&ready, r);
                    }
                }
                break;
            case 5:
                if (!closed && !parked) {
                    parked = pac_inject_park(&inject);
                    FUZZ_CHECK(parked == (injected.length == 0));
                }
                else if (parked) {
                    FUZZ_CHECK(pac_inject_unpark(&inject) == taken);
                    parked = taken = false;
                }
                break;
            case 6:
                shuffle(&s, &q, &random);
                break;
            default:
                if (input_byte(&in) == 0 && !parked) {
                    pac_inject_close(&inject, &q);
                    while ((r = take_first(&injected)) != NULL) {
                        append(&ready, r);
                    }
                    closed = true;
                }
        }
        check_queue(&q);
    }
    pac_shuffle_fini(&s);
    return 0;
}
