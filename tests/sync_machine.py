"""What the tests of the synchronisation tools share: futures that are polled by hand."""

from concurrent.futures import ThreadPoolExecutor

from helpers import CountingWaker

from pyasync_c import PENDING

# One for all calls: starting a thread for each takes most of a program's time.
OTHER_THREAD = ThreadPoolExecutor(1)


class Polled:
    """A future with a waker of its own: poll() is its value, PENDING or the exception."""

    def __init__(self, future):
        self.future = future
        self.counting = CountingWaker()
        self.value = PENDING

    def poll(self):
        try:
            self.value = self.future.poll(self.counting.context)
        except Exception as error:
            self.value = error
        return self.value

    @property
    def wakes(self):
        return self.counting.count

    def drop(self, by_hand):
        """As a task that is cancelled does it; or as the collector does."""
        if by_hand:
            self.future.drop()
        self.future = None


class Line:
    """The model of a list whose waiters are woken all at once: who is in it, who was woken."""

    def __init__(self):
        self.waiting = set()
        self.wakes = {}

    def knows(self, one):
        self.wakes[one] = 0

    def wake_all(self):
        for one in self.waiting:
            self.wakes[one] += 1
        self.waiting.clear()

    def looked(self, one, value):
        """A poll of `one` has come to `value`, or to PENDING."""
        if value is PENDING:
            self.waiting.add(one)
        else:
            self.waiting.discard(one)

    def check(self):
        assert {one: one.wakes for one in self.wakes} == self.wakes


def polled(futures):
    """All of them, polled once and pending."""
    all_polled = [Polled(future) for future in futures]
    assert [one.poll() for one in all_polled] == [PENDING] * len(all_polled)
    return all_polled


def call(f, *args, in_a_thread=False):
    """f(*args), in another thread or in this one."""
    return OTHER_THREAD.submit(f, *args).result(60) if in_a_thread else f(*args)
