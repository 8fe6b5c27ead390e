/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * zero_copy: large batches of replies that the network card takes from where they lie. The kernel
 * tells when it needs them no more - when the client has acknowledged them, or they were copied
 * after all, as on loopback: then the connection has done with it. Until then a batch that was sent
 * is pinned: it keeps its buffers, loans and slots, and the connection alive.
 *
 * Owned by the connection's reactor. Source: io_uring_enter(2), IORING_OP_SENDMSG_ZC;
 * Documentation/networking/msg_zerocopy.rst of Linux.
 */
#ifndef POLLUX_APP_NBD_ZERO_COPY_H
#define POLLUX_APP_NBD_ZERO_COPY_H

#include "app/pollux/nbd/connection.h"

/* The result of a notification says what happened. liburing 2.3 does not name it. */
#ifndef IORING_SEND_ZC_REPORT_USAGE
#define IORING_SEND_ZC_REPORT_USAGE  (1u << 3)
#define IORING_NOTIF_USAGE_ZC_COPIED (1u << 31)
#endif

/* Once, when the client's socket is known: whether it may be sent so at all. */
void zero_copy_init(struct connection *conn);

/* Whether this batch is to be sent so. */
static inline bool zero_copy_suits(const struct connection *conn, const struct tx_batch *batch)
{
	return unlikely(conn->zero_copy) && batch->bytes >= nbd_settings.zero_copy_bytes &&
	       !conn->kernel_tls;
}

/* Sends what batch->message holds; transmit_done() follows. */
void zero_copy_submit(struct connection *conn, struct tx_batch *batch);
/* It has been sent; transmit_retire() follows when nothing of it is needed. */
void zero_copy_keep(struct connection *conn, struct tx_batch *batch);
/* The connection is dead: what its client has not acknowledged is not waited for. */
void zero_copy_abort(struct connection *conn);

#endif
