/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * arrival: a client that has just come in - who it is, whether it is let in, and its way to the net
 * core with the fewest connections. The control thread, or any reactor.
 */
#ifndef POLLUX_APP_NBD_ARRIVAL_H
#define POLLUX_APP_NBD_ARRIVAL_H

#include <stdbool.h>

#include "app/pollux/nbd/access.h"

/*
 * While the access's listener is there. Takes the descriptors over (one twice, or two pipes); they
 * are closed where it is not let in, or there is no room for it.
 */
bool arrival_place(struct access *access, int rx_fd, int tx_fd);

#endif
