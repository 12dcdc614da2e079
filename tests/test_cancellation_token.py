"""Cancellation tokens: the tree, who is woken, and work that runs until cancelled."""

import asyncio
import gc
import sys
import threading
import warnings
import weakref

import pytest
import sync_machine
from helpers import CountingWaker, Manual, Worker, collect, every_loop, python, turns
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from test_join import LONG, Boom, Work, awaits, later, reports, until

import pyasync_c
from pyasync_c import PENDING, CancellationToken, join, ready

# ── the tree ─────────────────────────────────────────────────────────────────────────────────


def test_cancelling_reaches_all_below():
    root = CancellationToken()
    child, sibling = root.child_token(), root.child_token()
    grandchild = child.child_token()
    child.cancel()
    child.cancel()
    tokens = root, child, sibling, grandchild
    assert [token.is_cancelled() for token in tokens] == [False, True, False, True]
    assert child.child_token().is_cancelled()
    root.cancel()
    assert sibling.is_cancelled()


def test_dropping_does_not_cancel_and_children_move_up():
    root = CancellationToken()
    inner = root.child_token()
    leaf = inner.child_token()
    del inner
    collect()
    assert not leaf.is_cancelled()
    root.cancel()
    assert leaf.is_cancelled()
    orphan = CancellationToken().child_token()
    assert not orphan.is_cancelled()


def test_a_chain_of_a_hundred_thousand():
    newest = root = CancellationToken()
    chain = []
    for _ in range(100_000):
        newest = newest.child_token()
        chain.append(newest)
    root.cancel()
    assert newest.is_cancelled()
    del chain
    newest = CancellationToken()
    for _ in range(100_000):
        newest = newest.child_token()


def test_arguments_repr_and_weak_references():
    token = CancellationToken()
    for bad in (CancellationToken, token.cancel, token.cancelled, token.is_cancelled):
        with pytest.raises(TypeError):
            bad(1)
    del bad
    assert repr(token) == "<CancellationToken not cancelled>"
    waiting = token.cancelled()
    assert repr(waiting) == "<Cancelled not polled yet>"
    token.cancel()
    assert repr(token) == "<CancellationToken cancelled>"
    gone = weakref.ref(token)
    del token
    assert gone() is not None  # who waits keeps it
    del waiting
    assert gone() is None


class Tree(RuleBasedStateMachine):
    """Against a table of parents; waiters polled by hand."""

    tokens = Bundle("tokens")

    def __init__(self):
        super().__init__()
        self.table = {}  # number: [token or None, parent's number, cancelled]
        self.waiters = []  # (number, future, waker)

    def add(self, token, parent):
        number = len(self.table)
        self.table[number] = [token, parent, parent is not None and self.table[parent][2]]
        return number

    @rule(target=tokens)
    def new(self):
        return self.add(CancellationToken(), None)

    @rule(target=tokens, parent=tokens)
    def child(self, parent):
        if self.table[parent][0] is None:
            return self.new()
        return self.add(self.table[parent][0].child_token(), parent)

    @rule(number=tokens)
    def give_up(self, number):
        if any(waits_for == number for waits_for, _, _ in self.waiters):
            return  # kept by them
        token, parent, cancelled = self.table[number]
        self.table[number] = [None, parent, cancelled]
        del token
        for entry in self.table.values():
            if entry[1] == number:
                entry[1] = parent

    @rule(number=tokens, by_thread=st.booleans())
    def cancel(self, number, by_thread):
        token = self.table[number][0]
        if token is None:
            return
        sync_machine.call(token.cancel, in_a_thread=by_thread)
        self.table[number][2] = True
        for entry in self.table.values():  # parents are older, and so come first
            if entry[1] is not None and self.table[entry[1]][2]:
                entry[2] = True

    @rule(number=tokens, polled=st.booleans())
    def wait(self, number, polled):
        token, _, cancelled = self.table[number]
        if token is None:
            return
        future, counter = token.cancelled(), CountingWaker()
        if polled and not cancelled:
            assert future.poll(counter.context) is PENDING
        self.waiters.append((number, future, counter if polled and not cancelled else None))

    @rule(which=st.integers(0, 9), dropped=st.booleans())
    def finish(self, which, dropped):
        if which >= len(self.waiters):
            return
        number, future, counter = self.waiters.pop(which)
        cancelled = self.table[number][2]
        if dropped:
            future.drop()
        else:
            assert future.poll(CountingWaker().context) is (None if cancelled else PENDING)
        if counter is not None:
            assert counter.count == cancelled

    @invariant()
    def as_the_table_says(self):
        for token, _, cancelled in self.table.values():
            assert token is None or token.is_cancelled() == cancelled
        for number, _, counter in self.waiters:
            assert counter is None or counter.count == self.table[number][2]


TestTree = Tree.TestCase


def test_threads_cancel_while_children_are_made_and_dropped():
    """Also the thread side of the binding: a token is one object for all of them."""
    for _ in range(20):
        root = CancellationToken()
        made = []

        def make(root=root, made=made):
            held = root.child_token()
            for i in range(300):
                held = held.child_token() if i % 3 else root.child_token()
                held.cancelled()
            made.append(held)

        workers = [Worker(make) for _ in range(3)]
        canceller = Worker(root.cancel)
        for worker in (*workers, canceller):
            worker.result()
        assert all(token.is_cancelled() for token in made)


# ── waiting ──────────────────────────────────────────────────────────────────────────────────


@every_loop
@pytest.mark.parametrize("by_thread", [False, True])
def test_all_who_wait_are_woken(run, by_thread):
    async def main():
        root = CancellationToken()
        tokens = [root, root.child_token(), root.child_token().child_token()]
        tasks = [asyncio.ensure_future(awaits(tokens[i % 3].cancelled())) for i in range(100)]
        await turns()
        assert not any(task.done() for task in tasks)
        if by_thread:
            threading.Timer(0.002, root.cancel).start()
        else:
            root.cancel()
        assert await asyncio.gather(*tasks) == [None] * 100
        assert await root.cancelled() is None

    run(main())


@every_loop
def test_a_cancelled_wait_leaves_no_trace(run):
    async def main():
        token = CancellationToken()
        waiting = token.cancelled()
        task = asyncio.ensure_future(awaits(waiting))
        await turns()
        task.cancel()
        await asyncio.wait([task])
        assert repr(waiting) == "<Cancelled not polled yet>"
        token.cancel()
        assert await waiting is None
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await waiting

    run(main())


@every_loop
def test_a_loop_of_ready_awaits_lets_others_run(run):
    async def main():
        token, ran = CancellationToken(), []
        token.cancel()

        async def other():
            ran.append(1)

        task = asyncio.ensure_future(other())
        if run is not pyasync_c.run:
            return await task  # asyncio's tasks have no budget
        for _ in range(1000):
            await token.cancelled()
        assert ran

    run(main())


# ── run_until_cancelled ──────────────────────────────────────────────────────────────────────


@every_loop
def test_the_result_if_it_is_not_cancelled(run):
    async def main():
        token = CancellationToken()
        assert await token.run_until_cancelled(Work()("a")) == "a"
        assert await token.run_until_cancelled(ready(1)) == 1
        assert await token.run_until_cancelled(asyncio.ensure_future(Work()("b"))) == "b"
        with pytest.raises(Boom):
            await token.run_until_cancelled(Work()("x", 0, Boom()))

    run(main())


@every_loop
def test_none_once_it_is_cancelled_and_the_work_has_ended(run):
    async def main():
        seen, root, work = reports(), CancellationToken(), Work()
        token = root.child_token()
        by_thread = threading.Timer(0.003, root.cancel)
        first = asyncio.ensure_future(later(lambda: len(work.log) == 1, by_thread.start))
        assert await token.run_until_cancelled(work("a", LONG)) is None
        assert work.ended() == ["a"]
        token = CancellationToken()
        second = asyncio.ensure_future(later(lambda: len(work.log) == 4, token.cancel))
        assert await token.run_until_cancelled(join(work("b", LONG), work("c", LONG))) is None
        assert work.ended() == ["a", "b", "c"]
        await asyncio.gather(first, second)
        assert seen == []

    run(main())


@every_loop
def test_cancelled_already(run):
    async def main():
        token, work, manual = CancellationToken(), Work(), Manual()
        token.cancel()
        manual.set(1)
        assert await token.run_until_cancelled(work("never")) is None
        assert await token.run_until_cancelled(manual) is None
        assert work.log == []
        assert manual.polls == 0
        assert await manual == 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main())
        gc.collect()


@every_loop
def test_both_at_once_is_the_result(run):
    async def main():
        token, manual = CancellationToken(), Manual()
        task = asyncio.ensure_future(awaits(token.run_until_cancelled(manual)))
        await turns()
        token.cancel()
        manual.set("result")
        assert await task == "result"

    run(main())


@every_loop
def test_a_future_stays_usable(run):
    async def main():
        token, manual = CancellationToken(), Manual()
        task = asyncio.ensure_future(awaits(token.run_until_cancelled(manual)))
        await turns()
        token.cancel()
        assert await task is None
        manual.set(2)
        assert await manual == 2

    run(main())


@every_loop
def test_errors_of_the_end_are_reported(run):
    async def main():
        seen, token, error, work = reports(), CancellationToken(), Boom(), Work()
        cancels = asyncio.ensure_future(later(lambda: work.log, token.cancel))
        assert await token.run_until_cancelled(work("a", LONG, cleanup=error)) is None
        await cancels
        assert [context["exception"] for context in seen] == [error]

    run(main())


@every_loop
def test_the_task_is_cancelled(run):
    async def main():
        token, work = CancellationToken(), Work()
        task = asyncio.ensure_future(awaits(token.run_until_cancelled(work("a", LONG))))
        await until(lambda: work.log)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.ended() == ["a"]
        assert not token.is_cancelled()

    run(main())


def test_run_until_cancelled_wants_an_awaitable():
    for bad in (None, 1, Work):
        with pytest.raises(TypeError):
            CancellationToken().run_until_cancelled(bad)


def test_references_are_given_back():
    async def main():
        token, work, blocks = CancellationToken(), Work(), []
        for _ in range(6):
            for _ in range(200):
                child = token.child_token()
                await asyncio.gather(
                    awaits(child.run_until_cancelled(work(1, LONG))),
                    awaits(child.cancelled()),
                    cancel_soon(child),
                )
                await token.run_until_cancelled(work(1))
            work.log.clear()
            del child
            collect()
            blocks.append(sys.getallocatedblocks())
        assert blocks[-1] - blocks[2] < 100, blocks

    async def cancel_soon(token):
        await asyncio.sleep(0)
        token.cancel()

    pyasync_c.run(main())


def test_making_one_imports_no_asyncio():
    python("""if True:
        import sys, pyasync_c
        token = pyasync_c.CancellationToken()
        child = token.child_token()
        token.cancel()
        assert child.is_cancelled()
        child.cancelled(), pyasync_c.join(), pyasync_c.select(pyasync_c.ready(1))
        assert "asyncio" not in sys.modules
    """)
