/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * transmit: replies to bytes. What a pass has to say to a client is gathered in batches - headers
 * in the batch, payload straight from the bdev's memory or the I/O buffer - and goes out with one
 * sendmsg() at the end of the pass; one is in flight at a time, since two on one socket may
 * overtake each other.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "app/pollux/nbd/connection.h"
#include "app/pollux/nbd/zero_copy.h"
#include "lib/base/log.h"

/* ---- Batches ---- */

static struct tx_batch *make_batch(struct connection *conn)
{
	struct nbd_core *core = conn->core;
	struct tx_batch *batch = core->free_batches;
	if (likely(batch != NULL)) {
		core->free_batches = batch->next;
		core->free_batch_count--;
	} else {
		batch = malloc(sizeof(*batch));
		if (!batch)
			return NULL;
	}
	batch->next = NULL;
	batch->iovs = 0;
	batch->header_bytes = 0;
	batch->bytes = 0;
	batch->credits = 0;
	batch->holding = NULL;
	batch->pins = 0;
	batch->sent = false;
	if (conn->last_batch)
		conn->last_batch->next = batch;
	else
		conn->batches = batch;
	conn->last_batch = batch;
	return batch;
}

static void put_batch(struct nbd_core *core, struct tx_batch *batch)
{
	if (core->free_batch_count >= TX_BATCHES_KEPT) {
		free(batch);
		return;
	}
	batch->next = core->free_batches;
	core->free_batches = batch;
	core->free_batch_count++;
}

void connection_free_batches(struct nbd_core *core)
{
	while (core->free_batches) {
		struct tx_batch *batch = core->free_batches;
		core->free_batches = batch->next;
		free(batch);
	}
	core->free_batch_count = 0;
}

/* NULL (and the connection ends) without memory. */
static never_inline struct tx_batch *new_batch(struct connection *conn)
{
	struct tx_batch *batch = make_batch(conn);
	if (!batch)
		connection_kill(conn, "no memory for its replies");
	return batch;
}

/* Whether the last batch, or NULL, takes a header and `iovs` more. */
static inline bool has_room(const struct connection *conn, const struct tx_batch *batch,
			    size_t header_bytes, unsigned iovs)
{
	return batch && !(conn->sending && batch == conn->batches) &&
	       batch->header_bytes + header_bytes <= TX_BATCH_HEADER_BYTES &&
	       batch->iovs + 1 + iovs <= TX_BATCH_IOVS;
}

static inline struct tx_batch *batch_with_room(struct connection *conn, size_t header_bytes,
					       unsigned iovs)
{
	struct tx_batch *batch = conn->last_batch;
	return likely(has_room(conn, batch, header_bytes, iovs)) ? batch : new_batch(conn);
}

static inline void add_piece(struct tx_batch *batch, void *at, size_t bytes)
{
	batch->bytes += bytes;
	batch->iov[batch->iovs++] = (struct iovec){at, bytes};
}

/* `bytes` were written at the end of the headers. Joins the piece before where it can. */
static inline void add_header(struct tx_batch *batch, size_t bytes)
{
	uint8_t *at = batch->headers + batch->header_bytes;
	batch->header_bytes += bytes;
	if (batch->iovs) {
		struct iovec *last = &batch->iov[batch->iovs - 1];
		if ((uint8_t *)last->iov_base + last->iov_len == at) {
			batch->bytes += bytes;
			last->iov_len += bytes;
			return;
		}
	}
	add_piece(batch, at, bytes);
}

static inline void add_payload(struct tx_batch *batch, const struct request *request)
{
	if (likely(request->io.iovcnt == 1)) {
		add_piece(batch, request->io.iov->iov_base, request->io.iov->iov_len);
		return;
	}
	for (unsigned i = 0; i < request->io.iovcnt; i++)
		add_piece(batch, request->io.iov[i].iov_base, request->io.iov[i].iov_len);
}

/* The request ends with this batch: its slot at once, unless the batch sends from what it holds. */
static inline void end_request(struct connection *conn, struct tx_batch *batch,
			       struct request *request)
{
	if (request->buffer || request_holds_loan(request)) {
		request->next = batch->holding;
		batch->holding = request;
	} else {
		request_put(&conn->core->requests, request);
		nbd_core_freed(conn->core);
	}
}

/* ---- Replies ---- */

static const uint8_t op_of_type[] = {
	[NBD_CMD_READ] = BDEV_READ,
	[NBD_CMD_WRITE] = BDEV_WRITE,
	[NBD_CMD_DISC] = BDEV_FLUSH,
	[NBD_CMD_FLUSH] = BDEV_FLUSH,
	[NBD_CMD_TRIM] = BDEV_TRIM,
	[NBD_CMD_CACHE] = BDEV_CACHE,
	[NBD_CMD_WRITE_ZEROES] = BDEV_WRITE_ZEROES,
	[NBD_CMD_BLOCK_STATUS] = BDEV_EXTENTS,
};

static void account(struct connection *conn, const struct request *request)
{
	struct export_op_stats *stats = &conn->stats->op[op_of_type[request->type]];
	uint64_t ticks = conn->core->reactor->now - request->started;
	conn->stats->inflight--;
	if (unlikely(--conn->busy == 0 && conn->draining))
		reactor_defer(conn->core->reactor, &conn->flush);
	if (unlikely(request->answered))
		return; /* an error was told already, or nobody is there to be told */
	stats->ops++;
	stats->bytes += request->length;
	stats->latency_ticks += ticks;
	if (unlikely(ticks > stats->latency_max_ticks))
		stats->latency_max_ticks = ticks;
	if (unlikely(request->status < 0))
		stats->errors++;
}

static struct nbd_reply_to reply_to(const struct connection *conn, const struct request *request)
{
	return (struct nbd_reply_to){request->cookie, request->offset, conn->limits.mode};
}

static size_t write_error(const struct connection *conn, uint8_t *out,
			  const struct request *request)
{
	struct nbd_reply_to to = reply_to(conn, request);
	uint32_t error = nbd_request_error(request->type, request->flags, request->status);
	return nbd_reply_error(out, &to, error, strerror(-request->status));
}

/* A READ of zeroes, which has no payload to send. Not in simple mode. */
static size_t write_hole(struct connection *conn, uint8_t *out, struct request *request)
{
	struct nbd_reply_to to = reply_to(conn, request);
	connection_release(conn, request); /* its buffer is not sent */
	return nbd_reply_hole(out, &to, true, request->offset, request->length);
}

static inline struct tx_batch *batch_for(struct connection *conn, struct request *request,
					 size_t header_bytes, unsigned iovs)
{
	struct tx_batch *batch = batch_with_room(conn, header_bytes, iovs);
	if (unlikely(!batch)) {
		connection_put_request(conn, request);
		connection_credit(conn, 1);
	}
	return batch;
}

static inline void finish_reply(struct connection *conn, struct tx_batch *batch,
				struct request *request)
{
	batch->credits++;
	end_request(conn, batch, request);
	reactor_defer(conn->core->reactor, &conn->flush);
}

static never_inline void append_error(struct connection *conn, struct request *request)
{
	struct tx_batch *batch = batch_for(conn, request, NBD_REPLY_ERROR_BYTES, 0);
	if (!batch)
		return;
	add_header(batch, write_error(conn, batch->headers + batch->header_bytes, request));
	finish_reply(conn, batch, request);
}

static inline void finish_good(struct connection *conn, struct tx_batch *batch,
			       struct request *request, size_t header_bytes, bool data)
{
	if (data) { /* what comes before is payload, most of the time: not worth a look */
		uint8_t *header = batch->headers + batch->header_bytes;
		batch->header_bytes += header_bytes;
		add_piece(batch, header, header_bytes);
		add_payload(batch, request);
		conn->bytes_out += request->length;
	} else {
		add_header(batch, header_bytes);
	}
	finish_reply(conn, batch, request);
}

static never_inline void add_chunk(struct connection *conn, struct tx_batch *batch,
				   struct request *request)
{
	struct nbd_reply_to to = reply_to(conn, request);
	uint8_t *out = batch->headers + batch->header_bytes;
	bool data = request->type == NBD_CMD_READ;
	size_t bytes;
	if (data && request->io.flags & BDEV_ZEROES) {
		bytes = write_hole(conn, out, request);
		data = false;
	} else {
		bytes = data ? nbd_reply_data(out, &to, true, request->offset, request->length)
			     : nbd_reply_done(out, &to);
	}
	finish_good(conn, batch, request, bytes, data);
}

/* A good reply: the header, and what a READ brought. */
static inline void add_good(struct connection *conn, struct tx_batch *batch,
			    struct request *request)
{
	if (likely(conn->limits.mode == NBD_MODE_SIMPLE)) {
		uint8_t *out = batch->headers + batch->header_bytes;
		size_t bytes = nbd_reply_simple(out, request->cookie, NBD_SUCCESS);
		finish_good(conn, batch, request, bytes, request->type == NBD_CMD_READ);
	} else {
		add_chunk(conn, batch, request);
	}
}

static inline unsigned payload_iovs(const struct request *request)
{
	return request->type == NBD_CMD_READ ? request->io.iovcnt : 0;
}

static never_inline void append_in_new_batch(struct connection *conn, struct request *request)
{
	struct tx_batch *batch =
		batch_for(conn, request, NBD_REPLY_HEAD_BYTES, payload_iovs(request));
	if (batch)
		add_good(conn, batch, request);
}

static inline void append_good(struct connection *conn, struct request *request)
{
	struct tx_batch *batch = conn->last_batch;
	if (likely(has_room(conn, batch, NBD_REPLY_HEAD_BYTES, payload_iovs(request))))
		add_good(conn, batch, request);
	else
		append_in_new_batch(conn, request);
}

static void append_reply(struct connection *conn, struct request *request)
{
	if (unlikely(request->status < 0))
		append_error(conn, request);
	else
		append_good(conn, request);
}

/* One that failed, is not wanted any more, or has to wait behind a large READ. */
static never_inline void reply_otherwise(struct connection *conn, struct request *request)
{
	if (conn->mute || request->answered) {
		connection_put_request(conn, request);
		connection_credit(conn, 1);
	} else if (conn->big_exclusive) {
		request->next = NULL;
		*conn->held_last = request;
		conn->held_last = &request->next;
	} else {
		append_reply(conn, request);
	}
}

void transmit_reply(struct connection *conn, struct request *request)
{
	reactor_assert_owner(conn->core->reactor);
	account(conn, request);
	if (unlikely(request->status || request->answered || conn->mute || conn->big_exclusive))
		reply_otherwise(conn, request);
	else
		append_good(conn, request);
}

void transmit_bytes(struct connection *conn, struct request *request)
{
	account(conn, request);
	struct tx_batch *batch = NULL;
	if (!conn->mute && !request->answered)
		batch = batch_with_room(conn, 0, 1);
	if (!batch) {
		connection_put_request(conn, request);
		connection_credit(conn, 1);
		return;
	}
	add_payload(batch, request);
	batch->credits++;
	end_request(conn, batch, request);
	reactor_defer(conn->core->reactor, &conn->flush);
}

void transmit_error(struct connection *conn, const struct nbd_command_request *request,
		    uint32_t error, const char *message)
{
	conn->stats
		->op[request->type < COUNT_OF(op_of_type) ? op_of_type[request->type] : BDEV_FLUSH]
		.errors++;
	struct nbd_reply_to to = nbd_reply_to(request, conn->limits.mode);
	if (unlikely(conn->mute))
		return;
	if (conn->big_exclusive) {
		struct request *slot = request_get(&conn->core->requests);
		if (!slot) {
			connection_kill(conn, "no slot for an error reply");
			return;
		}
		/* the code survives the way through the request's status: both are errno numbers */
		slot->cookie = request->cookie;
		slot->offset = request->offset;
		slot->type = NBD_CMD_FLUSH;
		slot->status = -(int32_t)error;
		slot->buffer = NULL;
		slot->io.iov = slot->iov;
		slot->io.iovcnt = 0;
		slot->io.op = BDEV_FLUSH;
		slot->bdev = conn->export->bdev;
		slot->answered = false;
		slot->next = NULL;
		conn->inflight++;
		*conn->held_last = slot;
		conn->held_last = &slot->next;
		return;
	}
	struct tx_batch *batch = batch_with_room(conn, NBD_REPLY_ERROR_BYTES, 0);
	if (!batch)
		return;
	conn->inflight++;
	batch->credits++;
	add_header(batch,
		   nbd_reply_error(batch->headers + batch->header_bytes, &to, error, message));
	reactor_defer(conn->core->reactor, &conn->flush);
}

void transmit_part(struct connection *conn, struct request *read, struct request *part, bool first,
		   bool last)
{
	bool simple = conn->limits.mode == NBD_MODE_SIMPLE;
	struct tx_batch *batch = batch_with_room(conn, NBD_REPLY_HEAD_BYTES, part->io.iovcnt);
	if (!batch) {
		connection_put_request(conn, part);
		return;
	}
	struct nbd_reply_to to = reply_to(conn, read);
	uint8_t *out = batch->headers + batch->header_bytes;
	if (part->io.flags & BDEV_ZEROES) {
		add_header(batch, nbd_reply_hole(out, &to, last, part->io.offset, part->io.length));
		connection_release(conn, part);
	} else {
		if (!simple || first)
			add_header(batch, nbd_reply_data(out, &to, last, part->io.offset,
							 part->io.length));
		add_payload(batch, part);
		conn->bytes_out += part->io.length;
	}
	end_request(conn, batch, part);
	reactor_defer(conn->core->reactor, &conn->flush);
}

void transmit_error_at(struct connection *conn, struct request *read, const struct request *part,
		       bool last)
{
	struct tx_batch *batch = batch_with_room(conn, NBD_REPLY_ERROR_BYTES, 0);
	if (!batch)
		return;
	struct nbd_reply_to to = reply_to(conn, read);
	add_header(batch, nbd_reply_error_at(batch->headers + batch->header_bytes, &to, last,
					     nbd_request_error(read->type, 0, part->io.status),
					     part->io.offset, strerror(-part->io.status)));
	reactor_defer(conn->core->reactor, &conn->flush);
}

void transmit_read_end(struct connection *conn, struct request *read)
{
	account(conn, read);
	if (conn->mute || !conn->last_batch) {
		connection_put_request(conn, read);
		connection_credit(conn, 1);
	} else {
		/* its last part stands in the last batch, perhaps being sent already */
		conn->last_batch->credits++;
		request_put(&conn->core->requests, read);
		nbd_core_freed(conn->core);
	}
	conn->big_exclusive = false;
	struct request *held = conn->held_first;
	conn->held_first = NULL;
	conn->held_last = &conn->held_first;
	while (held) {
		struct request *next = held->next;
		if (conn->mute) {
			connection_put_request(conn, held);
			connection_credit(conn, 1);
		} else {
			append_reply(conn, held);
		}
		held = next;
	}
}

void transmit_left_read_end(struct connection *conn, struct request *read)
{
	account(conn, read);
	connection_put_request(conn, read);
	connection_credit(conn, 1);
}

/* ---- Sending ---- */

static void submit(struct connection *conn)
{
	struct tx_batch *batch = conn->batches;
	conn->sending = true;
	conn->send_started = conn->core->reactor->now;
	if (zero_copy_suits(conn, batch)) {
		zero_copy_submit(conn, batch);
		return;
	}
	struct io_uring_sqe *sqe = uring_get_sqe(&conn->core->reactor->uring);
	if (likely(conn->is_socket))
		io_uring_prep_sendmsg(sqe, conn->tx_fd, &batch->message, conn->send_flags);
	else
		io_uring_prep_writev(sqe, conn->tx_fd, batch->message.msg_iov,
				     batch->message.msg_iovlen, -1);
	uring_set_op(sqe, &conn->send_op);
}

void transmit_run(struct deferred *deferred)
{
	struct connection *conn = container_of(deferred, struct connection, flush);
	if (unlikely(conn->draining && !conn->busy))
		connection_finish(conn, NULL);
	if (unlikely(conn->state == CONN_DEAD || conn->handshake_out_bytes ||
		     conn->handshake_sending)) {
		if (conn->state != CONN_DEAD && !conn->sending)
			negotiate_flush(conn);
		connection_check(conn);
		return;
	}
	if (!conn->sending && conn->batches) {
		struct tx_batch *batch = conn->batches;
		memset(&batch->message, 0, sizeof(batch->message));
		batch->message.msg_iov = batch->iov;
		batch->message.msg_iovlen = batch->iovs;
		submit(conn);
		return;
	}
	if (unlikely(conn->state == CONN_FINISHING))
		connection_check(conn);
}

/* The batch has been sent, or never will be. */
void transmit_retire(struct connection *conn, struct tx_batch *batch)
{
	struct request *request = batch->holding;
	while (request) {
		struct request *next = request->next;
		connection_put_request(conn, request);
		request = next;
	}
	unsigned credits = batch->credits;
	put_batch(conn->core, batch);
	if (credits)
		connection_credit(conn, credits);
}

void transmit_pop(struct connection *conn)
{
	struct tx_batch *batch = conn->batches;
	conn->batches = batch->next;
	if (!conn->batches)
		conn->last_batch = NULL;
	if (likely(!batch->pins)) {
		transmit_retire(conn, batch);
		return;
	}
	unsigned credits = batch->credits;
	batch->credits = 0;
	zero_copy_keep(conn, batch);
	if (credits)
		connection_credit(conn, credits);
}

/* Moves the message on by what was sent. True if all of it was. */
static bool advance(struct tx_batch *batch, size_t sent)
{
	struct msghdr *message = &batch->message;
	batch->bytes -= sent;
	if (likely(!batch->bytes))
		return true;
	while (message->msg_iovlen && sent >= message->msg_iov->iov_len) {
		sent -= message->msg_iov->iov_len;
		message->msg_iov++;
		message->msg_iovlen--;
	}
	message->msg_iov->iov_base = (char *)message->msg_iov->iov_base + sent;
	message->msg_iov->iov_len -= sent;
	return false;
}

void transmit_done(struct uring_op *op, int result, uint32_t cqe_flags)
{
	struct connection *conn = container_of(op, struct connection, send_op);
	if (unlikely(conn->handshake_sending != NULL)) {
		conn->sending = false;
		negotiate_sent(conn, result);
		return;
	}
	/* A client may send its last WRITEs and be gone: they count, though nobody takes the
	 * replies. */
	if (unlikely(result < 0 && result != -EAGAIN && result != -EINTR))
		transmit_mute(conn); /* leaves the batch that is being sent */
	conn->sending = false;
	if (likely(!conn->mute) && unlikely(!advance(conn->batches, result < 0 ? 0 : result))) {
		submit(conn);
		return;
	}
	transmit_pop(conn);
	if (conn->batches || unlikely(conn->state >= CONN_FINISHING))
		reactor_defer(conn->core->reactor, &conn->flush);
}

void transmit_mute(struct connection *conn)
{
	if (conn->mute)
		return;
	conn->mute = true;
	transmit_drop(conn);
	command_continue_read(conn);
}

void transmit_drop(struct connection *conn)
{
	struct tx_batch *kept = conn->sending && !conn->handshake_sending ? conn->batches : NULL;
	struct tx_batch *batch = kept ? kept->next : conn->batches;
	conn->batches = conn->last_batch = kept;
	if (kept)
		kept->next = NULL;
	while (batch) {
		struct tx_batch *next = batch->next;
		transmit_retire(conn, batch);
		batch = next;
	}
	struct request *held = conn->held_first;
	conn->held_first = NULL;
	conn->held_last = &conn->held_first;
	while (held) {
		struct request *next = held->next;
		connection_put_request(conn, held);
		connection_credit(conn, 1);
		held = next;
	}
}
