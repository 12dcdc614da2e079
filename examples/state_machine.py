"""What an async function is made into.

Shows: the same function twice, once as a state machine written by hand, once by `async def`. Both
wait for a gate and then count it as passed. Polled side by side, they take the same path: State0,
State1 for as long as the gate is shut, and Terminated. There is no executor here: polling is a mere
method call.
"""

import inspect
import sys

from pyasync_c import PENDING, Context, Future, PendingType, into_future, noop_waker


def claim(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"does not hold: {what}")


class Gate(Future[None]):
    """What they wait for."""

    def __init__(self) -> None:
        self.is_open = False
        self.drops = 0

    def poll(self, cx: Context, /) -> None | PendingType:
        self.waker = cx.waker.clone()  # a gate that anybody waits for keeps the newest waker
        return None if self.is_open else PENDING

    def drop(self) -> None:
        self.drops += 1


class ByHand(Future[int]):
    """A function that waits for a gate and returns how many it has passed."""

    def __init__(self, gate: Gate) -> None:
        self.state = "State0"
        self.gate = gate
        self.passed = 0

    def poll(self, cx: Context, /) -> int | PendingType:
        if self.state == "State0":
            self.state = "State1"
        if self.gate.poll(cx) is PENDING:
            return PENDING
        self.passed += 1
        self.state = "Terminated"
        return self.passed

    def drop(self) -> None:
        if self.state == "State1":
            self.gate.drop()
        self.state = "Terminated"


async def by_async_def(gate: Gate) -> int:
    """The same function."""
    passed = 0
    await gate
    passed += 1
    return passed


class SideBySide:
    """Both of them, polled together."""

    def __init__(self) -> None:
        self.gates = Gate(), Gate()
        self.hand = ByHand(self.gates[0])
        self.coroutine = by_async_def(self.gates[1])
        self.future = into_future(self.coroutine)

    def open_gates(self) -> None:
        for gate in self.gates:
            gate.is_open = True

    def compare(self, after: str, expected: str) -> None:
        states = {"CORO_CREATED": "State0", "CORO_SUSPENDED": "State1", "CORO_CLOSED": "Terminated"}
        made = states[inspect.getcoroutinestate(self.coroutine)]
        print(f"{after}: by hand {self.hand.state}, by async def {made}")
        claim(self.hand.state == made, "both stand at one point")
        claim(made == expected, f"and it is {expected}")

    def poll(self, expected: object, state: str) -> None:
        cx = Context(noop_waker())
        a, b = self.hand.poll(cx), self.future.poll(cx)
        print(f"polled: by hand {a!r}, by async def {b!r}")
        claim(a == expected and b == expected, f"both answer {expected!r}")
        self.compare("polled", state)


def main() -> None:
    both = SideBySide()
    both.compare("made", "State0")
    both.poll(PENDING, "State1")
    both.poll(PENDING, "State1")  # nothing has happened: nothing changes
    both.open_gates()
    both.compare("gates opened", "State1")  # opening a gate moves nobody: polling does
    both.poll(1, "Terminated")

    print("again, dropped in the middle")
    both = SideBySide()
    both.poll(PENDING, "State1")
    both.hand.drop()
    both.future.drop()
    both.compare("dropped", "Terminated")
    claim(both.hand.passed == 0, "the gate was not passed")
    claim([gate.drops for gate in both.gates] == [1, 1], "and was dropped, once")


if __name__ == "__main__":
    main()
