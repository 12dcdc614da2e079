/* sender.h - what the sending ends of the channels of many values share: they are counted, cloned
 * and closed alike. */
#ifndef PACPY_SENDER_H
#define PACPY_SENDER_H

#include "channel.h"

/* The core's functions of one kind of channel. */
struct pacpy_sender_vtable {
    void (*add)(void *core);
    void (*drop)(void *core);
    bool (*is_closed)(void *core);
    void (*closed_init)(struct pac_flag_wait *f, void *core);
};

typedef struct {
    PyObject_HEAD
    struct pacpy_state *st;
    const struct pacpy_sender_vtable *vtable;
    PyObject *channel; /* strong */
    void *core;        /* the core's struct, within `channel` */
    PyObject *weakrefs;
    bool closed; /* it is not counted any more */
} SenderObject;

/* One that the core has counted already. NULL and MemoryError. */
SenderObject *pacpy_sender_new(struct pacpy_state *st, PyTypeObject *type,
                               const struct pacpy_sender_vtable *vtable, PyObject *channel,
                               void *core);

bool pacpy_sender_is_closed(SenderObject *self);

int Sender_traverse(PyObject *op, visitproc visit, void *arg);
void Sender_dealloc(PyObject *op);
PyObject *Sender_close(PyObject *op, PyObject *ignored);
PyObject *Sender_is_closed(PyObject *op, PyObject *ignored);
PyObject *Sender_closed(PyObject *op, PyObject *ignored);
PyObject *Sender_clone(PyObject *op, PyObject *ignored);
PyObject *Sender_enter(PyObject *op, PyObject *ignored);
PyObject *Sender_exit(PyObject *op, PyObject *args);
extern const char Sender_close_doc[], Sender_is_closed_doc[], Sender_closed_doc[],
    Sender_clone_doc[];
extern PyMemberDef Sender_members[];

/* The entries of every sender's method table, and the spec of its type. */
#define PACPY_SENDER_METHODS                                                \
    {"close", Sender_close, METH_NOARGS, Sender_close_doc},                 \
        {"is_closed", Sender_is_closed, METH_NOARGS, Sender_is_closed_doc}, \
        {"closed", Sender_closed, METH_NOARGS, Sender_closed_doc},          \
        {"clone", Sender_clone, METH_NOARGS, Sender_clone_doc},             \
        {"__enter__", Sender_enter, METH_NOARGS, NULL},                     \
        {"__exit__", Sender_exit, METH_VARARGS, NULL},                      \
    {                                                                       \
        "__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL     \
    }

#define PACPY_SENDER_SLOTS                                              \
    {Py_tp_traverse, Sender_traverse}, {Py_tp_dealloc, Sender_dealloc}, \
    {                                                                   \
        Py_tp_members, Sender_members                                   \
    }

#endif
