"""Streams under random splits and faults: what comes is what went, to the byte.

A seed makes a plan for each connection: how much goes each way, in which pieces, with which pauses,
and how it ends: by an end of both halves, or by a reset or an abort somewhere in the middle. Both
sides go at once. A stream that ends has the hash of what was sent; a broken one is a beginning of
it. The seed is printed; PAC_NET_SEED chooses one, PAC_NET_CONNECTIONS how many connections.
"""

import asyncio
import contextlib
import hashlib
import os
import random

import pytest
from net_faces import places
from net_peer import counts, listening

SEED = int(os.environ.get("PAC_NET_SEED") or random.SystemRandom().randrange(1 << 32))
CONNECTIONS = max(16, int(os.environ.get("PAC_NET_CONNECTIONS", "0")) // 20)
"""Of each face, loop and link."""
GROUP = 8
"""So many at once."""
STREAM = random.Random(9).randbytes(1 << 19)
SIZES = [0, 1, 2, 100, 4096, 65536, 65537, 200_000, 1 << 19]
PIECES = [1, 7, 100, 1460, 4096, 16384, 65536, 262_144]
ENDS = ["both end"] * 4 + ["peer resets", "end aborts", "peer closes"]


class Plan:
    """What one connection does; made by a random.Random and by nothing else."""

    def __init__(self, random, link):
        self.there = STREAM[: random.choice(SIZES)]
        """What the face's end sends."""
        self.back = STREAM[-random.choice(SIZES) :] if random.random() < 0.9 else b""
        self.ending = random.choice(ENDS)
        if link.endswith("unix") and self.ending == "peer resets":
            self.ending = "peer closes"
        self.small = random.random() < 0.5
        self.role = random.choice(["server", "client"])
        self.seed = random.randrange(1 << 32)
        self.cut = random.random()
        """Where a broken stream breaks."""

    def __repr__(self):
        sizes = f"{len(self.there)} there, {len(self.back)} back"
        return f"<{self.role}, {sizes}, {self.ending} at {self.cut:.2f}, seed {self.seed}>"


async def in_pieces(random, data, send):
    """Send data in pieces of random sizes, now and then after a pause."""
    at = 0
    size = random.choice(PIECES)
    while at < len(data):
        if random.random() < 0.1:
            size = random.choice(PIECES)
        # Small pieces of a long stream would take for ever.
        n = random.randint(1, max(size, len(data) // 200))
        await send(data[at : at + n])
        at += n
        if random.random() < 0.2:
            await asyncio.sleep(random.choice((0, 0, 0, 0.0005)))


async def taking(random, receive, into):
    """Receive to the end into a bytearray, in pieces of random sizes."""
    while True:
        data = await receive(random.choice(PIECES))
        if not data:
            return
        into += data
        if random.random() < 0.1:
            await asyncio.sleep(0)


async def end_plays(plan, end, got, can_half_close):
    """The face's side. True if it has come to its end."""
    rng = random.Random(plan.seed)
    there = plan.there
    if plan.ending == "end aborts":
        there = there[: int(len(there) * plan.cut)]
    reading = asyncio.ensure_future(taking(rng, end.read, got))
    try:
        await in_pieces(rng, there, end.write)
        if plan.ending == "end aborts":
            end.abort()
            return False
        if can_half_close:
            await end.shutdown()
        await reading
        await end.close()
        return True
    except OSError:
        return False
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.exception()


async def peer_plays(plan, peer, got, can_half_close):
    rng = random.Random(plan.seed + 1)
    back = plan.back
    if plan.ending.startswith("peer"):
        back = back[: int(len(back) * plan.cut)]
    if can_half_close:
        reading = asyncio.ensure_future(taking(rng, peer.receive, got))
    else:
        # Who ends first ends both halves: so only when all has come.
        reading = asyncio.ensure_future(take_exactly(rng, peer.receive, got, len(plan.there)))
    try:
        await in_pieces(rng, back, peer.send)
        if plan.ending == "peer resets":
            peer.reset()
            return False
        if plan.ending == "peer closes":
            peer.close()
            return False
        if can_half_close:
            await peer.shutdown()
            await reading
        else:
            await reading
            await peer.shutdown()
        return True
    except OSError:
        return False
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.exception()


async def take_exactly(random, receive, into, size):
    while len(into) < size and (data := await receive(random.choice(PIECES))):
        into += data


def compare(got, sent, is_whole, what):
    counts["streams compared"] += 1
    counts["bytes compared"] += len(got)
    if is_whole:
        assert len(got) == len(sent), f"{what}: {len(got)} of {len(sent)} bytes"
        assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest(), what
    else:
        counts["broken streams compared"] += 1
        assert len(got) <= len(sent), what
        assert hashlib.sha256(got).digest() == hashlib.sha256(sent[: len(got)]).digest(), what


async def play(place, plan):
    can_half_close = place.link in place.face.half_closing
    at_end, at_peer = bytearray(), bytearray()
    async with place.pair(plan.role, small=plan.small) as (end, peer):
        end_is_over, peer_is_over = await asyncio.gather(
            end_plays(plan, end, at_end, can_half_close),
            peer_plays(plan, peer, at_peer, can_half_close),
        )
    is_whole = plan.ending == "both end"
    if is_whole:
        assert end_is_over and peer_is_over, plan
    compare(at_end, plan.back, is_whole, plan)
    compare(at_peer, plan.there, is_whole, plan)


@pytest.mark.timeout(max(120, CONNECTIONS))
@places()
def test_what_comes_is_what_went(place):
    rng = random.Random(f"{SEED} {place.face.name} {place.link}")
    plans = [Plan(rng, place.link) for _ in range(CONNECTIONS)]
    print(f"PAC_NET_SEED={SEED}")
    for i in range(0, len(plans), GROUP):

        async def main(group=plans[i : i + GROUP]):
            await asyncio.gather(*[play(place, plan) for plan in group])

        place.run(main())


@places()
def test_both_ends_are_of_the_same_face(place):
    """The same without a Peer: an echo, asked by many at once on the same loop."""

    async def main():
        rng = random.Random(f"{SEED} {place.face.name} {place.link} same")
        listener = listening(place.link, place.folder)
        address = listener.getsockname()
        async with place.face.listening(listener, place.server_tls) as accept:
            async with asyncio.TaskGroup() as tasks:
                asking = [tasks.create_task(ask(address, rng)) for _ in range(GROUP)]
                for _ in asking:
                    tasks.create_task(echo(await accept()))

    async def echo(end):
        with contextlib.suppress(ConnectionError):
            while data := await end.read():
                await end.write(data)
        with contextlib.suppress(ConnectionError):
            await end.close()

    async def ask(address, rng):
        end = await place.face.connect(address, place.client_tls)
        data = STREAM[: rng.choice(SIZES)]
        got = bytearray()
        sending = asyncio.ensure_future(in_pieces(random.Random(1), data, end.write))
        await take_exactly(rng, end.read, got, len(data))
        await sending
        compare(got, data, True, place)
        await end.close()

    print(f"PAC_NET_SEED={SEED}")
    place.run(main())
