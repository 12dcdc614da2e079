#include "park.h"

static enum pac_status
wait_parked(struct pac_reactor *reactor, struct pac_inject *inject, uint64_t deadline_ns,
            const struct pac_park_hooks *hooks)
{
    if (hooks->before_wait != NULL) {
        hooks->before_wait(hooks->data);
    }
    enum pac_status status = pac_reactor_wait(reactor, deadline_ns);
    if (pac_inject_unpark(inject)) {
        pac_reactor_expect_unpark(reactor);
    }
    if (hooks->after_wait != NULL && !hooks->after_wait(hooks->data, status == PAC_INTERRUPTED)) {
        return PAC_INTERRUPTED;
    }
    return status == PAC_INTERRUPTED ? PAC_OK : status;
}

enum pac_status
pac_park(struct pac_reactor *reactor, struct pac_inject *inject, uint64_t deadline_ns,
         const struct pac_park_hooks *hooks, bool *waited)
{
    enum pac_status status;
    *waited = deadline_ns != 0 && pac_inject_park(inject);
    if (*waited) {
        status = wait_parked(reactor, inject, deadline_ns, hooks);
    }
    else {
        status = pac_reactor_wait(reactor, 0);
        if (status == PAC_INTERRUPTED) {
            status = PAC_OK;
        }
    }
    if (status == PAC_OK || status == PAC_INTERRUPTED) {
        pac_reactor_dispatch(reactor);
    }
    return status;
}
