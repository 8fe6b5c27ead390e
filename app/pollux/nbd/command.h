/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * command: what the files of commands share - command.c (each request's beginning, and those that
 * are one bdev request), large_read.c, write.c. Slots, buffers and a connection's share of them. On
 * the connection's core.
 */
#ifndef POLLUX_APP_NBD_COMMAND_H
#define POLLUX_APP_NBD_COMMAND_H

#include "app/pollux/nbd/connection.h"

/*
 * The fewer buffers are left, the less a connection may hold: a client that asks for much and takes
 * no replies must not use up what the others need.
 */
static inline uint64_t command_part_bytes(const struct connection *conn)
{
	const struct buffers *buffers = &conn->core->reactor->buffers;
	if (likely(conn->lends || buffers->free_bytes >= buffers->total_bytes / 2))
		return BDEV_IO_MAX_BYTES;
	return buffers->free_bytes >= buffers->total_bytes / 4 ? 256 << 10 : 64 << 10;
}

static inline uint8_t command_flags(uint16_t nbd_flags)
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

/* NULL: all are taken. */
static inline struct request *command_take_slot(struct connection *conn)
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

/* A READ more of that size would be more than the connection may hold. */
static inline bool command_over_share(const struct connection *conn, uint64_t length)
{
	return conn->held_bytes &&
	       conn->held_bytes + length > command_share_bytes(&conn->core->reactor->buffers);
}

/* The destination of a READ. False: no buffer of that size is there. */
static inline bool command_give_destination(struct connection *conn, struct request *request,
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

/* ---- large_read.c ---- */

/* A READ of more than a part: behind those that have begun before it. */
void command_begin_large_read(struct connection *conn, struct request *request);

#endif
