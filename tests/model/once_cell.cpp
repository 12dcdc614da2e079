/* A cell that three want to make at once: one initialiser at a time, the next one after a failure
 * or a drop, and all see what the last has written. */
#include "model.hpp"

#include "../../csrc/core/budget.c"
#include "../../csrc/core/semaphore.c"

#include "../../csrc/core/once_cell.c"

using namespace pac_model;

/* Makes the value at its second poll, or fails there. */
struct Initialiser {
    struct pac_future future;
    PAC_CELL(int) * running; /* guarded by the turn alone */
    PAC_CELL(int) * value;
    enum pac_status outcome;
    int polls;
    bool dropped;
};

static enum pac_poll
initialiser_poll(struct pac_future *f, struct pac_context *cx)
{
    Initialiser *self = PAC_CONTAINER_OF(f, Initialiser, future);
    if (self->polls++ == 0) {
        RL_ASSERT((*self->running)++ == 0);
        pac_waker_wake_by_ref(cx->waker);
        return PAC_PENDING;
    }
    RL_ASSERT(*self->value == 0);
    if (self->outcome == PAC_OK) {
        *self->value = 1;
    }
    --*self->running;
    return PAC_READY;
}

static void
initialiser_drop(struct pac_future *f)
{
    Initialiser *self = PAC_CONTAINER_OF(f, Initialiser, future);
    RL_ASSERT(!self->dropped);
    self->dropped = true;
    if (self->polls == 1) {
        --*self->running;
    }
}

static const struct pac_future_vtable initialiser_vtable = {initialiser_poll, initialiser_drop};

template <typename T, int N> struct Model : Case<T, N> {
    struct pac_once_cell cell;
    PAC_CELL(int) running;
    PAC_CELL(int) value;

    void before()
    {
        Case<T, N>::before();
        pac_once_cell_init(&cell);
        running = value = 0;
    }

    /* What get_or_init comes to; `patient`: wait for it, else poll it at most twice. */
    enum pac_status get(unsigned index, enum pac_status outcome, bool patient)
    {
        Initialiser initialiser = {{&initialiser_vtable}, &running, &value, outcome, 0, false};
        struct pac_get_or_init g;
        pac_get_or_init_init(&g, &cell, &initialiser.future, &initialiser.outcome);
        Sleeper &sleeper = this->sleepers[index];
        bool ready = true;
        if (patient) {
            await(&g.future, sleeper);
        }
        else {
            ready = look(&g.future, sleeper);
        }
        enum pac_status status = ready ? g.status : PAC_EMPTY;
        if (status == PAC_OK) {
            RL_ASSERT(value == 1);
        }
        pac_get_or_init_drop(&g);
        RL_ASSERT(initialiser.dropped);
        return status;
    }

    void after()
    {
        RL_ASSERT(running == 0);
        RL_ASSERT(pac_once_cell_is_set(&cell));
        Case<T, N>::after();
    }
};

struct one_makes_it : Model<one_makes_it, 3> {
    void thread(unsigned index)
    {
        enum pac_status status = get(index, PAC_OK, true);
        RL_ASSERT(status == PAC_OK);
    }
};

/* One is dropped in the middle, or in the line. */
struct dropped_hands_over : Model<dropped_hands_over, 3> {
    void thread(unsigned index)
    {
        enum pac_status status = get(index, PAC_OK, index != 0);
        RL_ASSERT(status == PAC_OK || index == 0);
    }
};

struct failed_hands_over : Model<failed_hands_over, 3> {
    void thread(unsigned index)
    {
        enum pac_status status = get(index, index == 0 ? PAC_OS_ERROR : PAC_OK, true);
        RL_ASSERT(status == PAC_OK || index == 0);
    }
};

/* By the calls that do not wait. */
struct begun_at_once : Model<begun_at_once, 2> {
    void thread(unsigned index)
    {
        if (index == 1) {
            enum pac_status status = get(1, PAC_OK, true);
            RL_ASSERT(status == PAC_OK);
            return;
        }
        switch (pac_once_cell_begin(&cell)) {
            case PAC_OK:
                RL_ASSERT(running++ == 0);
                --running;
                pac_once_cell_abandon(&cell);
                break;
            case PAC_CLOSED:
                RL_ASSERT(value == 1);
                break;
            default:
                break;
        }
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(one_makes_it, 1);
    CHECK_MODEL(dropped_hands_over, 1);
    CHECK_MODEL(failed_hands_over, 1);
    CHECK_MODEL(begun_at_once);
    return !ok;
}
