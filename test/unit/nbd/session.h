/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * session: a server's handshake under test. A test writes what the client sends, runs it, and reads
 * the replies one by one. Every run is made many times over - at once, a byte at a time, and cut in
 * two at each place - and must come out the same.
 */
#ifndef POLLUX_TEST_UNIT_NBD_SESSION_H
#define POLLUX_TEST_UNIT_NBD_SESSION_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/compiler.h"
#include "lib/nbd/server.h"

enum { SESSION_BYTES = 1 << 20, SESSION_CONTEXTS = 40 };

struct session {
	struct nbd_server_config config;
	struct nbd_handshake hs;
	/* what the client sends */
	uint8_t in[SESSION_BYTES];
	size_t in_length;
	/* what the server sent, and how much of it the test has read */
	uint8_t out[SESSION_BYTES];
	size_t out_length, out_read;
	/* how the last run went */
	enum nbd_handshake_result result;
	size_t taken;	   /* of in */
	unsigned upgrades; /* STARTTLS was returned so often */
	unsigned opened;   /* find() was called with `opening` so often */
	/* the fake exports */
	const struct nbd_export_info *exports;
	unsigned export_count;
	unsigned context_count; /* of every export */
	int find_error;		/* returned for the export "broken" */
	int open_error;		/* returned by find() with `opening` */
	int list_error;		/* returned instead of the first entry */
	bool no_context_op;
	bool change_contexts;  /* once SET_META_CONTEXT is done, they are named otherwise */
	bool shuffle_contexts; /* once SET_META_CONTEXT is done, they stand in another order */
	bool shutting_down;
};

/* A server with all features, in the clear, and the exports of session.c. */
void session_init(struct session *session);
/* The client's words. */
void session_bytes(struct session *session, const void *bytes, size_t count);
void session_u16(struct session *session, uint16_t value);
void session_u32(struct session *session, uint32_t value);
void session_flags(struct session *session, uint32_t flags);
void session_head(struct session *session, uint32_t option, uint32_t length);
void session_option(struct session *session, uint32_t option, const void *data, uint32_t length);
/* INFO or GO, with `count` info requests. */
void session_ask(struct session *session, uint32_t option, const char *name, unsigned count, ...);
/* LIST_META_CONTEXT or SET_META_CONTEXT, with `count` queries. */
void session_query(struct session *session, uint32_t option, const char *name, unsigned count, ...);

/* Feeds it all, in every way, and checks that all ways end alike. */
enum nbd_handshake_result session_run(struct session *session);
/* Feeds it all at once and only once, without an allocation of its own. */
enum nbd_handshake_result session_feed_once(struct session *session);
void session_fini(struct session *session);

/* The next of the server's replies; fails the test if it is another one. */
struct reply {
	const uint8_t *data;
	uint32_t length;
};
void expect_greeting(struct session *session, uint16_t flags);
struct reply expect_reply(struct session *session, uint32_t option, uint32_t type);
void expect_ack(struct session *session, uint32_t option);
/* An error reply must say something to a human. */
void expect_error(struct session *session, uint32_t option, uint32_t type);
void expect_export(struct session *session, uint32_t option, uint64_t size, uint16_t flags);
void expect_block_size(struct session *session, uint32_t option, uint32_t min, uint32_t preferred,
		       uint32_t max);
void expect_info_string(struct session *session, uint32_t option, uint16_t info,
			const char *string);
void expect_listed(struct session *session, const char *name, const char *description);
void expect_context(struct session *session, uint32_t option, uint32_t id, const char *name);
void expect_nothing(struct session *session);
uint64_t read_be(const uint8_t *bytes, unsigned count);

#endif
