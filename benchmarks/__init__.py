"""What `python -m pyasync_c bench` runs, and a few measurements that are programs of their own.

    shapes      what is measured, and how fast each has to be; *_shapes and *_tools spell
                them per dialect
    echo        network servers at the sizes and links of echo_case, echo_net those in our own
                names; echo_client is the process in C that asks them
    frameworks  who is compared
    harness     takes the measurements: fresh processes, interleaved rounds
    floor       the cheapest that a task switch can be
    memory      resident set, bytes per sleeping task, a million timers
    timers      how late sleeps end, and whether any ends early
    extensions  the example extensions against run_in_executor
    wakes       wakes from other threads, none of them lost
    connections what a connection takes in memory
    echo_cost   what a request costs in system calls and in instructions
    redis_servers  the example that speaks Redis's protocol, beside Redis
    applications   uvicorn and aiohttp under load

The last eight run by themselves: `python -m benchmarks.timers` in a checkout,
`python -m pyasync_c._benchmarks.timers` where pyasync_c is installed.
"""
