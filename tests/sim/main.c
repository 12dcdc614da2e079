/* main.c - programs from seeds, one after the other: what happens in them, and the command line.
 *
 *     sim [--from SEED] [--seeds COUNT] [--steps STEPS] [--trace] [--no-memory]
 *
 * --no-memory runs each program again and again, letting one allocation fail, and then all from
 * there on, for each in turn. */
#include "node.h"
#include "sim.h"
#include "task.h"
#include "thing.h"

#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct sim sim;

/* ---- failure ---------------------------------------------------------------------------------- */

static uint64_t failing_allocation;
static bool fails_once;
static unsigned steps_asked;

/* Only what a signal handler may call. */
static void
say_how_to_repeat(int signal_number)
{
    char text[200];
    int length =
        snprintf(text, sizeof text,
                 "seed %llu, step %u%s: to repeat it: tests/sim/run.py --seed %llu "
                 "--steps %u%s\n",
                 (unsigned long long)sim.seed, sim.steps,
                 signal_number == SIGALRM ? ", stands still" : "", (unsigned long long)sim.seed,
                 sim.step_limit, failing_allocation != 0 ? " --no-memory" : "");
    ssize_t ignored = write(STDERR_FILENO, text, (size_t)length);
    (void)ignored;
    signal(SIGABRT, SIG_DFL);
    abort();
}

void
sim_fail(const char *file, int line, const char *format, ...)
{
    va_list arguments;
    const char *name = strrchr(file, '/');
    va_start(arguments, format);
    fprintf(stderr, "%s:%d: ", name != NULL ? name + 1 : file, line);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    if (failing_allocation != 0) {
        fprintf(stderr, "allocation %llu fails%s\n", (unsigned long long)failing_allocation,
                fails_once ? "" : ", and all after it");
    }
    va_end(arguments);
    say_how_to_repeat(0);
    abort();
}

/* ---- what happens ----------------------------------------------------------------------------- */

static void
let_time_pass(void)
{
    static const uint64_t spans[] = {1000, 1000000, 200000000, (uint64_t)1 << 36,
                                     (uint64_t)1 << 50};
    sim_pass_time(sim_below(spans[sim_chance(8) ? sim_below(5) : sim_below(3)]));
}

/* By the executor's thread or by another one. */
static void
act(bool calm)
{
    struct pac_scheduler *before = pac_current_scheduler;
    bool elsewhere = sim.elsewhere;
    sim.elsewhere = elsewhere || sim_chance(3);
    if (sim.elsewhere) {
        pac_executor_leave(NULL);
    }
    sim.depth++;
    switch (sim_below(8)) {
        case 0:
            node_act();
            break;
        case 1:
        case 2:
        case 3:
            tasks_act();
            break;
        case 4:
            let_time_pass();
            break;
        default:
            things_act(calm);
    }
    sim.depth--;
    sim.elsewhere = elsewhere;
    pac_executor_leave(before);
}

bool
sim_step(void)
{
    if (sim.sweeping || sim.depth > 0) {
        return true;
    }
    if (sim.quiet) {
        return false;
    }
    if (sim.steps >= sim.step_limit) {
        tasks_interrupt();
        return false;
    }
    sim.steps++;
    things_check();
    if (sim_chance(8)) {
        tasks_check();
    }
    if (sim_chance(16)) {
        tasks_sweep();
    }
    act(false);
    return true;
}

void
sim_poke(void)
{
    if (sim.reentrant && !sim.sweeping && !sim.quiet && sim.depth < 2 &&
        sim_chance(sim.poke_one_in) && sim.steps < sim.step_limit) {
        act(true);
    }
}

/* ---- a program -------------------------------------------------------------------------------- */

/* Anywhere, and right before the moments at which a level of the wheel comes round. */
static uint64_t
random_beginning(void)
{
    switch (sim_below(4)) {
        case 0:
            return sim_below((size_t)1 << 45);
        case 1:
            return PAC_NEVER - ((uint64_t)1 << 52) - sim_below(1 << 20);
        default: {
            uint64_t top = (uint64_t)1 << (PAC_WHEEL_TICK_BITS + 6 * (1 + sim_below(8)) % 50);
            return top * (1 + sim_below(3)) - sim_below(1 << 18);
        }
    }
}

static void
check_counts(void)
{
    SIM_CHECK(pac_atomic_load(&pac_debug_counts.tasks, PAC_RELAXED) == 0, "tasks are left");
    SIM_CHECK(pac_atomic_load(&pac_debug_counts.timers, PAC_RELAXED) == 0, "timers are left");
    SIM_CHECK(pac_atomic_load(&pac_debug_counts.waiters, PAC_RELAXED) == 0, "waiters are left");
    SIM_CHECK(pac_atomic_load(&pac_debug_counts.wakers, PAC_RELAXED) == 0, "wakers are left");
    SIM_CHECK(pac_atomic_load(&pac_debug_counts.allocations, PAC_RELAXED) == 0,
              "memory is left: %d blocks",
              (int)pac_atomic_load(&pac_debug_counts.allocations, PAC_RELAXED));
}

static void
run_program(uint64_t seed, unsigned steps)
{
    sim = (struct sim){.seed = seed, .random = {seed}, .step_limit = steps, .tracing = sim.tracing};
    alarm(20);
    sim.now_ns = random_beginning();
    sim.reentrant = sim_chance(2);
    sim.poke_one_in = 1 + (unsigned)sim_below(6);
    sim.batch = 1 + (unsigned)sim_below(sim_chance(2) ? 1 : SIM_FDS);
    sim.budget = sim_chance(2) ? 0 : 1 + (unsigned)sim_below(4);
    sim_reactors_reset();
    nodes_init();
    things_init();
    if (tasks_init()) {
        while (sim.steps < steps) {
            (void)sim_step();
            tasks_run();
        }
        if (sim_chance(2)) {
            sim.quiet = true;
            things_wake();
            tasks_run_all();
            things_check();
            tasks_check();
            tasks_sweep();
        }
    }
    sim.quiet = sim_chance(2);
    sim.step_limit += 1000; /* wakers may let things happen still */
    tasks_close();
    sim.quiet = true;
    nodes_fini();
    things_fini();
    tasks_fini();
    pac_alloc_fail_after(0, true);
    check_counts();
}

/* Each allocation fails, once and for good. */
static unsigned
run_without_memory(uint64_t seed, unsigned steps)
{
    unsigned runs = 1;
    run_program(seed, steps);
    for (uint64_t n = 1, last = sim.allocations; n <= last; n++) {
        for (int once = 0; once < 2; once++, runs++) {
            failing_allocation = n;
            fails_once = once;
            pac_alloc_fail_after(n, once);
            run_program(seed, steps);
        }
    }
    failing_allocation = 0;
    return runs;
}

int
main(int argc, char **argv)
{
    uint64_t from = 1, seeds = 100, steps = 1000, polls = 0, runs = 0;
    bool no_memory = false;
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--from") == 0 && has_value) {
            from = strtoull(argv[++i], NULL, 10);
        }
        else if (strcmp(argv[i], "--seeds") == 0 && has_value) {
            seeds = strtoull(argv[++i], NULL, 10);
        }
        else if (strcmp(argv[i], "--steps") == 0 && has_value) {
            steps = strtoull(argv[++i], NULL, 10);
        }
        else if (strcmp(argv[i], "--trace") == 0) {
            sim.tracing = true;
        }
        else if (strcmp(argv[i], "--no-memory") == 0) {
            no_memory = true;
        }
        else {
            fprintf(stderr, "unknown argument: %s\n", argv[i]);
            return 2;
        }
    }
    steps_asked = (unsigned)steps;
    signal(SIGABRT, say_how_to_repeat);
    signal(SIGSEGV, say_how_to_repeat);
    signal(SIGALRM, say_how_to_repeat);
    for (uint64_t seed = from; seed < from + seeds; seed++) {
        if (no_memory) {
            runs += run_without_memory(seed, (unsigned)steps);
        }
        else {
            run_program(seed, (unsigned)steps);
            runs++;
        }
        polls += sim.steps;
    }
    printf("%llu programs, %llu steps\n", (unsigned long long)runs, (unsigned long long)polls);
    return 0;
}
