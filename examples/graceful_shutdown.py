"""A graceful shutdown: nobody begins anything new, all finish what they hold, until a deadline.

Shows: SIGTERM cancels a CancellationToken. Workers ask it only between two jobs, so a job that was
begun is finished; waiting for a job is given up without losing one. Who has not ended at the
deadline is cancelled, and still cleans up.

It runs on a virtual clock and sends itself the signal. `graceful_shutdown.py --by-hand` runs on the
real one until you send it: Ctrl-C, or `kill` with the number that it prints.
"""

import asyncio
import os
import signal
import sys
import time

import pyasync_c

GRACE = 2.0  # seconds
BY_HAND = "--by-hand" in sys.argv


def claim(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"does not hold: {what}")


def say(what: str) -> None:
    print(f"{pyasync_c.now() - began:6.2f} s  {what}")


class Service:
    def __init__(self) -> None:
        self.stopping = pyasync_c.CancellationToken()
        self.finished: list[int] = []
        self.abandoned: list[int] = []

    async def work(self, name: str, jobs: pyasync_c.Receiver[int]) -> str:
        while not self.stopping.is_cancelled():
            # A future of this package is awaited in place: given up, it has taken no job.
            job = await self.stopping.run_until_cancelled(jobs.recv())
            if job is None:
                break
            try:
                await pyasync_c.sleep(60 if job == 5 else 0.7)
            except asyncio.CancelledError:
                self.abandoned.append(job)
                say(f"{name} puts job {job} back")
                raise
            self.finished.append(job)
            say(f"{name} has finished job {job}")
        return name

    async def run(self, jobs: pyasync_c.Receiver[int]) -> None:
        """Until the token is cancelled, and for GRACE seconds more at the most."""
        async with pyasync_c.JoinSet[str]() as workers:
            for name in ("Ada", "Bob", "Cy"):
                workers.spawn(self.work(name, jobs), name=name)
            await self.stopping.cancelled()
            say(f"stopping; {GRACE} seconds to finish")
            try:
                async with pyasync_c.timeout(GRACE):
                    async for worker in workers:
                        say(f"{worker.result()} has left")
            except TimeoutError:
                say("time is up")
                workers.cancel_all()
                async for worker in workers:
                    claim(worker.cancelled(), "who is late was cancelled")
                    say(f"{worker.get_name()} was sent home")


async def order(sender: pyasync_c.Sender[int], sent: list[int]) -> None:
    """What the customers do, who do not know that we close."""
    async for _ in pyasync_c.interval(0.4):
        sent.append(len(sent) + 1)
        await sender.send(sent[-1])


async def main() -> None:
    service = Service()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, service.stopping.cancel)
    if BY_HAND:
        say(f"stop me: kill {os.getpid()}")
    else:
        loop.call_later(1.8, os.kill, os.getpid(), signal.SIGTERM)

    sender, jobs = pyasync_c.channel(100)
    sent: list[int] = []
    customers = pyasync_c.spawn(order(sender, sent))
    await service.run(jobs)
    customers.cancel()
    sender.close()
    left = [job async for job in jobs]
    finished, abandoned = len(service.finished), len(service.abandoned)
    say(f"{finished} jobs finished, {abandoned} put back, {len(left)} not begun")
    everything = [*service.finished, *service.abandoned, *left]
    claim(sorted(everything) == sent, "no job was lost, none was done twice")
    if not BY_HAND:
        claim(pyasync_c.now() == 1.8 + GRACE, "it took until the deadline and no longer")


if __name__ == "__main__":
    began = time.monotonic() if BY_HAND else 0.0  # a virtual clock begins at 0
    with pyasync_c.Runtime(clock="monotonic" if BY_HAND else "virtual") as runtime:
        runtime.run(main())
