/* atomic_waker.h - one slot for the newest waker, registered by one thread and woken by any.
 *
 * Between "register" and "wake" no wake-up is lost: a wake that comes before the registration
 * ends, or during it, wakes the waker that is being registered. The caller of register must look
 * at its condition *after* registering, and the caller of wake must have made the condition true
 * *before* waking: then one of the two sees the other.
 *
 * Stands for futures-rs' AtomicWaker. */
#ifndef PAC_ATOMIC_WAKER_H
#define PAC_ATOMIC_WAKER_H

#include "waker.h"

/* Bits of the state; zero: nobody is at it. */
enum { PAC_ATOMIC_WAKER_REGISTERING = 1, PAC_ATOMIC_WAKER_WAKING = 2 };

struct pac_atomic_waker {
    PAC_ATOMIC(uint32_t) state;
    struct pac_waker waker; /* whoever set a bit on a state of zero owns it */
};

void pac_atomic_waker_init(struct pac_atomic_waker *a);

/* Keep a clone of `w`, in place of what was kept, which is dropped; nothing is cloned if it
 * already will wake the same. One thread at a time (the future's poller). If a wake is under way,
 * `w` itself is woken instead. */
void pac_atomic_waker_register(struct pac_atomic_waker *a, const struct pac_waker *w);

/* Wake and forget the waker that is kept, if any. [any thread] */
void pac_atomic_waker_wake(struct pac_atomic_waker *a);

/* Take the waker without waking it: an empty slot if there is none, or if a registration is under
 * way, which then wakes its own. [any thread] */
struct pac_waker pac_atomic_waker_take(struct pac_atomic_waker *a);

/* Drop what is kept. No other thread may use `a` any more. */
void pac_atomic_waker_fini(struct pac_atomic_waker *a);

#endif
