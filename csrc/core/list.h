/* list.h - the one intrusive list: doubly linked, circular, the node inside the thing listed.
 *
 * Adding and removing are O(1) and allocate nothing. A node is in at most one list. A node of
 * zeros is in none, and removing it is a legal no-op; so is removing twice. Not thread-safe:
 * whoever owns the list, or holds its lock, touches its nodes. */
#ifndef PAC_LIST_H
#define PAC_LIST_H

#include "platform.h"

struct pac_list_node {
    PAC_CELL(struct pac_list_node *) next; /* NULL: in no list */
    PAC_CELL(struct pac_list_node *) prev;
};

/* The head is a node of the circle; an initialised head is never NULL-linked. */
struct pac_list {
    struct pac_list_node head;
};

#define PAC_LIST_ENTRY(node, type, member) PAC_CONTAINER_OF(node, type, member)

static inline void
pac_list_init(struct pac_list *list)
{
    list->head.next = list->head.prev = &list->head;
}

static inline bool
pac_list_is_empty(const struct pac_list *list)
{
    return list->head.next == &list->head;
}

static inline bool
pac_list_is_linked(const struct pac_list_node *node)
{
    return node->next != NULL;
}

/* Insert `node`, which is in no list, before `where`. */
static inline void
pac_list_insert_before(struct pac_list_node *where, struct pac_list_node *node)
{
    PAC_ASSERT(!pac_list_is_linked(node));
    node->prev = where->prev;
    node->next = where;
    where->prev->next = node;
    where->prev = node;
}

static inline void
pac_list_push_back(struct pac_list *list, struct pac_list_node *node)
{
    pac_list_insert_before(&list->head, node);
}

static inline void
pac_list_push_front(struct pac_list *list, struct pac_list_node *node)
{
    pac_list_insert_before(list->head.next, node);
}

static inline void
pac_list_remove(struct pac_list_node *node)
{
    if (pac_list_is_linked(node)) {
        node->next->prev = node->prev;
        node->prev->next = node->next;
        node->next = node->prev = NULL;
    }
}

/* First or last node, still linked; NULL if there is none. */
static inline struct pac_list_node *
pac_list_first(const struct pac_list *list)
{
    return pac_list_is_empty(list) ? NULL : list->head.next;
}

static inline struct pac_list_node *
pac_list_last(const struct pac_list *list)
{
    return pac_list_is_empty(list) ? NULL : list->head.prev;
}

static inline struct pac_list_node *
pac_list_pop_front(struct pac_list *list)
{
    struct pac_list_node *node = pac_list_first(list);
    if (node != NULL) {
        pac_list_remove(node);
    }
    return node;
}

static inline struct pac_list_node *
pac_list_pop_back(struct pac_list *list)
{
    struct pac_list_node *node = pac_list_last(list);
    if (node != NULL) {
        pac_list_remove(node);
    }
    return node;
}

/* Append all of `from` to `to`, in order; `from` is empty afterwards. */
static inline void
pac_list_splice_back(struct pac_list *to, struct pac_list *from)
{
    if (!pac_list_is_empty(from)) {
        from->head.next->prev = to->head.prev;
        to->head.prev->next = from->head.next;
        from->head.prev->next = &to->head;
        to->head.prev = from->head.prev;
        pac_list_init(from);
    }
}

#endif
