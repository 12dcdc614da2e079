"""Runtime(clock="virtual"): time that passes only when nothing else happens."""

import asyncio
import concurrent.futures
import math
import os
import signal
import socket
import sys
import threading
import time

import pytest
from helpers import turns

import pyasync_c


def run(main, **options):
    with pyasync_c.Runtime(clock="virtual", **options) as runtime:
        return runtime.run(main)


def deadlock(main):
    """The message of the deadlock that main must end in."""
    with pyasync_c.Runtime(clock="virtual") as runtime:
        with pytest.raises(RuntimeError, match="deadlock") as caught:
            runtime.run(main)
    return str(caught.value)


# ---- one clock for everything


def test_it_starts_at_zero_and_stands_still_while_tasks_run():
    async def main():
        loop = asyncio.get_running_loop()
        assert pyasync_c.now() == loop.time() == 0.0
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            await pyasync_c.yield_now()
        assert pyasync_c.now() == loop.time() == 0.0

    run(main())


WAYS_TO_WAIT = {
    "asyncio.sleep": asyncio.sleep,
    "sleep": lambda s: pyasync_c.sleep(s),
    "sleep_until": lambda s: pyasync_c.sleep_until(pyasync_c.now() + s),
    "wait_for": lambda s: _timed_out(asyncio.wait_for(pyasync_c.pending(), s)),
    "asyncio.timeout": lambda s: _in_timeout(asyncio.timeout, s),
    "timeout": lambda s: _in_timeout(pyasync_c.timeout, s),
    "timeout_at": lambda s: _in_timeout(lambda s: pyasync_c.timeout_at(pyasync_c.now() + s), s),
    "asyncio.timeout_at": lambda s: _in_timeout(
        lambda s: asyncio.timeout_at(asyncio.get_running_loop().time() + s), s
    ),
    "call_later": lambda s: _called("call_later", s),
    "call_at": lambda s: _called("call_at", asyncio.get_running_loop().time() + s),
    "asyncio.wait": lambda s: asyncio.wait([asyncio.ensure_future(_forever())], timeout=s),
    "reset": lambda s: _reset(s),
}


async def _forever():
    await pyasync_c.pending()


async def _timed_out(aw):
    with pytest.raises(TimeoutError):
        await aw


async def _in_timeout(timeout, seconds):
    with pytest.raises(TimeoutError):
        async with timeout(seconds):
            await pyasync_c.pending()


async def _called(method, *args):
    done = asyncio.Event()
    getattr(asyncio.get_running_loop(), method)(*args, done.set)
    await done.wait()


async def _reset(seconds):
    delay = pyasync_c.sleep(9999)
    delay.reset(seconds)
    await delay


@pytest.mark.parametrize("way", WAYS_TO_WAIT)
def test_every_way_to_wait_takes_its_time_to_the_nanosecond(way):
    async def main():
        for expected in (0.1, 0.30000000000000004, 0.6, 1.0, 3601.0, 3601.000000001):
            expected = round(expected, 9)
            await WAYS_TO_WAIT[way](round(expected - pyasync_c.now(), 9))
            assert pyasync_c.now() == asyncio.get_running_loop().time() == expected

    began = time.monotonic()
    run(main())
    assert time.monotonic() - began < 60


def test_an_interval_keeps_its_rhythm():
    async def main():
        ticks = []
        async for tick in pyasync_c.interval(0.25):
            ticks.append((tick, pyasync_c.now()))
            if len(ticks) == 5:
                return ticks

    assert run(main()) == [(t, t) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]


def test_what_waits_for_a_time_that_floats_round_gets_there():
    async def main():
        await pyasync_c.sleep(0.1)
        when = pyasync_c.now() + 0.2
        assert when > 0.3
        while pyasync_c.now() < when:
            await pyasync_c.sleep_until(when)
        assert pyasync_c.now() == pytest.approx(0.3, abs=2e-9)

    run(main())


@pytest.mark.parametrize(("seconds", "ns"), [(1e-12, 1), (1e-9, 1), (1.5e-9, 2), (2.000001e-9, 3)])
def test_a_part_of_a_nanosecond_counts_as_a_whole_one(seconds, ns):
    async def main():
        await pyasync_c.sleep(seconds)
        return pyasync_c.now()

    assert run(main()) == ns / 1e9


def test_sleeping_for_zero_or_less_takes_a_turn_and_no_time():
    async def main():
        for seconds in (0, -1, 0.0, -math.inf):
            await pyasync_c.sleep(seconds)
            await asyncio.sleep(seconds)
        await pyasync_c.sleep_until(-5)
        assert pyasync_c.now() == 0.0
        await pyasync_c.sleep(1e-9)
        assert pyasync_c.now() == 1e-9

    run(main())


def test_deadlines_come_in_order_however_far_away():
    seen = []

    async def sleeper(seconds):
        await pyasync_c.sleep(seconds)
        seen.append(seconds)
        assert pyasync_c.now() == seconds

    async def main():
        async with asyncio.TaskGroup() as group:
            for n in (7, 3, 9, 1, 0, 8, 2, 6, 4, 5):
                group.create_task(sleeper(10.0 ** (n - 1)))

    run(main())
    assert seen == [10.0 ** (n - 1) for n in range(10)]


def test_infinity_never_comes():
    async def main():
        async with asyncio.timeout(1e9):
            await pyasync_c.sleep(math.inf)

    with pytest.raises(TimeoutError):
        run(main())
    text = deadlock(pyasync_c.sleep(math.inf))
    assert "<Delay forever pending>" in text


def test_a_delay_tells_what_is_left_on_that_clock():
    async def main():
        delay = pyasync_c.sleep(5)
        waiter = pyasync_c.spawn(delay)
        await pyasync_c.sleep(2)
        assert repr(delay) == "<Delay 3s pending>"
        waiter.cancel()

    run(main())


def test_a_delay_may_be_reset_between_two_runs():
    with pyasync_c.Runtime(clock="virtual") as runtime:
        delays = []

        async def begin():
            delays.append(pyasync_c.sleep(5))
            pyasync_c.spawn(delays[0])
            await turns()

        async def end():
            await pyasync_c.sleep(3)
            assert not delays[0].is_elapsed()
            await pyasync_c.sleep(1)
            assert delays[0].is_elapsed()

        runtime.run(begin())
        assert repr(delays[0]) == "<Delay 5s pending>"
        delays[0].reset(4)
        runtime.run(end())


def test_two_runs_are_the_same():
    async def main():
        log = []

        async def worker(n):
            for i in range(20):
                await asyncio.sleep((n * 7 + i * 3) % 11 / 10)
                log.append((n, i, pyasync_c.now()))

        async with asyncio.TaskGroup() as group:
            for n in range(10):
                group.create_task(worker(n))
        return log

    assert run(main()) == run(main())


def test_time_goes_on_in_the_next_run():
    with pyasync_c.Runtime(clock="virtual") as runtime:
        runtime.run(asyncio.sleep(1))
        runtime.run(asyncio.sleep(2))
        assert runtime.get_loop().time() == 3.0


def test_slow_callbacks_and_metrics_are_of_the_real_clock(caplog):
    async def main():
        asyncio.get_running_loop().slow_callback_duration = 0.05
        await asyncio.sleep(1000)
        time.sleep(0.12)
        await pyasync_c.yield_now()

    with pyasync_c.Runtime(clock="virtual", debug=True) as runtime:
        runtime.run(main())
        assert runtime.metrics().slow_polls == 1
        assert runtime.metrics().parks == 0
    slow = [r for r in caplog.records if "took" in r.message]
    assert len(slow) == 1 and " took 0." in slow[0].message


# ---- advance


def test_advance_moves_the_clock_and_timers_run_with_the_next_turn():
    runtime = pyasync_c.Runtime(clock="virtual")

    async def main():
        log = []
        loop = asyncio.get_running_loop()
        for at in (3, 1, 2):
            loop.call_later(at, lambda at=at: log.append((at, pyasync_c.now())))
        runtime.advance(2.5)
        assert pyasync_c.now() == 2.5 and log == []
        await pyasync_c.yield_now()
        await pyasync_c.yield_now()
        assert log == [(1, 2.5), (2, 2.5)]
        runtime.advance(0)
        await turns()
        assert len(log) == 2 and pyasync_c.now() == 2.5

    with runtime:
        runtime.run(main())
        runtime.advance(1)
        assert runtime.get_loop().time() == 3.5


@pytest.mark.parametrize(
    "seconds, error",
    [(-1, ValueError), (math.nan, ValueError), (math.inf, ValueError), (-math.inf, ValueError)]
    + [("1", TypeError), (None, TypeError), (1j, TypeError), (10**400, OverflowError)],
)
def test_advance_refuses(seconds, error):
    with pyasync_c.Runtime(clock="virtual") as runtime:
        with pytest.raises(error):
            runtime.advance(seconds)
        assert runtime.get_loop().time() == 0.0


def test_advance_needs_a_virtual_clock_that_is_open_and_ours():
    with pyasync_c.Runtime() as runtime, pytest.raises(RuntimeError, match="virtual"):
        runtime.advance(1)
    runtime = pyasync_c.Runtime(clock="virtual")

    async def main():
        with concurrent.futures.ThreadPoolExecutor() as pool:
            with pytest.raises(RuntimeError, match="another thread"):
                pool.submit(runtime.advance, 1).result()

    runtime.run(main())
    runtime.close()
    with pytest.raises(RuntimeError, match="closed"):
        runtime.advance(1)


def test_advance_by_ages():
    with pyasync_c.Runtime(clock="virtual") as runtime:
        runtime.advance(1e300)
        runtime.advance(1)
        assert runtime.get_loop().time() == pytest.approx(2**64 / 1e9)
        runtime.run(asyncio.sleep(0))


@pytest.mark.parametrize(
    "options, error",
    [({"clock": "paused"}, ValueError), ({"clock": 1}, TypeError), ({"clock": None}, TypeError)],
)
@pytest.mark.parametrize("make", [pyasync_c.Runtime, pyasync_c.new_event_loop])
def test_a_clock_that_is_none(make, options, error):
    with pytest.raises(error, match="clock must be"):
        make(**options)


# ---- the world outside


def threads_ways():
    def work():
        time.sleep(0.03)
        return "done"

    return {
        "spawn_blocking": lambda: pyasync_c.spawn_blocking(work),
        "to_thread": lambda: asyncio.to_thread(work),
        "run_in_executor": lambda: asyncio.get_running_loop().run_in_executor(None, work),
    }


@pytest.mark.parametrize("way", ["spawn_blocking", "to_thread", "run_in_executor", "of one's own"])
def test_no_jump_while_a_blocking_thread_is_out(way):
    async def main():
        ways = threads_ways()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            ways["of one's own"] = lambda: asyncio.get_running_loop().run_in_executor(
                pool, time.sleep, 0.03
            )
            async with asyncio.timeout(0.001):
                await ways[way]()
            assert pyasync_c.now() == 0.0
        await asyncio.sleep(5)
        assert pyasync_c.now() == 5.0

    run(main())


def test_several_threads_and_one_that_was_given_up():
    async def main():
        first = asyncio.create_task(asyncio.to_thread(time.sleep, 0.05))
        await pyasync_c.yield_now()
        first.cancel()
        await asyncio.gather(*[asyncio.to_thread(time.sleep, 0.01) for _ in range(4)])
        assert pyasync_c.now() == 0.0
        with pytest.raises(asyncio.CancelledError):
            await first
        began = time.monotonic()
        await asyncio.sleep(1)  # the first thread is out still
        assert pyasync_c.now() == 1.0
        return time.monotonic() - began

    run(main())


def test_a_thread_that_raises_gives_the_clock_free():
    async def main():
        for _ in range(20):
            with pytest.raises(ZeroDivisionError):
                await asyncio.to_thread(lambda: 1 / 0)
        await asyncio.sleep(10)
        return pyasync_c.now()

    assert run(main()) == 10.0


def test_work_that_is_cancelled_before_it_began_gives_the_clock_free():
    async def main():
        loop = asyncio.get_running_loop()
        release = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            busy = loop.run_in_executor(pool, release.wait, 60)
            queued = loop.run_in_executor(pool, time.sleep, 60)
            queued.cancel()
            release.set()
            await busy
        await asyncio.sleep(10)
        return pyasync_c.now()

    assert run(main()) == 10.0


def test_the_clock_waits_for_the_result_too():
    """Not only for the thread: whose word comes first is the pool's affair."""

    class Work(concurrent.futures.Future):
        def _invoke_callbacks(self):
            for callback in reversed(self._done_callbacks):
                callback(self)
                time.sleep(0.05)

    class Pool(concurrent.futures.Executor):
        def submit(self, f, /, *args):
            work = Work()
            threading.Timer(0.02, lambda: work.set_result(f(*args))).start()
            return work

    async def main():
        async with asyncio.timeout(1):
            return await asyncio.get_running_loop().run_in_executor(Pool(), abs, -5)

    assert run(main()) == 5


def test_name_resolution_holds_the_clock():
    async def main():
        async with asyncio.timeout(0.000001):
            found = await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)
        assert found and pyasync_c.now() == 0.0

    run(main())


def test_a_wake_from_a_thread_wins_over_a_jump():
    runtime = pyasync_c.Runtime(clock="virtual")
    log = []

    async def main():
        handle = runtime.handle()

        def from_thread():
            handle.call_soon(lambda: log.append(("call_soon", pyasync_c.now())))
            handle.spawn(asyncio.sleep(0)).add_done_callback(
                lambda _: log.append(("spawn", runtime.get_loop().time()))
            )

        thread = threading.Thread(target=from_thread)
        thread.start()
        thread.join()
        await asyncio.sleep(1)
        log.append(("slept", pyasync_c.now()))

    with runtime:
        runtime.run(main())
    assert log == [("call_soon", 0.0), ("spawn", 0.0), ("slept", 1.0)]


def test_a_thread_of_ones_own_is_waited_for_before_a_deadlock_is_said():
    async def main():
        notify = pyasync_c.Notify()

        def later():
            time.sleep(0.2)
            notify.notify_one()

        threading.Thread(target=later).start()
        await notify.notified()
        return pyasync_c.now()

    assert run(main()) == 0.0


def test_a_thread_of_ones_own_that_ends_without_a_word():
    async def main():
        threading.Thread(target=time.sleep, args=(0.1,)).start()
        await pyasync_c.pending()

    assert "Task-" in deadlock(main())


def test_sockets_are_served_before_time_passes():
    async def main():
        async def serve(reader, writer):
            writer.write(await reader.readexactly(3))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"abc")
            async with asyncio.timeout(None):
                assert await reader.read() == b"abc"
            writer.close()
        return pyasync_c.now()

    assert run(main()) == 0.0


def test_descriptors_are_looked_at_before_each_jump():
    async def main():
        log = []
        a, b = socket.socketpair()
        with a, b:
            loop = asyncio.get_running_loop()
            loop.add_reader(a, lambda: log.append((a.recv(1), loop.time())))
            b.send(b"1")
            await asyncio.sleep(1)
            b.send(b"2")
            await asyncio.sleep(1)
            loop.remove_reader(a)
        return log

    assert run(main()) == [(b"1", 0.0), (b"2", 1.0)]


def test_with_no_deadline_it_waits_for_a_descriptor():
    async def main():
        a, b = socket.socketpair()
        with a, b:
            a.setblocking(False)
            timer = threading.Timer(0.1, b.send, [b"x"])
            timer.daemon = True
            timer.start()
            return await asyncio.get_running_loop().sock_recv(a, 1)

    assert run(main()) == b"x"


def test_with_no_deadline_it_waits_for_a_signal():
    log = []

    async def main():
        loop = asyncio.get_running_loop()
        came = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, came.set)
        timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR1])
        timer.daemon = True
        timer.start()
        await came.wait()
        log.append("came")
        loop.remove_signal_handler(signal.SIGUSR1)
        await pyasync_c.pending()

    deadlock(main())
    assert log == ["came"]


def test_a_child_process():
    async def main():
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print('hello')", stdout=asyncio.subprocess.PIPE
        )
        out, _ = await child.communicate()
        silent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import time; time.sleep(0.1)"
        )
        return out, await silent.wait()

    assert run(main()) == (b"hello\n", 0)


def test_the_pool_is_shut_down_without_a_word_of_time():
    """asyncio.Runner gives the pool 300 s, which must not pass in no time."""
    started = threading.Event()

    async def main():
        asyncio.get_running_loop().run_in_executor(None, lambda: started.set() or time.sleep(0.1))
        while not started.is_set():
            await pyasync_c.yield_now()

    with asyncio.Runner(loop_factory=lambda: pyasync_c.new_event_loop(clock="virtual")) as runner:
        runner.run(main())


def test_it_can_be_interrupted_while_it_jumps():
    async def main():
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        try:
            while True:
                await asyncio.sleep(1)
        finally:
            signal.signal(signal.SIGALRM, before)

    with pytest.raises(KeyboardInterrupt):
        run(main())


# ---- deadlock


def test_a_deadlock_names_the_tasks_and_what_they_wait_for():
    class Stubborn(pyasync_c.Future):
        def poll(self, cx):
            return pyasync_c.PENDING

        def __repr__(self):
            raise ZeroDivisionError

    async def inner():
        await pyasync_c.Notify().notified()

    async def main():
        await pyasync_c.sleep(2.5)
        asyncio.create_task(asyncio.Event().wait(), name="event")
        asyncio.create_task(inner(), name="notify")
        pyasync_c.spawn(Stubborn(), name="stubborn")
        pyasync_c.spawn(pyasync_c.sleep(math.inf), name="sleeper")
        await asyncio.get_running_loop().create_future()

    text = deadlock(main())
    assert text.startswith("deadlock: nothing is left to wait for, at 2.5 s of the virtual clock\n")
    lines = {line.split("'")[1]: line for line in text.splitlines()[1:]}
    assert len(lines) == 5
    assert "waiting for <AsyncioFuture pending" in lines["event"]
    assert ".inner at " in lines["notify"] and "waiting for <Notified" in lines["notify"]
    assert lines["stubborn"].endswith("waiting for Stubborn")
    assert lines["sleeper"].endswith("waiting for <Delay forever pending>")
    first = next(iter(lines.values()))
    assert ".main at " in first and f"{__file__}:" in first


def test_a_deadlock_of_many_tasks_is_told_in_few_lines():
    async def main():
        tasks = [asyncio.create_task(_forever()) for _ in range(50)]
        await asyncio.gather(*tasks)

    text = deadlock(main())
    assert text.endswith("and 31 more tasks") and text.count("\n") == 21


def test_a_runtime_goes_on_after_a_deadlock():
    with pyasync_c.Runtime(clock="virtual") as runtime:
        event = asyncio.Event()
        with pytest.raises(RuntimeError, match="deadlock"):
            runtime.run(event.wait())

        async def main():
            event.set()
            await asyncio.sleep(1)
            return len(asyncio.all_tasks())

        assert runtime.run(main()) == 1  # the waiter has ended


def test_closing_cancels_what_the_deadlock_left():
    ended = []

    async def stuck():
        try:
            await pyasync_c.pending()
        finally:
            await asyncio.sleep(1)
            ended.append(pyasync_c.now())

    deadlock(stuck())
    assert ended == [1.0]


def test_a_loop_that_runs_for_ever_with_nothing_to_do():
    loop = pyasync_c.new_event_loop(clock="virtual")
    with pytest.raises(RuntimeError, match="deadlock"):
        loop.run_forever()
    loop.close()


def test_a_foreign_task_is_on_the_clock_too():
    async def work():
        await pyasync_c.sleep(3)
        await asyncio.sleep(4)
        return pyasync_c.now()

    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.Task(work(), loop=loop)

    assert run(main()) == 7.0


def test_the_real_clock_is_as_ever():
    async def main():
        loop = asyncio.get_running_loop()
        assert abs(loop.time() - time.monotonic()) < 60
        assert type(loop) is pyasync_c.EventLoop

    for make in (lambda: pyasync_c.Runtime(clock="monotonic"), pyasync_c.Runtime):
        with make() as runtime:
            runtime.run(main())


def test_a_scheduler_for_the_class_is_refused_and_leaves_the_class_as_it_was():
    async def main():
        with pytest.raises(RuntimeError, match="virtual clock keeps its own scheduler"):
            type(asyncio.get_running_loop()).run_forever = print  # as nest_asyncio.apply() does
        await pyasync_c.sleep(3600)
        return "fine"

    for _ in range(2):
        with pyasync_c.Runtime(clock="virtual") as runtime:
            assert runtime.run(main()) == "fine"
