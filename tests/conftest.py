import os

from hypothesis import settings

# No deadline: a shared machine may stall any single example. Under CI the examples are the same in
# every run, so that a change is judged by what it changed.
settings.register_profile("pyasync_c", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("pyasync_c")
