/* poll.h - what one advance of a future says. */
#ifndef PAC_POLL_H
#define PAC_POLL_H

enum pac_poll {
    PAC_PENDING = 0, /* no result yet; whoever said so has kept the waker that it was given */
    PAC_READY = 1,   /* finished: the output stands in the future, and it is not polled again */
};

#endif
