/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * kernel_tls: TLS of a connection whose records the kernel makes. secure.c does the handshakes and
 * hands over in a quiet moment; from then on the connection receives and sends as one in the clear
 * does, and comes here with what is left of TLS: records that are no data, and the end. Runs on the
 * connection's reactor.
 */
#ifndef POLLUX_APP_NBD_KERNEL_TLS_H
#define POLLUX_APP_NBD_KERNEL_TLS_H

#include <stdbool.h>

struct connection;
struct tls_session;
struct tls_session_info;

enum kernel_tls_result {
	KERNEL_TLS_DONE,  /* conn->kernel_tls is there; the session is of no more use */
	KERNEL_TLS_LATER, /* not in this moment */
	KERNEL_TLS_NEVER, /* the session goes on; or the connection has ended (connection_kill) */
};

/* All that was received has been taken, all that was to be sent is: nothing is under way. */
enum kernel_tls_result kernel_tls_begin(struct connection *conn, struct tls_session *session);
/*
 * A receive has failed; error: -errno. True if that was TLS's: then the connection goes on, or its
 * end has been begun. False: the socket's.
 */
bool kernel_tls_take_error(struct connection *conn, int error);
/* True if nothing can be received any more, though the client may be there. */
bool kernel_tls_is_deaf(const struct connection *conn);
/* All has been answered: says close_notify. */
void kernel_tls_close(struct connection *conn);
/* True as long as the client has not got all of what was sent. */
bool kernel_tls_is_sending(const struct connection *conn);
void kernel_tls_info(const struct connection *conn, struct tls_session_info *info);
/* The connection is freed. */
void kernel_tls_free(struct connection *conn);

#endif
