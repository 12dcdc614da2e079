/* select.h - the rule of select, for what is built on it. */
#ifndef PACPY_SELECT_H
#define PACPY_SELECT_H

#include "branches.h"

/* Poll the branches in their order: 1, *value and *index, the int that says which is the first that
 * is ready; 0; -1 and the exception that one of them has raised; PACPY_REFUSED. */
int pacpy_select_look(BranchesObject *self, struct pac_context *cx, PyObject **value,
                      PyObject **index);

#endif
