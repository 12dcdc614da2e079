/* rwlock.c - a semaphore whose permits are readers. Its limit tells an unlock too many. */
#include "rwlock.h"

void
pac_rwlock_init(struct pac_rwlock *rw)
{
    pac_semaphore_init(&rw->semaphore, PAC_RWLOCK_READERS, PAC_RWLOCK_READERS);
}

void
pac_rwlock_read_init(struct pac_acquire *lock, struct pac_rwlock *rw)
{
    pac_acquire_init(lock, &rw->semaphore, 1);
}

void
pac_rwlock_write_init(struct pac_acquire *lock, struct pac_rwlock *rw)
{
    pac_acquire_init(lock, &rw->semaphore, PAC_RWLOCK_READERS);
}

bool
pac_rwlock_try_read(struct pac_rwlock *rw)
{
    return pac_semaphore_try_acquire(&rw->semaphore, 1) == PAC_OK;
}

bool
pac_rwlock_try_write(struct pac_rwlock *rw)
{
    return pac_semaphore_try_acquire(&rw->semaphore, PAC_RWLOCK_READERS) == PAC_OK;
}

enum pac_status
pac_rwlock_unlock_read(struct pac_rwlock *rw)
{
    return pac_semaphore_release(&rw->semaphore, 1);
}

enum pac_status
pac_rwlock_unlock_write(struct pac_rwlock *rw)
{
    return pac_semaphore_release(&rw->semaphore, PAC_RWLOCK_READERS);
}

enum pac_status
pac_rwlock_downgrade(struct pac_rwlock *rw)
{
    return pac_semaphore_available(&rw->semaphore) != 0
               ? PAC_OVERFLOW
               : pac_semaphore_release(&rw->semaphore, PAC_RWLOCK_READERS - 1);
}

uint64_t
pac_rwlock_held(struct pac_rwlock *rw)
{
    return PAC_RWLOCK_READERS - pac_semaphore_available(&rw->semaphore);
}
