"""What an echo server is measured at."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One echo server and how it is asked."""

    kind: str
    """protocol, streams or sock in asyncio's names; in our own they are all pyasync_c.net."""
    link: str
    """tcp, unix or tls, which is over TCP."""
    size: int
    """Bytes of a message."""
    connections: int
    depth: int = 1
    """Messages under way on each: one is a question and its answer, more are a stream."""
