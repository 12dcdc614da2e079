/* state_machine.c - what an async function is made into.
 *
 * Shows: the same function twice, once as a state machine written by hand, once by the
 * macros of async.h. Both wait for a gate and then count it as passed. Polled side by
 * side, they take the same path: State0, State1 for as long as the gate is shut, and
 * Terminated. There is no executor here: polling is a mere function call.
 */
#define _POSIX_C_SOURCE 200809L
#include "async.h"
#include "tutorial.h"

#include <string.h>

/* ---- what they wait for --------------------------------------------------------------------- */

struct gate {
    struct pac_future future;
    bool open;
    struct pac_waker waker; /* of the newest poll */
    int drops;
};

static enum pac_poll
gate_poll(struct pac_future *future, struct pac_context *cx)
{
    struct gate *gate = PAC_CONTAINER_OF(future, struct gate, future);
    if (gate->open) {
        return PAC_READY;
    }
    struct pac_waker old = gate->waker;
    gate->waker = pac_waker_clone(cx->waker);
    pac_waker_drop(&old);
    return PAC_PENDING;
}

static void
gate_drop(struct pac_future *future)
{
    struct gate *gate = PAC_CONTAINER_OF(future, struct gate, future);
    pac_waker_drop(&gate->waker);
    gate->drops++;
}

static const struct pac_future_vtable gate_vtable = {gate_poll, gate_drop};

static void
gate_init(struct gate *gate)
{
    *gate = (struct gate){.future = {&gate_vtable}};
}

/* ---- by hand -------------------------------------------------------------------------------- */

enum state { STATE0, STATE1, TERMINATED };

struct by_hand {
    struct pac_future future;
    enum state state;
    struct gate gate;
    int passed;
};

static enum pac_poll
by_hand_poll(struct pac_future *future, struct pac_context *cx)
{
    struct by_hand *self = PAC_CONTAINER_OF(future, struct by_hand, future);
    for (;;) {
        switch (self->state) {
            case STATE0:
                gate_init(&self->gate);
                self->state = STATE1;
                break;
            case STATE1:
                if (pac_future_poll(&self->gate.future, cx) == PAC_PENDING) {
                    return PAC_PENDING;
                }
                pac_future_drop(&self->gate.future);
                self->passed++;
                self->state = TERMINATED;
                break;
            case TERMINATED:
                return PAC_READY;
        }
    }
}

static void
by_hand_drop(struct pac_future *future)
{
    struct by_hand *self = PAC_CONTAINER_OF(future, struct by_hand, future);
    if (self->state == STATE1) {
        pac_future_drop(&self->gate.future);
    }
    self->state = TERMINATED;
}

static const struct pac_future_vtable by_hand_vtable = {by_hand_poll, by_hand_drop};

static const char *const state_names[] = {"State0", "State1", "Terminated"};

/* ---- by the macros -------------------------------------------------------------------------- */

struct by_macros {
    struct pac_async async;
    struct gate gate;
    int passed;
};

static enum pac_poll
by_macros_poll(struct pac_future *future, struct pac_context *cx)
{
    struct by_macros *self = PAC_ASYNC_SELF(future, struct by_macros);
    PAC_ASYNC_BEGIN(self);
    gate_init(&self->gate);
    PAC_AWAIT(1, self, &self->gate.future, cx);
    self->passed++;
    PAC_ASYNC_END(self);
}

static const struct pac_future_vtable by_macros_vtable = {by_macros_poll, pac_async_drop};

/* ---- side by side --------------------------------------------------------------------------- */

static struct by_hand hand;
static struct by_macros macros;

static void
make_both(void)
{
    hand = (struct by_hand){.future = {&by_hand_vtable}};
    macros = (struct by_macros){.passed = 0};
    pac_async_init(&macros.async, &by_macros_vtable, NULL);
}

static void
compare(const char *after, const char *expected)
{
    const char *a = state_names[hand.state];
    const char *b = pac_async_state_name(&macros.async);
    show("%s: by hand %s, by macros %s", after, a, b);
    claim(strcmp(a, b) == 0 && hand.passed == macros.passed, "both stand at one point");
    claim(strcmp(a, expected) == 0, "and it is the one expected");
}

static void
poll_both(enum pac_poll expected_result, const char *expected_state)
{
    struct pac_context cx = {&pac_noop_waker};
    enum pac_poll a = pac_future_poll(&hand.future, &cx);
    enum pac_poll b = pac_future_poll(&macros.async.future, &cx);
    show("polled: by hand %s, by macros %s", poll_name(a), poll_name(b));
    claim(a == expected_result && b == expected_result, "both answer as expected");
    compare("polled", expected_state);
}

int
main(void)
{
    make_both();
    compare("made", "State0");
    poll_both(PAC_PENDING, "State1");
    poll_both(PAC_PENDING, "State1"); /* nothing has happened: nothing changes */
    hand.gate.open = macros.gate.open = true;
    compare("gate opened", "State1"); /* opening a gate advances nobody: polling does */
    poll_both(PAC_READY, "Terminated");
    poll_both(PAC_READY, "Terminated");
    pac_future_drop(&hand.future);
    pac_future_drop(&macros.async.future);
    claim(hand.passed == 1, "the gate was passed once");
    claim(hand.gate.drops == 1 && macros.gate.drops == 1, "and was dropped once");

    show("again, dropped in the middle");
    make_both();
    poll_both(PAC_PENDING, "State1");
    pac_future_drop(&hand.future);
    pac_future_drop(&macros.async.future);
    compare("dropped", "Terminated");
    claim(hand.passed == 0, "the gate was not passed");
    claim(hand.gate.drops == 1 && macros.gate.drops == 1, "and was dropped once");
    return 0;
}
