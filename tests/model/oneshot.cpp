/* A oneshot: the value is received, or destroyed, or stays with the sender, and only one of these;
 * either side learns that the other has gone. */
#include "model.hpp"

#include "../../csrc/core/budget.c"
#include "../../csrc/core/waitlist.c"

#include "../../csrc/core/oneshot.c"

using namespace pac_model;

template <typename T, int N> struct Model : Case<T, N> {
    struct pac_oneshot channel;
    Item item;

    void before()
    {
        Case<T, N>::before();
        pac_oneshot_init(&channel, Item::destroy);
        item.make(7);
    }

    bool send()
    {
        if (pac_oneshot_send(&channel, &item) == PAC_OK) {
            return true;
        }
        item.end();
        return false;
    }

    void after()
    {
        pac_oneshot_fini(&channel);
        RL_ASSERT(item.has_ended());
        Case<T, N>::after();
    }
};

/* The receive moves to another task meanwhile. */
struct send_and_receive : Model<send_and_receive, 2> {
    void thread(unsigned index)
    {
        if (index == 0) {
            bool sent = send();
            RL_ASSERT(sent);
            pac_oneshot_drop_sender(&channel);
            return;
        }
        struct pac_oneshot_recv f;
        pac_oneshot_recv_init(&f, &channel);
        if (!look(&f.future, sleepers[0])) {
            await(&f.future, sleepers[1]);
        }
        RL_ASSERT(f.status == PAC_OK);
        RL_ASSERT(static_cast<Item *>(f.value)->end() == 7);
        pac_oneshot_recv_drop(&f);
    }
};

/* A send against a receiver that looks once and goes; a third waits for that. */
struct receiver_goes : Model<receiver_goes, 3> {
    void thread(unsigned index)
    {
        struct pac_oneshot_recv f;
        struct pac_flag_wait closed;
        switch (index) {
            case 0:
                send();
                break;
            case 1:
                pac_oneshot_recv_init(&f, &channel);
                if (look(&f.future, sleepers[1])) {
                    RL_ASSERT(f.status == PAC_OK);
                    item.end();
                }
                pac_oneshot_recv_drop(&f);
                pac_oneshot_drop_receiver(&channel);
                break;
            default:
                pac_oneshot_closed_init(&closed, &channel);
                await(&closed.future, sleepers[2]);
                pac_flag_wait_drop(&closed);
                RL_ASSERT(pac_oneshot_is_closed(&channel));
        }
    }
};

/* Without a value: the receiver learns it. */
struct sender_goes : Model<sender_goes, 3> {
    void before()
    {
        Model::before();
        item.end();
    }

    void thread(unsigned index)
    {
        struct pac_oneshot_recv f;
        struct pac_flag_wait closed;
        switch (index) {
            case 0:
                pac_oneshot_drop_sender(&channel);
                break;
            case 1:
                pac_oneshot_recv_init(&f, &channel);
                await(&f.future, sleepers[1]);
                RL_ASSERT(f.status == PAC_CLOSED);
                pac_oneshot_recv_drop(&f);
                break;
            default:
                pac_oneshot_closed_init(&closed, &channel);
                (void)look(&closed.future, sleepers[2]);
                pac_flag_wait_drop(&closed);
        }
    }
};

/* Closed from elsewhere while a receive waits and a send is under way. */
struct close_against_send : Model<close_against_send, 3> {
    void thread(unsigned index)
    {
        struct pac_oneshot_recv f;
        switch (index) {
            case 0:
                send();
                break;
            case 1:
                pac_oneshot_recv_init(&f, &channel);
                await(&f.future, sleepers[1]);
                if (f.status == PAC_OK) {
                    item.end();
                }
                pac_oneshot_recv_drop(&f);
                break;
            default:
                pac_oneshot_close(&channel);
        }
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(send_and_receive);
    CHECK_MODEL(receiver_goes);
    CHECK_MODEL(sender_goes);
    CHECK_MODEL(close_against_send);
    return !ok;
}
