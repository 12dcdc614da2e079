"""Programs with threads: what any thread may do to a loop that runs, parks, or closes meanwhile.
`make tsan-python` runs them with the extension under ThreadSanitizer."""

import asyncio
import concurrent.futures
import threading

import pytest
from helpers import Worker, run_asyncio

import pyasync_c
from pyasync_c import PENDING

THREADS = 4
ROUNDS = 300

every_run = pytest.mark.parametrize("run", [pyasync_c.run, run_asyncio], ids=["ours", "asyncio"])


class Turnstile(pyasync_c.Future):
    """Ready once it has been passed so often; hands out its newest waker."""

    def __init__(self, times):
        self.left = times
        self.waker = None
        self.ready_to_wake = threading.Event()

    def poll(self, cx):
        self.waker = cx.waker.clone()
        self.ready_to_wake.set()
        return PENDING if self.left > 0 else "through"


async def gathered(awaitables):
    return [await one for one in [asyncio.ensure_future(await_it(a)) for a in awaitables]]


async def await_it(awaitable):
    return await awaitable


@every_run
def test_waking(run):
    """Clones, drops and wakes of the wakers of one task, from all threads at once."""
    turnstile = Turnstile(THREADS)
    lock = threading.Lock()

    def wake():
        assert turnstile.ready_to_wake.wait(60)
        for _ in range(ROUNDS):
            waker = turnstile.waker.clone()
            waker.wake()
            assert waker.will_wake(waker)
            del waker
        with lock:
            turnstile.left -= 1
        turnstile.waker.wake()

    workers = [Worker(wake) for _ in range(THREADS)]
    assert run(await_it(turnstile)) == "through"
    for worker in workers:
        worker.result()


@every_run
def test_notifying(run):
    notify, done = pyasync_c.Notify(), pyasync_c.Notify()
    waited = 0
    over = False

    async def wait():
        nonlocal waited
        while not over:
            await notify.notified()
            waited += 1

    def storm():
        for _ in range(ROUNDS):
            notify.notify_one()
            notify.notify_last()
            notify.notify_waiters()

    def storms():
        nonlocal over
        workers = [Worker(storm) for _ in range(THREADS)]
        for worker in workers:
            worker.result()
        over = True
        done.notify_one()

    async def main():
        tasks = [asyncio.ensure_future(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        director = Worker(storms)
        await done.notified()
        while not all(task.done() for task in tasks):
            notify.notify_waiters()
            await asyncio.sleep(0)
        director.result()

    run(main())
    assert waited > 0


@every_run
def test_sending(run):
    """Senders and receivers that block in threads, with tasks among them: each value comes once."""
    tx, rx = pyasync_c.channel(3)
    unbounded, to_main = pyasync_c.unbounded_channel()

    def send(k):
        mine = tx.clone()
        for i in range(ROUNDS):
            mine.blocking_send((k, i))
        mine.close()

    def receive():
        try:
            while True:
                unbounded.send(rx.blocking_recv())
        except pyasync_c.ChannelClosed:
            pass

    async def send_too():
        for i in range(ROUNDS):
            await tx.send(("task", i))

    async def receive_too():
        received = []
        async for value in to_main:
            received.append(value)
        return received

    async def main():
        receiving = asyncio.ensure_future(receive_too())
        senders = [Worker(send, k) for k in range(THREADS)]
        receivers = [Worker(receive) for _ in range(2)]
        await send_too()
        while not all(not sender.is_alive() for sender in senders):
            await pyasync_c.sleep(0.001)
        tx.close()
        while not all(not receiver.is_alive() for receiver in receivers):
            await pyasync_c.sleep(0.001)
        unbounded.close()
        for worker in senders + receivers:
            worker.result()
        return await receiving

    received = run(main())
    want = [(k, i) for k in [*range(THREADS), "task"] for i in range(ROUNDS)]
    assert sorted(received, key=str) == sorted(want, key=str)


@every_run
def test_one_value_and_many_receivers(run):
    """oneshot, broadcast and watch, sent by threads."""

    async def main():
        pairs = [pyasync_c.oneshot() for _ in range(ROUNDS)]
        sent, got = pyasync_c.broadcast(ROUNDS)
        others = [sent.subscribe() for _ in range(2)]
        watched, watching = pyasync_c.watch(0)

        def send():
            for k, (tx, _) in enumerate(pairs):
                tx.send(k)
                sent.send(k)
                watched.send(k)
            sent.close()
            watched.close()

        def receive(rx):
            received = []
            try:
                while True:
                    received.append(rx.blocking_recv())
            except pyasync_c.ChannelClosed:
                return received

        workers = [Worker(receive, rx) for rx in others]
        sender = Worker(send)
        assert [await rx for _, rx in pairs] == list(range(ROUNDS))
        assert [k async for k in got] == list(range(ROUNDS))
        try:
            while True:
                await watching.changed()
        except pyasync_c.ChannelClosed:
            assert watching.value == ROUNDS - 1
        sender.result()
        for worker in workers:
            assert worker.result() == list(range(ROUNDS))

    run(main())


@every_run
def test_cancelling(run):
    """Tokens cancelled by threads while children are made, awaited and dropped."""

    async def main():
        for _ in range(ROUNDS // 10):
            root = pyasync_c.CancellationToken()
            children = [root.child_token() for _ in range(THREADS)]

            def cancel(token, children=children):
                token.child_token().cancel()
                token.cancel()
                return token.is_cancelled() and token.child_token().is_cancelled()

            waits = [asyncio.ensure_future(await_it(token.cancelled())) for token in children]
            runs = [
                asyncio.ensure_future(await_it(token.run_until_cancelled(pyasync_c.pending())))
                for token in children
            ]
            dropped = [token.cancelled() for token in children]
            await asyncio.sleep(0)
            workers = [Worker(cancel, token) for token in [*children, root]]
            del dropped
            await asyncio.gather(*waits, *runs)
            results = [worker.result() for worker in workers]
            assert all(results)

    run(main())


@every_run
def test_permits(run):
    """Semaphores, locks and events that threads open for tasks."""
    semaphore, gate = pyasync_c.Semaphore(0), pyasync_c.Event()
    passed = 0

    async def enter():
        nonlocal passed
        await gate.wait()
        async with semaphore:
            passed += 1

    def open_gates():
        for _ in range(ROUNDS):
            gate.set()
            gate.clear()
            semaphore.add_permits(1)
            permit = semaphore.try_acquire()
            if permit is not None:
                permit.release()
        gate.set()

    async def main():
        tasks = [asyncio.ensure_future(enter()) for _ in range(50)]
        workers = [Worker(open_gates) for _ in range(THREADS)]
        await asyncio.gather(*tasks)
        for worker in workers:
            worker.result()

    run(main())
    assert passed == 50
    assert semaphore.available_permits == ROUNDS * THREADS


@pytest.mark.parametrize("new_loop", [pyasync_c.new_event_loop, asyncio.new_event_loop])
def test_call_soon_threadsafe(new_loop):
    loop = new_loop()
    called = []

    def call():
        for _ in range(ROUNDS):
            loop.call_soon_threadsafe(called.append, threading.get_ident())
        loop.call_soon_threadsafe(finish)

    finished = 0

    def finish():
        nonlocal finished
        finished += 1
        if finished == THREADS:
            loop.stop()

    workers = [Worker(call) for _ in range(THREADS)]
    loop.run_forever()
    loop.close()
    for worker in workers:
        worker.result()
    assert len(called) == THREADS * ROUNDS


def test_spawning_by_handles():
    async def double(k):
        await pyasync_c.sleep(0.0001)
        return 2 * k

    def spawn(handle):
        futures = [handle.spawn(double(k)) for k in range(ROUNDS // 3)]
        cancelled = handle.spawn(pyasync_c.pending())
        cancelled.cancel()
        assert [future.result(60) for future in futures] == [2 * k for k in range(ROUNDS // 3)]
        with pytest.raises(concurrent.futures.CancelledError):
            cancelled.result(60)

    async def main():
        handle = pyasync_c.current_runtime().handle()
        workers = [Worker(spawn, handle) for _ in range(THREADS)]
        while any(worker.is_alive() for worker in workers):
            await pyasync_c.sleep(0.001)
        for worker in workers:
            worker.result()

    pyasync_c.run(main())


@every_run
def test_a_thread_pool(run):
    async def main():
        results = await gathered(pyasync_c.spawn_blocking(pow, k, 2) for k in range(ROUNDS))
        assert results == [k * k for k in range(ROUNDS)]

    run(main())


def test_runtimes_made_and_closed_on_several_threads_at_once():
    async def work(notify):
        task = pyasync_c.spawn(notify.notified())
        await pyasync_c.sleep(0.0001)
        notify.notify_one()
        await task
        pyasync_c.spawn(pyasync_c.sleep(1000))
        return threading.get_ident()

    def live():
        for _ in range(ROUNDS // 10):
            with pyasync_c.Runtime() as runtime:
                assert runtime.run(work(pyasync_c.Notify())) == threading.get_ident()

    workers = [Worker(live) for _ in range(THREADS)]
    for worker in workers:
        worker.result()


def test_what_threads_share_while_runtimes_close():
    """Wakers, a Notify and a channel are used on by threads whose runtimes have gone."""
    shared, wakers = pyasync_c.Notify(), []
    tx, rx = pyasync_c.unbounded_channel()
    over = False

    def keep(cx):
        wakers.append(cx.waker.clone())
        return PENDING

    async def main():
        for awaitable in (shared.notified(), rx.recv(), pyasync_c.poll_fn(keep)):
            pyasync_c.spawn(awaitable)
        await pyasync_c.sleep(0.0005)

    def live():
        for _ in range(ROUNDS // 15):
            pyasync_c.run(main())

    def storm():
        while not over:
            for waker in wakers[-5:]:
                waker.wake()
            shared.notify_one()
            tx.send(1)

    storms = [Worker(storm) for _ in range(2)]
    for worker in [Worker(live) for _ in range(2)]:
        worker.result()
    over = True
    for worker in storms:
        worker.result()


def test_a_delay_that_moves_between_threads():
    """Polled by hand on other threads than that of its runtime: reset, and dropped there."""

    async def main():
        delays = [pyasync_c.sleep(0.05) for _ in range(ROUNDS)]
        woken = threading.Event()
        for delay in delays:
            delay.poll(pyasync_c.Context(pyasync_c.Waker(woken.set)))

        def move(mine):
            for k, delay in enumerate(mine):
                if k % 3 == 0:
                    delay.reset(0.001)
                elif k % 3 == 1:
                    delay.drop()
                else:
                    delay.poll(pyasync_c.Context(pyasync_c.Waker(woken.set)))

        workers = [Worker(move, delays[k::THREADS]) for k in range(THREADS)]
        while not woken.is_set() or any(worker.is_alive() for worker in workers):
            await pyasync_c.sleep(0.001)
        for worker in workers:
            worker.result()

    pyasync_c.run(main())
