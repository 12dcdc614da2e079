import os

from hypothesis import HealthCheck, Phase, settings

# No test sets how many programs it runs: the profile does, for all of them. No deadline: a shared
# machine may stall any single example. Under CI the examples are the same in every run, so that a
# change is judged by what it changed.
settings.register_profile(
    "pyasync_c",
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=list(HealthCheck),
)
# What tests/run_programs.py chooses.
settings.register_profile(
    "deep",
    settings.get_profile("pyasync_c"),
    max_examples=10_000,
    stateful_step_count=25,
    phases=[Phase.generate, Phase.shrink],
    database=None,
    print_blob=True,
)
settings.load_profile(os.environ.get("PAC_HYPOTHESIS", "pyasync_c"))
