/* shuffle.c - one walk along the queue.
 *
 * Tasks that it comes by are held back. At each other runnable, and at the end, some of those held
 * are let go, drawn at random: before a runnable until the draw, in which it is one more lot, falls
 * on itself; at the end all of them, one in four to the next pass. */
#include "shuffle.h"

enum { PUT_OFF_ONE_IN = 4 };

void
pac_shuffle_fini(struct pac_shuffle *s)
{
    pac_free(s->held);
    s->held = NULL;
    s->slots = 0;
}

/* Room for `count`. */
static bool
reserve(struct pac_shuffle *s, size_t count)
{
    if (count <= s->slots) {
        return true;
    }
    pac_shuffle_fini(s);
    s->held = pac_alloc(2 * count * sizeof(struct pac_runnable *));
    s->slots = s->held != NULL ? 2 * count : 0;
    return s->held != NULL;
}

static struct pac_runnable *
take_out(struct pac_shuffle *s, size_t *held, size_t which)
{
    struct pac_runnable *r = s->held[which];
    s->held[which] = s->held[--*held];
    return r;
}

size_t
pac_shuffle_queue(struct pac_shuffle *s, struct pac_run_queue *queue,
                  const struct pac_runnable_vtable *task, struct pac_random *random)
{
    if (queue->length < 2 || !reserve(s, queue->length)) {
        return queue->length;
    }
    struct pac_run_queue now, later;
    struct pac_runnable *r;
    size_t held = 0;
    pac_run_queue_init(&now);
    pac_run_queue_init(&later);
    while ((r = pac_run_queue_pop(queue)) != NULL) {
        if (r->vtable == task) {
            s->held[held++] = r;
            continue;
        }
        for (size_t which; (which = pac_random_below(random, held + 1)) < held;) {
            pac_run_queue_push(&now, take_out(s, &held, which));
        }
        pac_run_queue_push(&now, r);
    }
    while (held > 0) {
        r = take_out(s, &held, pac_random_below(random, held));
        bool put_off = now.length > 0 && pac_random_below(random, PUT_OFF_ONE_IN) == 0;
        pac_run_queue_push(put_off ? &later : &now, r);
    }
    size_t count = now.length;
    *queue = now;
    while ((r = pac_run_queue_pop(&later)) != NULL) {
        pac_run_queue_push(queue, r);
    }
    return count;
}
