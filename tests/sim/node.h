/* node.h - the futures of a random program: a tree of leaves of every kind, and of what combines
 * them.
 *
 * A node is a future around one of the core's. What its poll and its drop look at, whatever the
 * kind: it is polled by one at a time, never after it was READY or dropped, and dropped once; and
 * nobody writes to what was dropped. */
#ifndef PAC_SIM_NODE_H
#define PAC_SIM_NODE_H

#include "delay.h"
#include "sim.h"
#include "thing.h"

struct task;
struct node;

void nodes_init(void);

/* A random tree of at most so many levels; `moves`: with places whose content may be exchanged. */
struct node *node_new_random(unsigned levels, bool moves);
struct pac_future *node_future(struct node *n);

/* A drop from within or from another thread is the same: pac_future_drop. */

/* Something is done to a node from outside: the content of two places is exchanged, a content is
 * dropped, a delay is moved, a notified is enabled. */
void node_act(void);

/* Sleeping until `deadline_ns` must be no longer than any delay on `ex` allows. */
void node_check_deadlines(struct pac_executor *ex, uint64_t deadline_ns);

/* A value leaves a channel: in the order in which it came. */
void node_check_order(struct mpsc_thing *m, struct value *v);

/* Let each node add what it has to its thing, for things_check. */
void nodes_count(void);

/* All are dropped. */
void nodes_fini(void);

#endif
