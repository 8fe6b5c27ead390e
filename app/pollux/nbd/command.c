/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * command: requests to the bdev. A READ takes a buffer (or none, where the bdev lends its memory),
 * goes to the storage core and comes back to transmit_reply(). READs and WRITEs beyond a part's
 * size go in parts (large_read.c, write.c); no part waits for another's buffer while it holds one,
 * so that nothing can lock up.
 */
#include "app/pollux/nbd/command.h"

#include <errno.h>

enum {
	DF_SURE_BYTES =
		64 << 10, /* READs with DF up to this always succeed, as the document asks */
};

uint64_t command_share_bytes(const struct buffers *buffers)
{
	if (likely(buffers->free_bytes >= buffers->total_bytes / 2))
		return buffers->total_bytes / 8;
	return buffers->free_bytes >= buffers->total_bytes / 4 ? 1 << 20 : 128 << 10;
}

static bool is_large(const struct connection *conn, const struct request *request)
{
	uint64_t most =
		request->flags & NBD_CMD_FLAG_DF ? BDEV_IO_MAX_BYTES : command_part_bytes(conn);
	return request->length > most;
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
	if (command_over_share(conn, request->length))
		return fail_if_stuck(conn, request);
	if (likely(command_give_destination(conn, request, request->length))) {
		submit_simple(request, BDEV_READ, conn->read_flags);
		return true;
	}
	if (request->length <= (whole ? DF_SURE_BYTES : BUFFER_MIN_BYTES))
		return fail_if_stuck(conn, request);
	/* what is free may be in small pieces for long: it need not wait for a big one */
	if (!whole) {
		command_begin_large_read(conn, request);
		return true;
	}
	request->status = -EOVERFLOW;
	transmit_reply(conn, request);
	return true;
}

static bool begin_read(struct connection *conn, struct request *request)
{
	if (unlikely(is_large(conn, request))) {
		command_begin_large_read(conn, request);
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
	uint8_t flags = command_flags(request->flags);
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
	struct request *request = command_take_slot(conn);
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

void command_fail_waiting(struct connection *conn)
{
	if (conn->blocked)
		connection_resume(conn);
	/* those were the READs that had been begun; what came behind them is the next to be read */
	if (conn->blocked && !conn->big)
		connection_resume(conn);
}
