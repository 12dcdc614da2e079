/* state.h - what belongs to one import of the module: its types, the names and functions that it
 * uses, its free lists. Every object that needs it on a hot path keeps a pointer; nothing looks
 * it up in a destructor.
 *
 * Nothing here is shared between interpreters. What is shared by the process is C only: two
 * numbers (object.h's offsets) that are the same for all of them. */
#ifndef PACPY_STATE_H
#define PACPY_STATE_H

#include "compat.h"

#include "../core/platform.h"

/* Those of the channels. */
#define CHANNEL_TYPES(X) \
    X(ChannelClosed)     \
    X(ChannelFull)       \
    X(ChannelEmpty)      \
    X(Lagged)            \
    X(Closed)            \
    X(Oneshot)           \
    X(OneshotSender)     \
    X(OneshotReceiver)   \
    X(OneshotAwait)      \
    X(Mpsc)              \
    X(Send)              \
    X(Recv)              \
    X(Sender)            \
    X(UnboundedSender)   \
    X(Receiver)          \
    X(Broadcast)         \
    X(BroadcastRecv)     \
    X(BroadcastSender)   \
    X(BroadcastReceiver) \
    X(Watch)             \
    X(WatchWait)         \
    X(WatchSender)       \
    X(WatchReceiver)

/* Those of pyasync_c.net. */
#define NET_TYPES(X)     \
    X(CopyBidirectional) \
    X(NetRead)           \
    X(NetWrite)          \
    X(NetConnect)        \
    X(NetAccept)         \
    X(TcpStream)         \
    X(UnixStream)        \
    X(TlsStream)         \
    X(ReadHalf)          \
    X(WriteHalf)         \
    X(NetDatagram)       \
    X(UdpSocket)         \
    X(Framed)            \
    X(TcpListener)       \
    X(UnixListener)

/* Types made at import, in the order in which they are made; a file makes its own. */
#define PACPY_TYPES(X)   \
    X(Pending)           \
    X(StopIteration)     \
    X(Waker)             \
    X(Context)           \
    X(Future)            \
    X(YieldNow)          \
    X(ReadyFuture)       \
    X(PendingFuture)     \
    X(PollFn)            \
    X(IntoFuture)        \
    X(PollOnce)          \
    X(Delay)             \
    X(Timeout)           \
    X(Notify)            \
    X(Notified)          \
    CHANNEL_TYPES(X)     \
    X(Permit)            \
    X(Acquire)           \
    X(AcquirePermit)     \
    X(SemaphoreClosed)   \
    X(Semaphore)         \
    X(Lock)              \
    X(RwLock)            \
    X(Barrier)           \
    X(BarrierWait)       \
    X(Event)             \
    X(EventWait)         \
    X(OnceCell)          \
    X(OnceInit)          \
    X(EndCallback)       \
    X(JoinSetBase)       \
    X(JoinNext)          \
    X(Join)              \
    X(Select)            \
    X(CancellationToken) \
    X(Cancelled)         \
    X(RunUntilCancelled) \
    X(Promised)          \
    X(CFuture)           \
    X(Immediate)         \
    X(FutureIter)        \
    X(SocketOperation)   \
    X(Bridge)            \
    X(LoopBase)          \
    X(Listener)          \
    X(StreamRead)        \
    X(MemoryWindow)      \
    X(TlsProtocolBase)   \
    X(TlsTransportBase)  \
    NET_TYPES(X)

/* Types that derive from asyncio's, made when asyncio is first needed (pacpy_need_asyncio). */
#define PACPY_ASYNCIO_TYPES(X) \
    X(Task)                    \
    X(AsyncioFuture)           \
    X(CallbackHandle)          \
    X(TimerHandle)             \
    X(StreamReader)            \
    X(StreamTransport)         \
    X(DatagramTransport)       \
    X(ReadPipeTransport)       \
    X(WritePipeTransport)

/* Interned names. */
#define PACPY_NAMES(X)          \
    X(__class__)                \
    X(_asyncio_future_blocking) \
    X(_buffer)                  \
    X(_call_eof_received)       \
    X(_control_app_writing)     \
    X(_control_ssl_reading)     \
    X(_do_flush)                \
    X(_do_handshake)            \
    X(_do_read)                 \
    X(_do_shutdown)             \
    X(_do_write)                \
    X(_eof)                     \
    X(_exception)               \
    X(_grant)                   \
    X(_limit)                   \
    X(_loop)                    \
    X(_paused)                  \
    X(_run_once)                \
    X(_selector)                \
    X(_ssl_buffer_view)         \
    X(_ssl_protocol)            \
    X(_sslobj)                  \
    X(_start_shutdown)          \
    X(_stream_reader_wr)        \
    X(_transport)               \
    X(_transports)              \
    X(_waiter)                  \
    X(accept)                   \
    X(add_done_callback)        \
    X(add_reader)               \
    X(buffer_updated)           \
    X(call_at)                  \
    X(call_exception_handler)   \
    X(call_soon)                \
    X(cancel)                   \
    X(close)                    \
    X(connection_lost)          \
    X(connection_made)          \
    X(context)                  \
    X(coroutine_of)             \
    X(cr_await)                 \
    X(cr_suspended)             \
    X(create_future)            \
    X(data_received)            \
    X(datagram_received)        \
    X(do_handshake)             \
    X(done)                     \
    X(drop)                     \
    X(eof_received)             \
    X(fileno)                   \
    X(get_buffer)               \
    X(get_loop)                 \
    X(gi_yieldfrom)             \
    X(join)                     \
    X(msg)                      \
    X(name)                     \
    X(pause_reading)            \
    X(pause_writing)            \
    X(peername)                 \
    X(pending)                  \
    X(pipe)                     \
    X(poll)                     \
    X(read)                     \
    X(recv)                     \
    X(recv_into)                \
    X(recvfrom)                 \
    X(recvfrom_into)            \
    X(write)                    \
    X(release)                  \
    X(remove_done_callback)     \
    X(remove_reader)            \
    X(result)                   \
    X(resume_reading)           \
    X(resume_writing)           \
    X(run_forever)              \
    X(run_until_complete)       \
    X(send)                     \
    X(sendto)                   \
    X(set_result)               \
    X(setblocking)              \
    X(socket)                   \
    X(sockname)                 \
    X(spawn_on_running_loop)    \
    X(throw)                    \
    X(time)                     \
    X(_stuck)                   \
    X(uncancel)                 \
    X(unwrap)                   \
    X(cancelling)

/* Objects fetched from the standard library by pacpy_need_asyncio; NULL before. */
#define PACPY_ASYNCIO_OBJECTS(X)                                                          \
    X(CancelledError)       /* asyncio.CancelledError */                                  \
    X(InvalidStateError)    /* asyncio.InvalidStateError */                               \
    X(get_running_loop)     /* asyncio._get_running_loop: None outside */                 \
    X(current_tasks)        /* asyncio.tasks._current_tasks, before 3.14; else NULL */    \
    X(current_task)         /* asyncio.current_task */                                    \
    X(swap_current_task)    /* _asyncio._swap_current_task, from 3.14 on; else NULL */    \
    X(BufferedProtocol)     /* asyncio.BufferedProtocol */                                \
    X(TransportSocket)      /* asyncio.trsock.TransportSocket */                          \
    X(extract_stack)        /* asyncio.format_helpers.extract_stack */                    \
    X(IncompleteReadError)  /* asyncio.IncompleteReadError */                             \
    X(LimitOverrunError)    /* asyncio.LimitOverrunError */                               \
    X(StreamReader)         /* asyncio.StreamReader */                                    \
    X(StreamReaderProtocol) /* asyncio.StreamReaderProtocol */                            \
    X(stream_methods)       /* stream_reader.c: what they have unless they are changed */ \
    X(socket)               /* socket.socket */                                           \
    X(set_result)           /* asyncio.futures._set_result_unless_cancelled */            \
    X(support)              /* our own module pyasync_c._support: what C calls in Python */

/* Objects fetched from ssl, _ssl and asyncio.sslproto by pacpy_ssl_need (the first five) and
 * _use_sslproto; NULL before. */
#define PACPY_SSL_OBJECTS(X)                                         \
    X(Socket)       /* _ssl._SSLSocket, or None */                   \
    X(MemoryBIO)    /* ssl.MemoryBIO */                              \
    X(Object)       /* ssl.SSLObject */                              \
    X(object_read)  /* its read */                                   \
    X(object_write) /* its write */                                  \
    X(Protocol)     /* asyncio.sslproto.SSLProtocol */               \
    X(again)        /* asyncio.sslproto.SSLAgainErrors */            \
    X(DO_HANDSHAKE) /* those of asyncio.sslproto.SSLProtocolState */ \
    X(WRAPPED)                                                       \
    X(FLUSHING)                                                      \
    X(SHUTDOWN)

enum { PACPY_FREELIST_WARM = 4 };

/* A free list of Python objects of one type: linked through ob_type's place, so not tracked and
 * with no type reference while they stand in it. A few of it may be kept warm instead: as they are,
 * with their type, tracked, the list holding the one reference. Taking such a one costs a few
 * instructions, for futures that live no longer than one await. After gc.freeze() those few are out of
 * the collector's sight: a cycle through one of them stays until gc.unfreeze(). */
struct pacpy_freelist {
    PyObject *first;
    int length;
    int unused; /* the shortest that it has been since it was trimmed last */
    int warm_count;
    PyObject *warm[PACPY_FREELIST_WARM];
};

/* Which there are, and of what type. */
#define PACPY_FREELISTS(X)               \
    X(stop_iteration, StopIteration)     \
    X(yield_now, YieldNow)               \
    X(delay, Delay)                      \
    X(notified, Notified)                \
    X(oneshot_await, OneshotAwait)       \
    X(send, Send)                        \
    X(recv, Recv)                        \
    X(select, Select)                    \
    X(broadcast_recv, BroadcastRecv)     \
    X(acquire, Acquire)                  \
    X(acquire_permit, AcquirePermit)     \
    X(future_iter, FutureIter)           \
    X(immediate, Immediate)              \
    X(socket_operation, SocketOperation) \
    X(net_read, NetRead)                 \
    X(net_write, NetWrite)               \
    X(net_accept, NetAccept)             \
    X(net_datagram, NetDatagram)         \
    X(asyncio_future, AsyncioFuture)     \
    X(task, Task)                        \
    X(handle, CallbackHandle)            \
    X(timer_handle, TimerHandle)         \
    X(stream_read, StreamRead)

/* Long enough for a burst of tasks to find the memory of the one before it: new pages cost more
 * than all the rest of making a task. What a second does not use is given back bit by bit
 * (pacpy_freelists_trim). */
enum { PACPY_FREELIST_MAX = 65536, PACPY_FREELIST_TRIM = 1024 };

struct pacpy_state {
    PyObject *module;    /* borrowed */
    PyObject *pending;   /* the public PENDING */
    PyObject *suspended; /* what a leaf of ours yields to a task of ours: never seen by users */
    PyObject *nothing_to_await; /* future.c: what pacpy_nothing_to_await gives */
    PyObject *stop_reserve;     /* await_result.c: a StopIteration for when there is no memory */
#define X(name) PyTypeObject *name##_type;
    PACPY_TYPES(X)
    PACPY_ASYNCIO_TYPES(X)
#undef X
#define X(name) PyObject *str_##name;
    PACPY_NAMES(X)
#undef X
#define X(name) PyObject *asyncio_##name;
    PACPY_ASYNCIO_OBJECTS(X)
#undef X
#define X(name) PyObject *ssl_##name;
    PACPY_SSL_OBJECTS(X)
#undef X
#define X(name, type) struct pacpy_freelist name##_free;
    PACPY_FREELISTS(X)
#undef X
    uint64_t trimmed_ns; /* when the free lists were trimmed last */
    uint64_t next_task_id;
    PyObject *context_snapshot; /* context_snapshot.c: the last one taken, or NULL */
    PyObject
        *context_spare; /* likewise: a copy with the same variables, for the next to need one */
    bool contexts_are_opaque; /* likewise: it cannot be shared in this Python */
    PyObject *last_bridge;    /* the bridge used last, or NULL */
    PyObject *bridges;        /* loop -> Bridge, a weakref.WeakKeyDictionary, made on first use */
    PyObject *polled_once;    /* into_future.c: a function bound to its table */
    PyObject *net_reserve;    /* net_read.c: bytes for when there is no memory, or NULL */
    struct pacpy_graveyard *graveyard; /* graveyard.h; NULL once the module is being torn down */
};

/* The module holds a pointer to its state, and never frees it: when a whole interpreter's garbage
 * goes, objects may be destroyed after the module that made them, and they reach the state still.
 */
static inline struct pacpy_state *
pacpy_state_of(PyObject *module)
{
    return *(struct pacpy_state **)PyModule_GetState(module);
}

/* The state of the module that made `type` or a base of it; NULL and TypeError otherwise. Not in a
 * destructor. */
struct pacpy_state *pacpy_state_of_type(PyTypeObject *type);

/* Import what is needed of asyncio, and make the types that derive from it. 0, or -1 and an
 * exception. Cheap after the first time. */
int pacpy_need_asyncio(struct pacpy_state *st);

/* ImportError: this Python has no such private name of asyncio's, which cannot be done without. */
void pacpy_refuse_python(const char *owner, const char *name);

/* A name of a module of asyncio's: a new reference, or NULL; that ImportError if it is gone. */
PyObject *pacpy_asyncio_name(const char *module, const char *name);

/* Each file's part of module execution: make its types, add its functions. 0 or -1. */
int pacpy_await_result_exec(PyObject *module);
int pacpy_waker_exec(PyObject *module);
int pacpy_graveyard_exec(PyObject *module);
int pacpy_future_exec(PyObject *module);
int pacpy_into_future_exec(PyObject *module);
int pacpy_delay_exec(PyObject *module);
int pacpy_timeout_exec(PyObject *module);
int pacpy_notify_exec(PyObject *module);
int pacpy_channel_exec(PyObject *module);
int pacpy_oneshot_exec(PyObject *module);
int pacpy_mpsc_exec(PyObject *module);
int pacpy_broadcast_exec(PyObject *module);
int pacpy_watch_exec(PyObject *module);
int pacpy_end_listener_exec(PyObject *module);
int pacpy_join_exec(PyObject *module);
int pacpy_select_exec(PyObject *module);
int pacpy_cancellation_token_exec(PyObject *module);
int pacpy_acquire_exec(PyObject *module);
int pacpy_semaphore_exec(PyObject *module);
int pacpy_lock_exec(PyObject *module);
int pacpy_rwlock_exec(PyObject *module);
int pacpy_barrier_exec(PyObject *module);
int pacpy_join_set_exec(PyObject *module);
int pacpy_event_exec(PyObject *module);
int pacpy_once_cell_exec(PyObject *module);
int pacpy_socket_operation_exec(PyObject *module);
int pacpy_bridge_exec(PyObject *module);
int pacpy_net_read_exec(PyObject *module);
int pacpy_net_write_exec(PyObject *module);
int pacpy_net_connect_exec(PyObject *module);
int pacpy_net_stream_exec(PyObject *module);
int pacpy_net_listener_exec(PyObject *module);
int pacpy_net_udp_exec(PyObject *module);
int pacpy_net_framing_exec(PyObject *module);
int pacpy_net_copy_exec(PyObject *module);
int pacpy_net_tls_exec(PyObject *module);
int pacpy_eventloop_exec(PyObject *module);
int pacpy_listener_exec(PyObject *module);
int pacpy_stream_read_exec(PyObject *module);
int pacpy_ssl_object_exec(PyObject *module);
int pacpy_tls_protocol_exec(PyObject *module);
int pacpy_task_exec(PyObject *module);
int pacpy_completion_exec(PyObject *module);
int pacpy_promise_exec(PyObject *module);
int pacpy_c_future_exec(PyObject *module);
int pacpy_capi_exec(PyObject *module);
int pacpy_floor_exec(PyObject *module);

/* Each file's part of pacpy_need_asyncio. */
int pacpy_asyncio_future_make_types(struct pacpy_state *st);
int pacpy_task_make_types(struct pacpy_state *st); /* Task */
int pacpy_callback_handle_make_types(struct pacpy_state *st);
int pacpy_stream_reader_make_types(struct pacpy_state *st);
int pacpy_stream_transport_make_types(struct pacpy_state *st);
int pacpy_datagram_transport_make_types(struct pacpy_state *st);
int pacpy_pipe_transport_make_types(struct pacpy_state *st);

/* Make a heap type of `module` from `spec`, keep it in *slot, and if `name` is not NULL add it to
 * the module under that name. `base` may be NULL (object). 0 or -1. */
int pacpy_make_type(PyObject *module, PyType_Spec *spec, PyTypeObject *base, PyTypeObject **slot,
                    const char *name);

/* ---- free lists ----------------------------------------------------------------------------- */

/* An object of exactly `type` from the list or newly allocated: with one reference, not tracked;
 * its fields after the object header are as they were left (zero if new). NULL and MemoryError. */
PyObject *pacpy_freelist_alloc(struct pacpy_freelist *list, PyTypeObject *type);

/* In a destructor, all references of `op` given up and `op` untracked: keep it, or free it. Gives
 * up the reference to its type. Objects of a subclass are freed. */
void pacpy_freelist_free(struct pacpy_freelist *list, PyTypeObject *exact, PyObject *op);

/* A warm object: tracked, with one reference, its fields as they were left; NULL if there is none. */
static inline PyObject *
pacpy_freelist_take_warm(struct pacpy_freelist *list)
{
    while (list->warm_count > 0) {
        PyObject *op = list->warm[--list->warm_count];
        if (PAC_LIKELY(Py_REFCNT(op) == 1)) {
            return op;
        }
        Py_DECREF(op); /* somebody has found it through the collector's list */
    }
    return NULL;
}

/* In a destructor, first thing: keep `op`, still tracked, warm. It must be such that everything
 * that Python can do to it is harmless, and refer to nothing but its type. False if it is not kept.
 * What the collector is about to clear is not: it would find it in use. (The collector marks those
 * whose type has a finaliser, as all Futures have.) */
static inline bool
pacpy_freelist_keep_warm(struct pacpy_freelist *list, PyObject *op)
{
#if !defined(PAC_NO_FREELIST) && !defined(Py_GIL_DISABLED) && !defined(Py_REF_DEBUG)
    if (list->warm_count < PACPY_FREELIST_WARM && !PyObject_GC_IsFinalized(op)) {
        Py_SET_REFCNT(op, 1);
        list->warm[list->warm_count++] = op;
        return true;
    }
#endif
    return false;
}

/* Give back to the allocator what stood unused in the free lists for the last second; nothing if
 * that was done within it. For when there is nothing else to do. */
void pacpy_freelists_trim(struct pacpy_state *st, uint64_t now_ns);

/* ---- results of awaits ---------------------------------------------------------------------- */

/* Make StopIteration(value) the exception, for a tp_iternext that returns `value` (whose
 * reference is taken) as the result of an await; for None sets nothing. Always returns NULL. */
PyObject *pacpy_return_from_await(struct pacpy_state *st, PyObject *value);

/* After PyIter_Send has failed. A coroutine that runs out of memory while its frames are unwound
 * may fail without an exception; calls see to that, PyIter_Send does not. */
static inline void
pacpy_ensure_exception(void)
{
    if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_SystemError, "error return without exception set");
    }
}

#endif
