/* tutorial.h - what the programs of the tutorial share: saying what happens, and
 * when; and stopping if it is not what was claimed. Checked at run time in every
 * build, unlike an assertion. Callable from any thread. */
#ifndef PAC_TUTORIAL_H
#define PAC_TUTORIAL_H

#include "executor.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* All that has to happen before a delay is over takes longer under valgrind, beside other work. */
#ifdef TESTING_VALGRIND
#define NS_PER_MS UINT64_C(20000000)
#else
#define NS_PER_MS UINT64_C(1000000)
#endif

static inline uint64_t
milliseconds(unsigned n)
{
    return n * NS_PER_MS;
}

/* The time is that of the clock of all deadlines, without its whole minutes. */
__attribute__((format(printf, 1, 2))) static inline void
show(const char *format, ...)
{
    char line[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    uint64_t us = pac_clock_ns() / 1000 % 60000000;
    printf("%2u.%06u  %s\n", (unsigned)(us / 1000000), (unsigned)(us % 1000000), line);
}

static inline void
claim(bool holds, const char *what)
{
    if (!holds) {
        fflush(stdout);
        fprintf(stderr, "does not hold: %s\n", what);
        exit(1);
    }
    show("  holds: %s", what);
}

static inline const char *
poll_name(enum pac_poll result)
{
    return result == PAC_READY ? "READY" : "PENDING";
}

/* The whole thread sleeps: for helper threads, never for a future. */
static inline void
block_for_ns(uint64_t ns)
{
    struct timespec time = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    while (nanosleep(&time, &time) != 0) {}
}

/* ---- an executor, and running one future on it ---------------------------------------------- */

static inline struct pac_executor *
new_executor(void)
{
    enum pac_status status;
    struct pac_executor *ex = pac_executor_new(NULL, &status);
    if (ex == NULL) {
        claim(false, "an executor can be made");
    }
    return ex;
}

/* A wake-up that is lost shows in nothing but that the program never ends. */
static inline void
give_up(int signal_number)
{
    static const char message[] = "does not hold: the program comes to an end\n";
    (void)signal_number;
    _exit(write(STDERR_FILENO, message, sizeof message - 1) < 0 ? 2 : 1);
}

static inline void
run_to_end(struct pac_executor *ex, struct pac_future *root)
{
    signal(SIGALRM, give_up);
    alarm(10);
    if (pac_executor_block_on(ex, root) != PAC_OK) {
        claim(false, "the executor runs its root to the end");
    }
}

static inline void
end_executor(struct pac_executor *ex)
{
    pac_executor_close(ex);
    pac_executor_free(ex);
}

#endif
