/* SPDX-License-Identifier: BSD-3-Clause */
/* stdio_client: one NBD client on standard input and output: a socket, or a pipe for each
 * direction. */
#ifndef POLLUX_APP_STDIO_CLIENT_H
#define POLLUX_APP_STDIO_CLIENT_H

#include <stddef.h>

#include "app/pollux/nbd/access.h"

/*
 * Main thread, before anything is started: puts standard input and output aside, so that nothing
 * but the protocol reads or writes there; what is printed goes to standard error. Returns 0, or
 * -errno with a sentence in `why`.
 */
int stdio_client_take(char *why, size_t why_bytes);
/* Control thread: serves them. gone() when the client has gone. 0 or -ENOMEM. */
int stdio_client_serve(const struct access_options *options, void (*gone)(void));

#endif
