/* graveyard.c - a lock-free list: pushed one by one, taken as a whole, so that no node comes back
 * while somebody looks at it. */
#include "graveyard.h"

static const char capsule_name[] = "pyasync_c._core.graveyard";

/* Only its address is used. */
static struct pacpy_grave closed;

struct pacpy_graveyard *
pacpy_graveyard_ref(struct pacpy_graveyard *g)
{
    /* relaxed: the caller's own reference, or the module's, keeps the count above zero. */
    pac_atomic_add(&g->references, 1, PAC_RELAXED);
    return g;
}

void
pacpy_graveyard_unref(struct pacpy_graveyard *g)
{
    /* acq_rel: all that the other holders did comes before the memory is freed. */
    if (pac_atomic_sub(&g->references, 1, PAC_ACQ_REL) == 1) {
        pac_free(g);
    }
}

bool
pacpy_graveyard_is_attached(const struct pacpy_graveyard *g)
{
    PyThreadState *tstate = PyThreadState_GetUnchecked();
    if (tstate == NULL) {
        return false;
    }
#if PY_VERSION_HEX < 0x030C0000
    /* Before 3.12 that is the state of the thread that has the GIL, whichever it is. Ours is known
     * by the thread's own slot; only while the main thread runs a sub-interpreter does the slot
     * hold another, and only then is the state itself asked. */
    if (tstate != PyGILState_GetThisThreadState() &&
        (g->is_main || tstate->thread_id != PyThread_get_thread_ident())) {
        return false;
    }
#endif
    return PyThreadState_GetInterpreter(tstate) == g->interpreter;
}

bool
pacpy_graveyard_is_closed(struct pacpy_graveyard *g)
{
    return pac_atomic_load(&g->dead, PAC_RELAXED) == &closed;
}

/* Attached: bury all that lie there, and leave `rest` in their place. */
static void
empty(struct pacpy_graveyard *g, struct pacpy_grave *rest)
{
    /* acquire: pairs with the release in pacpy_graveyard_take. */
    struct pacpy_grave *grave = pac_atomic_exchange(&g->dead, rest, PAC_ACQUIRE);
    while (grave != NULL && grave != &closed) {
        struct pacpy_grave *next = grave->next;
        grave->bury(grave);
        grave = next;
    }
}

void
pacpy_graveyard_empty(struct pacpy_graveyard *g)
{
    if (!pacpy_graveyard_is_closed(g)) {
        empty(g, NULL);
    }
}

void
pacpy_graveyard_take(struct pacpy_graveyard *g, struct pacpy_grave *grave)
{
    if (!pacpy_graveyard_is_closed(g) && pacpy_graveyard_is_attached(g)) {
        grave->bury(grave);
        return;
    }
    struct pacpy_grave *head = pac_atomic_load(&g->dead, PAC_RELAXED);
    do {
        if (head == &closed) {
            return; /* leaked: nobody comes by any more */
        }
        grave->next = head;
        /* release: publishes grave->next and what the holders of the thing did; pairs with the
         * acquire in empty. */
    } while (!pac_atomic_cas_weak(&g->dead, &head, grave, PAC_RELEASE, PAC_RELAXED));
}

/* ---- the module's --------------------------------------------------------------------------- */

static void
capsule_free(PyObject *capsule)
{
    struct pacpy_graveyard *g = PyCapsule_GetPointer(capsule, capsule_name);
    g->st->graveyard = NULL;
    empty(g, &closed);
    pacpy_graveyard_unref(g);
}

/* The Waker type keeps it, which lives for as long as anything of the module does. */
int
pacpy_graveyard_exec(PyObject *module)
{
    struct pacpy_state *st = pacpy_state_of(module);
    struct pacpy_graveyard *g = pac_alloc(sizeof *g);
    if (g == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    pac_atomic_init(&g->references, 1);
    pac_atomic_init(&g->dead, NULL);
    g->interpreter = PyInterpreterState_Get();
    g->st = st;
    g->is_main = g->interpreter == PyInterpreterState_Main();
    PyObject *capsule = PyCapsule_New(g, capsule_name, capsule_free);
    if (capsule == NULL) {
        pac_free(g);
        return -1;
    }
    st->graveyard = g;
    int status = PyDict_SetItemString(st->Waker_type->tp_dict, "_graveyard", capsule);
    Py_DECREF(capsule);
    PyType_Modified(st->Waker_type);
    return status;
}

struct pacpy_graveyard *
pacpy_graveyard_of(struct pacpy_state *st)
{
    if (st->graveyard == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the module is being torn down");
    }
    return st->graveyard;
}
