/* clock.c - the clocks and the allocator that the linker puts in the place of platform.c's
 * (--wrap): time goes by only here and in actions, so a run depends on nothing but its seed. */
#include "sim.h"

uint64_t __wrap_pac_clock_ns(void);
uint64_t __wrap_pac_ticks(void);
void *__wrap_pac_alloc(size_t size);
void *__real_pac_alloc(size_t size);

void
sim_pass_time(uint64_t ns)
{
    if (!sim.frozen) {
        uint64_t later_ns = pac_ns_add(sim.now_ns, ns);
        sim.now_ns = later_ns < SIM_LAST_NS ? later_ns : SIM_LAST_NS;
    }
}

uint64_t
__wrap_pac_clock_ns(void)
{
    if (sim_chance(4)) {
        sim_pass_time(sim_below(3000));
    }
    return sim.now_ns;
}

uint64_t
__wrap_pac_ticks(void)
{
    return sim.now_ns;
}

void *
__wrap_pac_alloc(size_t size)
{
    sim.allocations++;
    return __real_pac_alloc(size);
}
