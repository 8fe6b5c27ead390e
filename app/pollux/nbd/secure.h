/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * secure: TLS of a connection, from STARTTLS on - lib/tls/session.h between the socket and the
 * rest of this folder, which sees plain bytes on both sides. Runs on the connection's reactor, the
 * handshake and its public-key work too (about a millisecond); credentials lie in memory.
 *
 * Receiving: a receive buffer is decrypted into the core's one plaintext buffer, which is bigger
 * than all that can come out of it, and taken from there like received bytes.
 * Sending: replies are encrypted batch by batch into a buffer, held only while it is being sent; a
 * batch is over once it has been encrypted.
 */
#ifndef POLLUX_APP_NBD_SECURE_H
#define POLLUX_APP_NBD_SECURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct connection;
struct nbd_core;
struct tls_credentials;
struct tls_session_info;

/* What a listener offers to a connection. */
struct secure_offer {
	struct tls_credentials *credentials; /* a reference; NULL: no TLS */
	bool required;
};

/* What a core keeps for TLS. */
struct secure_core {
	uint8_t *plain; /* made for the core's first TLS connection */
	struct cipher_buffer *free;
	unsigned free_count;
};

/*
 * STARTTLS was granted, its ACK is queued: what comes from now on is TLS, beginning with `bytes`,
 * which came behind it and are never looked at in the clear. Without memory the connection ends.
 */
void secure_begin(struct connection *conn, const uint8_t *bytes, size_t count);
/* Received bytes. */
void secure_receive(struct connection *conn, const uint8_t *bytes, size_t count);
/*
 * True if nothing is to be received any more: the client has said so, or the session has failed.
 * Asked when all that was received before has been dealt with; ends the connection then.
 */
bool secure_over(struct connection *conn);
/*
 * True while the socket is to be quiet, as a reply is on its way after which the kernel may take
 * over: nothing is received then.
 */
bool secure_is_handing_over(const struct connection *conn);
/* The handshake's time is over: told if it was TLS that was waited for. */
void secure_timed_out(struct connection *conn);
/* The socket has ended; error: -errno, or 0: in order. Told if nothing was said inside TLS yet. */
void secure_broken_off(struct connection *conn, int error);
/* Also where the kernel makes the records. False: TLS is not up yet, or not any more. */
bool secure_info(const struct connection *conn, struct tls_session_info *info);
/* The connection is freed. */
void secure_free(struct connection *conn);
void secure_free_core(struct nbd_core *core);

#endif
