/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * command: requests to the bdev. A READ takes a buffer (or none, where the bdev lends its memory),
 * goes to the storage core and comes back to transmit_reply(). READs and WRITEs beyond a part's
 * size go in parts; no part waits for another's buffer while it holds one, so that nothing can lock
 * up.
 *
 * WRITEs: where the bdev takes payload at once (malloc, null) each piece is written straight from
 * the receive buffer. Elsewhere parts of up to BDEV_IO_MAX_BYTES are gathered in I/O buffers; at
 * most half of the core's buffers may wait for bytes from the network - beyond that a part is what
 * has arrived.
 */
#include <errno.h>
#include <string.h>

#include "app/pollux/nbd/connection.h"

enum {
	READ_PARTS_AHEAD = 3, /* of one large READ, submitted or waiting for their turn */
	DF_SURE_BYTES =
		64 << 10, /* READs with DF up to this always succeed, as the document asks */
};

/*
 * The fewer buffers are left, the less a connection may hold: a client that asks for much and takes
 * no replies must not use up what the others need.
 */
static uint64_t part_bytes(const struct connection *conn)
{
	const struct buffers *buffers = &conn->core->reactor->buffers;
	if (likely(conn->lends || buffers->free_bytes >= buffers->total_bytes / 2))
		return BDEV_IO_MAX_BYTES;
	return buffers->free_bytes >= buffers->total_bytes / 4 ? 256 << 10 : 64 << 10;
}

uint64_t command_share_bytes(const struct buffers *buffers)
{
	if (likely(buffers->free_bytes >= buffers->total_bytes / 2))
		return buffers->total_bytes / 8;
	return buffers->free_bytes >= buffers->total_bytes / 4 ? 1 << 20 : 128 << 10;
}

static bool is_large(const struct connection *conn, const struct request *request)
{
	uint64_t most = request->flags & NBD_CMD_FLAG_DF ? BDEV_IO_MAX_BYTES : part_bytes(conn);
	return request->length > most;
}

static uint8_t flags_of(uint16_t nbd_flags)
{
	uint8_t flags = 0;
	if (nbd_flags & NBD_CMD_FLAG_FUA)
		flags |= BDEV_FUA;
	if (nbd_flags & NBD_CMD_FLAG_NO_HOLE)
		flags |= BDEV_NO_HOLE;
	if (nbd_flags & NBD_CMD_FLAG_FAST_ZERO)
		flags |= BDEV_FAST_ZERO;
	return flags;
}

static inline struct request *take_slot(struct connection *conn)
{
	struct request *request = request_get(&conn->core->requests);
	if (unlikely(!request))
		return NULL;
	request->owner = conn;
	request->bdev = conn->export->bdev;
	request->home = conn->core->reactor;
	request->storage = conn->storage;
	request->buffer = NULL;
	request->reserved = 0;
	request->parent = NULL;
	request->answered = request->aborted = false;
	request->status = 0;
	request->io.iov = request->iov;
	request->io.iovcnt = 0;
	return request;
}

/* ---- What fits one bdev request ---- */

static void command_done(struct request *request)
{
	request->status = request->io.status;
	transmit_reply(request->owner, request);
}

static void submit_simple(struct request *request, uint8_t op, uint8_t flags)
{
	request->io.op = op;
	request->io.flags = flags;
	request->io.offset = request->offset;
	request->io.length = request->length;
	request->done = command_done;
	request_submit(request);
}

static bool over_share(const struct connection *conn, uint64_t length)
{
	return conn->held_bytes &&
	       conn->held_bytes + length > command_share_bytes(&conn->core->reactor->buffers);
}

/* The destination of a READ. False: no buffer of that size is there. */
static inline bool give_destination(struct connection *conn, struct request *request,
				    uint64_t length)
{
	request->buffer = buffers_get(&conn->core->reactor->buffers, length);
	if (unlikely(!request->buffer))
		return false;
	request->reserved = length;
	conn->held_bytes += length;
	request->iov[0] = (struct iovec){request->buffer, length};
	request->io.iovcnt = 1;
	return true;
}

static never_inline void begin_large_read(struct connection *conn, struct request *request)
{
	request->at = request->emitted = 0;
	request->parts = 0;
	request->parts_first = NULL;
	request->parts_last = &request->parts_first;
	request->next = NULL;
	*conn->big_last = request;
	conn->big_last = &request->next;
	command_continue_read(conn);
}

/* There is no buffer for it. False: it has to wait. */
static bool fail_if_stuck(struct connection *conn, struct request *request)
{
	if (!conn->stuck)
		return false;
	request->status = -EIO;
	transmit_reply(conn, request);
	return true;
}

/* False: it has to wait for a buffer. */
static never_inline bool begin_buffered_read(struct connection *conn, struct request *request)
{
	bool whole = request->flags & NBD_CMD_FLAG_DF;
	if (over_share(conn, request->length))
		return fail_if_stuck(conn, request);
	if (likely(give_destination(conn, request, request->length))) {
		submit_simple(request, BDEV_READ, conn->read_flags);
		return true;
	}
	if (request->length <= (whole ? DF_SURE_BYTES : BUFFER_MIN_BYTES))
		return fail_if_stuck(conn, request);
	/* what is free may be in small pieces for long: it need not wait for a big one */
	if (!whole) {
		begin_large_read(conn, request);
		return true;
	}
	request->status = -EOVERFLOW;
	transmit_reply(conn, request);
	return true;
}

static bool begin_read(struct connection *conn, struct request *request)
{
	if (unlikely(is_large(conn, request))) {
		begin_large_read(conn, request);
		return true;
	}
	if (unlikely(!conn->lends))
		return begin_buffered_read(conn, request);
	submit_simple(request, BDEV_READ, conn->read_flags);
	return true;
}

static inline void begin_write(struct connection *conn, struct request *request)
{
	request->at = 0;
	request->parts = 0;
	conn->writing = request;
}

static never_inline bool begin_other(struct request *request)
{
	uint8_t flags = flags_of(request->flags);
	switch (request->type) {
	case NBD_CMD_FLUSH:
		request->offset = request->length = 0;
		submit_simple(request, BDEV_FLUSH, 0);
		return true;
	case NBD_CMD_TRIM:
		submit_simple(request, BDEV_TRIM, flags & BDEV_FUA);
		return true;
	case NBD_CMD_WRITE_ZEROES:
		submit_simple(request, BDEV_WRITE_ZEROES, flags);
		return true;
	default:
		submit_simple(request, BDEV_CACHE, 0);
		return true;
	}
}

/* What can be answered, or needs no answer, without the bdev. True if that was all. */
static never_inline bool refuse(struct connection *conn, const struct nbd_command_request *wire)
{
	bool fatal = false;
	const char *message = NULL;
	uint32_t error = nbd_request_check(wire, &conn->limits, &fatal, &message);
	if (!error && wire->type == NBD_CMD_DISC) {
		connection_finish(conn, NULL);
		return true;
	}
	if (conn->draining) {
		error = NBD_ESHUTDOWN;
		message = "the export or the server is being shut down";
	}
	if (!error && wire->flags & NBD_CMD_FLAG_DF && wire->length > BDEV_IO_MAX_BYTES) {
		error = NBD_EOVERFLOW;
		message = "a reply in one piece is limited to 1 MiB";
	}
	if (!error && command_is_cut(conn, wire->offset, wire->length) &&
	    !(wire->type == NBD_CMD_BLOCK_STATUS && wire->payload)) {
		error = nbd_request_past_end(wire);
		message = COMMAND_CUT_MESSAGE;
	}
	if (!error)
		return false;
	transmit_error(conn, wire, error, message);
	if (fatal)
		connection_finish(conn, message);
	else
		conn->skip = wire->payload;
	return true;
}

/* False: no buffer was there. */
static never_inline bool begin_status(struct connection *conn, struct request *request,
			 const struct nbd_command_request *wire)
{
	struct nbd_status_filter filter;
	const char *message;
	if (wire->payload) {
		conn->filter_have = 0;
		conn->filter_bytes = wire->payload;
		begin_write(conn, request);
		return true;
	}
	nbd_status_filter_parse(wire, NULL, &conn->limits, conn->contexts, conn->context_count,
				&filter, &message);
	return status_begin(conn, request, &filter);
}

/* As if its header had not come yet: it does again when there is a buffer. */
static never_inline void wait_for_buffer(struct connection *conn, struct request *request)
{
	conn->inflight--;
	conn->stats->inflight--;
	conn->busy--;
	conn->requests--;
	request_put(&conn->core->requests, request);
	connection_block(conn);
}

bool command_begin(struct connection *conn, const uint8_t *header)
{
	reactor_assert_owner(conn->core->reactor);
	struct nbd_command_request wire;
	if (unlikely(!nbd_request_decode(header, conn->limits.mode, &wire))) {
		connection_kill(conn, "a request with a wrong magic");
		return true;
	}
	conn->requests++;
	bool plain = nbd_request_is_plain(&wire, &conn->limits) && !conn->draining &&
		     !command_is_cut(conn, wire.offset, wire.length);
	if (unlikely(!plain) && refuse(conn, &wire))
		return true;
	struct request *request = take_slot(conn);
	if (unlikely(!request)) {
		conn->requests--;
		connection_block(conn);
		return false;
	}
	request->cookie = wire.cookie;
	request->offset = wire.offset;
	request->length = wire.length;
	request->type = wire.type;
	request->flags = wire.flags;
	request->started = conn->core->reactor->now;
	conn->inflight++;
	conn->stats->inflight++;
	conn->busy++;
	if (likely(wire.type == NBD_CMD_READ)) {
		if (likely(begin_read(conn, request)))
			return true;
		wait_for_buffer(conn, request);
		return false;
	}
	if (wire.type == NBD_CMD_WRITE) {
		begin_write(conn, request);
	} else if (wire.type == NBD_CMD_BLOCK_STATUS) {
		if (!begin_status(conn, request, &wire)) {
			wait_for_buffer(conn, request);
			return false;
		}
	} else {
		begin_other(request);
	}
	return true;
}

/* ---- Large READs ---- */

static void part_done(struct request *part);

/*
 * No further part is wanted: nobody takes it, the time-out has answered it, or - in simple mode,
 * where an error can only stand alone - one part has failed. Elsewhere each part tells its own
 * error.
 */
static bool is_given_up(const struct connection *conn, const struct request *read)
{
	return conn->mute || read->answered ||
	       (conn->limits.mode == NBD_MODE_SIMPLE && read->status);
}

/* Hands the parts that are ready to the client's queue, in order. True when the READ is over. */
static bool emit_parts(struct connection *conn, struct request *read)
{
	bool simple = conn->limits.mode == NBD_MODE_SIMPLE;
	while (read->parts_first && read->parts_first->part_done) {
		struct request *part = read->parts_first;
		read->parts_first = part->next;
		if (!read->parts_first)
			read->parts_last = &read->parts_first;
		read->parts--;
		bool first = !read->emitted, last = read->emitted + part->length == read->length;
		read->emitted += part->length;
		if (part->io.status < 0) {
			read->status = part->io.status;
			if (simple && conn->big_exclusive)
				connection_kill(conn, "a READ failed after its reply had begun");
			else if (!simple && !is_given_up(conn, read))
				transmit_error_at(conn, read, part, last);
		}
		if (part->io.status < 0 || is_given_up(conn, read)) {
			connection_put_request(conn, part);
			continue;
		}
		conn->big_exclusive |= simple;
		transmit_part(conn, read, part, first, last);
	}
	if (read->parts)
		return false;
	return read->emitted == read->length || is_given_up(conn, read);
}

/*
 * The buffer of the next part of conn->big: as much as there is. Returns its bytes, 0 if it has to
 * wait.
 *
 * In simple mode the replies that wait behind a READ that has begun may hold buffers: its next part
 * must never wait for those. So it is not bound to the connection's share, and where nothing is
 * left at all it takes the core's reserve, which comes back when that part has been sent.
 */
static uint64_t part_destination(struct connection *conn, struct request *part, uint64_t most)
{
	struct nbd_core *core = conn->core;
	bool must_go_on = conn->big_exclusive && !conn->big->parts;
	if (likely(conn->lends))
		return most;
	if (!must_go_on && over_share(conn, most))
		return 0;
	for (uint64_t length = most; length; length = length > BUFFER_MIN_BYTES ? length / 2 : 0) {
		if (length < most)
			length =
				(length + BUFFER_MIN_BYTES - 1) & ~(uint64_t)(BUFFER_MIN_BYTES - 1);
		if (give_destination(conn, part, length))
			return length;
	}
	if (!must_go_on || !core->reserve)
		return 0;
	uint64_t length = MIN_OF(most, (uint64_t)CORE_RESERVE_BYTES);
	part->buffer = core->reserve;
	core->reserve = NULL;
	part->iov[0] = (struct iovec){part->buffer, length};
	part->io.iovcnt = 1;
	return length;
}

/* One part more is submitted. False: not now. */
static bool submit_part(struct connection *conn, struct request *read)
{
	if (read->at == read->length || read->parts == READ_PARTS_AHEAD || is_given_up(conn, read))
		return false;
	struct request *part = take_slot(conn);
	uint64_t length = part ? part_destination(conn, part,
						  MIN_OF(read->length - read->at, part_bytes(conn)))
			       : 0;
	if (!length) {
		if (part)
			request_put(&conn->core->requests, part);
		connection_block(conn);
		return false;
	}
	part->parent = read;
	part->part_done = false;
	part->cookie = read->cookie;
	part->type = NBD_CMD_READ;
	part->offset = read->offset + read->at;
	part->length = length;
	part->started = read->started;
	part->next = NULL;
	*read->parts_last = part;
	read->parts_last = &part->next;
	read->parts++;
	read->at += length;
	part->io.op = BDEV_READ;
	part->io.flags = conn->read_flags;
	part->io.offset = part->offset;
	part->io.length = length;
	part->done = part_done;
	request_submit(part);
	return true;
}

static void end_large_read(struct connection *conn, struct request *read)
{
	conn->big = NULL;
	/* told already: structured errors by part, and a simple reply that has begun and gone wrong
	 */
	bool told = read->emitted &&
		    !(conn->limits.mode == NBD_MODE_SIMPLE && read->status && !conn->big_exclusive);
	if (told || conn->mute || read->answered)
		transmit_read_end(conn, read);
	else
		transmit_reply(conn, read);
}

void command_continue_read(struct connection *conn)
{
	if (conn->big_running)
		return; /* a part that completed at once: the loop below goes on with it */
	conn->big_running = true;
	for (;;) {
		if (!conn->big) {
			conn->big = conn->big_first;
			if (!conn->big)
				break;
			conn->big_first = conn->big->next;
			if (!conn->big_first)
				conn->big_last = &conn->big_first;
		}
		struct request *read = conn->big;
		while (submit_part(conn, read))
			;
		if (!emit_parts(conn, read)) {
			if (unlikely(conn->stuck && conn->blocked && !read->parts)) {
				connection_time_out(conn, read);
				if (conn->big == read)
					break; /* the connection ends */
				continue;
			}
			if (read->parts == READ_PARTS_AHEAD || read->at == read->length ||
			    conn->blocked || read->parts)
				break;
			continue;
		}
		end_large_read(conn, read);
	}
	conn->big_running = false;
}

/* A part more of a READ that was left has ended. */
static void drop_part(struct request *part)
{
	struct request *read = part->parent;
	struct connection *conn = part->owner;
	connection_put_request(conn, part);
	if (--read->parts == 0)
		transmit_left_read_end(conn, read);
}

void command_leave_read(struct connection *conn)
{
	struct request *read = conn->big, *part = read->parts_first, *next;
	conn->big = NULL;
	read->parts++; /* it ends after the walk */
	for (; part; part = next) {
		next = part->next;
		if (part->part_done)
			drop_part(part);
	}
	if (--read->parts == 0)
		transmit_left_read_end(conn, read);
	command_continue_read(conn);
}

static void part_done(struct request *part)
{
	struct connection *conn = part->owner;
	part->part_done = true;
	if (likely(conn->big == part->parent))
		command_continue_read(conn);
	else
		drop_part(part);
}

/* ---- WRITE ---- */

static void write_over(struct connection *conn, struct request *write)
{
	write->io.iovcnt = 0;
	transmit_reply(conn, write);
}

static void piece_done(struct request *write)
{
	if (unlikely(write->io.status < 0) && !write->status)
		write->status = write->io.status;
}

/* The bdev takes the bytes before request_submit() returns. */
static size_t write_piece(struct connection *conn, const uint8_t *bytes, size_t count)
{
	struct request *write = conn->writing;
	uint64_t left = MIN_OF(write->length - write->at, (uint64_t)BDEV_IO_MAX_BYTES);
	size_t n = MIN_OF((uint64_t)count, left);
	if (likely(!write->status)) {
		write->iov[0] = (struct iovec){(void *)bytes, n};
		write->io.iovcnt = 1;
		write->io.op = BDEV_WRITE;
		write->io.flags = flags_of(write->flags);
		write->io.offset = write->offset + write->at;
		write->io.length = n;
		write->done = piece_done;
		request_submit(write);
	}
	write->at += n;
	if (write->at == write->length) {
		conn->writing = NULL;
		write_over(conn, write);
	}
	return n;
}

/* A part of a WRITE has been written; the first part is the request itself. */
static void write_part_done(struct request *part)
{
	struct request *write = part->parent ? part->parent : part;
	struct connection *conn = part->owner;
	if (part->io.status < 0 && !write->status)
		write->status = part->io.status;
	request_release(part);
	if (part != write)
		request_put(&conn->core->requests, part);
	nbd_core_freed(conn->core);
	if (--write->parts == 0 && write->at == write->length && conn->writing != write)
		write_over(conn, write);
}

void command_filled(struct connection *conn)
{
	struct request *part = conn->filling, *write = conn->writing;
	conn->core->filling_bytes -= conn->filling_reserved;
	conn->filling = NULL;
	conn->filling_direct = false;
	write->parts++;
	part->iov[0] = (struct iovec){part->buffer, conn->filling_bytes};
	part->io.iovcnt = 1;
	part->io.op = BDEV_WRITE;
	part->io.flags = flags_of(write->flags);
	part->io.offset = write->offset + write->at - conn->filling_bytes;
	part->io.length = conn->filling_bytes;
	part->done = write_part_done;
	if (write->at == write->length)
		conn->writing = NULL;
	request_submit(part);
}

/* There is no buffer for the rest of a WRITE. False: it has to wait. */
static bool drop_rest_if_stuck(struct connection *conn, struct request *write)
{
	if (!conn->stuck)
		return false;
	write->status = -EIO;
	conn->skip = write->length - write->at;
	write->at = write->length;
	conn->writing = NULL;
	if (!write->parts)
		write_over(conn, write);
	return true;
}

/* Begins a part: its slot and its buffer. False: it has to wait, or conn->writing is no more. */
static bool begin_part(struct connection *conn, size_t here)
{
	struct nbd_core *core = conn->core;
	struct buffers *buffers = &core->reactor->buffers;
	struct request *write = conn->writing, *part = write;
	size_t bytes = MIN_OF(write->length - write->at, (uint64_t)BDEV_IO_MAX_BYTES);
	size_t reserved = 0;
	if (write->at) {
		part = take_slot(conn);
		if (!part) {
			connection_block(conn);
			return false;
		}
		part->parent = write;
		part->type = NBD_CMD_WRITE;
		part->started = write->started;
	}
	if (bytes > here) {
		if (core->filling_bytes + bytes <= buffers->total_bytes / 2)
			reserved = bytes;
		else
			bytes = here;
	}
	part->buffer = buffers_get(buffers, bytes);
	if (!part->buffer && bytes > here) {
		bytes = here;
		reserved = 0;
		part->buffer = buffers_get(buffers, bytes);
	}
	if (!part->buffer) {
		if (part != write)
			request_put(&core->requests, part);
		if (!drop_rest_if_stuck(conn, write))
			connection_block(conn);
		return false;
	}
	core->filling_bytes += reserved;
	conn->filling = part;
	conn->filling_have = 0;
	conn->filling_bytes = bytes;
	conn->filling_reserved = reserved;
	return true;
}

size_t command_payload(struct connection *conn, const uint8_t *bytes, size_t count)
{
	if (unlikely(conn->writing->type == NBD_CMD_BLOCK_STATUS))
		return status_payload(conn, bytes, count);
	if (likely(conn->sync_writes))
		return write_piece(conn, bytes, count);
	if (!conn->filling && !begin_part(conn, count))
		return 0;
	size_t n = MIN_OF(count, (size_t)(conn->filling_bytes - conn->filling_have));
	memcpy((uint8_t *)conn->filling->buffer + conn->filling_have, bytes, n);
	conn->filling_have += n;
	conn->writing->at += n;
	if (conn->filling_have == conn->filling_bytes)
		command_filled(conn);
	return n;
}

void command_drop_payload(struct connection *conn)
{
	struct request *write = conn->writing, *part = conn->filling;
	if (!write || (conn->receiving && conn->filling_direct))
		return; /* the kernel may still write into the buffer: again when it has answered */
	if (part) {
		conn->core->filling_bytes -= conn->filling_reserved;
		request_release(part);
		if (part != write)
			request_put(&conn->core->requests, part);
		conn->filling = NULL;
	}
	conn->writing = NULL;
	write->answered = true;
	write->at = write->length;
	if (!write->parts)
		write_over(conn, write);
	nbd_core_freed(conn->core);
}

void command_fail_waiting(struct connection *conn)
{
	if (conn->blocked)
		connection_resume(conn);
	/* those were the READs that had been begun; what came behind them is the next to be read */
	if (conn->blocked && !conn->big)
		connection_resume(conn);
}
