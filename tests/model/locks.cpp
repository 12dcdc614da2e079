/* Mutex and RwLock: what they guard is a cell, on which the checker reports any race. */
#include "model.hpp"

#include "../../csrc/core/budget.c"
#include "../../csrc/core/semaphore.c"

#include "../../csrc/core/mutex.c"
#include "../../csrc/core/rwlock.c"

using namespace pac_model;

/* Three lock, one of them by a future that may be dropped while it waits, and one at once or not at
 * all. */
struct mutex_excludes : Case<mutex_excludes, 3> {
    struct pac_mutex mutex;
    PAC_CELL(int) data;
    PAC_CELL(int) held; /* how many have held it */
    PAC_ATOMIC(int) locked;

    void before()
    {
        Case::before();
        pac_mutex_init(&mutex);
        data = held = 0;
        pac_atomic_init(&locked, 0);
    }

    void hold()
    {
        pac_atomic_add(&locked, 1, PAC_RELAXED);
        held++;
        RL_ASSERT(data == 0);
        data = 1;
        data = 0;
        enum pac_status status = pac_mutex_unlock(&mutex);
        RL_ASSERT(status == PAC_OK);
    }

    void thread(unsigned index)
    {
        struct pac_acquire lock;
        pac_mutex_lock_init(&lock, &mutex);
        switch (index) {
            case 0:
                await(&lock.future, sleepers[0]);
                hold();
                break;
            case 1:
                if (look(&lock.future, sleepers[1])) {
                    hold();
                }
                break;
            default:
                if (pac_mutex_try_lock(&mutex)) {
                    hold();
                }
        }
        pac_acquire_drop(&lock);
    }

    void after()
    {
        RL_ASSERT(held == pac_atomic_load(&locked, PAC_RELAXED) && held >= 1);
        RL_ASSERT(!pac_mutex_is_locked(&mutex));
        Case::after();
    }
};

template <typename T, int N> struct RwModel : Case<T, N> {
    struct pac_rwlock rw;
    PAC_CELL(int) data;

    void before()
    {
        Case<T, N>::before();
        pac_rwlock_init(&rw);
        data = 0;
    }

    void read(Sleeper &sleeper, bool patient = true)
    {
        struct pac_acquire lock;
        pac_rwlock_read_init(&lock, &rw);
        if (patient) {
            await(&lock.future, sleeper);
        }
        if (patient || look(&lock.future, sleeper)) {
            RL_ASSERT(data % 2 == 0);
            enum pac_status status = pac_rwlock_unlock_read(&rw);
            RL_ASSERT(status == PAC_OK);
        }
        pac_acquire_drop(&lock);
    }

    void write(Sleeper &sleeper, bool downgrade)
    {
        struct pac_acquire lock;
        pac_rwlock_write_init(&lock, &rw);
        await(&lock.future, sleeper);
        int mine = data + 1;
        data = mine;
        data = ++mine;
        enum pac_status status;
        if (downgrade) {
            status = pac_rwlock_downgrade(&rw);
            RL_ASSERT(status == PAC_OK);
            RL_ASSERT(data == mine); /* nobody writes in between */
            status = pac_rwlock_unlock_read(&rw);
        }
        else {
            status = pac_rwlock_unlock_write(&rw);
        }
        RL_ASSERT(status == PAC_OK);
        pac_acquire_drop(&lock);
    }

    void after(int written)
    {
        RL_ASSERT(data == written);
        RL_ASSERT(pac_rwlock_held(&rw) == 0);
        Case<T, N>::after();
    }
};

struct readers_and_writer : RwModel<readers_and_writer, 3> {
    void thread(unsigned index)
    {
        if (index == 0) {
            write(sleepers[0], false);
        }
        else {
            read(sleepers[index], index == 1);
        }
    }

    void after()
    {
        RwModel::after(2);
    }
};

struct downgrade_against_writer : RwModel<downgrade_against_writer, 3> {
    void thread(unsigned index)
    {
        if (index < 2) {
            write(sleepers[index], index == 0);
        }
        else {
            read(sleepers[index]);
        }
    }

    void after()
    {
        RwModel::after(4);
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(mutex_excludes);
    CHECK_MODEL(readers_and_writer);
    CHECK_MODEL(downgrade_against_writer);
    return !ok;
}
