/* bridge.c - an executor of ours inside of a foreign loop.
 *
 *   asyncio task ──awaits──► asyncio future ◄──sets── wait ◄──wakes── leaf (Delay, Notified, ...)
 *        ▲                                            │ a task of the bridge's executor
 *        └── the loop's own wake-up                   ▼
 *                                     turn of the executor: called by the loop
 *
 * The loop calls a turn for one of three reasons: the executor's descriptor is readable (another
 * thread, or code outside of a turn, has woken something), its next deadline has come, or
 * something is ready at once. Each turn, each await and the end of each wait *settle* the bridge:
 * what the loop has to watch now, and nothing any more once no leaf waits and no timer is armed.
 *
 * Who holds whom. While the loop watches anything, it holds the bridge (through the callbacks),
 * and the bridge holds the asyncio futures: a task that sleeps is kept alive by its loop, as one
 * in asyncio.sleep() is. While it watches nothing, the bridge holds itself, so that its
 * descriptors are there for the next wait, until the loop goes. The module's table of bridges has
 * weak references only. So a loop that is abandoned with tasks in it is garbage together with its
 * bridge, and the collector sees it. A wait does not hold its bridge: closing the executor ends
 * the wait first.
 *
 * A loop of ours needs none of this. A task of asyncio's own that awaits a leaf there gets a wait
 * on the loop's own executor. */
#include "bridge_object.h"

#include <errno.h>

/* Longer timers than this are armed anew when it is over: loops limit what they take. */
#define LONGEST_TIMER_NS ((uint64_t)86400 * 1000000000)

static PyObject *
strong_ref(PyObject *weakref)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *op;
    if (PyWeakref_GetRef(weakref, &op) < 0) {
        PyErr_Clear();
    }
    return op;
#else
    PyObject *op = PyWeakref_GET_OBJECT(weakref);
    return op == Py_None ? NULL : Py_NewRef(op);
#endif
}

/* A new reference, or NULL if it has gone. */
PyObject *
pacpy_bridge_loop(BridgeObject *b)
{
    if (b->loop == NULL) {
        return NULL;
    }
    return PyWeakref_Check(b->loop_ref) ? strong_ref(b->loop_ref) : Py_NewRef(b->loop_ref);
}

/* ---- what the loop has to watch ------------------------------------------------------------- */

static PyObject *Bridge_on_readable(PyObject *op, PyObject *ignored);
static PyObject *Bridge_on_soon(PyObject *op, PyObject *ignored);
static PyObject *on_timer(PyObject *weakref, PyObject *ignored);
static PyObject *on_loop_gone(PyObject *weakref, PyObject *loop_ref);

static PyMethodDef on_readable_def = {"pyasync_c_turn", Bridge_on_readable, METH_NOARGS, NULL};
static PyMethodDef on_soon_def = {"pyasync_c_turn_soon", Bridge_on_soon, METH_NOARGS, NULL};
static PyMethodDef on_timer_def = {"pyasync_c_timer", on_timer, METH_NOARGS, NULL};
static PyMethodDef on_loop_gone_def = {"pyasync_c_loop_gone", on_loop_gone, METH_O, NULL};

/* A callable that does not keep the bridge alive: its first argument is a weak reference. */
static PyObject *
weak_callback(BridgeObject *b, PyMethodDef *def)
{
    PyObject *weakref = PyWeakref_NewRef((PyObject *)b, NULL);
    if (weakref == NULL) {
        return NULL;
    }
    PyObject *callback = PyCFunction_New(def, weakref);
    Py_DECREF(weakref);
    return callback;
}

/* Hold it while the loop has no reason to, or stop that. The caller has a reference. */
void
pacpy_bridge_update_hold(BridgeObject *b)
{
    bool hold = b->executor != NULL && b->own == NULL && PyWeakref_Check(b->loop_ref) &&
                !b->reading && !b->soon;
    if (hold != b->held) {
        b->held = hold;
        if (hold) {
            Py_INCREF(b);
        }
        else {
            Py_DECREF(b);
        }
    }
}

static bool
is_idle(const BridgeObject *b)
{
    /* Waits, and the tasks that were there before their loop had a bridge. */
    size_t tasks = (size_t)b->executor->scheduler.tasks_alive - (b->spare != NULL);
    /* An open socket counts too: a transport goes on by itself, and the next wait of one of
     * pyasync_c.net would have it watched again. */
    return tasks == 0 && b->executor->wheel.count == 0 && b->executor->reactor.watched == 0;
}

int
pacpy_bridge_turn_soon(BridgeObject *b, PyObject *loop)
{
    if (b->soon) {
        return 0;
    }
    PyObject *callback = PyCFunction_New(&on_soon_def, (PyObject *)b);
    if (callback == NULL) {
        return -1;
    }
    b->soon = true;
    PyObject *handle = PyObject_CallMethodOneArg(loop, b->st->str_call_soon, callback);
    Py_DECREF(callback);
    b->soon = handle != NULL;
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

static int
add_reader(BridgeObject *b, PyObject *loop)
{
    PyObject *fd = PyLong_FromLong(b->fd);
    PyObject *callback = PyCFunction_New(&on_readable_def, (PyObject *)b);
    PyObject *done = NULL;
    if (fd != NULL && callback != NULL) {
        done = PyObject_CallMethodObjArgs(loop, b->st->str_add_reader, fd, callback, NULL);
    }
    Py_XDECREF(fd);
    Py_XDECREF(callback);
    if (done == NULL) {
        if (PyErr_ExceptionMatches(PyExc_NotImplementedError) ||
            PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Format(PyExc_RuntimeError,
                         "the running loop has no add_reader(), which awaiting a future of "
                         "pyasync_c needs: %R",
                         loop);
        }
        return -1;
    }
    Py_DECREF(done);
    b->reading = true;
    return 0;
}

/* Give up the timer of the loop; takes no notice of the one that has fired. */
static int
cancel_timer(BridgeObject *b)
{
    PyObject *timer = b->timer;
    b->timer = NULL;
    b->armed_ns = PAC_NEVER;
    if (timer == NULL) {
        return 0;
    }
    PyObject *done = PyObject_CallMethodNoArgs(timer, b->st->str_cancel);
    Py_DECREF(timer);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* The loop's time() `ns` nanoseconds from now; -1 and an exception. */
static double
loop_time_in(BridgeObject *b, PyObject *loop, uint64_t ns)
{
    PyObject *time = PyObject_CallMethodNoArgs(loop, b->st->str_time);
    if (time == NULL) {
        return -1;
    }
    double now = PyFloat_AsDouble(time);
    Py_DECREF(time);
    return now + (double)ns * 1e-9;
}

static int
arm_timer(BridgeObject *b, PyObject *loop, uint64_t next_ns)
{
    if (cancel_timer(b) < 0) {
        return -1;
    }
    uint64_t now_ns = pac_clock_ns();
    uint64_t delay_ns = next_ns > now_ns ? next_ns - now_ns : 0;
    if (b->early) {
        /* uvloop rounds to the nearest millisecond. Do not chase the rest of it in circles. */
        delay_ns += 1000000 - delay_ns % 1000000;
    }
    double when = loop_time_in(b, loop, delay_ns < LONGEST_TIMER_NS ? delay_ns : LONGEST_TIMER_NS);
    if (when == -1 && PyErr_Occurred()) {
        return -1;
    }
    PyObject *at = PyFloat_FromDouble(when);
    PyObject *callback = weak_callback(b, &on_timer_def);
    PyObject *timer = NULL;
    if (at != NULL && callback != NULL) {
        timer = PyObject_CallMethodObjArgs(loop, b->st->str_call_at, at, callback, NULL);
    }
    Py_XDECREF(at);
    Py_XDECREF(callback);
    if (timer == NULL) {
        return -1;
    }
    Py_XSETREF(b->timer, timer);
    b->armed_ns = next_ns;
    return 0;
}

static int
remove_reader(BridgeObject *b, PyObject *loop)
{
    b->reading = false;
    PyObject *done = NULL;
    PyObject *fd = PyLong_FromLong(b->fd);
    if (fd != NULL) {
        done = PyObject_CallMethodOneArg(loop, b->st->str_remove_reader, fd);
        Py_DECREF(fd);
    }
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Nothing waits any more. */
static int
unwatch(BridgeObject *b, PyObject *loop)
{
    int failed = 0;
    if (b->timer != NULL) {
        failed |= cancel_timer(b);
    }
    if (b->reading) {
        failed |= remove_reader(b, loop);
    }
    return failed;
}

/* Something may stand in the queues that was woken and then ended, and a wake may have made the
 * descriptor readable: clean up, as nobody watches it from now on. */
static void
sweep_queues(BridgeObject *b)
{
    struct pac_scheduler *before = pac_executor_enter(b->executor);
    enum pac_status ignored = pac_executor_turn(b->executor);
    (void)ignored;
    pac_executor_leave(before);
}

/* What the loop has to do next, while something waits. 0, or -1 and an exception. */
static int
watch(BridgeObject *b, PyObject *loop)
{
    uint64_t next_ns = pac_executor_next_ns(b->executor);
    bool is_earlier = next_ns < b->armed_ns;
    if (next_ns == 0 || (is_earlier && next_ns <= pac_clock_ns() + PAC_WHEEL_TICK_NS)) {
        /* Loops round their timers to milliseconds: what is due within a tick is worth a turn or
         * two. */
        return pacpy_bridge_turn_soon(b, loop);
    }
    if (!b->reading && add_reader(b, loop) < 0) {
        return -1;
    }
    return is_earlier ? arm_timer(b, loop, next_ns) : 0;
}

/* Bring what the loop watches in line with what waits. 0, or -1 and an exception. */
int
pacpy_bridge_settle(BridgeObject *b, PyObject *loop)
{
    int failed = 0;
    if (b->executor == NULL || b->executor->running) {
        return 0; /* the turn in progress ends with this */
    }
    if (is_idle(b) && (b->reading || b->executor->scheduler.ready.length > 0)) {
        sweep_queues(b);
    }
    if (b->executor != NULL && is_idle(b)) {
        failed = unwatch(b, loop);
    }
    else if (b->executor != NULL) {
        failed = watch(b, loop);
    }
    pacpy_bridge_update_hold(b);
    return failed;
}

/* ---- turns: called by the loop -------------------------------------------------------------- */

static PyObject *
turn(BridgeObject *b)
{
    if (b->executor == NULL) {
        Py_RETURN_NONE;
    }
    b->thread_id = PyThread_get_thread_ident();
    struct pac_scheduler *before = pac_executor_enter(b->executor);
    enum pac_status status = pac_executor_turn(b->executor);
    int error = errno;
    pac_executor_leave(before);
    int failed = 0;
    PyObject *loop = pacpy_bridge_loop(b);
    if (loop != NULL) {
        failed = pacpy_bridge_settle(b, loop);
        Py_DECREF(loop);
    }
    PyObject **raised = b->raised == NULL && b->own != NULL ? &b->own->raised : &b->raised;
    if (*raised != NULL) {
        PyObject *exc = *raised;
        *raised = NULL;
        PyErr_SetRaisedException(exc);
        return NULL;
    }
    if (failed) {
        return NULL;
    }
    if (status == PAC_OS_ERROR) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *
Bridge_on_readable(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Py_INCREF(op);
    PyObject *result = turn((BridgeObject *)op);
    Py_DECREF(op);
    return result;
}

static PyObject *
Bridge_on_soon(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Py_INCREF(op);
    ((BridgeObject *)op)->soon = false;
    PyObject *result = turn((BridgeObject *)op);
    pacpy_bridge_update_hold((BridgeObject *)op);
    Py_DECREF(op);
    return result;
}

static PyObject *
on_timer(PyObject *weakref, PyObject *Py_UNUSED(ignored))
{
    BridgeObject *b = (BridgeObject *)strong_ref(weakref);
    if (b == NULL) {
        Py_RETURN_NONE;
    }
    b->early = b->armed_ns != PAC_NEVER && pac_clock_ns() < b->armed_ns;
    b->armed_ns = PAC_NEVER;
    Py_CLEAR(b->timer);
    PyObject *result = turn(b);
    b->early = false;
    Py_DECREF(b);
    return result;
}

/* ---- making, closing ------------------------------------------------------------------------ */

/* The caller has a reference. Not possible during a turn, which means: while the loop runs. */
static void
bridge_close(BridgeObject *b)
{
    struct pac_executor *ex = b->executor;
    if (ex == NULL || ex->running || b->own != NULL) {
        return;
    }
    b->executor = NULL;
    b->loop = NULL;
    pac_executor_close(ex);
    pac_executor_free(ex);
    pacpy_bridge_free_spare(b);
    Py_CLEAR(b->timer);
    pacpy_bridge_update_hold(b);
}

static PyObject *
on_loop_gone(PyObject *weakref, PyObject *loop_ref)
{
    BridgeObject *b = (BridgeObject *)strong_ref(weakref);
    if (b != NULL) {
        bridge_close(b);
        Py_DECREF(b);
    }
    Py_RETURN_NONE;
}

static int
Bridge_traverse(PyObject *op, visitproc visit, void *arg)
{
    BridgeObject *b = (BridgeObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(b->loop_ref);
    Py_VISIT(b->timer);
    Py_VISIT(b->raised);
    for (struct pac_list_node *n = b->waits.head.next; n != &b->waits.head; n = n->next) {
        Py_VISIT(PAC_LIST_ENTRY(n, struct pacpy_wait, node)->asyncio_future);
    }
    return 0;
}

static int
Bridge_clear(PyObject *op)
{
    BridgeObject *b = (BridgeObject *)op;
    bridge_close(b);
    Py_CLEAR(b->timer);
    Py_CLEAR(b->raised);
    return 0;
}

static void
Bridge_dealloc(PyObject *op)
{
    BridgeObject *b = (BridgeObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (b->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    Bridge_clear(op);
    Py_CLEAR(b->loop_ref);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMemberDef Bridge_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(BridgeObject, weakrefs), READONLY},
    {NULL},
};

static PyType_Slot Bridge_slots[] = {
    {Py_tp_doc, "What lets a foreign loop wait for futures of ours."},
    {Py_tp_traverse, Bridge_traverse},
    {Py_tp_clear, Bridge_clear},
    {Py_tp_dealloc, Bridge_dealloc},
    {Py_tp_members, Bridge_members},
    {0, NULL},
};

static PyType_Spec Bridge_spec = {
    .name = "pyasync_c.Bridge",
    .basicsize = sizeof(BridgeObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Bridge_slots,
};

int
pacpy_bridge_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    return pacpy_make_type(module, &Bridge_spec, NULL, &st->Bridge_type, NULL);
}

static int
bridge_set_loop(BridgeObject *b, PyObject *loop)
{
    PyObject *callback = weak_callback(b, &on_loop_gone_def);
    if (callback == NULL) {
        return -1;
    }
    b->loop_ref = PyWeakref_NewRef(loop, callback);
    Py_DECREF(callback);
    if (b->loop_ref == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_TypeError)) {
            return -1;
        }
        /* It takes no weak references: held while there are waits, as nothing holds the bridge
         * after. */
        PyErr_Clear();
        b->loop_ref = Py_NewRef(loop);
    }
    b->loop = loop;
    return 0;
}

static BridgeObject *
bridge_new(struct pacpy_state *st, PyObject *loop)
{
    BridgeObject *b = (BridgeObject *)st->Bridge_type->tp_alloc(st->Bridge_type, 0);
    if (b == NULL) {
        return NULL;
    }
    b->st = st;
    b->armed_ns = PAC_NEVER;
    pac_list_init(&b->waits);
    if (bridge_set_loop(b, loop) < 0) {
        Py_DECREF(b);
        return NULL;
    }
    enum pac_status status;
    b->executor = pac_executor_new(NULL, &status);
    if (b->executor == NULL) {
        if (status == PAC_NO_MEMORY) {
            PyErr_NoMemory();
        }
        else {
            PyErr_SetFromErrno(PyExc_OSError);
        }
        Py_DECREF(b);
        return NULL;
    }
    b->fd = pac_executor_fd(b->executor);
    /* At once, so that a loop that cannot do it says so to whoever awaits; the first settling
     * decides. */
    if (add_reader(b, loop) < 0) {
        bridge_close(b);
        Py_CLEAR(b);
    }
    return b;
}

/* ---- a loop of ours in compatible mode ------------------------------------------------------- */

PyObject *
pacpy_bridge_for_own_loop(LoopObject *loop)
{
    struct pacpy_state *st = loop->st;
    BridgeObject *b = (BridgeObject *)st->Bridge_type->tp_alloc(st->Bridge_type, 0);
    if (b == NULL) {
        return NULL;
    }
    b->st = st;
    b->armed_ns = PAC_NEVER;
    pac_list_init(&b->waits);
    b->loop_ref = PyWeakref_NewRef((PyObject *)loop, NULL);
    if (b->loop_ref == NULL) {
        Py_DECREF(b);
        return NULL;
    }
    b->loop = (PyObject *)loop;
    b->own = loop;
    b->executor = loop->executor;
    b->fd = pac_executor_fd(b->executor);
    b->thread_id = PyThread_get_thread_ident();
    return (PyObject *)b;
}

int
pacpy_bridge_settle_own(PyObject *bridge)
{
    BridgeObject *b = (BridgeObject *)bridge;
    return b->executor == NULL ? 0 : pacpy_bridge_settle(b, (PyObject *)b->own);
}

void
pacpy_bridge_let_go(PyObject *bridge)
{
    BridgeObject *b = (BridgeObject *)bridge;
    b->executor = NULL;
    b->own = NULL;
    b->loop = NULL;
    Py_CLEAR(b->timer);
}

static BridgeObject *
bridge_of_own_loop(LoopObject *loop)
{
    BridgeObject *b = (BridgeObject *)loop->bridge;
    if (pacpy_loop_check_open(loop) < 0) {
        return NULL;
    }
    if (b->executor == NULL) {
        pacpy_loop_refuse_closed(loop);
        return NULL;
    }
    return (BridgeObject *)Py_NewRef(b);
}

/* ---- finding the bridge of a loop ----------------------------------------------------------- */

/* The bridges of the table, as a list of weak references: a new reference, or NULL. */
static PyObject *
list_bridges(struct pacpy_state *st)
{
    PyObject *values = PyObject_CallMethod(st->bridges, "values", NULL);
    PyObject *refs = values == NULL ? NULL : PySequence_List(values);
    Py_XDECREF(values);
    return refs;
}

/* Close the bridges of loops that were closed but are still referred to. */
static int
sweep_bridges(struct pacpy_state *st)
{
    PyObject *refs = list_bridges(st);
    if (refs == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(refs); i++) {
        BridgeObject *b = (BridgeObject *)strong_ref(PyList_GET_ITEM(refs, i));
        PyObject *loop = b == NULL ? NULL : pacpy_bridge_loop(b);
        PyObject *closed = loop == NULL ? NULL : PyObject_CallMethod(loop, "is_closed", NULL);
        if (closed == Py_True) {
            bridge_close(b);
        }
        PyErr_Clear();
        Py_XDECREF(closed);
        Py_XDECREF(loop);
        Py_XDECREF(b);
    }
    Py_DECREF(refs);
    return 0;
}

/* ---- a fork's child ------------------------------------------------------------------------- */

static void
end_waits(BridgeObject *b)
{
    struct pac_scheduler *before = pac_executor_enter(b->executor);
    while (!pac_list_is_empty(&b->waits)) {
        struct pacpy_wait *w = PAC_LIST_ENTRY(pac_list_first(&b->waits), struct pacpy_wait, node);
        struct pac_task *task = pac_task_ref(w->task);
        /* Out of the list first: one that is just being polled ends only after that. */
        pac_list_remove(&w->node);
        w->bridge = NULL;
        pac_task_shutdown(task);
        pac_task_unref(task);
    }
    pac_executor_leave(before);
}

/* The executor, its descriptors and what the loop's selector knows of them are the parent's: from
 * now on nothing done here reaches them, and the next await under this loop makes a new bridge. */
void
pacpy_bridge_disown(PyObject *bridge)
{
    BridgeObject *b = (BridgeObject *)Py_NewRef(bridge);
    struct pac_executor *ex = b->executor;
    if (ex != NULL) {
        if (b->own == NULL) {
            pac_executor_disown(ex); /* never freed: its descriptors stay as they are */
        }
        end_waits(b);
        b->executor = NULL;
        b->own = NULL;
        b->loop = NULL;
        Py_CLEAR(b->timer);
        pacpy_bridge_update_hold(b);
    }
    Py_DECREF(b);
}

void
pacpy_bridge_disown_all(struct pacpy_state *st)
{
    PyObject *refs = st->bridges == NULL ? NULL : list_bridges(st);
    if (refs != NULL && st->last_bridge != NULL && PyList_Append(refs, st->last_bridge) < 0) {
        Py_CLEAR(refs);
    }
    for (Py_ssize_t i = 0; refs != NULL && i < PyList_GET_SIZE(refs); i++) {
        BridgeObject *b = (BridgeObject *)strong_ref(PyList_GET_ITEM(refs, i));
        /* A loop of ours disowns its own. */
        if (b != NULL && b->own == NULL) {
            pacpy_bridge_disown((PyObject *)b);
        }
        Py_XDECREF(b);
    }
    Py_XDECREF(refs);
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(st->bridges);
    }
}

static int
need_table(struct pacpy_state *st)
{
    if (st->bridges != NULL) {
        return 0;
    }
    PyObject *module = PyImport_ImportModule("weakref");
    if (module == NULL) {
        return -1;
    }
    PyObject *table = PyObject_CallMethod(module, "WeakKeyDictionary", NULL);
    Py_DECREF(module);
    if (table == NULL) {
        return -1;
    }
    Py_XSETREF(st->bridges, table);
    return 0;
}

/* In the table, as a weak reference; and as the one used last. */
static int
remember(struct pacpy_state *st, BridgeObject *b, PyObject *loop, bool in_table)
{
    PyObject *weakref = PyWeakref_NewRef((PyObject *)b, NULL);
    if (weakref == NULL) {
        return -1;
    }
    int failed = 0;
    if (in_table && PyWeakref_Check(b->loop_ref)) {
        failed = PyObject_SetItem(st->bridges, loop, weakref);
    }
    Py_XSETREF(st->last_bridge, weakref);
    return failed;
}

/* The entry of the table, or NULL; an exception may be set (a loop that takes no weak references
 * is in no table). */
static BridgeObject *
look_up(struct pacpy_state *st, PyObject *loop)
{
    PyObject *weakref = PyObject_CallMethod(st->bridges, "get", "O", loop);
    if (weakref == NULL && PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();
    }
    BridgeObject *b = NULL;
    if (weakref != NULL && weakref != Py_None) {
        b = (BridgeObject *)strong_ref(weakref);
    }
    Py_XDECREF(weakref);
    if (b != NULL && b->executor == NULL) {
        Py_CLEAR(b);
    }
    return b;
}

static BridgeObject *
find_or_make(struct pacpy_state *st, PyObject *loop)
{
    if (need_table(st) < 0) {
        return NULL;
    }
    BridgeObject *b = look_up(st, loop);
    bool made = b == NULL;
    if (made) {
        if (PyErr_Occurred() || sweep_bridges(st) < 0) {
            return NULL;
        }
        b = bridge_new(st, loop);
    }
    if (b != NULL && remember(st, b, loop, made) < 0) {
        PyObject *exc = PyErr_GetRaisedException();
        if (made && unwatch(b, loop) < 0) {
            PyErr_WriteUnraisable(loop);
        }
        bridge_close(b);
        Py_CLEAR(b);
        restore_exception(exc);
    }
    return b;
}

/* The bridge of `loop`, which runs on this thread: a new reference, or NULL and an exception. */
BridgeObject *
pacpy_bridge_of(struct pacpy_state *st, PyObject *loop)
{
    BridgeObject *b = NULL;
    if (PyObject_TypeCheck(loop, st->LoopBase_type)) {
        b = bridge_of_own_loop((LoopObject *)loop);
        if (b == NULL) {
            return NULL;
        }
    }
    else if (st->last_bridge != NULL) {
        b = (BridgeObject *)strong_ref(st->last_bridge);
        if (b != NULL && (b->loop != loop || b->executor == NULL)) {
            Py_CLEAR(b);
        }
    }
    if (b == NULL) {
        b = find_or_make(st, loop);
    }
    if (b != NULL) {
        b->thread_id = PyThread_get_thread_ident();
    }
    return b;
}

/* The loop that runs on this thread: a new reference. NULL: none, or an exception is set. */
PyObject *
pacpy_bridge_running_loop(struct pacpy_state *st)
{
    if (st->Task_type == NULL) {
        PyObject *asyncio = PyDict_GetItemString(PyImport_GetModuleDict(), "asyncio");
        if (asyncio == NULL || pacpy_need_asyncio(st) < 0) {
            return NULL;
        }
    }
    PyObject *loop = PyObject_CallNoArgs(st->asyncio_get_running_loop);
    if (loop == Py_None) {
        Py_CLEAR(loop);
    }
    return loop;
}

struct pac_executor *
pacpy_bridge_executor(struct pacpy_state *st, PyObject **loop)
{
    struct pac_executor *ex = NULL;
    *loop = pacpy_bridge_running_loop(st);
    if (*loop == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_RuntimeError, "no running event loop");
        }
        return NULL;
    }
    if (pacpy_bridge_is_native(st, *loop)) {
        if (pacpy_loop_check_open((LoopObject *)*loop) == 0) {
            ex = ((LoopObject *)*loop)->executor;
        }
    }
    else {
        BridgeObject *b = pacpy_bridge_of(st, *loop);
        /* A loop that takes no weak references holds its bridge only while it watches that, so it goes
         * on until the next settling: what the caller is about to do with the executor comes first. */
        if (b != NULL && (!PyWeakref_Check(b->loop_ref) || pacpy_bridge_settle(b, *loop) == 0)) {
            ex = b->executor;
        }
        Py_XDECREF(b);
    }
    if (ex == NULL) {
        Py_CLEAR(*loop);
    }
    return ex;
}

void
pacpy_bridge_settle_running(struct pacpy_state *st)
{
    if (pacpy_running_loop != NULL && !pacpy_running_loop->compatible) {
        return;
    }
    PyObject *loop = pacpy_bridge_running_loop(st);
    if (loop != NULL && !pacpy_bridge_is_native(st, loop)) {
        BridgeObject *b = pacpy_bridge_of(st, loop);
        if (b != NULL && pacpy_bridge_settle(b, loop) < 0) {
            PyErr_WriteUnraisable(loop);
        }
        Py_XDECREF(b);
    }
    Py_XDECREF(loop);
    PyErr_Clear();
}
