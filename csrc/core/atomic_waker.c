/* atomic_waker.c - a slot that two sides want to use at once, and that neither may
 * wait for.
 *
 * The state word says who has the right to touch `waker`:
 *
 *            register                       wake, take
 *   REGISTERING <------------ 0 ------------> WAKING
 *        |                    ^                  |
 *        +--- waker stored ---+---- waker taken -+
 *
 * Only the one who sets a bit on a state of zero owns the slot, until it brings the
 * state back to zero. Nobody waits for an owner:
 *
 * - Thread A registers and meanwhile thread B wakes. B finds REGISTERING, leaves its
 *   own bit beside it and goes. A finds that bit when it wants to give the slot back,
 *   takes out what it has just stored and wakes it: B's wake-up happened, only by A's
 *   hand.
 * - Thread B wakes and meanwhile thread A registers. A finds WAKING and cannot know
 *   whether B's wake is for the old waker alone, so it wakes its own waker at once: at
 *   worst one poll too many.
 * - Threads B and C wake at once. C finds B's bit and goes: B has not yet woken what
 *   it takes, or the task registers anew after B is done, and then sees what C wrote
 *   (see release_waking).
 *
 * Every change of the state is a read-modify-write. A plain store would cut the chain
 * through which a waker who merely left its bit (B in the first story, C in the third)
 * hands its writes to the next registration.
 */
#include "atomic_waker.h"

void
pac_atomic_waker_init(struct pac_atomic_waker *a)
{
    pac_atomic_init(&a->state, 0);
    a->waker = PAC_NO_WAKER;
}

/* A wake came while we were registering, and left its bit for us to act on. */
static void
wake_for_another(struct pac_atomic_waker *a)
{
    struct pac_waker mine = a->waker;
    a->waker = PAC_NO_WAKER;
    /* acq_rel: acquires what further wakes have published by setting a bit that was
     * set already; releases the emptied slot to the next owner. */
    pac_atomic_exchange(&a->state, 0, PAC_ACQ_REL);
    pac_waker_wake(&mine);
}

void
pac_atomic_waker_register(struct pac_atomic_waker *a, const struct pac_waker *w)
{
    uint32_t found = 0;
    /* acquire: pairs with the release in release_waking, so that we see the slot as
     * the last owner left it; on failure too, so that the poll to come sees why we are
     * being woken. */
    if (!pac_atomic_cas(&a->state, &found, PAC_ATOMIC_WAKER_REGISTERING, PAC_ACQUIRE,
                        PAC_ACQUIRE)) {
        pac_waker_wake_by_ref(w);
        return;
    }
    struct pac_waker replaced = PAC_NO_WAKER;
    if (!pac_waker_will_wake(&a->waker, w)) {
        replaced = a->waker;
        a->waker = pac_waker_clone(w);
    }
    found = PAC_ATOMIC_WAKER_REGISTERING;
    /* release: hands the waker over to the acquire in pac_atomic_waker_take. acquire,
     * on failure: pairs with the release there, the writes of the one who wanted to
     * wake. */
    if (!pac_atomic_cas(&a->state, &found, 0, PAC_ACQ_REL, PAC_ACQUIRE)) {
        PAC_ASSERT(found == (PAC_ATOMIC_WAKER_REGISTERING | PAC_ATOMIC_WAKER_WAKING));
        wake_for_another(a);
    }
    /* Last, when the slot is free again, since dropping a waker can run anything. */
    pac_waker_drop(&replaced);
}

/* release: hands the emptied slot to the acquire in pac_atomic_waker_register. Others
 * may have set WAKING once more meanwhile; as a read-modify-write this continues the
 * release sequences that they began, so that the same acquire sees their writes too. */
static void
release_waking(struct pac_atomic_waker *a)
{
    pac_atomic_and(&a->state, ~(uint32_t)PAC_ATOMIC_WAKER_WAKING, PAC_RELEASE);
}

struct pac_waker
pac_atomic_waker_take(struct pac_atomic_waker *a)
{
    /* release: what made the caller's condition true, to whoever registers next.
     * acquire: the waker, from the release at the end of pac_atomic_waker_register. */
    uint32_t found = pac_atomic_or(&a->state, PAC_ATOMIC_WAKER_WAKING, PAC_ACQ_REL);
    if (found != 0) {
        return PAC_NO_WAKER;
    }
    struct pac_waker taken = a->waker;
    a->waker = PAC_NO_WAKER;
    release_waking(a);
    return taken;
}

void
pac_atomic_waker_wake(struct pac_atomic_waker *a)
{
    struct pac_waker w = pac_atomic_waker_take(a);
    pac_waker_wake(&w);
}

void
pac_atomic_waker_fini(struct pac_atomic_waker *a)
{
    PAC_ASSERT(pac_atomic_load(&a->state, PAC_RELAXED) == 0);
    pac_waker_drop(&a->waker);
}
