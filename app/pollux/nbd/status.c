/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * status: BLOCK_STATUS. The bdev is asked about one metadata context after the other; it fills an
 * array at the end of an I/O buffer, which is turned into a chunk at its beginning. When all have
 * been asked the chunks go out as they lie there, in one piece; after an error the client gets
 * nothing but that.
 *
 * While a request is under way its `at` is what the chunks take so far, `emitted` where the array
 * begins, `parts` the contexts still to be asked (bit i: conn->contexts[i]).
 */
#include <errno.h>
#include <stdalign.h>
#include <stddef.h>
#include <string.h>

#include "app/pollux/nbd/connection.h"

enum {
	EXTENTS_MOST = 4096, /* a context and a reply; a client asks again for what comes then */
	/* an extent smaller than this is rare: more than so many a range are not made room for */
	EXTENT_LEAST_BYTES = 512,
	LEAST_BYTES = BUFFER_MIN_BYTES, /* of a buffer: an extent of each context fits */
};

_Static_assert((int)BDEV_EXTENT_HOLE == (int)NBD_STATE_HOLE &&
		       (int)BDEV_EXTENT_ZERO == (int)NBD_STATE_ZERO,
	       "the flags of context 0 are base:allocation's");
_Static_assert(sizeof(struct bdev_extent) == sizeof(struct nbd_extent),
	       "an array of the one becomes one of the other in its place");

static unsigned extents_in(const struct request *request)
{
	return request->iov[0].iov_len / sizeof(struct bdev_extent);
}

static struct bdev_extent *array_of(const struct request *request)
{
	return (void *)((uint8_t *)request->buffer + request->emitted);
}

/* ---- Asking ---- */

static void told(struct request *request);

static void ask(struct request *request)
{
	const struct connection *conn = request->owner;
	struct bdev_io *io = &request->io;
	io->op = BDEV_EXTENTS;
	io->flags = 0;
	io->context = conn->contexts[__builtin_ctz(request->parts)].index;
	io->offset = request->offset;
	io->length = request->length;
	io->iov = request->iov;
	io->iovcnt = 1;
	request->done = told;
	request_submit(request);
}

/* The array becomes the chunk of the context that was asked about. 0 or -errno. */
static int add_chunk(struct connection *conn, struct request *request)
{
	struct bdev_extent *extents = array_of(request);
	struct nbd_extent *wire = (void *)extents;
	struct nbd_status_filter filter = {
		.length = request->length,
		.one = request->flags & NBD_CMD_FLAG_REQ_ONE,
	};
	struct nbd_reply_to to = {request->cookie, request->offset, conn->limits.mode};
	uint32_t id = conn->contexts[__builtin_ctz(request->parts)].id;
	bool last = !(request->parts & (request->parts - 1));
	unsigned count = MIN_OF(request->io.extents, extents_in(request));
	for (unsigned i = 0; i < count; i++) {
		struct bdev_extent extent = extents[i];
		wire[i] = (struct nbd_extent){extent.length, extent.flags};
	}
	size_t bytes = nbd_reply_status((uint8_t *)request->buffer + request->at,
					nbd_reply_status_bytes(to.mode, extents_in(request)), &to,
					last, id, &filter, wire, count);
	request->at += bytes;
	return bytes ? 0 : -EIO;
}

static void told(struct request *request)
{
	struct connection *conn = request->owner;
	request->status = request->io.status;
	if (!request->status)
		request->status = add_chunk(conn, request);
	request->parts &= request->parts - 1;
	if (request->status) {
		connection_release(conn, request);
		transmit_reply(conn, request);
	} else if (request->parts && !conn->mute && !request->answered) {
		ask(request);
	} else {
		request->iov[0] = (struct iovec){request->buffer, request->at};
		transmit_bytes(conn, request);
	}
}

/* ---- Beginning ---- */

static void *take_buffer(struct connection *conn, size_t bytes)
{
	struct buffers *buffers = &conn->core->reactor->buffers;
	if (conn->held_bytes && conn->held_bytes + bytes > command_share_bytes(buffers))
		return NULL;
	return buffers_get(buffers, bytes);
}

/* The buffer, and how it is shared out. False: there is none. */
static bool lay_out(struct connection *conn, struct request *request, unsigned contexts, bool one)
{
	size_t head = nbd_reply_status_bytes(conn->limits.mode, 0);
	size_t each = nbd_reply_status_bytes(conn->limits.mode, 1) - head;
	/* what an extent takes: its place in the array, and one in the chunk of every context */
	size_t extent = sizeof(struct bdev_extent) + contexts * each;
	uint64_t most = request->length / EXTENT_LEAST_BYTES + 2;
	most = one ? 1 : MIN_OF(most, (uint64_t)EXTENTS_MOST);
	size_t fixed = contexts * head + alignof(max_align_t);
	size_t bytes = MIN_OF(fixed + most * extent, (size_t)BUFFER_MAX_BYTES);
	bytes = MAX_OF(bytes, (size_t)LEAST_BYTES);
	while (!(request->buffer = take_buffer(conn, bytes))) {
		if (bytes == LEAST_BYTES)
			return false;
		bytes = MAX_OF(bytes / 4, (size_t)LEAST_BYTES); /* a short answer is one, too */
	}
	request->reserved = bytes;
	conn->held_bytes += bytes;
	most = MIN_OF(most, (bytes - fixed) / extent);
	request->emitted = (bytes - most * sizeof(struct bdev_extent)) & -alignof(max_align_t);
	request->at = 0;
	request->iov[0] = (struct iovec){array_of(request), most * sizeof(struct bdev_extent)};
	return true;
}

bool status_begin(struct connection *conn, struct request *request,
		  const struct nbd_status_filter *filter)
{
	request->length = filter->length;
	if (!lay_out(conn, request, __builtin_popcount(filter->selected), filter->one))
		return false;
	request->parts = filter->selected;
	conn->writing = NULL;
	ask(request);
	return true;
}

/* ---- With a list of contexts ---- */

static void refuse(struct connection *conn, struct request *request,
		   const struct nbd_command_request *wire, uint32_t error, const char *message)
{
	conn->writing = NULL;
	conn->inflight--;
	conn->stats->inflight--;
	conn->busy--;
	request_put(&conn->core->requests, request);
	nbd_core_freed(conn->core);
	transmit_error(conn, wire, error, message);
	reactor_defer(conn->core->reactor, &conn->flush); /* it may have been the last */
}

size_t status_payload(struct connection *conn, const uint8_t *bytes, size_t count)
{
	struct request *request = conn->writing;
	size_t whole = conn->filter_bytes, needed = whole - conn->filter_have;
	size_t n = MIN_OF(count, needed);
	memcpy(conn->filter + conn->filter_have, bytes, n);
	if (n < needed) {
		conn->filter_have += n;
		return n;
	}
	struct nbd_command_request wire = {
		.cookie = request->cookie,
		.offset = request->offset,
		.length = whole,
		.payload = whole,
		.flags = request->flags,
		.type = request->type,
	};
	struct nbd_status_filter filter;
	const char *message = NULL;
	uint32_t error = nbd_status_filter_parse(&wire, conn->filter, &conn->limits, conn->contexts,
						 conn->context_count, &filter, &message);
	if (!error && command_is_cut(conn, wire.offset, filter.length)) {
		error = NBD_EINVAL;
		message = COMMAND_CUT_MESSAGE;
	}
	if (error) {
		refuse(conn, request, &wire, error, message);
		return n;
	}
	if (status_begin(conn, request, &filter))
		return n;
	connection_block(conn); /* the last bytes come again */
	return 0;
}
