/* module.c - the module _core: its state, and what all of its files share. */
#include "state.h"

#include "args.h"
#include "eventloop.h"
#include "task.h"

/* ---- types ---------------------------------------------------------------------------------- */

static struct PyModuleDef core_module;

struct pacpy_state *
pacpy_state_of_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &core_module);
    return module == NULL ? NULL : pacpy_state_of(module);
}

int
pacpy_make_type(PyObject *module, PyType_Spec *spec, PyTypeObject *base, PyTypeObject **slot,
                const char *name)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, (PyObject *)base);
    if (type == NULL) {
        return -1;
    }
    *slot = (PyTypeObject *)type;
    return name == NULL ? 0 : PyModule_AddObjectRef(module, name, type);
}

/* ---- free lists ----------------------------------------------------------------------------- */

/* A listed object's type field is the link: its reference to the type was given up. */
static inline PyObject *
link_of(PyObject *op)
{
    return (PyObject *)(void *)Py_TYPE(op);
}

static inline void
set_link(PyObject *op, PyObject *next)
{
    Py_SET_TYPE(op, (PyTypeObject *)(void *)next);
}

PyObject *
pacpy_freelist_alloc(struct pacpy_freelist *list, PyTypeObject *type)
{
    PyObject *op = list->first;
    if (PAC_LIKELY(op != NULL)) {
        list->first = link_of(op);
        if (--list->length < list->unused) {
            list->unused = list->length;
        }
        return PyObject_Init(op, type);
    }
    op = type->tp_alloc(type, 0);
    if (op != NULL) {
        PyObject_GC_UnTrack(op);
    }
    return op;
}

void
pacpy_freelist_free(struct pacpy_freelist *list, PyTypeObject *exact, PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
#if !defined(PAC_NO_FREELIST) && !defined(Py_GIL_DISABLED)
    if (PAC_LIKELY(type == exact && list->length < PACPY_FREELIST_MAX) &&
        !PyObject_GC_IsFinalized(op)) {
        set_link(op, list->first);
        list->first = op;
        list->length++;
        Py_DECREF(type);
        return;
    }
#endif
    type->tp_free(op);
    Py_DECREF(type);
}

/* Give `count` objects back to the allocator. */
static void
freelist_shrink(struct pacpy_freelist *list, PyTypeObject *type, int count)
{
    for (; count > 0 && list->first != NULL; count--) {
        PyObject *op = list->first;
        list->first = link_of(op);
        list->length--;
        PyObject_Init(op, type); /* what frees it looks at its type */
        PyObject_GC_Del(op);
        Py_DECREF(type);
    }
    list->unused = list->length;
}

void
pacpy_freelists_trim(struct pacpy_state *st, uint64_t now_ns)
{
    if (now_ns - st->trimmed_ns < 1000000000) {
        return;
    }
    st->trimmed_ns = now_ns;
#define X(name, kind)                                                                     \
    freelist_shrink(&st->name##_free, st->kind##_type,                                    \
                    st->name##_free.unused < PACPY_FREELIST_TRIM ? st->name##_free.unused \
                                                                 : PACPY_FREELIST_TRIM);
    PACPY_FREELISTS(X)
#undef X
}

/* ---- PENDING -------------------------------------------------------------------------------- */

static PyObject *
Pending_repr(PyObject *op)
{
    return PyUnicode_FromString("PENDING");
}

static PyObject *
Pending_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyUnicode_FromString("PENDING");
}

static int
Pending_bool(PyObject *op)
{
    PyErr_SetString(PyExc_TypeError, "PENDING has no truth value: compare with `is PENDING`");
    return -1;
}

static void
Pending_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef Pending_methods[] = {
    {"__reduce__", Pending_reduce, METH_NOARGS, NULL},
    {NULL},
};

static PyType_Slot Pending_slots[] = {
    {Py_tp_doc, "The type of PENDING: what a poll returns while there is no result yet."},
    {Py_tp_repr, Pending_repr},
    {Py_nb_bool, Pending_bool},
    {Py_tp_methods, Pending_methods},
    {Py_tp_dealloc, Pending_dealloc},
    {0, NULL},
};

static PyType_Spec Pending_spec = {
    .name = "pyasync_c.PendingType",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Pending_slots,
};

/* ---- asyncio, when it is needed ------------------------------------------------------------- */

void
pacpy_refuse_python(const char *owner, const char *name)
{
    PyErr_Format(PyExc_ImportError,
                 "Python %d.%d has no %s.%s, which pyasync_c's event loop needs: this version of "
                 "pyasync_c does not know this version of Python",
                 PY_MAJOR_VERSION, PY_MINOR_VERSION, owner, name);
}

PyObject *
pacpy_asyncio_name(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *found = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    if (module != NULL && found == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        pacpy_refuse_python(module_name, name);
    }
    Py_XDECREF(module);
    return found;
}

struct wanted {
    const char *module;
    const char *name;
    PyObject **slot;
};

static int
fetch(const struct wanted *w)
{
    PyObject *found =
        w->name == NULL ? PyImport_ImportModule(w->module) : pacpy_asyncio_name(w->module, w->name);
    Py_XSETREF(*w->slot, found);
    return found == NULL ? -1 : 0;
}

int
pacpy_need_asyncio(struct pacpy_state *st)
{
    if (st->Task_type != NULL) {
        return 0;
    }
    const struct wanted wanted[] = {
        {"asyncio.exceptions", "CancelledError", &st->asyncio_CancelledError},
        {"asyncio.exceptions", "InvalidStateError", &st->asyncio_InvalidStateError},
        {"asyncio.exceptions", "IncompleteReadError", &st->asyncio_IncompleteReadError},
        {"asyncio.exceptions", "LimitOverrunError", &st->asyncio_LimitOverrunError},
        {"asyncio.events", "_get_running_loop", &st->asyncio_get_running_loop},
        {"asyncio.tasks", "current_task", &st->asyncio_current_task},
        {"asyncio.protocols", "BufferedProtocol", &st->asyncio_BufferedProtocol},
        {"asyncio.streams", "StreamReader", &st->asyncio_StreamReader},
        {"asyncio.streams", "StreamReaderProtocol", &st->asyncio_StreamReaderProtocol},
        {"socket", "socket", &st->asyncio_socket},
        {"asyncio.trsock", "TransportSocket", &st->asyncio_TransportSocket},
        {"asyncio.format_helpers", "extract_stack", &st->asyncio_extract_stack},
        {"asyncio.futures", "_set_result_unless_cancelled", &st->asyncio_set_result},
        {"pyasync_c._support", NULL, &st->asyncio_support},
#if PY_VERSION_HEX < 0x030E0000
        {"asyncio.tasks", "_current_tasks", &st->asyncio_current_tasks},
#else
        {"asyncio.tasks", "_swap_current_task", &st->asyncio_swap_current_task},
#endif
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (fetch(&wanted[i]) < 0) {
            return -1;
        }
    }
    /* Task last: it says that all is there. */
    if (pacpy_callback_handle_make_types(st) < 0 || pacpy_find_completion_offset() < 0 ||
        pacpy_asyncio_future_make_types(st) < 0 || pacpy_stream_reader_make_types(st) < 0 ||
        pacpy_stream_transport_make_types(st) < 0 || pacpy_datagram_transport_make_types(st) < 0 ||
        pacpy_pipe_transport_make_types(st) < 0) {
        return -1;
    }
    return pacpy_task_make_types(st);
}

static PyObject *
need_asyncio(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    if (pacpy_need_asyncio(pacpy_state_of(module)) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* _seconds(value, what) -> float: the one conversion of durations, for the parts in Python. */
static PyObject *
seconds(PyObject *module, PyObject *args)
{
    PyObject *value;
    const char *what;
    uint64_t ns;
    if (!PyArg_ParseTuple(args, "Os:_seconds", &value, &what) ||
        pacpy_ns_from_seconds(value, what, &ns) < 0) {
        return NULL;
    }
    return PyNumber_Float(value);
}

static PyObject *
in_main_interpreter(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(PyInterpreterState_Get() == PyInterpreterState_Main());
}

#ifdef PAC_DEBUG
/* _debug_counts() -> dict: how many objects of the core are alive in this process. */
static PyObject *
debug_counts(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    /* relaxed: whoever asks is at rest. */
#define COUNT(name) #name, (long long)pac_atomic_load(&pac_debug_counts.name, PAC_RELAXED)
    return Py_BuildValue("{sLsLsLsLsL}", COUNT(allocations), COUNT(tasks), COUNT(wakers),
                         COUNT(timers), COUNT(waiters));
#undef COUNT
}

/* _debug_fail_allocation(n): the core's n-th next allocation fails; 0: none does. */
static PyObject *
debug_fail_allocation(PyObject *Py_UNUSED(module), PyObject *n)
{
    unsigned long long count = PyLong_AsUnsignedLongLong(n);
    if (count == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    pac_alloc_fail_after(count, true);
    Py_RETURN_NONE;
}
#endif

static PyMethodDef functions[] = {
    {"_seconds", seconds, METH_VARARGS, "A duration as float seconds, checked as sleep() does."},
    {"_in_main_interpreter", in_main_interpreter, METH_NOARGS,
     "Whether the calling thread is at work for the main interpreter."},
    {"_need_asyncio", need_asyncio, METH_NOARGS,
     "Make Task and the other types that derive from asyncio's."},
#ifdef PAC_DEBUG
    {"_debug_counts", debug_counts, METH_NOARGS, "The core's live objects, by kind."},
    {"_debug_fail_allocation", debug_fail_allocation, METH_O,
     "The core's n-th next allocation fails; 0 turns that off."},
#endif
    {NULL},
};

/* ---- the module ----------------------------------------------------------------------------- */

static int
exec_state(PyObject *module)
{
    struct pacpy_state *st = PyMem_RawCalloc(1, sizeof *st);
    if (st == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *(struct pacpy_state **)PyModule_GetState(module) = st;
    st->module = module;
#define X(name)                                         \
    st->str_##name = PyUnicode_InternFromString(#name); \
    if (st->str_##name == NULL) {                       \
        return -1;                                      \
    }
    PACPY_NAMES(X)
#undef X
    if (pacpy_make_type(module, &Pending_spec, NULL, &st->Pending_type, "PendingType") < 0) {
        return -1;
    }
    st->pending = st->Pending_type->tp_alloc(st->Pending_type, 0);
    st->suspended = PyObject_CallNoArgs((PyObject *)&PyBaseObject_Type);
    if (st->pending == NULL || st->suspended == NULL) {
        return -1;
    }
    if (PyModule_AddObjectRef(module, "PENDING", st->pending) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (st == NULL) {
        return 0;
    }
#define X(name) Py_VISIT(st->name##_type);
    PACPY_TYPES(X)
    PACPY_ASYNCIO_TYPES(X)
#undef X
#define X(name) Py_VISIT(st->asyncio_##name);
    PACPY_ASYNCIO_OBJECTS(X)
#undef X
#define X(name) Py_VISIT(st->ssl_##name);
    PACPY_SSL_OBJECTS(X)
#undef X
    Py_VISIT(st->pending);
    Py_VISIT(st->suspended);
    Py_VISIT(st->nothing_to_await);
    Py_VISIT(st->stop_reserve);
    Py_VISIT(st->context_snapshot);
    Py_VISIT(st->context_spare);
    Py_VISIT(st->last_bridge);
    Py_VISIT(st->bridges);
    Py_VISIT(st->polled_once);
#define X(name, kind)                                      \
    for (int i = 0; i < st->name##_free.warm_count; i++) { \
        Py_VISIT(st->name##_free.warm[i]);                 \
    }
    PACPY_FREELISTS(X)
#undef X
    return 0;
}

/* What is let go of here stands in the list again unless it is said to be full. */
static void
freelist_cool(struct pacpy_freelist *list)
{
    int count = list->warm_count;
    list->warm_count = PACPY_FREELIST_WARM;
    for (int i = 0; i < count; i++) {
        Py_CLEAR(list->warm[i]);
    }
    list->warm_count = 0;
}

static void
clear_freelists(struct pacpy_state *st)
{
#define X(name, kind) freelist_cool(&st->name##_free);
    PACPY_FREELISTS(X)
#undef X
#define X(name, kind) freelist_shrink(&st->name##_free, st->kind##_type, PACPY_FREELIST_MAX);
    PACPY_FREELISTS(X)
#undef X
}

static int
module_clear(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (st != NULL) {
        clear_freelists(st);
        Py_CLEAR(st->context_snapshot);
        Py_CLEAR(st->context_spare);
        Py_CLEAR(st->last_bridge);
        Py_CLEAR(st->bridges);
        Py_CLEAR(st->polled_once);
        Py_CLEAR(st->net_reserve);
    }
    return 0;
}

/* What the state refers to goes with the module, save the names, which destructors use. */
static void
module_free(void *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    if (st == NULL) {
        return;
    }
    module_clear(module);
#define X(name) Py_CLEAR(st->name##_type);
    PACPY_TYPES(X)
    PACPY_ASYNCIO_TYPES(X)
#undef X
#define X(name) Py_CLEAR(st->asyncio_##name);
    PACPY_ASYNCIO_OBJECTS(X)
#undef X
#define X(name) Py_CLEAR(st->ssl_##name);
    PACPY_SSL_OBJECTS(X)
#undef X
    Py_CLEAR(st->pending);
    Py_CLEAR(st->suspended);
    Py_CLEAR(st->nothing_to_await);
    Py_CLEAR(st->stop_reserve);
}

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, exec_state},
    {Py_mod_exec, pacpy_await_result_exec},
    {Py_mod_exec, pacpy_waker_exec},
    {Py_mod_exec, pacpy_graveyard_exec},
    {Py_mod_exec, pacpy_future_exec},
    {Py_mod_exec, pacpy_into_future_exec},
    {Py_mod_exec, pacpy_delay_exec},
    {Py_mod_exec, pacpy_timeout_exec},
    {Py_mod_exec, pacpy_notify_exec},
    {Py_mod_exec, pacpy_channel_exec},
    {Py_mod_exec, pacpy_oneshot_exec},
    {Py_mod_exec, pacpy_mpsc_exec},
    {Py_mod_exec, pacpy_broadcast_exec},
    {Py_mod_exec, pacpy_watch_exec},
    {Py_mod_exec, pacpy_end_listener_exec},
    {Py_mod_exec, pacpy_join_exec},
    {Py_mod_exec, pacpy_select_exec},
    {Py_mod_exec, pacpy_cancellation_token_exec},
    {Py_mod_exec, pacpy_acquire_exec},
    {Py_mod_exec, pacpy_semaphore_exec},
    {Py_mod_exec, pacpy_lock_exec},
    {Py_mod_exec, pacpy_rwlock_exec},
    {Py_mod_exec, pacpy_barrier_exec},
    {Py_mod_exec, pacpy_join_set_exec},
    {Py_mod_exec, pacpy_event_exec},
    {Py_mod_exec, pacpy_once_cell_exec},
    {Py_mod_exec, pacpy_socket_operation_exec},
    {Py_mod_exec, pacpy_bridge_exec},
    {Py_mod_exec, pacpy_eventloop_exec},
    {Py_mod_exec, pacpy_net_read_exec},
    {Py_mod_exec, pacpy_net_write_exec},
    {Py_mod_exec, pacpy_net_connect_exec},
    {Py_mod_exec, pacpy_net_stream_exec},
    {Py_mod_exec, pacpy_net_listener_exec},
    {Py_mod_exec, pacpy_net_udp_exec},
    {Py_mod_exec, pacpy_net_framing_exec},
    {Py_mod_exec, pacpy_net_copy_exec},
    {Py_mod_exec, pacpy_listener_exec},
    {Py_mod_exec, pacpy_stream_read_exec},
    {Py_mod_exec, pacpy_ssl_object_exec},
    {Py_mod_exec, pacpy_tls_protocol_exec},
    {Py_mod_exec, pacpy_net_tls_exec},
    {Py_mod_exec, pacpy_completion_exec},
    {Py_mod_exec, pacpy_task_exec},
    {Py_mod_exec, pacpy_promise_exec},
    {Py_mod_exec, pacpy_c_future_exec},
    {Py_mod_exec, pacpy_capi_exec},
    {Py_mod_exec, pacpy_floor_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pyasync_c._core",
    .m_doc =
        "The C half of pyasync_c: futures, wakers, tasks, timers, Notify and the event loop's base.",
    .m_size = sizeof(struct pacpy_state *),
    .m_slots = core_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
