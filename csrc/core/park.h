/* park.h - sleep until a deadline, a descriptor, or an unpark from another thread.
 *
 * The order that loses no wake-up: the owner puts PARKED into the inject queue's word, which
 * fails if anything is queued; only then does it wait. A producer that comes later takes the
 * PARKED away by its push, and writes to the reactor's eventfd, which ends the wait whether it
 * had begun or not. */
#ifndef PAC_PARK_H
#define PAC_PARK_H

#include "inject.h"
#include "reactor.h"

/* What an embedding does around a wait: an interpreter gives its lock away, and looks at signals.
 */
struct pac_park_hooks {
    void (*before_wait)(void *data);
    /* `interrupted`: a signal ended the wait. False: stop running (pac_park says
     * PAC_INTERRUPTED). */
    bool (*after_wait)(void *data, bool interrupted);
    void *data;
};

/* Owner: wait at the longest until `deadline_ns` (0: only look; PAC_NEVER: no deadline), less if
 * something is in `inject`; then dispatch what is ready. A look runs no hooks. PAC_OK,
 * PAC_INTERRUPTED (a hook said so), PAC_OS_ERROR. `*waited` is set to whether it really slept. */
PAC_MUST_USE enum pac_status pac_park(struct pac_reactor *reactor, struct pac_inject *inject,
                                      uint64_t deadline_ns, const struct pac_park_hooks *hooks,
                                      bool *waited);

#endif
