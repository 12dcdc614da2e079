/* RwLock: who may be in together, in which order, and that no writer starves.
 *
 * The first group follows the cases of Tokio's own tests of its RwLock. */
#include "rwlock.h"
#include "wakers.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum { WATCHDOG_S = 100 };

struct waiter {
    struct pac_acquire lock;
    struct probe probe;
};

static enum pac_poll
read_poll(struct waiter *w, struct pac_rwlock *rw)
{
    pac_rwlock_read_init(&w->lock, rw);
    probe_init(&w->probe, &w->lock.future);
    return probe_poll(&w->probe);
}

static enum pac_poll
write_poll(struct waiter *w, struct pac_rwlock *rw)
{
    pac_rwlock_write_init(&w->lock, rw);
    probe_init(&w->probe, &w->lock.future);
    return probe_poll(&w->probe);
}

static enum pac_poll
again(struct waiter *w)
{
    return probe_poll(&w->probe);
}

static void
drop(struct waiter *w)
{
    probe_drop(&w->probe);
}

static void
unlock_read(struct pac_rwlock *rw)
{
    CHECK_INT(pac_rwlock_unlock_read(rw), PAC_OK);
}

static void
unlock_write(struct pac_rwlock *rw)
{
    CHECK_INT(pac_rwlock_unlock_write(rw), PAC_OK);
}

static void
test_readers_are_in_together(void)
{
    struct pac_rwlock rw;
    struct waiter r[3];
    pac_rwlock_init(&rw);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(read_poll(&r[i], &rw), PAC_READY);
        drop(&r[i]);
    }
    CHECK_INT(pac_rwlock_held(&rw), 3);
    CHECK(pac_rwlock_try_read(&rw));
    CHECK(!pac_rwlock_try_write(&rw));
    for (int i = 0; i < 4; i++) {
        unlock_read(&rw);
    }
    CHECK_INT(pac_rwlock_held(&rw), 0);
}

static void
test_writer_is_alone(void)
{
    struct pac_rwlock rw;
    struct waiter first, second, reader;
    pac_rwlock_init(&rw);
    CHECK_INT(write_poll(&first, &rw), PAC_READY);
    CHECK_INT(pac_rwlock_held(&rw), PAC_RWLOCK_READERS);
    CHECK(!pac_rwlock_try_read(&rw));
    CHECK(!pac_rwlock_try_write(&rw));
    CHECK_INT(write_poll(&second, &rw), PAC_PENDING);
    CHECK_INT(read_poll(&reader, &rw), PAC_PENDING);
    unlock_write(&rw);
    CHECK_INT(again(&second), PAC_READY);
    CHECK_INT(again(&reader), PAC_PENDING);
    unlock_write(&rw);
    CHECK_INT(again(&reader), PAC_READY);
    unlock_read(&rw);
    drop(&first);
    drop(&second);
    drop(&reader);
}

static void
test_writer_waits_for_the_last_reader(void)
{
    struct pac_rwlock rw;
    struct waiter writer;
    pac_rwlock_init(&rw);
    CHECK(pac_rwlock_try_read(&rw));
    CHECK(pac_rwlock_try_read(&rw));
    CHECK_INT(write_poll(&writer, &rw), PAC_PENDING);
    unlock_read(&rw);
    CHECK_INT(again(&writer), PAC_PENDING);
    unlock_read(&rw);
    CHECK_INT(again(&writer), PAC_READY);
    drop(&writer);
    unlock_write(&rw);
}

static void
test_writer_does_not_starve(void)
{
    struct pac_rwlock rw;
    struct waiter writer, reader;
    pac_rwlock_init(&rw);
    CHECK(pac_rwlock_try_read(&rw));
    CHECK_INT(write_poll(&writer, &rw), PAC_PENDING);
    CHECK_INT(read_poll(&reader, &rw), PAC_PENDING);
    CHECK(!pac_rwlock_try_read(&rw));
    unlock_read(&rw);
    CHECK_INT(probe_wakes(&reader.probe), 0);
    CHECK_INT(again(&writer), PAC_READY);
    unlock_write(&rw);
    CHECK_INT(again(&reader), PAC_READY);
    unlock_read(&rw);
    drop(&writer);
    drop(&reader);
}

/* More readers in the line than a batch of wakers holds, and a writer behind them. */
static void
test_readers_in_the_line_go_in_together(void)
{
    enum { READERS = 70 };
    struct pac_rwlock rw;
    struct waiter r[READERS], writer;
    pac_rwlock_init(&rw);
    CHECK(pac_rwlock_try_write(&rw));
    for (int i = 0; i < READERS; i++) {
        CHECK_INT(read_poll(&r[i], &rw), PAC_PENDING);
    }
    CHECK_INT(write_poll(&writer, &rw), PAC_PENDING);
    unlock_write(&rw);
    for (int i = 0; i < READERS; i++) {
        CHECK_INT(again(&r[i]), PAC_READY);
        drop(&r[i]);
    }
    for (int i = 0; i < READERS; i++) {
        CHECK_INT(again(&writer), PAC_PENDING);
        unlock_read(&rw);
    }
    CHECK_INT(again(&writer), PAC_READY);
    drop(&writer);
    unlock_write(&rw);
}

static void
test_dropped_writer_lets_readers_in(void)
{
    struct pac_rwlock rw;
    struct waiter writer, reader;
    pac_rwlock_init(&rw);
    CHECK(pac_rwlock_try_read(&rw));
    CHECK_INT(write_poll(&writer, &rw), PAC_PENDING);
    CHECK_INT(read_poll(&reader, &rw), PAC_PENDING);
    drop(&writer);
    CHECK_INT(probe_wakes(&reader.probe), 1);
    CHECK_INT(again(&reader), PAC_READY);
    drop(&reader);
    CHECK_INT(pac_rwlock_held(&rw), 2);
}

static void
test_lock_handed_over_and_dropped_unseen(void)
{
    struct pac_rwlock rw;
    struct waiter w;
    for (int writes = 0; writes < 2; writes++) {
        pac_rwlock_init(&rw);
        CHECK(pac_rwlock_try_write(&rw));
        CHECK_INT(writes ? write_poll(&w, &rw) : read_poll(&w, &rw), PAC_PENDING);
        unlock_write(&rw);
        CHECK(pac_rwlock_held(&rw) != 0);
        drop(&w);
        CHECK_INT(pac_rwlock_held(&rw), 0);
    }
}

static void
test_unlock_too_many(void)
{
    struct pac_rwlock rw;
    pac_rwlock_init(&rw);
    CHECK_INT(pac_rwlock_unlock_read(&rw), PAC_OVERFLOW);
    CHECK_INT(pac_rwlock_unlock_write(&rw), PAC_OVERFLOW);
    CHECK_INT(pac_rwlock_downgrade(&rw), PAC_OVERFLOW);
    CHECK(pac_rwlock_try_read(&rw));
    CHECK_INT(pac_rwlock_unlock_write(&rw), PAC_OVERFLOW);
    CHECK_INT(pac_rwlock_downgrade(&rw), PAC_OVERFLOW);
    unlock_read(&rw);
}

static void
test_downgrade(void)
{
    struct pac_rwlock rw;
    struct waiter reader, writer;
    pac_rwlock_init(&rw);
    CHECK(pac_rwlock_try_write(&rw));
    CHECK_INT(read_poll(&reader, &rw), PAC_PENDING);
    CHECK_INT(write_poll(&writer, &rw), PAC_PENDING);
    CHECK_INT(pac_rwlock_downgrade(&rw), PAC_OK);
    CHECK_INT(again(&reader), PAC_READY);
    CHECK_INT(again(&writer), PAC_PENDING);
    unlock_read(&rw);
    unlock_read(&rw);
    CHECK_INT(again(&writer), PAC_READY);
    drop(&reader);
    drop(&writer);
    unlock_write(&rw);
}

/* Writers change two numbers, readers see them equal: a sanitizer sees a missing order. */
enum { READERS = 3, WRITERS = 2, TURNS = 2000 };

struct shared {
    struct pac_rwlock rw;
    int a, b;
    PAC_ATOMIC(int) wrong;
};

static void
take(struct pac_acquire *lock)
{
    struct parking_waker p;
    parking_waker_init(&p);
    park_until_ready(&lock->future, &p);
    parking_waker_fini(&p);
}

static void *
reader_thread(void *arg)
{
    struct shared *s = arg;
    struct pac_acquire lock;
    for (int i = 0; i < TURNS; i++) {
        pac_rwlock_read_init(&lock, &s->rw);
        take(&lock);
        if (s->a != s->b) {
            pac_atomic_add(&s->wrong, 1, PAC_RELAXED);
        }
        unlock_read(&s->rw);
    }
    return NULL;
}

static void *
writer_thread(void *arg)
{
    struct shared *s = arg;
    struct pac_acquire lock;
    for (int i = 0; i < TURNS; i++) {
        pac_rwlock_write_init(&lock, &s->rw);
        take(&lock);
        s->a++;
        s->b++;
        unlock_write(&s->rw);
    }
    return NULL;
}

static void
test_stress_readers_and_writers(void)
{
    static struct shared s;
    pthread_t threads[READERS + WRITERS];
    pac_rwlock_init(&s.rw);
    pac_atomic_init(&s.wrong, 0);
    for (int i = 0; i < READERS + WRITERS; i++) {
        pthread_create(&threads[i], NULL, i < READERS ? reader_thread : writer_thread, &s);
    }
    for (int i = 0; i < READERS + WRITERS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_INT(pac_atomic_load(&s.wrong, PAC_RELAXED), 0);
    CHECK_INT(s.a, WRITERS * TURNS);
    CHECK_INT(pac_rwlock_held(&s.rw), 0);
}

int
main(void)
{
    alarm(WATCHDOG_S);
    RUN(test_readers_are_in_together);
    RUN(test_writer_is_alone);
    RUN(test_writer_waits_for_the_last_reader);
    RUN(test_writer_does_not_starve);
    RUN(test_readers_in_the_line_go_in_together);
    RUN(test_dropped_writer_lets_readers_in);
    RUN(test_lock_handed_over_and_dropped_unseen);
    RUN(test_unlock_too_many);
    RUN(test_downgrade);
    RUN(test_stress_readers_and_writers);
    return TESTING_RESULT();
}
