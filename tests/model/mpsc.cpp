/* A channel of many values: each is received, destroyed, or still the sender's, and only one of
 * these; nobody waits for what is there. The ring begins with one slot. */
#include "model.hpp"

#include "../../csrc/core/budget.c"
#include "../../csrc/core/waitlist.c"

#include "../../csrc/core/mpsc.c"

using namespace pac_model;

template <typename T, int N> struct Model : Case<T, N> {
    struct pac_mpsc channel;
    Item items[3];

    void before(size_t capacity)
    {
        Case<T, N>::before();
        pac_mpsc_init(&channel, capacity, Item::destroy);
        for (int i = 0; i < 3; i++) {
            items[i].make(i);
        }
    }

    void send(Item &item, Sleeper &sleeper)
    {
        struct pac_mpsc_send f;
        pac_mpsc_send_init(&f, &channel, &item);
        await(&f.future, sleeper);
        if (f.status != PAC_OK) {
            RL_ASSERT(f.status == PAC_CLOSED);
            item.end();
        }
        pac_mpsc_send_drop(&f);
    }

    /* Begin to send, and give up unless it is sent by then. */
    void send_or_give_up(Item &item, Sleeper &sleeper)
    {
        struct pac_mpsc_send f;
        pac_mpsc_send_init(&f, &channel, &item);
        (void)look(&f.future, sleeper);
        pac_mpsc_send_drop(&f);
        if (!pac_mpsc_send_was_sent(&f)) {
            item.end();
        }
    }

    void send_now(Item &item)
    {
        enum pac_status status = pac_mpsc_try_send(&channel, &item);
        RL_ASSERT(status == PAC_OK);
    }

    /* What a receive brings; -1: nothing comes any more. */
    int receive(Sleeper &sleeper)
    {
        void *value;
        struct pac_mpsc_recv f;
        pac_mpsc_recv_init(&f, &channel, &value, 1);
        await(&f.future, sleeper);
        int what = f.status == PAC_OK ? static_cast<Item *>(value)->end() : -1;
        pac_mpsc_recv_drop(&f);
        return what;
    }

    /* The same, without waiting; -1: it went without a value. */
    int receive_or_give_up(Sleeper &sleeper)
    {
        void *value;
        struct pac_mpsc_recv f;
        pac_mpsc_recv_init(&f, &channel, &value, 1);
        bool ready = look(&f.future, sleeper);
        pac_mpsc_recv_drop(&f);
        return ready && f.status == PAC_OK ? static_cast<Item *>(value)->end() : -1;
    }

    void after(int items_used)
    {
        pac_mpsc_fini(&channel);
        for (int i = 0; i < items_used; i++) {
            RL_ASSERT(items[i].has_ended());
        }
        Case<T, N>::after();
    }
};

/* Room for one: the sends take turns with the receives. */
struct two_senders : Model<two_senders, 3> {
    void before()
    {
        Model::before(1);
    }

    void thread(unsigned index)
    {
        if (index < 2) {
            send(items[index], sleepers[index]);
            return;
        }
        int sum = receive(sleepers[2]);
        sum += receive(sleepers[2]);
        RL_ASSERT(sum == 0 + 1);
    }

    void after()
    {
        Model::after(2);
    }
};

/* In a full channel, a send waits and is dropped while a receive makes room for it. */
struct send_is_cancelled : Model<send_is_cancelled, 3> {
    void before()
    {
        Model::before(1);
        send_now(items[2]);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                send_or_give_up(items[0], sleepers[0]);
                break;
            case 1:
                send(items[1], sleepers[1]);
                break;
            default:
                RL_ASSERT(receive(sleepers[2]) == 2);
                RL_ASSERT(receive(sleepers[2]) >= 0);
        }
    }

    void after()
    {
        Model::after(3);
    }
};

/* The receiver goes while one waits to send, and one sends if there is room. */
struct receiver_goes : Model<receiver_goes, 3> {
    void before()
    {
        Model::before(1);
        send_now(items[2]);
    }

    void thread(unsigned index)
    {
        struct pac_flag_wait closed;
        switch (index) {
            case 0:
                send(items[0], sleepers[0]);
                break;
            case 1:
                pac_mpsc_drop_receiver(&channel);
                break;
            default:
                if (pac_mpsc_try_send(&channel, &items[1]) != PAC_OK) {
                    items[1].end();
                }
                pac_mpsc_closed_init(&closed, &channel);
                await(&closed.future, sleepers[2]);
                pac_flag_wait_drop(&closed);
        }
    }

    void after()
    {
        Model::after(3);
    }
};

/* The last sender goes after its value: that comes first, then the end. */
struct sender_goes : Model<sender_goes, 3> {
    void before()
    {
        Model::before(PAC_MPSC_UNBOUNDED);
        pac_mpsc_add_sender(&channel);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                send_now(items[0]);
                pac_mpsc_drop_sender(&channel);
                break;
            case 1:
                pac_mpsc_drop_sender(&channel);
                break;
            default:
                RL_ASSERT(receive(sleepers[2]) == 0);
                RL_ASSERT(receive(sleepers[2]) == -1);
        }
    }

    void after()
    {
        Model::after(1);
    }
};

/* A receive that was woken and is dropped: the other one is woken for the value. */
struct woken_receiver_is_dropped : Model<woken_receiver_is_dropped, 3> {
    void before()
    {
        Model::before(PAC_MPSC_UNBOUNDED);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                send_now(items[0]);
                break;
            case 1:
                if (receive_or_give_up(sleepers[1]) >= 0) {
                    send_now(items[1]); /* one for the other receive */
                }
                else {
                    items[1].end();
                }
                break;
            default:
                RL_ASSERT(receive(sleepers[2]) >= 0);
        }
    }

    void after()
    {
        Model::after(2);
    }
};

/* Two receive, and the values of each sender keep their order while the ring grows and shrinks. */
struct ring_grows : Model<ring_grows, 3> {
    void before()
    {
        Model::before(PAC_MPSC_UNBOUNDED);
    }

    void thread(unsigned index)
    {
        switch (index) {
            case 0:
                send_now(items[0]);
                send_now(items[1]);
                break;
            case 1:
                send_now(items[2]);
                break;
            default:
                bool second = false;
                for (int i = 0; i < 3; i++) {
                    int what = receive(sleepers[2]);
                    RL_ASSERT(what != 1 || second);
                    second = second || what == 0;
                }
        }
    }

    void after()
    {
        Model::after(3);
    }
};

/* A receive of many at once meets senders that wait. */
struct many_at_once : Model<many_at_once, 3> {
    void before()
    {
        Model::before(1);
        send_now(items[2]);
    }

    void thread(unsigned index)
    {
        if (index < 2) {
            send(items[index], sleepers[index]);
            return;
        }
        int count = 0;
        while (count < 3) {
            void *values[3];
            struct pac_mpsc_recv f;
            pac_mpsc_recv_init(&f, &channel, values, 3);
            await(&f.future, sleepers[2]);
            RL_ASSERT(f.status == PAC_OK && f.count > 0);
            for (size_t i = 0; i < f.count; i++, count++) {
                int what = static_cast<Item *>(values[i])->end();
                RL_ASSERT((what == 2) == (count == 0));
            }
            pac_mpsc_recv_drop(&f);
        }
    }

    void after()
    {
        Model::after(3);
    }
};

/* The receiver closes and takes what is left, while one waits to send and one gives up: what the
 * channel has said yes to is received, all else is its sender's. */
struct closed_and_drained : Model<closed_and_drained, 3> {
    void before()
    {
        Model::before(1);
        send_now(items[2]);
    }

    void thread(unsigned index)
    {
        int received;
        switch (index) {
            case 0:
                send(items[0], sleepers[0]);
                break;
            case 1:
                send_or_give_up(items[1], sleepers[1]);
                break;
            default:
                received = receive(sleepers[2]);
                RL_ASSERT(received == 2);
                pac_mpsc_close(&channel);
                while (receive(sleepers[2]) >= 0) {}
                RL_ASSERT(pac_mpsc_length(&channel) == 0);
        }
    }

    void after()
    {
        Model::after(3);
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(two_senders);
    CHECK_MODEL(send_is_cancelled, 1);
    CHECK_MODEL(receiver_goes);
    CHECK_MODEL(sender_goes);
    CHECK_MODEL(woken_receiver_is_dropped);
    CHECK_MODEL(ring_grows, 1);
    CHECK_MODEL(many_at_once, 1);
    CHECK_MODEL(closed_and_drained, 1);
    return !ok;
}
