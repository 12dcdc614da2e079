/* zlib_pool.c - a pool of threads that compress and decompress, awaited from Python.
 *
 *     with zlib_pool.Pool(threads=4) as pool:
 *         packed = await pool.compress(data, level=9)
 *         data = await pool.decompress(packed)
 *
 * The threads never hold the GIL. Each call makes a promise and a job; a thread takes the job, does
 * it, and completes the promise. Jobs that end shortly after one another are completed in a batch,
 * so that a loop with a thousand small buffers under way is woken some dozens of times. A job whose
 * await was cancelled is skipped, or left in the middle. */
#define PY_SSIZE_T_CLEAN
#include <pyasync_c.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>

static const struct pyasync_c_api *api;

enum {
    CHUNK = 256 * 1024, /* bytes between two looks whether anybody still waits */
    BATCH_JOBS = 64,
    BATCH_NS = 100000, /* a result does not wait longer than this for the next one to begin, */
    SMALL = 16 * 1024, /* nor for one of more input than this to end */
    THREADS_MAX = 256,
};

struct job {
    struct job *next;
    struct pyasync_c_promise *promise;
    int (*work)(struct job *job); /* Z_OK, or zlib's error */
    int level;
    Py_buffer input;
    unsigned char *output;
    size_t length, room;
    PyObject *error_type; /* strong: zlib.error */
};

struct pool {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct job *first, **last; /* mutex */
    bool closing;              /* mutex */
};

/* ---- the work: no GIL ----------------------------------------------------------------------- */

static int
output_grow(struct job *job, size_t room)
{
    unsigned char *output = realloc(job->output, room);
    if (output == NULL) {
        return Z_MEM_ERROR;
    }
    job->output = output;
    job->room = room;
    return Z_OK;
}

/* Give the stream the next piece of input and of output; neither is ever longer than CHUNK. */
static int
feed(struct job *job, z_stream *stream, size_t *taken)
{
    size_t left = (size_t)job->input.len - *taken;
    if (stream->avail_in == 0 && left > 0) {
        stream->next_in = (unsigned char *)job->input.buf + *taken;
        stream->avail_in = (unsigned)(left < CHUNK ? left : CHUNK);
        *taken += stream->avail_in;
    }
    if (job->length == job->room && output_grow(job, job->room + job->room / 2 + 4096) != Z_OK) {
        return Z_MEM_ERROR;
    }
    size_t room = job->room - job->length;
    stream->next_out = job->output + job->length;
    stream->avail_out = (unsigned)(room < CHUNK ? room : CHUNK);
    return Z_OK;
}

/* Run `step` (deflate or inflate) over all of the input. Z_STREAM_END: done; Z_OK: nobody waits. */
static int
pump(struct job *job, z_stream *stream, int (*step)(z_stream *, int))
{
    size_t taken = 0;
    int status = Z_OK;
    while (status == Z_OK && !api->promise_is_over(job->promise)) {
        status = feed(job, stream, &taken);
        if (status != Z_OK) {
            break;
        }
        unsigned char *begin = stream->next_out;
        status = step(stream, taken == (size_t)job->input.len ? Z_FINISH : Z_NO_FLUSH);
        job->length += (size_t)(stream->next_out - begin);
        bool is_stuck =
            stream->avail_in == 0 && taken == (size_t)job->input.len && stream->avail_out > 0;
        if (status == Z_BUF_ERROR && !is_stuck) {
            status = Z_OK; /* it only wants more room, or more input */
        }
    }
    return status;
}

static int
work_compress(struct job *job)
{
    z_stream stream = {0};
    int status = deflateInit(&stream, job->level);
    if (status != Z_OK) {
        return status;
    }
    status = output_grow(job, deflateBound(&stream, (unsigned long)job->input.len));
    if (status == Z_OK) {
        status = pump(job, &stream, deflate);
    }
    deflateEnd(&stream);
    return status == Z_STREAM_END ? Z_OK : status;
}

static int
work_decompress(struct job *job)
{
    z_stream stream = {0};
    int status = inflateInit(&stream);
    if (status != Z_OK) {
        return status;
    }
    status = output_grow(job, (size_t)job->input.len * 4 + 64);
    if (status == Z_OK) {
        status = pump(job, &stream, inflate);
    }
    inflateEnd(&stream);
    return status == Z_STREAM_END ? Z_OK : status == Z_OK ? Z_BUF_ERROR : status;
}

/* ---- the threads: no GIL -------------------------------------------------------------------- */

static uint64_t
clock_ns(void)
{
    return api->now_ns();
}

/* The next job; NULL: there is none now, or (wait) the pool closes. */
static struct job *
pool_take(struct pool *pool, bool wait)
{
    pthread_mutex_lock(&pool->mutex);
    while (wait && pool->first == NULL && !pool->closing) {
        pthread_cond_wait(&pool->changed, &pool->mutex);
    }
    struct job *job = pool->closing ? NULL : pool->first;
    if (job != NULL) {
        pool->first = job->next;
        if (pool->first == NULL) {
            pool->last = &pool->first;
        }
    }
    pthread_mutex_unlock(&pool->mutex);
    return job;
}

static void
job_run(struct job *job, struct pyasync_c_batch *batch)
{
    struct pyasync_c_promise *promise = job->promise;
    if (!api->promise_is_over(promise)) {
        int status = job->work(job);
        /* The value is the job itself, which is `data` already. Refused: nobody waits any more. */
        if (status == Z_OK) {
            api->promise_complete(promise, NULL, batch);
        }
        else {
            api->promise_fail(promise, (void *)(intptr_t)status, batch);
        }
    }
    api->promise_release(promise, batch); /* the job is not ours from here on */
}

static void *
thread_run(void *arg)
{
    struct pool *pool = arg;
    struct job *job;
    while ((job = pool_take(pool, true)) != NULL) {
        struct pyasync_c_batch batch;
        uint64_t begin = clock_ns();
        api->batch_begin(&batch);
        for (int i = 0; job != NULL; i++) {
            if (job->input.len > SMALL) {
                api->batch_end(&batch);
                api->batch_begin(&batch);
            }
            job_run(job, &batch);
            bool go_on = i < BATCH_JOBS && clock_ns() - begin < BATCH_NS;
            job = go_on ? pool_take(pool, false) : NULL;
        }
        api->batch_end(&batch);
    }
    return NULL;
}

/* ---- the promise's callbacks: with the GIL -------------------------------------------------- */

static PyObject *
job_convert(void *data, void *value)
{
    struct job *job = data;
    (void)value;
    return PyBytes_FromStringAndSize((const char *)job->output, (Py_ssize_t)job->length);
}

static void
job_set_error(void *data, void *error)
{
    struct job *job = data;
    int status = (int)(intptr_t)error;
    if (status == Z_MEM_ERROR) {
        PyErr_NoMemory();
        return;
    }
    const char *why = status == Z_BUF_ERROR      ? "incomplete data"
                      : status == Z_DATA_ERROR   ? "invalid data"
                      : status == Z_STREAM_ERROR ? "invalid level"
                      : status == Z_NEED_DICT    ? "a dictionary is needed"
                                                 : "zlib failed";
    PyErr_Format(job->error_type, "Error %d: %s", status, why);
}

static void
job_finalize(void *data)
{
    struct job *job = data;
    PyBuffer_Release(&job->input);
    Py_DECREF(job->error_type);
    free(job->output);
    free(job);
}

/* `cancelled` is not needed: threads ask promise_is_over. */
static const struct pyasync_c_promise_type job_type = {
    .size = sizeof job_type,
    .name = "zlib_pool.Job",
    .convert = job_convert,
    .set_error = job_set_error,
    .finalize = job_finalize,
    .holds_clock = 1,
};

/* ---- Pool ----------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct pool pool;
    pthread_t threads[THREADS_MAX];
    int thread_count;
    pid_t pid; /* whose threads they are */
    PyObject *error_type;
} PoolObject;

/* Let running jobs end, and break the promises of those that wait. */
static void
pool_close(PoolObject *self)
{
    struct pool *pool = &self->pool;
    int count = self->thread_count;
    if (count == 0 || self->pid != getpid()) {
        return; /* closed, or in a fork's child: the threads are the parent's */
    }
    self->thread_count = 0; /* another thread may close it while this one waits */
    Py_BEGIN_ALLOW_THREADS;
    pthread_mutex_lock(&pool->mutex);
    pool->closing = true;
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i < count; i++) {
        pthread_join(self->threads[i], NULL);
    }
    Py_END_ALLOW_THREADS;
    while (pool->first != NULL) {
        struct job *job = pool->first;
        pool->first = job->next;
        api->promise_release(job->promise, NULL);
    }
    pool->last = &pool->first;
}

static int
pool_start(PoolObject *self, int wanted)
{
    struct pool *pool = &self->pool;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->changed, NULL);
    pool->last = &pool->first;
    self->pid = getpid();
    while (self->thread_count < wanted) {
        int error = pthread_create(&self->threads[self->thread_count], NULL, thread_run, pool);
        if (error != 0) {
            errno = error;
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        self->thread_count++;
    }
    return 0;
}

static PyObject *
Pool_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"threads", NULL};
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    int threads = processors < 1 ? 1 : processors > THREADS_MAX ? THREADS_MAX : (int)processors;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|i:Pool", names, &threads)) {
        return NULL;
    }
    if (threads < 1 || threads > THREADS_MAX) {
        return PyErr_Format(PyExc_ValueError, "threads must be from 1 to %d", THREADS_MAX);
    }
    PyObject *zlib = PyImport_ImportModule("zlib");
    PyObject *error_type = zlib == NULL ? NULL : PyObject_GetAttrString(zlib, "error");
    Py_XDECREF(zlib);
    PoolObject *self = error_type == NULL ? NULL : (PoolObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_XDECREF(error_type);
        return NULL;
    }
    self->error_type = error_type;
    if (pool_start(self, threads) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void
Pool_dealloc(PyObject *op)
{
    PoolObject *self = (PoolObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    pool_close(self);
    if (self->pid == getpid()) {
        pthread_cond_destroy(&self->pool.changed);
        pthread_mutex_destroy(&self->pool.mutex);
    }
    Py_DECREF(self->error_type);
    type->tp_free(op);
    Py_DECREF(type);
}

/* A job over `data`, in the queue; its awaitable. */
static PyObject *
Pool_submit(PoolObject *self, PyObject *data, int level, int (*work)(struct job *))
{
    if (self->thread_count == 0 || self->pid != getpid()) {
        PyErr_SetString(PyExc_RuntimeError, self->thread_count == 0
                                                ? "the pool is closed"
                                                : "the pool belongs to the parent process");
        return NULL;
    }
    struct job *job = calloc(1, sizeof *job);
    if (job == NULL) {
        return PyErr_NoMemory();
    }
    if (PyObject_GetBuffer(data, &job->input, PyBUF_SIMPLE) < 0) {
        free(job);
        return NULL;
    }
    job->error_type = Py_NewRef(self->error_type);
    job->work = work;
    job->level = level;
    PyObject *awaitable = api->promise_new(&job_type, job, &job->promise);
    if (awaitable == NULL) {
        job_finalize(job);
        return NULL;
    }
    struct pool *pool = &self->pool;
    pthread_mutex_lock(&pool->mutex);
    *pool->last = job;
    pool->last = &job->next;
    pthread_cond_signal(&pool->changed);
    pthread_mutex_unlock(&pool->mutex);
    return awaitable;
}

static PyObject *
Pool_compress(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "level", NULL};
    PyObject *data;
    int level = Z_DEFAULT_COMPRESSION;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|i:compress", names, &data, &level)) {
        return NULL;
    }
    return Pool_submit((PoolObject *)op, data, level, work_compress);
}

static PyObject *
Pool_decompress(PyObject *op, PyObject *data)
{
    return Pool_submit((PoolObject *)op, data, 0, work_decompress);
}

static PyObject *
Pool_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    pool_close((PoolObject *)op);
    Py_RETURN_NONE;
}

static PyObject *
Pool_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(op);
}

static PyObject *
Pool_exit(PyObject *op, PyObject *Py_UNUSED(args))
{
    pool_close((PoolObject *)op);
    Py_RETURN_NONE;
}

static PyMethodDef Pool_methods[] = {
    {"compress", (PyCFunction)(void (*)(void))Pool_compress, METH_VARARGS | METH_KEYWORDS,
     "compress(data, /, level=-1)\n--\n\n"
     "Await it for what zlib.compress(data, level) returns. `data` must not change meanwhile."},
    {"decompress", Pool_decompress, METH_O,
     "decompress(data, /)\n--\n\n"
     "Await it for what zlib.decompress(data) returns; raises zlib.error as that does."},
    {"close", Pool_close, METH_NOARGS,
     "close()\n--\n\n"
     "Wait for the jobs that run; the awaits of those that do not yet raise RuntimeError. Any\n"
     "number of times."},
    {"__enter__", Pool_enter, METH_NOARGS, NULL},
    {"__exit__", Pool_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Pool_slots[] = {
    {Py_tp_doc, "Pool(threads=os.cpu_count())\n--\n\nThreads that compress and decompress."},
    {Py_tp_new, Pool_new},
    {Py_tp_dealloc, Pool_dealloc},
    {Py_tp_methods, Pool_methods},
    {0, NULL},
};

static PyType_Spec Pool_spec = {
    .name = "zlib_pool.Pool",
    .basicsize = sizeof(PoolObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Pool_slots,
};

/* ---- the module ----------------------------------------------------------------------------- */

static int
module_exec(PyObject *module)
{
    const struct pyasync_c_api *imported = pyasync_c_import();
    if (imported == NULL) {
        return -1;
    }
    if (api == NULL) { /* else the pools of another interpreter may be reading it */
        api = imported;
    }
    PyObject *type = PyType_FromModuleAndSpec(module, &Pool_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int added = PyModule_AddObjectRef(module, "Pool", type);
    Py_DECREF(type);
    return added;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "zlib_pool",
    .m_doc = "A pool of threads that compress, awaited from Python.",
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit_zlib_pool(void)
{
    return PyModuleDef_Init(&definition);
}
