/* mutex.c - a semaphore of one permit. Its limit of one is what tells an unlock too many. */
#include "mutex.h"

void
pac_mutex_init(struct pac_mutex *m)
{
    pac_semaphore_init(&m->semaphore, 1, 1);
}

void
pac_mutex_lock_init(struct pac_acquire *lock, struct pac_mutex *m)
{
    pac_acquire_init(lock, &m->semaphore, 1);
}

bool
pac_mutex_try_lock(struct pac_mutex *m)
{
    return pac_semaphore_try_acquire(&m->semaphore, 1) == PAC_OK;
}

enum pac_status
pac_mutex_unlock(struct pac_mutex *m)
{
    return pac_semaphore_release(&m->semaphore, 1);
}

bool
pac_mutex_is_locked(struct pac_mutex *m)
{
    return pac_semaphore_available(&m->semaphore) == 0;
}
