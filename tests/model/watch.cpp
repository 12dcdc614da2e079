/* A watch: the last version is never missed, and no value is read after it was given up. */
#include "model.hpp"

#include "../../csrc/core/budget.c"
#include "../../csrc/core/waitlist.c"

#include "../../csrc/core/watch.c"

using namespace pac_model;

template <typename T, int N> struct Model : Case<T, N> {
    struct pac_watch channel;
    struct pac_watch_receiver receivers[N];
    Item items[3];

    void before(int first_receiver)
    {
        Case<T, N>::before();
        for (int i = 0; i < 3; i++) {
            items[i].make(i);
        }
        pac_watch_init(&channel, &items[0], Item::clone, Item::destroy);
        for (int i = first_receiver; i < N; i++) {
            pac_watch_subscribe(&receivers[i], &channel);
        }
    }

    void send(int item)
    {
        if (pac_watch_send(&channel, &items[item]) != PAC_OK) {
            items[item].end();
        }
    }

    enum pac_status wait(unsigned index)
    {
        struct pac_watch_changed f;
        pac_watch_changed_init(&f, &receivers[index]);
        await(&f.future, this->sleepers[index]);
        pac_watch_changed_drop(&f);
        return f.status;
    }

    int get(unsigned index)
    {
        return static_cast<Item *>(pac_watch_get_seen(&receivers[index]))->end();
    }

    void after()
    {
        pac_watch_fini(&channel);
        for (Item &item : items) {
            RL_ASSERT(item.has_ended());
        }
        Case<T, N>::after();
    }
};

struct last_is_not_missed : Model<last_is_not_missed, 3> {
    void before()
    {
        Model::before(1);
    }

    void thread(unsigned index)
    {
        if (index == 0) {
            send(1);
            send(2);
            pac_watch_drop_sender(&channel);
            return;
        }
        int seen = 0;
        while (wait(index) == PAC_OK) {
            int what = get(index);
            RL_ASSERT(what >= seen);
            seen = what;
        }
        RL_ASSERT(seen == 2);
        RL_ASSERT(!pac_watch_has_changed(&receivers[index]));
        pac_watch_unsubscribe(&receivers[index]);
    }
};

/* Two send, one reads without waiting. */
struct two_send : Model<two_send, 3> {
    void before()
    {
        Model::before(2);
    }

    void thread(unsigned index)
    {
        if (index < 2) {
            send((int)index + 1);
            return;
        }
        RL_ASSERT(wait(2) == PAC_OK);
        RL_ASSERT(get(2) > 0);
        RL_ASSERT(static_cast<Item *>(pac_watch_get(&channel))->end() > 0);
        pac_watch_unsubscribe(&receivers[2]);
    }
};

/* The last receiver goes, while it waits itself and a value is sent. */
struct closed_by_the_last : Model<closed_by_the_last, 3> {
    void before()
    {
        Model::before(2);
        items[2].end();
    }

    void thread(unsigned index)
    {
        struct pac_flag_wait closed;
        switch (index) {
            case 0:
                send(1);
                pac_watch_closed_init(&closed, &channel);
                await(&closed.future, sleepers[0]);
                pac_flag_wait_drop(&closed);
                break;
            case 1:
                pac_watch_unsubscribe(&receivers[2]);
                break;
            default:
                (void)wait(2);
        }
    }
};

int
main(int argc, char **argv)
{
    Search search = parse(argc, argv);
    bool ok = true;
    CHECK_MODEL(last_is_not_missed, 1);
    CHECK_MODEL(two_send);
    CHECK_MODEL(closed_by_the_last);
    return !ok;
}
