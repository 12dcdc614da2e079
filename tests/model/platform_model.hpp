/* platform_model.hpp - the back end of platform.h under which a model checker runs the core.
 *
 * Relacy runs the threads of a model as fibers, one at a time, and decides at every atomic access
 * which one goes on and, where the memory order leaves a choice, which value is read. It reports
 * data races on plain cells, deadlocks, livelocks (a wake-up that never comes) and leaks, with a
 * trace of every access.
 *
 * The core's own sources are compiled as C++ with these in place of <stdatomic.h>:
 *
 *   PAC_ATOMIC(T)  an rl::atomic<T>
 *   PAC_CELL(T)    an rl::var<T>: a plain field that a protocol guards; unordered accesses to it
 *                  are reported
 *   PAC_TLS(T)     one T for each fiber
 *
 * The sources make their objects in memory of any kind (a struct of the model, the stack,
 * pac_alloc), so the Relacy objects are made inside them on the first use and unmade with the
 * memory.
 */
#ifndef PAC_PLATFORM_MODEL_HPP
#define PAC_PLATFORM_MODEL_HPP

/* Relacy's headers first; the macros that they put in the place of new, malloc, ... go again. */
#include <relacy/relacy.hpp>
#undef new
#undef delete
#undef malloc
#undef calloc
#undef realloc
#undef free
#undef errno
#undef memory_order_relaxed
#undef memory_order_consume
#undef memory_order_acquire
#undef memory_order_release
#undef memory_order_acq_rel
#undef memory_order_seq_cst

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#define _Static_assert static_assert
#define _Thread_local

namespace pac_model {

/* ---- memory that is allocated: what was made in it is unmade when it is freed ------------------
 */

/* Relacy replaces operator new, so these keep to malloc. */
struct Made {
    Made *next;
    void *object;
    void (*unmake)(void *);
};

struct Block {
    Block *next;
    size_t size;
    Made *made;
    char memory[];
};

inline Block *blocks;

inline void *
allocate(size_t size)
{
    Block *block = static_cast<Block *>(std::calloc(1, sizeof *block + size));
    block->size = size;
    block->next = blocks;
    blocks = block;
    return block->memory;
}

inline void
release(void *p)
{
    if (p == nullptr) {
        return;
    }
    for (Block **at = &blocks; *at != nullptr; at = &(*at)->next) {
        Block *block = *at;
        if (block->memory == p) {
            *at = block->next;
            while (Made *made = block->made) {
                block->made = made->next;
                made->unmake(made->object);
                std::free(made);
            }
            std::free(block);
            return;
        }
    }
    RL_ASSERT(!"freed twice, or never allocated");
}

inline void
note_made(void *object, void (*unmake)(void *))
{
    for (Block *block = blocks; block != nullptr; block = block->next) {
        if (object >= block->memory && object < block->memory + block->size) {
            Made *made = static_cast<Made *>(std::malloc(sizeof *made));
            *made = Made{block->made, object, unmake};
            block->made = made;
            return;
        }
    }
}

/* ---- an object of Relacy's, made on first use ----------------------------------------------- */

template <typename R> class Lazy {
  public:
    Lazy() : live_(0)
    {
    }
    Lazy(const Lazy &) : live_(0)
    {
    }
    Lazy &operator=(const Lazy &)
    {
        return *this;
    }
    ~Lazy()
    {
        unmake();
    }

    bool is_live() const
    {
        return live_ == LIVE;
    }

    R &get()
    {
        if (!is_live()) {
            new (storage_) R();
            live_ = LIVE;
            note_made(this, [](void *self) { static_cast<Lazy *>(self)->unmake(); });
        }
        return *std::launder(reinterpret_cast<R *>(storage_));
    }

    void unmake()
    {
        if (is_live()) {
            live_ = 0;
            get_live().~R();
        }
    }

  private:
    R &get_live()
    {
        return *std::launder(reinterpret_cast<R *>(storage_));
    }

    enum : uint32_t { LIVE = 0x11feac75 };
    uint32_t live_;
    alignas(R) unsigned char storage_[sizeof(R)];
};

template <typename T> struct Identity {
    typedef T type;
};
template <typename T> using Value = typename Identity<T>::type; /* takes no part in deduction */

template <typename T> class Atomic {
  public:
    Atomic()
    {
    }
    /* The C sources copy an atomic only as part of a struct of zeros. */
    Atomic(const Atomic &)
    {
    }
    Atomic &operator=(const Atomic &)
    {
        get()($).store(T(), rl::mo_relaxed);
        return *this;
    }

    rl::atomic<T> &get() const
    {
        return const_cast<Lazy<rl::atomic<T>> &>(lazy_).get();
    }

    bool cas(T &expected, T desired, rl::memory_order ok, rl::memory_order fail,
             rl::debug_info_param at)
    {
        if (ok == rl::mo_release && fail == rl::mo_acquire) {
            /* Relacy takes this pair for a mistake: read again with the order wanted. */
            if (get()(at).compare_exchange_strong(expected, desired, rl::mo_release,
                                                  rl::mo_relaxed)) {
                return true;
            }
            expected = get()(at).load(rl::mo_acquire);
            return false;
        }
        return get()(at).compare_exchange_strong(expected, desired, ok, fail);
    }

  private:
    Lazy<rl::atomic<T>> lazy_;
};

template <typename T> class Cell {
  public:
    Cell()
    {
    }
    template <typename V> Cell(V value)
    {
        store((T)value);
    }
    Cell(const Cell &other)
    {
        copy(other);
    }
    Cell &operator=(const Cell &other)
    {
        copy(other);
        return *this;
    }
    T operator=(T value)
    {
        store(value);
        return value;
    }
    operator T() const
    {
        return load();
    }
    T operator->() const
    {
        return load();
    }
    T operator++()
    {
        return *this = load() + 1;
    }
    T operator--()
    {
        return *this = load() - 1;
    }
    T operator++(int)
    {
        T before = load();
        store(before + 1);
        return before;
    }
    T operator--(int)
    {
        T before = load();
        store(before - 1);
        return before;
    }
    T operator+=(T value)
    {
        return *this = load() + value;
    }
    T operator-=(T value)
    {
        return *this = load() - value;
    }

  private:
    T load() const
    {
        if (outside()) {
            return before_;
        }
        Lazy<rl::var<T>> &lazy = const_cast<Lazy<rl::var<T>> &>(lazy_);
        if (!lazy.is_live()) {
            lazy.get()($) = before_; /* made before the model began, or of zeros */
        }
        return lazy.get()($).load();
    }
    void store(T value)
    {
        if (outside()) {
            before_ = value;
        }
        else {
            lazy_.get()($) = value;
        }
    }
    void copy(const Cell &other)
    {
        /* An object of the C sources may be copied before it was written. */
        if (outside() || other.lazy_.is_live() || other.before_ != T()) {
            store(other.load());
        }
    }
    static bool outside();

    T before_ = T();
    Lazy<rl::var<T>> lazy_;
};

extern bool running; /* within an execution of a model */

template <typename T>
inline bool
Cell<T>::outside()
{
    return !running;
}

enum { THREADS_MAX = 8 };

template <typename T> class PerThread {
  public:
    PerThread()
    {
        reset(T());
    }
    PerThread(T value)
    {
        reset(value);
    }
    void reset(T value)
    {
        for (T &each : values_) {
            each = value;
        }
    }
    operator T() const
    {
        return mine();
    }
    T operator->() const
    {
        return mine();
    }
    T operator=(T value)
    {
        return mine() = value;
    }
    T operator+=(T value)
    {
        return mine() += value;
    }

  private:
    T &mine() const
    {
        return const_cast<T &>(values_[rl::thread_index() % THREADS_MAX]);
    }
    T values_[THREADS_MAX];
};

} // namespace pac_model

/* ---- what platform.h defines otherwise ------------------------------------------------------ */

#define PAC_ATOMIC(type) pac_model::Atomic<type>
#define PAC_CELL(type) pac_model::Cell<type>
#define PAC_TLS(type) pac_model::PerThread<type>
#define PAC_SHRUNK(normal, small) (small)

#define PAC_RELAXED rl::mo_relaxed
#define PAC_ACQUIRE rl::mo_acquire
#define PAC_RELEASE rl::mo_release
#define PAC_ACQ_REL rl::mo_acq_rel
#define PAC_SEQ_CST rl::mo_seq_cst

#define pac_atomic_init(p, v) ((p)->get()($).store((v), rl::mo_relaxed))
#define pac_atomic_load(p, order) ((p)->get()($).load(order))
#define pac_atomic_store(p, v, order) ((p)->get()($).store((v), order))
#define pac_atomic_exchange(p, v, order) ((p)->get()($).exchange((v), order))
#define pac_atomic_add(p, v, order) ((p)->get()($).fetch_add((v), order))
#define pac_atomic_sub(p, v, order) ((p)->get()($).fetch_sub((v), order))
#define pac_atomic_and(p, v, order) ((p)->get()($).fetch_and((v), order))
#define pac_atomic_or(p, v, order) ((p)->get()($).fetch_or((v), order))
#define pac_atomic_cas(p, expected, desired, ok, fail) \
    ((p)->cas(*(expected), (desired), ok, fail, $))
#define pac_atomic_cas_weak(p, expected, desired, ok, fail) \
    ((p)->cas(*(expected), (desired), ok, fail, $))

#endif
