/* thing.h - what the tasks of a program share: one or two of each kind, in place for as long as
 * the program lasts.
 *
 * Beside each stands what an outsider knows of it: how often it was notified, how many permits
 * there are in the world. things_check compares; node.c adds what each future has. */
#ifndef PAC_SIM_THING_H
#define PAC_SIM_THING_H

#include "barrier.h"
#include "broadcast.h"
#include "cancellation_token.h"
#include "event.h"
#include "io.h"
#include "mpsc.h"
#include "mutex.h"
#include "notify.h"
#include "once_cell.h"
#include "oneshot.h"
#include "promise.h"
#include "rwlock.h"
#include "sim.h"
#include "watch.h"

/* ---- values ----------------------------------------------------------------------------------- */

enum value_state {
    VALUE_OWNED, /* by whoever made it; a send that waits may be let in at any moment */
    VALUE_SENT,  /* and known to be the channel's */
    VALUE_RECEIVED,
    VALUE_DESTROYED,
};

struct value {
    struct pac_list_node all;
    uint64_t number; /* when it came into its channel's line, or into the channel; 0: not yet */
    unsigned references;
    enum value_state state;
};

struct value *value_new(void);
void *value_clone(void *value);
void value_destroy(void *value);  /* by a channel: what nobody received */
void value_received(void *value); /* by a receiver */
void value_given_up(void *value); /* by who could not send it */

/* ---- things ----------------------------------------------------------------------------------- */

struct notify_thing {
    struct pac_notify notify;
    uint64_t ones;      /* calls of notify_one and notify_last, each worth one notification */
    uint64_t taken;     /* futures that were ready by one */
    uint64_t coalesced; /* that found a permit there already */
    uint64_t unseen;    /* things_check: chosen, and not polled yet */
};

enum gate_kind { GATE_SEMAPHORE, GATE_MUTEX, GATE_RWLOCK };

/* All that is made of a semaphore. */
struct gate {
    enum gate_kind kind;
    union {
        struct pac_semaphore semaphore; /* also the one behind the other two */
        struct pac_mutex mutex;
        struct pac_rwlock rwlock;
    } as;
    uint64_t total; /* permits in the world */
    uint64_t held;  /* by guards */
    unsigned users; /* guards; here and below: a thing without any may be made anew */
    unsigned exclusive, shared;
    uint64_t assigned; /* things_check: to those who wait */
};

struct barrier_thing {
    struct pac_barrier barrier;
    uint64_t gone[64], leaders[64]; /* of each generation, modulo 64 */
    uint64_t arrived;               /* things_check */
};

struct event_thing {
    struct pac_event event;
    uint64_t times; /* it was set */
};

struct once_thing {
    struct pac_once_cell cell;
    unsigned running, done; /* initialisers */
    unsigned users;
};

struct oneshot_thing {
    struct pac_oneshot channel;
    unsigned users;
};

struct mpsc_thing {
    struct pac_mpsc channel;
    unsigned users;
    unsigned senders;
    uint64_t last_received; /* its number */
};

struct broadcast_receiver {
    struct pac_broadcast_receiver receiver;
    uint64_t next; /* the number of the value that it gets next */
    bool gone;
};

enum { RECEIVERS = 3 };

struct broadcast_thing {
    struct pac_broadcast channel;
    bool exists;
    bool has_sender;
    unsigned users;
    uint64_t sent;
    struct broadcast_receiver receivers[RECEIVERS];
};

struct watch_thing {
    struct pac_watch channel;
    bool has_sender;
    uint64_t sent;
    struct pac_watch_receiver receivers[RECEIVERS];
    bool gone[RECEIVERS];
    unsigned users;
};

struct token_thing {
    struct pac_cancellation_token *token; /* NULL: none */
    bool cancelled;
};

/* A descriptor of the only executor; others have none. */
struct io_thing {
    struct pac_io io;
    bool exists;
    unsigned users;
};

/* A promise that one node awaits. It stands in memory of its own, which the side that goes last frees:
 * its makers, or the node. */
struct promise_thing {
    struct pac_list_node all;
    struct pac_promise promise;
    unsigned handles; /* that makers have */
    enum pac_promise_outcome outcome;
    struct value *value; /* KEPT, FAILED */
    bool given_up;
    bool busy; /* a maker is at it, with a handle that it keeps */
};

enum { IOS = 2, NOTIFIES = 2, GATES = 4, ONESHOTS = 3, MPSCS = 2, TOKENS = 6 };

struct things {
    struct notify_thing notifies[NOTIFIES];
    struct gate gates[GATES];
    struct barrier_thing barrier;
    struct event_thing event;
    struct once_thing once;
    struct oneshot_thing oneshots[ONESHOTS];
    struct mpsc_thing mpscs[MPSCS];
    struct broadcast_thing broadcast;
    struct watch_thing watch;
    struct token_thing tokens[TOKENS];
    struct io_thing ios[IOS];
    int parents[TOKENS]; /* of the tokens; -1: none */
    struct pac_list promises;
    struct pac_wake_group group; /* of a thread that does other things before it wakes */
    struct pac_list values;
};

extern struct things things;

void things_init(void);

/* There is one executor, whose descriptors some of them are. */
void things_open(struct pac_reactor *reactor);

/* Something happens to one of them. `calm`: nothing that takes what nodes may be about to take. */
void things_act(bool calm);

/* Permits, values and notifications are as many as there ought to be. Between operations. */
void things_check(void);

/* No future is left: what was sent was received, or is destroyed by this. */
void things_fini(void);

/* The thread that has a group of wake-ups wakes it. */
void things_wake(void);

/* Try to read or write, if that is worth it: as an operation does that found the descriptor ready.
 * Owner. */
void io_try(struct io_thing *t, unsigned direction);

/* For nodes. The model is told first, as what is woken by it may look. */
void gate_took(struct gate *g, int mode, uint64_t n);
void gate_release(struct gate *g, int mode, uint64_t n);
void notify_will_pass_on(struct notify_thing *n);
struct promise_thing *promise_new(void);
void promise_drop(struct promise_thing *t, bool seen);

enum { MODE_PLAIN, MODE_SHARED, MODE_EXCLUSIVE };

#endif
