/* model.hpp - what the models share: a sleeper with a waker, and the command line.
 *
 * A model is a struct with before(), thread(n) and after(), and the core's sources that it is
 * about, included below it as C++. Every execution makes the struct anew.
 */
#ifndef PAC_MODEL_HPP
#define PAC_MODEL_HPP

#include "platform.h"

extern "C++" {
#include "future.h"
}

#include <cstdio>
#include <iostream>

namespace pac_model {

bool running;

/* A task as its leaves see it: it sleeps until its waker was woken. A wake-up that never comes is
 * a deadlock. */
class Sleeper {
  public:
    struct pac_waker waker()
    {
        return {&vtable, this};
    }

    void sleep()
    {
        mutex_.lock($);
        while (!woken_) {
            condition_.wait(mutex_, $);
        }
        woken_ = false;
        mutex_.unlock($);
        rl::yield(1, $); /* who wakes itself again and again must let the others go on */
    }

    bool was_woken()
    {
        mutex_.lock($);
        bool woken = woken_;
        woken_ = false;
        mutex_.unlock($);
        return woken;
    }

    int wakers_alive()
    {
        return wakers_;
    } /* clones that were neither woken nor dropped */

    static const struct pac_waker_vtable vtable;

  private:
    void count(int n, bool wake)
    {
        mutex_.lock($);
        wakers_ += n;
        if (wake) {
            woken_ = true;
            condition_.notify_all($);
        }
        mutex_.unlock($);
    }
    static struct pac_waker clone(void *data)
    {
        static_cast<Sleeper *>(data)->count(1, false);
        return static_cast<Sleeper *>(data)->waker();
    }
    static void wake(void *data)
    {
        static_cast<Sleeper *>(data)->count(-1, true);
    }
    static void wake_by_ref(void *data)
    {
        static_cast<Sleeper *>(data)->count(0, true);
    }
    static void drop(void *data)
    {
        static_cast<Sleeper *>(data)->count(-1, false);
    }

    rl::mutex mutex_;
    rl::condition_variable_any condition_;
    bool woken_ = false;
    int wakers_ = 0;
};

const struct pac_waker_vtable Sleeper::vtable = {clone, wake, wake_by_ref, drop};

/* What a task does with a future: poll it once; poll it until it is ready, asleep in between. */
inline bool
look(struct pac_future *f, Sleeper &sleeper)
{
    struct pac_waker waker = sleeper.waker();
    struct pac_context cx = {&waker};
    return pac_future_poll(f, &cx) == PAC_READY;
}

inline void
await(struct pac_future *f, Sleeper &sleeper)
{
    while (!look(f, sleeper)) {
        sleeper.sleep();
    }
}

/* A model of N threads with a task each. */
template <typename T, int N> struct Case : rl::test_suite<T, N> {
    Sleeper sleepers[N];

    void before()
    {
        running = true;
        blocks = nullptr; /* what an execution that failed has left */
    }

    void after()
    {
        for (Sleeper &sleeper : sleepers) {
            RL_ASSERT(sleeper.wakers_alive() == 0);
        }
        RL_ASSERT(blocks == nullptr); /* every block was freed */
        running = false;
    }
};

/* Something that a channel carries: whoever has it last ends it, once. */
struct Item {
    PAC_CELL(int) content;
    PAC_ATOMIC(int) owners;

    void make(int what)
    {
        content = what;
        pac_atomic_init(&owners, 1);
    }

    int end() /* what it said */
    {
        int what = content;
        RL_ASSERT(pac_atomic_sub(&owners, 1, PAC_ACQ_REL) > 0);
        return what;
    }

    bool has_ended()
    {
        return pac_atomic_load(&owners, PAC_RELAXED) == 0;
    }

    static void *clone(void *value)
    {
        pac_atomic_add(&static_cast<Item *>(value)->owners, 1, PAC_RELAXED);
        return value;
    }

    static void destroy(void *value)
    {
        static_cast<Item *>(value)->end();
    }
};

/* ---- the command line ----------------------------------------------------------------------- */

struct Search {
    unsigned bound = 2;            /* context switches that the checker may force: all such
                                      executions are explored */
    unsigned long random = 100000; /* executions with switches anywhere */
};

template <typename M>
bool
explore(const char *name, const Search &search, bool random)
{
    rl::test_params params;
    static std::ostream nowhere(nullptr);
    params.progress_stream = &nowhere;
    params.execution_depth_limit = 20000;
    params.search_type = random ? rl::random_scheduler_type : rl::fair_context_bound_scheduler_type;
    params.context_bound = search.bound;
    params.iteration_count = search.random;
    bool ok = rl::simulate<M>(params);
    std::printf("%-4s %s: ", ok ? "ok" : "FAIL", name);
    if (random) {
        std::printf("random");
    }
    else {
        std::printf("bound %u", search.bound);
    }
    std::printf(", %s%lu executions\n", random ? "" : "all ", (unsigned long)params.stop_iteration);
    std::fflush(stdout);
    return ok;
}

/* `fewer`: forced switches less than asked for, where there are many threads or long ones. */
template <typename M>
bool
check(const char *name, Search search, unsigned fewer = 0)
{
    search.bound -= fewer;
    return explore<M>(name, search, false) && explore<M>(name, search, true);
}

inline Search
parse(int argc, char **argv)
{
    Search search;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *option = argv[i];
        unsigned long value = std::strtoul(argv[i + 1], nullptr, 10);
        if (std::strcmp(option, "--bound") == 0) {
            search.bound = (unsigned)value;
        }
        else if (std::strcmp(option, "--random") == 0) {
            search.random = value;
        }
    }
    return search;
}

} // namespace pac_model

/* In main: explore one model, or one with so many forced switches fewer. */
#define CHECK_MODEL(...) ok = CHECK_MODEL_WITH(__VA_ARGS__, 0) && ok
#define CHECK_MODEL_WITH(name, fewer, ...) pac_model::check<name>(#name, search, fewer)

/* The rest of the core's platform, as a model has it. */
void
pac_lock_contended(struct pac_lock *lock)
{
    do {
        rl::yield(1, $);
        /* acquire: as in platform.c. */
    } while (pac_atomic_exchange(&lock->held, 1, PAC_ACQUIRE) != 0);
}

void *
pac_alloc(size_t size)
{
    return pac_model::allocate(size);
}

void
pac_free(void *p)
{
    pac_model::release(p);
}

#endif
