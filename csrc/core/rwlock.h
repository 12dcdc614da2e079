/* rwlock.h - many readers or one writer; fair.
 *
 * First come, first served: a writer that waits makes later readers wait, so it does not starve;
 * readers that stand next to each other in the line go in together. So who holds a read lock and
 * asks for another one may wait behind a writer that waits for him.
 *
 * Each reader has one of PAC_RWLOCK_READERS permits of a semaphore, a writer all of them. Threads,
 * memory, budget and dropping as in semaphore.h. Stands for Tokio's RwLock. */
#ifndef PAC_RWLOCK_H
#define PAC_RWLOCK_H

#include "semaphore.h"

/* The most readers at once; one more waits. */
#define PAC_RWLOCK_READERS ((uint64_t)UINT32_MAX >> 3)

struct pac_rwlock {
    struct pac_semaphore semaphore;
};

void pac_rwlock_init(struct pac_rwlock *rw);

/* Futures that are READY, with PAC_OK, once the caller has the lock. */
void pac_rwlock_read_init(struct pac_acquire *lock, struct pac_rwlock *rw);
void pac_rwlock_write_init(struct pac_acquire *lock, struct pac_rwlock *rw);

/* Lock now, and return true; or false: somebody holds it who excludes that, or waits. */
bool pac_rwlock_try_read(struct pac_rwlock *rw);
bool pac_rwlock_try_write(struct pac_rwlock *rw);

/* PAC_OVERFLOW: it was not locked that way. */
PAC_MUST_USE enum pac_status pac_rwlock_unlock_read(struct pac_rwlock *rw);
PAC_MUST_USE enum pac_status pac_rwlock_unlock_write(struct pac_rwlock *rw);

/* The writer becomes a reader, without anybody writing in between; the readers that are next in
 * the line go in. PAC_OVERFLOW: it was not locked for writing. */
PAC_MUST_USE enum pac_status pac_rwlock_downgrade(struct pac_rwlock *rw);

/* Readers that hold it now, to be looked at; PAC_RWLOCK_READERS: a writer does. What was assigned
 * to a writer that waits for the last readers counts as held. */
uint64_t pac_rwlock_held(struct pac_rwlock *rw);

#endif
