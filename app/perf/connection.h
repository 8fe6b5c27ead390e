/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * connection: one connection under load - its slots, what goes out and what comes in. Made by the
 * main thread, then its worker's.
 *
 * A slot is a request in flight. What begins in a pass is gathered in a batch and goes out with one
 * send; one send is in flight at a time, since two could overtake each other. What comes in is
 * parsed where it lies and forgotten, but for what --verify wants to see.
 */
#ifndef POLLUX_APP_PERF_CONNECTION_H
#define POLLUX_APP_PERF_CONNECTION_H

#include <sys/socket.h>
#include <sys/uio.h>

#include "app/perf/dial.h"
#include "app/perf/pattern.h"
#include "app/perf/target.h"
#include "app/perf/worker.h"
#include "lib/nbd/client_reply.h"
#include "lib/tls/session.h"

enum {
	SLOT_INDEX_BITS = 16, /* of a cookie; the rest counts the connection's requests */
	SEND_IOV_MAX = 1024,
	RECEIVE_MIN_BYTES = 64 << 10,
	RECEIVE_MAX_BYTES = 512 << 10,
	SEAL_BYTES = 256 << 10, /* ciphertext of one send */
};

#define SLOT_FREE UINT64_MAX /* as a cookie: it has no slot's index, so that nothing finds it */

/* What is not usual about a request. */
enum slot_mark {
	SLOT_FAILED = 1,    /* it was answered by an error */
	SLOT_WARMUP = 2,    /* it belongs to the warm-up, though that is over */
	SLOT_SCATTERED = 4, /* the chunks of a READ do not come in order */
};

struct slot {
	uint64_t cookie;   /* SLOT_FREE: no request is in flight */
	uint64_t start_ns; /* with --rate: when it was due, perhaps before it could be sent */
	uint64_t sent_ns;
	uint64_t offset; /* bytes */
	uint64_t block;	 /* of the region */
	uint32_t length; /* bytes; 0: FLUSH */
	uint16_t type;	 /* enum nbd_command */
	uint8_t marks;	 /* enum slot_mark */
	uint64_t have;	 /* bytes that the chunks of a READ have brought */
	uint64_t seams;	 /* SLOT_SCATTERED: where they begin and end, see receive.c */
};

/* Requests that go out together. */
struct batch {
	uint8_t *headers;
	size_t header_bytes;
	struct iovec *iov;
	unsigned count; /* of iov */
};

/* Where the stream of replies stands, with --discard. */
struct discard {
	bool heading;	 /* the receive under way is for a header, to be checked */
	uint32_t at;	 /* bytes of the reply under way that are in */
	unsigned oldest; /* the slot whose reply that is */
	uint64_t next_look_ns;
	uint8_t header[16];
};

struct connection {
	struct worker *worker;
	struct target *target;
	unsigned number; /* of the target's */
	struct line line;
	struct uring_op receive, send;
	bool receiving, sending;
	bool broken;  /* no more requests, and no more replies */
	bool goodbye; /* DISC is in the batch, or out */
	unsigned depth;
	struct slot *slots;
	uint16_t *free; /* a queue, of free_count from free_head on */
	unsigned free_head, free_count;
	uint64_t quota; /* requests that may still begin */
	/*
	 * Cookies rise. Those from `handed` on, up to `next`, are of requests that gather in the
	 * batch: a server that answers one of them has guessed it.
	 */
	uint64_t next_cookie, handed_cookie;
	uint64_t secret; /* that no server knows */
	struct pattern pattern;
	uint64_t first_block, block_count; /* of the region: what it may use */
	uint64_t check_next; /* WORKER_CHECK: the next block, counted from first_block */
	unsigned writes;     /* since the last FLUSH */
	struct nbd_parser parser;
	struct slot *answered; /* by the message that the parser is in; valid within it */
	struct batch batches[2];
	unsigned filling; /* the batch that gathers; the other one may be in flight */
	struct msghdr message;
	struct tls_source source; /* TLS: what of the batch is not encrypted yet */
	uint8_t *sealed;	  /* TLS: SEAL_BYTES that are being sent */
	size_t sealed_bytes, sealed_at;
	uint8_t *received;
	size_t receive_bytes;
	const uint8_t *payload; /* of writes, without --verify */
	uint8_t *data;		/* --verify: a block for each slot */
	struct discard discard;
};

/* Takes over `line`. Returns 0 or -ENOMEM (the line is closed then). */
int connection_create(struct connection **connection, struct target *target, unsigned number,
		      const struct perf_options *options, const struct line *line);
void connection_destroy(struct connection *connection);

/* ---- on the worker's thread ---- */

/* Begins to receive. */
void connection_start(struct connection *connection);
/* Begins as many requests as it may, all of them now, and sends them. */
void connection_fill(struct connection *connection);
/* Begins one; there is a free slot. `start_ns` counts for its latency. */
void connection_begin(struct connection *connection, uint64_t start_ns);
/* The same for one that was due in the warm-up, which is over: it counts there. */
void connection_begin_late(struct connection *connection, uint64_t start_ns);
/* The warm-up is over: what is in flight still counts there. */
void connection_end_warmup(struct connection *connection);
/* Sends what has gathered, unless a send is under way: that one's end will. */
void connection_flush(struct connection *connection);
/* Says goodbye and hangs up. */
void connection_goodbye(struct connection *connection);
/* Looks for replies that are overdue. */
void connection_tick(struct connection *connection);
/* It can not go on: tells the worker why. */
void connection_break(struct connection *connection, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* True while the kernel still has operations of it. */
static inline bool connection_is_live(const struct connection *connection)
{
	return connection->receiving || connection->sending;
}

/* ---- between its files ---- */

/* A reply has ended: counts it and frees the slot. */
void connection_end(struct connection *connection, struct slot *slot);
void connection_receive(struct connection *connection);
/* The end of the stream (0) or -errno. */
void connection_receive_failed(struct connection *connection, int result);
void receive_init(struct connection *connection);
/* With --discard, in place of the two. */
void discard_receive(struct connection *connection);
void discard_init(struct connection *connection);

#endif
