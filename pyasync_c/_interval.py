"""Interval: a tick every so often, and what to do about those that were missed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

from . import _core, _support

# How late a tick may be before it counts as missed, as in Tokio.
_TOLERANCE_S = 0.005


class _Tick(_core.Future[float]):
    """One tick: ready at the interval's next deadline, with that deadline."""

    def __init__(self, interval: Interval) -> None:
        self._interval = interval
        self._over = False

    def poll(self, cx: Any, /) -> Any:
        if self._over:
            raise _support.reused(self)  # polled by hand: this would be the next tick
        due = self._interval._poll_tick(cx)
        if due is None:
            return _core.PENDING
        self._over = True
        return due

    def drop(self) -> None:
        self._interval._forget()


class Interval(AsyncIterator[float]):
    """Ticks at `period` seconds; made by interval().

    tick(), and iterating with `async for`, give the time at which each tick was due, on now()'s
    clock. The first is due at once. A cancelled tick is not lost: the next await gets it. For one
    task at a time. Stands for tokio::time::Interval.
    """

    def __init__(self, period: float, missed: str) -> None:
        self._period = period
        self._missed = missed
        self._next: float | None = None
        self._delay: Any = None

    __reduce__ = _support.cannot_pickle

    def __repr__(self) -> str:
        return f"<Interval {self._period}s missed={self._missed!r}>"

    @property
    def period(self) -> float:
        """Seconds from one tick to the next."""
        return self._period

    def tick(self) -> _core.Future[float]:
        """A future that is ready when the next tick is due, with the time at which it was due.

        In seconds on now()'s clock. On the thread of the loop. Stands for Tokio's Interval::tick.
        """
        return _Tick(self)

    def reset(self) -> None:
        """The next tick is due one period from now. On the thread of the loop.

        Stands for Tokio's Interval::reset.
        """
        self._next = _core.now() + self._period
        if self._delay is not None:
            self._delay.reset(self._period)  # somebody may be waiting on it

    def __aiter__(self) -> Interval:
        return self

    def __anext__(self) -> _core.Future[float]:
        return _Tick(self)

    def _poll_tick(self, cx: Any) -> float | None:
        if self._next is None:
            self._next = _core.now()
        due = self._next
        if _core.now() < due:
            if self._delay is None:
                self._delay = _core.sleep_until(due)
            if self._delay.poll(cx) is _core.PENDING:
                return None
        self._delay = None
        self._next = self._after(due, _core.now())
        return due

    def _after(self, due: float, now: float) -> float:
        if now <= due + _TOLERANCE_S or self._missed == "burst":
            return due + self._period
        if self._missed == "delay":
            return now + self._period
        return due + ((now - due) // self._period + 1) * self._period

    def _forget(self) -> None:
        delay, self._delay = self._delay, None
        if delay is not None:
            delay.drop()


def interval(period: float, /, *, missed: Literal["burst", "delay", "skip"] = "burst") -> Interval:
    """An Interval that ticks every `period` seconds, at once for the first time.

    `missed` says what follows a tick that came late: "burst" makes up for all that were missed, one
    after the other; "delay" counts from the late one; "skip" leaves them out and keeps the rhythm.
    Raises ValueError if period is not positive or NaN, or missed none of these; TypeError if they
    are no number and no str. Stands for Tokio's interval.
    """
    if not isinstance(missed, str):
        raise TypeError(f"interval: missed must be a str, not {type(missed).__name__}")
    if missed not in ("burst", "delay", "skip"):
        raise ValueError(f"interval: missed must be 'burst', 'delay' or 'skip', not {missed!r}")
    seconds = _core._seconds(period, "interval: period")
    if not seconds > 0:
        raise ValueError(f"interval: period must be positive, not {period!r}")
    return Interval(seconds, missed)
