/* A broadcast: every receiver gets every value, or is told how many it lost; a value goes when the
 * last has seen it. */
#include "model.hpp"

#include "../../csrc/core/budget.c"
#include "../../csrc/core/waitlist.c"

#include "../../csrc/core/broadcast.c"

using namespace pac_model;

template <typename T, int N> struct Model : Case<T, N> {
    struct pac_broadcast channel;
    struct pac_broadcast_receiver receivers[N];
    Item items[2];

    void before(size_t capacity, int first_receiver)
    {
        Case<T, N>::before();
        enum pac_status status = pac_broadcast_init(&channel, capacity, Item::clone, Item::destroy);
        RL_ASSERT(status == PAC_OK);
        items[0].make(0);
        items[1].make(1);
        for (int i = first_receiver; i < N; i++) {
            pac_broadcast_subscribe(&receivers[i], &channel);
        }
    }

    bool send(int item)
    {
        size_t count;
        if (pac_broadcast_send(&channel, &items[item], &count) == PAC_OK) {
            RL_ASSERT(count > 0);
            return true;
        }
        items[item].end();
        return false;
    }

    /* The number received; -n: n were lost; 100: none will come. */
    int receive(unsigned index)
    {
        struct pac_broadcast_recv f;
        pac_broadcast_recv_init(&f, &receivers[index]);
        await(&f.future, this->sleepers[index]);
        pac_broadcast_recv_drop(&f);
        switch (f.status) {
            case PAC_OK:
                return static_cast<Item *>(f.value)->end();
            case PAC_LAGGED:
                return -(int)f.skipped;
            default:
                RL_ASSERT(f.status == PAC_CLOSED);
                return 100;
        }
    }

    void after()
    {
        pac_broadcast_clear(&channel);
        pac_broadcast_fini(&channel);
        RL_ASSERT(items[0].has_ended() && items[1].has_ended());
        Case<T, N>::after();
    }
};

struct both_get_all : Model<both_get_all, 3> {
    void before()
    {
        Model::before(2, 1);
    }

    void thread(unsigned index)
    {
        if (index == 0) {
            send(0);
            send(1);
            pac_broadcast_drop_sender(&channel);
            return;
        }
        RL_ASSERT(receive(index) == 0);
        RL_ASSERT(receive(index) == 1);
        RL_ASSERT(receive(index) == 100);
        pac_broadcast_unsubscribe(&receivers[index]);
    }
};

/* Room for one: who is too slow loses the first and is told so. */
struct slow_one_lags : Model<slow_one_lags, 3> {
    void before()
    {
        Model::before(1, 1);
    }

    void thread(unsigned index)
    {
        if (index == 0) {
            send(0);
            send(1);
            return;
        }
        int first = receive(index);
        RL_ASSERT(first == 0 || first == -1);
        RL_ASSERT(receive(index) == 1);
        pac_broadcast_unsubscribe(&receivers[index]);
    }
};

/* One unsubscribes while a value is sent that the other waits for. */
struct unsubscribe_against_send : Model<unsubscribe_against_send, 3> {
    void before()
    {
        Model::before(2, 1);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                send(0);
                send(1);
                break;
            case 1:
                pac_broadcast_unsubscribe(&receivers[1]);
                break;
            default:
                RL_ASSERT(receive(2) == 0);
                pac_broadcast_unsubscribe(&receivers[2]);
        }
    }
};

/* The receiver goes; it is told to who waits for that, and to a receive of its own. */
struct closed_by_the_last : Model<closed_by_the_last, 3> {
    void before()
    {
        Model::before(2, 2);
        items[1].end();
    }

    void thread(unsigned index)
    {
        struct pac_flag_wait closed;
        int what;
        switch (index) {
            case 0:
                send(0);
                pac_broadcast_closed_init(&closed, &channel);
                await(&closed.future, sleepers[0]);
                pac_flag_wait_drop(&closed);
                break;
            case 1:
                pac_broadcast_unsubscribe(&receivers[2]);
                break;
            default:
                what = receive(2);
                RL_ASSERT(what == 0 || what == 100);
        }
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(both_get_all, 1);
    CHECK_MODEL(slow_one_lags, 1);
    CHECK_MODEL(unsubscribe_against_send);
    CHECK_MODEL(closed_by_the_last);
    return !ok;
}
