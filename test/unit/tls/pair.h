/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pair: a server's and a client's session back to back, with the bytes between them in two queues
 * that a test may cut, look at and change; and a client that is GnuTLS itself, for what ours does
 * not do. One thread.
 */
#ifndef POLLUX_TEST_TLS_PAIR_H
#define POLLUX_TEST_TLS_PAIR_H

#include <gnutls/gnutls.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/tls/credentials.h"
#include "lib/tls/session.h"

/* Bytes on the way to one side. */
struct queue {
	uint8_t *bytes;
	size_t at, count, room;
};

struct pair {
	struct tls_session *server, *client; /* client NULL: raw is it */
	gnutls_session_t raw;
	gnutls_certificate_credentials_t raw_x509;
	gnutls_psk_client_credentials_t raw_psk;
	struct queue to_server, to_client;
	size_t cut;  /* bytes given to a session at a time; 0: all there are */
	size_t room; /* of the output buffers, at most 64 KiB; 0: that */
	int server_result, client_result;
};

void queue_put(struct queue *queue, const void *bytes, size_t count);
void queue_free(struct queue *queue);

/* Credentials, or the test ends with what was reported. */
struct tls_credentials *credentials_make(const struct tls_credentials_config *config);
/* From a directory. */
struct tls_credentials *credentials_of(enum tls_endpoint endpoint, const char *directory,
				       enum tls_verify verify);

/* From one of its files of keys. */
struct tls_credentials *keys_of(enum tls_endpoint endpoint, const char *directory, const char *file,
				const char *priority);
/* A client that trusts the directory's authority and shows this certificate. */
struct tls_credentials *client_with(const char *directory, const char *certificate, const char *key,
				    const char *priority);

/* The text has the word in it. */
void contains(const char *text, const char *word);

/* Sessions of these; server_name for the client, or NULL. Keeps no reference of its own. */
void pair_open(struct pair *pair, struct tls_credentials *server, struct tls_credentials *client,
	       const char *server_name);
/* The client is GnuTLS with this priority; psk_identity "u" with a key in hex, or NULL for X.509.
 */
void pair_open_raw(struct pair *pair, struct tls_credentials *server, const char *priority,
		   const char *psk_hex);
void pair_close(struct pair *pair);

/* Both hand-shake until both are done, or one has failed and the other has heard of it. */
void pair_handshake(struct pair *pair);
/* The same, and both must be open in the end. */
void pair_connect(struct pair *pair);

/* One call of each kind, with `room` and `cut`; the results are tls_session_*'s. */
int side_handshake(struct pair *pair, struct tls_session *session);
int side_write(struct pair *pair, struct tls_session *session, struct tls_source *source);
int side_read(struct pair *pair, struct tls_session *session, void *plain, size_t room,
	      size_t *got);
int side_flush(struct pair *pair, struct tls_session *session);
int side_close(struct pair *pair, struct tls_session *session);

/* Writes all of it, as often as it takes. */
int send_all(struct pair *pair, struct tls_session *session, const void *bytes, size_t count);
/* Reads until `count` bytes are there, or something else happens. */
int receive_all(struct pair *pair, struct tls_session *session, void *bytes, size_t count,
		size_t *got);
/* What was sent before is what `to` reads now, and no more. */
void pair_expect(struct pair *pair, struct tls_session *to, const void *bytes, size_t count);
/* The session has failed with these words, and the other one hears this alert. */
void pair_failed(struct pair *pair, struct tls_session *session, const char *word,
		 const char *alert);

#endif
