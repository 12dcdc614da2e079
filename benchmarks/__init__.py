"""What `python -m pyasync_c bench` runs, and a few measurements that are programs of their own.

    shapes      what is measured, and how fast each has to be; *_shapes and *_tools spell
                them per dialect
    echo        network servers, and echo_client, the process that asks them
    frameworks  who is compared
    harness     takes the measurements: fresh processes, interleaved rounds
    floor       the cheapest that a task switch can be
    memory      resident set, bytes per sleeping task, a million timers
    timers      how late sleeps end, and whether any ends early
    wakes       wakes from other threads, none of them lost

The last three run by themselves: `python -m benchmarks.timers` in a checkout,
`python -m pyasync_c._benchmarks.timers` where pyasync_c is installed.
"""
