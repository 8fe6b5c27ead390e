/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * connection: one NBD client. Its state machine and what the files of this folder share:
 * connection.c (life), negotiate.c (handshake), receive.c (bytes to requests), command.c,
 * large_read.c and write.c (requests to the bdev), status.c (BLOCK_STATUS), transmit.c (replies to
 * bytes), zero_copy.c (without copying them), secure.c (TLS below all of these), kernel_tls.c (the
 * same, with records by the kernel).
 * Owned by one net reactor from the hand-over of its socket to its end; all functions run there.
 *
 * What keeps a connection alive: operations of the ring on its socket (receiving, sending, what the
 * kernel still sends from), requests in flight, and the waiting for its timers. It may begin to end
 * in any state at any byte; it is freed when the last of these has gone.
 */
#ifndef POLLUX_APP_NBD_CONNECTION_H
#define POLLUX_APP_NBD_CONNECTION_H

#include <sys/socket.h>

#include "app/pollux/nbd/access.h"
#include "app/pollux/nbd/core.h"
#include "lib/nbd/reply.h"
#include "lib/nbd/request.h"

enum connection_state {
	CONN_HANDSHAKE,	   /* from accept; leaves by GO, EXPORT_NAME, an error or the time-out */
	CONN_TRANSMISSION, /* requests; leaves by DISC, end of file, an error, or being drained */
	CONN_FINISHING,	   /* drops what comes; requests end and replies go out, then DEAD */
	CONN_DEAD, /* the socket is shut down, replies are dropped; freed with the last user */
};

extern const char *const connection_state_names[];

enum {
	STATUS_FILTER_BYTES = 8 + 4 * NBD_MAX_CONTEXTS, /* the longest that passes the check */
	TX_BATCH_IOVS = 512,
	TX_BATCH_HEADER_BYTES = 8192,
	TX_BATCHES_KEPT = 64, /* free ones that a core keeps */
};

/* Replies that go out with one sendmsg(). Owned by its connection, or by the core's free list. */
struct tx_batch {
	struct tx_batch *next;
	struct msghdr message;
	unsigned iovs;
	unsigned header_bytes;
	size_t bytes;		 /* of the message */
	unsigned credits;	 /* requests of the connection that end when this is sent */
	struct request *holding; /* slots whose buffer or loan the batch sends from */
	/* sent without copying: */
	struct uring_op op;
	struct connection *conn;
	unsigned pins; /* sends of it that the kernel has not done with */
	bool sent;     /* in conn->pinned */
	struct iovec iov[TX_BATCH_IOVS];
	uint8_t headers[TX_BATCH_HEADER_BYTES];
};

struct connection {
	/* hot: receiving */
	struct uring_op receive_op;
	struct nbd_core *core;
	struct secure *tls;	       /* NULL: in the clear, or the kernel makes the records */
	struct kernel_tls *kernel_tls; /* NULL: it does not */
	enum connection_state state;
	int send_flags;	  /* of sends on a socket */
	int rx_fd, tx_fd; /* the same, but for standard input and output */
	struct nbd_limits limits;
	bool is_socket;
	bool receiving;	  /* the receive operation is in flight */
	bool multishot;	  /* it goes on by itself, */
	bool stopping;	  /* or was asked to end */
	bool looked_at;	  /* it has missed nothing since its last bytes */
	bool blocked;	  /* in core->blocked */
	bool starved;	  /* out of credits: goes on when replies have been sent */
	bool stuck;	  /* the bdev still has requests that were timed out: see below */
	bool sync_writes; /* payload may be written straight from the receive buffer */
	bool lends;
	uint8_t read_flags;  /* enum bdev_io_flags, of each READ */
	bool more_expected;  /* the last receive left bytes in the socket */
	bool mute;	     /* replies are dropped: nobody is there to take them */
	bool draining;	     /* new requests are refused; finishes when `busy` is 0 */
	uint32_t busy;	     /* requests begun and not yet answered */
	uint32_t held_bytes; /* of I/O buffers, by READs that are not yet sent */
	uint32_t inflight;   /* requests not yet answered and sent */
	uint32_t head_have;  /* bytes of a header in `head` */
	uint8_t head[32];
	uint64_t skip; /* payload bytes to drop */
	/* the WRITE, or BLOCK_STATUS with a list of contexts, whose payload is arriving */
	struct request *writing;
	/* the part of it that is being filled */
	struct request *filling;
	uint32_t filling_have, filling_bytes;
	uint32_t filling_reserved; /* of core->filling_bytes */
	bool filling_direct;	   /* the receive operation fills it */
	uint32_t single_left;	   /* receives to come before the next multishot one */
	uint64_t stopping_since;   /* pass of the reactor */
	/* bytes received and not yet taken, while blocked; malloc'ed */
	uint8_t *spill;
	uint32_t spill_at, spill_bytes;
	/* the bdev */
	struct export *export; /* held from the moment that GO or EXPORT_NAME was granted */
	struct reactor *storage;
	struct export_stats *stats;
	/* hot: transmitting */
	struct uring_op send_op;
	struct deferred flush;
	bool sending;
	struct tx_batch *batches, *last_batch; /* the first may be being sent */
	bool zero_copy;			       /* large ones are sent from where they lie */
	unsigned pins;			       /* of all batches */
	struct tx_batch *pinned;	       /* sent, and still needed by the kernel */
	uint64_t zero_copy_sends, zero_copy_copied;
	/* large READs in parts: one at a time; in simple mode it alone may send once its header is
	 * out */
	struct request *big, *big_first, **big_last;
	bool big_exclusive;
	bool big_running;			 /* command_continue_read() is on the stack */
	struct request *held_first, **held_last; /* replies that wait for it */
	/* cold */
	struct nbd_handshake *handshake;
	struct secure_offer offer; /* until the handshake is over */
	uint8_t *handshake_out, *handshake_sending;
	size_t handshake_out_bytes, handshake_out_room, handshake_sending_bytes,
		handshake_sent_bytes;
	bool end_of_file; /* the client sends nothing more */
	bool lingering;	  /* all was sent; what still comes is dropped */
	struct timer
		timer; /* handshake time-out; later: the abort of what keeps a dead one alive */
	uint64_t id;
	uint64_t send_started; /* ticks, while sending */
	uint64_t received_at;  /* ticks: the last bytes */
	uint64_t connected_at; /* ticks */
	uint64_t requests, bytes_in, bytes_out;
	char peer[128];
	struct network_address address; /* the peer's */
	struct access *access;		/* of the listener; left when the connection is freed */
	unsigned list_index, list_at;	/* LIST: the next one, and where the search goes on */
	struct nbd_context contexts[NBD_MAX_CONTEXTS];
	unsigned context_count;
	uint8_t filter[STATUS_FILTER_BYTES]; /* of the BLOCK_STATUS whose payload is arriving */
	uint32_t filter_have, filter_bytes;
	char reason[128]; /* why it ended */
	TAILQ_ENTRY(connection) link, blocked_link;
};

/* ---- connection.c ---- */

struct connection_options {
	int rx_fd, tx_fd; /* one twice, or two */
	const char *peer; /* for people; copied */
	struct network_address address;
	struct access *access;	   /* entered */
	struct secure_offer offer; /* its reference is taken over */
};

/*
 * A client for this core; takes the descriptors and the offer over. NULL: no memory (they are
 * closed).
 */
struct connection *connection_open(struct nbd_core *core, const struct connection_options *options);
/* Refuses what still comes (ESHUTDOWN); finishes when what was begun has been answered. */
void connection_drain(struct connection *conn, const char *reason);
/* Drops what still comes; ends when all is answered and sent. */
void connection_finish(struct connection *conn, const char *reason);
/* Ends at once: replies are dropped. */
void connection_kill(struct connection *conn, const char *reason);
/* Something that kept it alive has gone. May free it: the last thing a caller does. */
void connection_check(struct connection *conn);
/* Waits for a slot or a buffer of the core. */
void connection_block(struct connection *conn);
/* One of its requests is over (its reply sent or dropped). */
void connection_credit(struct connection *conn, unsigned count);
/* Takes up again what it could not do: bytes kept back, parts of a large READ, receiving. */
void connection_resume(struct connection *conn);
void connection_free_batches(struct nbd_core *core);
/* The request has taken too long: its client learns that it failed, what comes of it is dropped. */
void connection_time_out(struct connection *conn, struct request *request);
/* The bdev goes: what it has not ended fails (ESHUTDOWN), as does what waits for a buffer. */
void connection_answer_all(struct connection *conn);
/* Whether the export's time for a request that began then (ticks) is over. */
bool connection_is_late(const struct connection *conn, uint64_t since);
/* For nbd_core: stalled clients, time-outs. */
void connection_watch_all(struct nbd_core *core);

/* ---- negotiate.c ---- */

int negotiate_begin(struct connection *conn);
/* Returns how many bytes it took; the rest belongs to the transmission phase or waits. */
size_t negotiate_feed(struct connection *conn, const uint8_t *bytes, size_t count);
/* Sends what the handshake has to say. True if there is (or is under way) any. */
bool negotiate_flush(struct connection *conn);
void negotiate_sent(struct connection *conn, int result);
/* What still comes is answered ERR_SHUTDOWN; soon the connection finishes. */
void negotiate_drain(struct connection *conn);
void negotiate_end(struct connection *conn);

/* ---- receive.c ---- */

void receive_arm(struct connection *conn);
/* The receive operation's completion. */
void receive_done(struct uring_op *op, int result, uint32_t cqe_flags);
/* Takes bytes as far as it can and keeps the rest back. */
void receive_take(struct connection *conn, const uint8_t *bytes, size_t count);
/* Tries again what was kept back, and goes on receiving. */
void receive_resume(struct connection *conn);
/* Now and then: goes on with what a receive in flight has missed. */
void receive_look(struct connection *conn);
/* Nobody wants what was kept back any more. */
void receive_drop_kept(struct connection *conn);

/* ---- command.c ---- */

/* Begins what a request header asks for. False: nothing was done, no slot or buffer was there. */
bool command_begin(struct connection *conn, const uint8_t *header);
/* The I/O buffers that one connection may hold for replies. */
uint64_t command_share_bytes(const struct buffers *buffers);
/* Payload of conn->writing; returns how many bytes it took, 0 when it has to wait. */
size_t command_payload(struct connection *conn, const uint8_t *bytes, size_t count);
/* conn->filling has got all its bytes. */
void command_filled(struct connection *conn);
/* More parts of the large READ under way, or the next one. */
void command_continue_read(struct connection *conn);
/*
 * conn->big has been answered by an error, and the bdev still holds parts of it: they end in their
 * own time, and the next large READ need not wait for them.
 */
void command_leave_read(struct connection *conn);
/*
 * What the bdev does not end keeps its buffers. While there is such a request of this connection
 * (conn->stuck), one that would have to wait for a buffer fails instead: it might wait for ever.
 */
void command_fail_waiting(struct connection *conn);
/* The payload will not come any more: lets go of what waits for it. */
void command_drop_payload(struct connection *conn);
/* Whether the range ends beyond the bdev's: it has shrunk since this client was told its size. */
static inline bool command_is_cut(const struct connection *conn, uint64_t offset, uint64_t length)
{
	return offset + length >
	       atomic_load_explicit(&conn->export->bdev->size_bytes, memory_order_relaxed);
}
#define COMMAND_CUT_MESSAGE "beyond the end: the export has shrunk"

/* ---- status.c ---- */

/* Answers a BLOCK_STATUS that was found good. False: no buffer was there, nothing was done. */
bool status_begin(struct connection *conn, struct request *request,
		  const struct nbd_status_filter *filter);
/* As command_payload(), for the list of contexts of conn->writing. */
size_t status_payload(struct connection *conn, const uint8_t *bytes, size_t count);

/* ---- transmit.c ---- */

/* A request's one reply (or the next chunk of a READ in parts): queued, sent at the end of the
 * pass. */
void transmit_reply(struct connection *conn, struct request *request);
/* The same for a good reply of any kind whose bytes lie in request->buffer, as iov[0] says. */
void transmit_bytes(struct connection *conn, struct request *request);
/* An error for a request that never got a slot. */
void transmit_error(struct connection *conn, const struct nbd_command_request *request,
		    uint32_t error, const char *message);
/* One part of a READ, in order in simple mode. `last`: the reply ends with it. */
void transmit_part(struct connection *conn, struct request *read, struct request *part, bool first,
		   bool last);
/* A part that failed; not in simple mode. */
void transmit_error_at(struct connection *conn, struct request *read, const struct request *part,
		       bool last);
/* After its last part: the READ's slot is over, the replies that waited for it go out. */
void transmit_read_end(struct connection *conn, struct request *read);
/* The last part of a READ that was left (command_leave_read) has ended. */
void transmit_left_read_end(struct connection *conn, struct request *read);
void transmit_run(struct deferred *deferred);
void transmit_done(struct uring_op *op, int result, uint32_t cqe_flags);
/* The first batch is over: what it holds is given back, at once or when the kernel needs it no
 * more. */
void transmit_pop(struct connection *conn);
/* Gives back what the batch holds, and the batch. */
void transmit_retire(struct connection *conn, struct tx_batch *batch);
/* The client takes nothing any more; what it has sent before is still carried out. */
void transmit_mute(struct connection *conn);
/* Gives back everything that waits to be sent. */
void transmit_drop(struct connection *conn);

/* Gives back what the request holds, before its slot. */
static inline void connection_release(struct connection *conn, struct request *request)
{
	conn->held_bytes -= request->reserved;
	request->reserved = 0;
	request_release(request);
}

/* The slot is over: gives back what it holds and the slot. */
static inline void connection_put_request(struct connection *conn, struct request *request)
{
	struct nbd_core *core = conn->core;
	connection_release(conn, request);
	request_put(&core->requests, request);
	nbd_core_freed(core);
}

#endif
