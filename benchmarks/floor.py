"""The floor: the cheapest that switching to a Python task and back can be.

A loop in C sends into one coroutine that does nothing but `await yield_now()`, with no queue, no
context and no current task around it. All that a runtime costs comes on top.
"""

import importlib
import sys
from time import perf_counter


def floor_ns(seconds: float = 0.25) -> float | None:
    """Nanoseconds per send, best of three; None where the extension does not offer the loop."""
    core = importlib.import_module("pyasync_c._core")
    send = getattr(core, "_floor", None)
    if send is None:
        return None
    from pyasync_c import yield_now

    async def yields() -> None:
        while True:
            await yield_now()

    coroutine = yields()
    try:
        begin = perf_counter()
        send(coroutine, 10_000)
        n = max(10_000, int(10_000 * seconds / 3 / (perf_counter() - begin)))
        return min(float(send(coroutine, n)) for _ in range(3))
    finally:
        coroutine.close()


def main() -> int:
    floor = floor_ns()
    if floor is None:
        print("this build of pyasync_c does not offer the loop that measures it", file=sys.stderr)
        return 1
    print(f"floor: {floor:.1f} ns per send")
    return 0


if __name__ == "__main__":
    sys.exit(main())
