/* c_io.h - a descriptor that an extension has the loop watch. */
#ifndef PACPY_C_IO_H
#define PACPY_C_IO_H

#include "state.h"

#include "../include/pyasync_c.h"

/* As the functions of struct pyasync_c_api. */
struct pyasync_c_io *pacpy_c_io_open(struct pacpy_state *st, int fd);
void pacpy_c_io_close(struct pyasync_c_io *io);
int pacpy_c_io_begin(struct pyasync_c_io *io, int direction, uint32_t *tick);
void pacpy_c_io_blocked(struct pyasync_c_io *io, int direction, uint32_t tick);
void pacpy_c_io_ready_init(struct pyasync_c_io_ready *ready, struct pyasync_c_io *io, int interest);
int pacpy_c_io_ready_poll(struct pyasync_c_io_ready *ready, struct pyasync_c_context *cx);
void pacpy_c_io_ready_drop(struct pyasync_c_io_ready *ready);
PyObject *pacpy_c_io_wait(struct pacpy_state *st, struct pyasync_c_io *io, int interest);

#endif
