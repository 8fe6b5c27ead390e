/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * write: the payload of WRITEs, as it arrives. Where the bdev takes payload at once (malloc, null)
 * each piece is written straight from the receive buffer. Elsewhere it goes to an I/O buffer: at
 * once where all of it is here, else in parts of up to BDEV_IO_MAX_BYTES, as they are filled; at
 * most half of the core's buffers may wait for bytes from the network - beyond that a part is what
 * has arrived.
 */
#include <errno.h>
#include <string.h>

#include "app/pollux/nbd/command.h"

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
		write->io.flags = command_flags(write->flags);
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
	part->io.flags = command_flags(write->flags);
	part->io.offset = write->offset + write->at - conn->filling_bytes;
	part->io.length = conn->filling_bytes;
	part->done = write_part_done;
	if (write->at == write->length)
		conn->writing = NULL;
	request_submit(part);
}

static void whole_done(struct request *write)
{
	struct connection *conn = write->owner;
	if (unlikely(write->io.status < 0) && !write->status)
		write->status = write->io.status;
	buffers_put(&write->home->buffers, write->buffer);
	write->buffer = NULL;
	nbd_core_freed(conn->core);
	write_over(conn, write);
}

/* A WRITE of one part whose bytes have all come: the usual case. False: there is no buffer. */
static bool write_whole(struct connection *conn, const uint8_t *bytes)
{
	struct request *write = conn->writing;
	size_t length = write->length;
	void *buffer = buffers_get(&write->home->buffers, length);
	if (unlikely(!buffer))
		return false;
	memcpy(buffer, bytes, length);
	write->buffer = buffer;
	write->iov[0] = (struct iovec){buffer, length};
	write->io.iovcnt = 1;
	write->io.op = BDEV_WRITE;
	write->io.flags = command_flags(write->flags);
	write->io.offset = write->offset;
	write->io.length = length;
	write->done = whole_done;
	write->at = length;
	conn->writing = NULL;
	request_submit(write);
	return true;
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
		part = command_take_slot(conn);
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
	if (!conn->filling) {
		uint64_t length = conn->writing->length;
		if (length <= MIN_OF(count, (size_t)BDEV_IO_MAX_BYTES) && !conn->writing->at &&
		    write_whole(conn, bytes))
			return length;
		if (!begin_part(conn, count))
			return 0;
	}
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
