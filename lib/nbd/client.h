/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client: the client's side of the handshake as a state machine - bytes in, options and actions
 * out. Pure: no socket, no clock, no allocation. One owner core; nbd_client_feed() is not
 * reentrant. It asks for what it is configured to want, in the order TLS, extended headers,
 * structured replies, metadata contexts, GO, and makes do with what the server has: EXPORT_NAME
 * where GO is unknown. Source: proto.md, "Fixed newstyle negotiation", "Client-side requirements",
 * "Option types".
 */
#ifndef POLLUX_LIB_NBD_CLIENT_H
#define POLLUX_LIB_NBD_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/nbd/proto.h"
#include "lib/nbd/server.h"

enum nbd_client_tls {
	NBD_CLIENT_TLS_OFF,
	NBD_CLIENT_TLS_ALLOW,	/* used if the server has it: a man in the middle can deny it */
	NBD_CLIENT_TLS_REQUIRE, /* nothing is told or asked without it */
};

struct nbd_client_config {
	const char *export_name; /* "": the default export */
	enum nbd_mode mode;	 /* the most to ask for */
	enum nbd_client_tls tls;
	const char *const *contexts; /* metadata contexts to ask for; they outlive the client */
	unsigned context_count;	     /* at most NBD_MAX_CONTEXTS */
};

enum nbd_client_result {
	NBD_CLIENT_MORE,     /* all input taken, more is needed */
	NBD_CLIENT_TRANSMIT, /* transmission begins with the next byte not taken */
	NBD_CLIENT_STARTTLS, /* TLS begins with the next byte not taken; then nbd_client_tls_done()
			      */
	NBD_CLIENT_FAILED,   /* deliver what was sent, then close; see error and reason */
};

enum nbd_client_state {
	NBD_CS_GREETING, /* from start; leaves when the greeting is in and answered */
	NBD_CS_REPLY,	 /* waits for the header of an option reply */
	NBD_CS_DATA,	 /* collects an option reply's data */
	NBD_CS_EXPORT,	 /* waits for the answer to EXPORT_NAME, which has a form of its own */
	NBD_CS_TLS,	 /* STARTTLS was granted; leaves by nbd_client_tls_done() */
	NBD_CS_DONE,	 /* TRANSMIT or FAILED was returned */
};

struct nbd_client_context {
	const char *name; /* one of the configuration's */
	uint32_t id;	  /* what block status chunks carry */
};

struct nbd_client {
	struct nbd_client_config config;
	void (*send)(void *arg, const void *bytes, size_t count);
	void *arg;
	enum nbd_client_state state;
	/* ---- after TRANSMIT ---- */
	bool tls;	     /* inside TLS (set before) */
	enum nbd_mode mode;  /* what was negotiated */
	uint64_t size;	     /* bytes */
	uint16_t flags;	     /* enum nbd_transmission_flags */
	bool has_block_size; /* the server told the three sizes; else they are the defaults */
	uint32_t min_block, preferred_block, max_payload; /* bytes */
	struct nbd_client_context contexts[NBD_MAX_CONTEXTS];
	unsigned context_count;
	/* ---- after FAILED ---- */
	int error; /* -errno */
	char reason[256];
	/* ---- private ---- */
	bool fixed, no_zeroes;
	bool has_export;       /* an EXPORT info is in */
	uint32_t asked;	       /* bit n: option n was sent */
	uint32_t option;       /* under way */
	uint32_t replies;      /* seen so far */
	uint32_t type, length; /* of the reply under way */
	uint32_t have;
	uint8_t header[20];
	uint8_t data[NBD_MAX_STRING_BYTES + 16];
};

/*
 * Sends nothing yet: the server speaks first. `send` copies what it is given. Strings of the
 * configuration must outlive the handshake. Returns 0, -ENAMETOOLONG or -E2BIG (contexts).
 */
int nbd_client_init(struct nbd_client *client, const struct nbd_client_config *config,
		    void (*send)(void *arg, const void *bytes, size_t count), void *arg);
/* Takes up to `count` bytes; *taken tells how many. May be called again after MORE and after TLS.
 */
enum nbd_client_result nbd_client_feed(struct nbd_client *client, const uint8_t *bytes,
				       size_t count, size_t *taken);
/* TLS is up: the negotiation goes on inside it. */
void nbd_client_tls_done(struct nbd_client *client);

#endif
