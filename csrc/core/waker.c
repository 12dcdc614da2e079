#include "waker.h"

static struct pac_waker
noop_clone(void *data)
{
    (void)data;
    return pac_noop_waker;
}

static void
noop(void *data)
{
    (void)data;
}

static const struct pac_waker_vtable noop_waker_vtable = {
    .clone = noop_clone,
    .wake = noop,
    .wake_by_ref = noop,
    .drop = noop,
};

const struct pac_waker pac_noop_waker = {&noop_waker_vtable, NULL};
