/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * discard: receiving without seeing. All replies are READs of one size, so the stream is cut by
 * counting, and the kernel drops it (MSG_TRUNC of TCP). Which request a reply is for is not seen:
 * they are taken to come in order. Now and then, and after the last one, a header is read for
 * real: if the stream were not where it is thought to be, by an error for example, that would show.
 */
#include "app/perf/connection.h"
#include "lib/base/compiler.h"

enum {
	HEADER_BYTES = sizeof(struct nbd_simple_reply),
	LOOK_NS = 1000000, /* between looks at a header, at least */
	FORCED_LOOK_NS = 100 * LOOK_NS,
};

static uint32_t reply_bytes(const struct connection *connection)
{
	return HEADER_BYTES + connection->worker->run->options->block_bytes;
}

/* What is still to come of the requests that were sent; others wait in the batch. */
static uint64_t owed(const struct connection *connection)
{
	uint64_t waiting =
		connection->depth - connection->free_count -
		((connection->next_cookie - connection->handed_cookie) >> SLOT_INDEX_BITS);
	return waiting * reply_bytes(connection) - connection->discard.at;
}

void discard_receive(struct connection *connection)
{
	struct discard *discard = &connection->discard;
	struct io_uring_sqe *sqe = uring_get_sqe(&connection->worker->uring);
	uint64_t now_ns = connection->worker->now_ns, bytes = owed(connection);
	/* where nothing is owed, the next bytes are a header too, or the end of the stream */
	discard->heading = !discard->at && (now_ns >= discard->next_look_ns || !bytes);
	if (discard->heading) {
		io_uring_prep_recv(sqe, connection->line.fd, discard->header, HEADER_BYTES,
				   MSG_WAITALL);
	} else {
		/* a look that is overdue needs the stream to stop before a header */
		if (discard->at && now_ns >= discard->next_look_ns + FORCED_LOOK_NS)
			bytes = reply_bytes(connection) - discard->at;
		io_uring_prep_recv(sqe, connection->line.fd, NULL,
				   MIN_OF(bytes, (uint64_t)INT32_MAX), MSG_TRUNC);
	}
	uring_set_op(sqe, &connection->receive);
	connection->receiving = true;
}

/* The header of the oldest request's reply, perhaps cut short by the end. */
static bool check_header(struct connection *connection, unsigned bytes)
{
	const struct nbd_simple_reply *reply = (const void *)connection->discard.header;
	if (bytes < HEADER_BYTES) {
		connection_break(connection, "the server closed the connection within a reply");
		return false;
	}
	if (be32_get(reply->magic) != NBD_MAGIC_SIMPLE_REPLY) {
		connection_break(connection,
				 "replies are not where they should be: the server answered "
				 "with an error, or not at all as asked (run without --discard "
				 "to see)");
		return false;
	}
	if (reply->error.raw) {
		connection_break(connection, "the server answers a READ with error %u",
				 be32_get(reply->error));
		return false;
	}
	return true;
}

static void end_oldest(struct connection *connection, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		struct slot *slot = &connection->slots[connection->discard.oldest];
		/* free slots queue: where requests end in order they are used in turn */
		if (++connection->discard.oldest == connection->depth)
			connection->discard.oldest = 0;
		connection_end(connection, slot);
	}
}

static void receive_done(struct uring_op *op, int result, uint32_t flags)
{
	struct connection *connection = container_of(op, struct connection, receive);
	struct discard *discard = &connection->discard;
	connection->receiving = false;
	if (unlikely(connection->broken))
		return;
	if (unlikely(result <= 0)) {
		connection_receive_failed(connection, result);
		return;
	}
	if (discard->heading) {
		if (!check_header(connection, result))
			return;
		discard->next_look_ns = connection->worker->now_ns + LOOK_NS;
	}
	if (unlikely((uint64_t)result > owed(connection))) {
		connection_break(connection, "the server spoke out of turn");
		return;
	}
	uint64_t have = discard->at + (uint64_t)result;
	discard->at = have % reply_bytes(connection);
	end_oldest(connection, have / reply_bytes(connection));
	connection_fill(connection);
	connection_receive(connection);
}

void discard_init(struct connection *connection)
{
	connection->receive.done = receive_done;
}
