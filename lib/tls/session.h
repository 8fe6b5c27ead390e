/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * session: one TLS connection, server's or client's side, between buffers of the caller: ciphertext
 * in, plaintext out, and the other way round. Pure: no socket, no clock, no reactor. GnuTLS does
 * the protocol; here are the buffers, the states, and the words for what went wrong.
 *
 * Threads: one at a time. A session has no home thread, so the handshake (whose public-key work
 * takes up to some milliseconds) may run on a worker, if the hand-over there and back orders
 * memory.
 *
 * Buffers belong to the caller and are used only during the call. Ciphertext that finds no room in
 * `out` is kept by the session and goes out first with the next call that has room; only then, and
 * in GnuTLS, memory is allocated. `out` may be NULL where a send is under way: what little there is
 * to say (an alert) is kept too. tls_session_output_pending() tells.
 *
 * How a connection uses it:
 *  - handshake: on each receive tls_session_handshake(), then send `out`. After 0 the rest of the
 *    input is for tls_session_read(), which must be tried even if the rest is empty.
 *  - receiving: tls_session_read() until it returns less than the room given. It takes all of the
 *    input unless it runs out of room; half a record is kept inside. A whole record comes out with
 *    the bytes that complete it, so that there is nothing to wait for.
 *  - sending: tls_session_write() fills `out` from an iovec; when it returns, the plaintext it took
 *    is no longer needed, and `out` goes out with one send().
 *  - end: tls_session_close(), send; or on failure send what the alert left in `out`, then hang up.
 */
#ifndef POLLUX_LIB_TLS_SESSION_H
#define POLLUX_LIB_TLS_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct tls_credentials;
struct tls_session;

enum {
	TLS_RECORD_BYTES = 16 << 10, /* of plaintext, at most */
	/* A record on the wire is at most this long; `out` wants room for several. */
	TLS_RECORD_WIRE_BYTES = TLS_RECORD_BYTES + 5 + 256,
};

enum tls_state {
	TLS_HANDSHAKE, /* from create; leaves when the handshake is done, or failed */
	TLS_OPEN,      /* reads and writes; leaves by tls_session_close() or a failure */
	TLS_CLOSING,   /* our close_notify is made: no more writes; reads until theirs */
	TLS_FAILED,    /* for good; tls_session_reason() tells why */
};

extern const char *const tls_state_names[];

/* Ciphertext received: the session moves `bytes` on and `count` down by what it took. */
struct tls_input {
	const uint8_t *bytes;
	size_t count;
};

/* Ciphertext to send: the session appends at bytes + used. */
struct tls_output {
	uint8_t *bytes;
	size_t room; /* of `bytes`, in all */
	size_t used;
};

/* Plaintext to send: the session moves on over the array, which it does not change. */
struct tls_source {
	const struct iovec *iov;
	unsigned count; /* of iov; pieces may be empty */
	size_t at;	/* bytes of iov[0] already taken */
};

struct tls_session_info {
	const char *version;	  /* "TLS1.3"; the strings are GnuTLS's names, "" before the end */
	const char *cipher;	  /* "AES-128-GCM" */
	const char *key_exchange; /* "ECDHE-PSK" */
	bool psk;
	/*
	 * The peer's certificate (common name, or an alternative name) or PSK identity, unprintable
	 * bytes as "?"; "" if it showed none. It is proven once the handshake is done; before, and
	 * after a failure, only claimed.
	 */
	const char *peer;
};

/*
 * What an offloading device (kernel TLS) needs to go on with one direction. Secret: wipe it.
 */
struct tls_record_state {
	uint8_t key[32], iv[16], sequence[8];
	size_t key_bytes, iv_bytes;
};

/*
 * Keeps a reference of the credentials. server_name: whom a client wants to talk to, told to the
 * server and checked in its certificate; NULL: neither (the certificate is still verified); ignored
 * by servers. Returns 0, -ENOMEM, or -EINVAL (server_name is no name).
 */
int tls_session_create(struct tls_session **session, struct tls_credentials *credentials,
		       const char *server_name);
/* In any state; sends nothing. NULL is allowed. */
void tls_session_destroy(struct tls_session *session);

enum tls_state tls_session_state(const struct tls_session *session);
/* Why it failed: a sentence, without secrets; "" as long as it has not. */
const char *tls_session_reason(const struct tls_session *session);
/* Strings live as long as the session. */
void tls_session_info(const struct tls_session *session, struct tls_session_info *info);

/*
 * The handshake's next step; a client's first one needs no input. Returns
 *   0        done, the state is TLS_OPEN
 *   -EAGAIN  all input is taken, more is needed
 *   -EACCES  the peer is refused: certificate, name, or PSK identity
 *   -EPROTO  the handshake failed otherwise
 *   -ENOMEM
 * In every case `out` may have been given bytes to send; after a failure they are the alert.
 */
int tls_session_handshake(struct tls_session *session, struct tls_input *in,
			  struct tls_output *out);

/*
 * Decrypts as many records as the input holds and `room` allows. *got bytes of plaintext are valid
 * whatever it returns. Returns
 *   0           if *got < room, all input is taken; if *got == room, call it again with more room,
 *               also when no input is left: the rest of a record may be inside
 *   -ESHUTDOWN  after *got bytes, the peer's close_notify; nothing will follow
 *   -EPROTO     after *got bytes, the session failed
 *   -EINVAL     the handshake is not done
 */
int tls_session_read(struct tls_session *session, struct tls_input *in, void *plain, size_t room,
		     size_t *got, struct tls_output *out);
/* Decrypted bytes that wait inside for tls_session_read(). */
size_t tls_session_read_pending(const struct tls_session *session);

/*
 * Encrypts into `out`, in records as big as they can be; small pieces are gathered. Returns
 *   0        all was taken
 *   -EAGAIN  `out` is full: send it, then go on with the same source. What was taken is in `out`
 *            (in a buffer too small for any record, partly inside the session)
 *   -EPROTO  the session failed
 *   -EPIPE   we have closed
 *   -EINVAL  the handshake is not done
 * A buffer of TLS_RECORD_WIRE_BYTES or more makes progress with every call; 64 KiB and more do
 * well.
 */
int tls_session_write(struct tls_session *session, struct tls_source *source,
		      struct tls_output *out);

/* Moves what the session kept into `out`. Returns 0: it keeps nothing more; or -EAGAIN. */
int tls_session_flush(struct tls_session *session, struct tls_output *out);
/* Ciphertext kept for want of room, bytes. */
size_t tls_session_output_pending(const struct tls_session *session);

/* Says close_notify. Returns 0, or -EINVAL, -EPROTO if there is no session to close. */
int tls_session_close(struct tls_session *session, struct tls_output *out);

/*
 * The transport ended. Returns 0 if the peer had said close_notify; else -ECONNRESET, and the
 * session has failed: what was received may be cut short.
 */
int tls_session_end(struct tls_session *session);

/*
 * TLS 1.3: new keys for what we send, and with both_ways for what the peer sends. Needed by nobody
 * in a session's normal life, as GnuTLS does it after 2^24 records. Returns 0, -EPROTO, -EINVAL, or
 * -EOPNOTSUPP (TLS 1.2).
 */
int tls_session_update_keys(struct tls_session *session, bool both_ways, struct tls_output *out);

/*
 * The record layer's keys and next sequence number of one direction, for kernel TLS. Returns 0;
 * -EBUSY: bytes of that direction still wait inside the session, a part of a record among them;
 * -EINVAL: not in TLS_OPEN.
 */
int tls_session_record_state(struct tls_session *session, bool receiving,
			     struct tls_record_state *state);

#endif
