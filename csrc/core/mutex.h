/* mutex.h - one holder at a time; fair.
 *
 * A mutex carries no data and knows no owner: whoever may unlock it says so. It is handed to the
 * oldest waiter, so that nobody overtakes; a lock future that is dropped loses its place, or passes
 * on the lock that it was handed. Threads, memory and budget as in semaphore.h, of which it is one
 * with a single permit. Stands for Tokio's Mutex. */
#ifndef PAC_MUTEX_H
#define PAC_MUTEX_H

#include "semaphore.h"

struct pac_mutex {
    struct pac_semaphore semaphore;
};

void pac_mutex_init(struct pac_mutex *m);

/* A future that is READY once the caller has the lock: PAC_OK, always, as a mutex is not closed. */
void pac_mutex_lock_init(struct pac_acquire *lock, struct pac_mutex *m);

/* Lock now, and return true; or false: it is locked. */
bool pac_mutex_try_lock(struct pac_mutex *m);

/* PAC_OVERFLOW: it was not locked. */
PAC_MUST_USE enum pac_status pac_mutex_unlock(struct pac_mutex *m);

bool pac_mutex_is_locked(struct pac_mutex *m);

#endif
