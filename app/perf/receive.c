/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * receive: what comes in on a connection. Whole good replies are recognised where they lie, in a
 * row; everything else - errors, chunks, replies that are cut by the end of the buffer - goes
 * through the parser of lib/nbd. The connection's worker.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "app/perf/connection.h"
#include "lib/base/compiler.h"
#include "lib/base/counter.h"

void connection_receive(struct connection *connection)
{
	struct io_uring_sqe *sqe;
	if (connection->worker->run->options->discard) {
		discard_receive(connection);
		return;
	}
	sqe = uring_get_sqe(&connection->worker->uring);
	io_uring_prep_recv(sqe, connection->line.fd, connection->received,
			   connection->receive_bytes, 0);
	uring_set_op(sqe, &connection->receive);
	connection->receiving = true;
}

/* ---- Slots ---- */

/* NULL: no request with this cookie was sent, or it has been answered. */
static struct slot *find(struct connection *connection, uint64_t cookie)
{
	unsigned index = cookie & ((1u << SLOT_INDEX_BITS) - 1);
	struct slot *slot = &connection->slots[index];
	if (unlikely(index >= connection->depth || slot->cookie != cookie ||
		     cookie >= connection->handed_cookie))
		return NULL;
	return slot;
}

static bool lookup(void *arg, uint64_t cookie, struct nbd_pending *pending)
{
	struct connection *connection = arg;
	struct slot *slot = find(connection, cookie);
	if (!slot)
		return false;
	connection->answered = slot;
	pending->type = slot->type;
	pending->offset = slot->offset;
	pending->length = slot->length;
	return true;
}

static void receive_done(struct uring_op *op, int result, uint32_t flags);

void receive_init(struct connection *connection)
{
	connection->receive.done = receive_done;
	nbd_parser_init(&connection->parser, connection->target->mode, lookup, connection);
}

static uint8_t *data_of(struct connection *connection, const struct slot *slot)
{
	return connection->data + (size_t)(slot - connection->slots) * slot->length;
}

/* `data`: what a good READ brought, where --verify wants to see it. */
static void end_verified(struct connection *connection, struct slot *slot, const void *data)
{
	struct verify_table *table = &connection->target->verify;
	if (slot->type == NBD_CMD_WRITE)
		verify_end_write(table, slot->block, !(slot->marks & SLOT_FAILED));
	else if (slot->type == NBD_CMD_READ)
		verify_end_read(table, slot->block, slot->marks & SLOT_FAILED ? NULL : data,
				connection->target->uri_text, &connection->worker->log);
}

static inline struct histogram *histogram_of(struct perf_stats *stats, uint16_t type)
{
	return type == NBD_CMD_READ    ? &stats->reads
	       : type == NBD_CMD_WRITE ? &stats->writes
				       : &stats->flushes;
}

static never_inline void end_marked(struct worker *worker, const struct slot *slot)
{
	struct perf_stats *stats = slot->marks & SLOT_WARMUP ? &worker->warmup : worker->stats;
	if (slot->marks & SLOT_FAILED)
		counter_add(&stats->errors, 1);
	else
		histogram_record(histogram_of(stats, slot->type), worker->now_ns - slot->start_ns);
}

void connection_end(struct connection *connection, struct slot *slot)
{
	struct worker *worker = connection->worker;
	if (likely(!slot->marks))
		histogram_record(histogram_of(worker->stats, slot->type),
				 worker->now_ns - slot->start_ns);
	else
		end_marked(worker, slot);
	unsigned tail = connection->free_head + connection->free_count++;
	if (tail >= connection->depth)
		tail -= connection->depth;
	connection->free[tail] = slot - connection->slots;
	slot->cookie = SLOT_FREE;
	worker->in_flight--;
}

/* ---- Replies ---- */

/*
 * Ends the requests whose good replies stand in a row at the head of the input. Returns how many
 * bytes they take.
 */
static size_t take_row(struct connection *connection, const uint8_t *bytes, size_t count)
{
	bool verify = connection->data;
	const uint8_t *start = bytes;
	for (;;) {
		struct nbd_good_reply reply;
		struct slot *slot;
		if (!nbd_good_reply(&connection->parser, bytes, count, &reply))
			break;
		slot = find(connection, reply.cookie);
		if (unlikely(!slot))
			break;
		if (slot->type == NBD_CMD_READ) {
			if (!nbd_good_reply_data(&reply, slot->offset, slot->length) ||
			    count - reply.header_bytes < slot->length)
				break;
			bytes += reply.header_bytes;
			count -= reply.header_bytes;
			if (unlikely(verify))
				end_verified(connection, slot, bytes);
			bytes += slot->length;
			count -= slot->length;
		} else {
			if (unlikely(reply.has_data))
				break;
			bytes += reply.header_bytes;
			count -= reply.header_bytes;
			if (unlikely(verify))
				end_verified(connection, slot, NULL);
		}
		connection_end(connection, slot);
	}
	return bytes - start;
}

static const char *error_name(uint32_t error)
{
	switch (error) {
	case NBD_EPERM:
		return "EPERM";
	case NBD_EIO:
		return "EIO";
	case NBD_ENOMEM:
		return "ENOMEM";
	case NBD_EINVAL:
		return "EINVAL";
	case NBD_ENOSPC:
		return "ENOSPC";
	case NBD_EOVERFLOW:
		return "EOVERFLOW";
	case NBD_ENOTSUP:
		return "ENOTSUP";
	case NBD_ESHUTDOWN:
		return "ESHUTDOWN";
	default:
		return "an unknown error";
	}
}

static const char *type_name(uint16_t type)
{
	return type == NBD_CMD_READ ? "READ" : type == NBD_CMD_WRITE ? "WRITE" : "FLUSH";
}

/* The server's own words, such as no terminal takes for commands. */
static void clean(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || (unsigned char)*text >= 0x7f)
			*text = '?';
}

/* The first error of a worker is told in full; all are counted. */
static void note_error(struct connection *connection, struct slot *slot,
		       const struct nbd_event *event)
{
	struct worker *worker = connection->worker;
	char message[WORKER_FAILURE_BYTES / 2];
	slot->marks |= SLOT_FAILED;
	if (worker->first_error[0])
		return;
	snprintf(message, sizeof(message), "%s%s", *event->message ? ": " : "", event->message);
	clean(message);
	snprintf(worker->first_error, sizeof(worker->first_error),
		 "%s: %s of %u bytes at %llu: %s%s", connection->target->uri_text,
		 type_name(slot->type), slot->length, (unsigned long long)slot->offset,
		 error_name(event->error), message);
}

/* A number for a place, such as no server can make up others to cancel it out. */
static uint64_t seam(const struct connection *connection, uint64_t offset)
{
	struct pattern pattern = {.state = offset ^ connection->secret};
	return pattern_bits(&pattern);
}

static never_inline void note_scattered(struct connection *connection, struct slot *slot,
					uint64_t offset, uint64_t length)
{
	if (!(slot->marks & SLOT_SCATTERED))
		slot->seams = seam(connection, slot->offset) ^
			      seam(connection, slot->offset + slot->have);
	slot->marks |= SLOT_SCATTERED;
	slot->seams ^= seam(connection, offset) ^ seam(connection, offset + length);
}

/*
 * Notes a chunk's content: it must be all of the READ in the end, and nothing of it twice. In order
 * that is the sum. Else each chunk is a step from where it begins to where it ends: the ends of
 * steps cancel out, but for those of the READ, only if there is a way from its begin to its end;
 * and where the sum is right, nothing lies beside that way.
 */
static inline void note_chunk(struct connection *connection, struct slot *slot, uint64_t offset,
			      uint64_t length)
{
	if (unlikely(offset != slot->offset + slot->have || slot->marks))
		note_scattered(connection, slot, offset, length);
	slot->have += length;
}

/* Whether the chunks of a READ that has ended well were all of it. */
static bool check_chunks(struct connection *connection, const struct slot *slot)
{
	if (unlikely(slot->have != slot->length)) {
		connection_break(connection,
				 "the server broke the protocol: the chunks of a READ of %u bytes "
				 "have %llu",
				 slot->length, (unsigned long long)slot->have);
		return false;
	}
	if (unlikely(slot->marks & SLOT_SCATTERED &&
		     slot->seams != (seam(connection, slot->offset) ^
				     seam(connection, slot->offset + slot->length)))) {
		connection_break(connection,
				 "the server broke the protocol: the chunks of a READ of %u bytes "
				 "overlap and leave a gap",
				 slot->length);
		return false;
	}
	return true;
}

/* What --verify wants to see. */
static void keep(struct connection *connection, struct slot *slot, const struct nbd_event *event,
		 size_t count)
{
	uint8_t *at;
	if (!connection->data)
		return;
	at = data_of(connection, slot) + (event->offset - slot->offset);
	if (event->kind == NBD_EVENT_BYTES)
		memcpy(at, event->bytes, count);
	else
		memset(at, 0, count);
}

/* One event of the parser. False: the connection is broken. */
static bool take_event(struct connection *connection, const struct nbd_event *event)
{
	struct slot *slot = connection->answered;
	if (unlikely(event->kind == NBD_EVENT_BROKEN)) {
		connection_break(connection, "the server broke the protocol: %s", event->message);
		return false;
	}
	switch (event->kind) {
	case NBD_EVENT_DATA:
		note_chunk(connection, slot, event->offset, event->length);
		return true;
	case NBD_EVENT_BYTES:
		keep(connection, slot, event, event->count);
		return true;
	case NBD_EVENT_HOLE:
		keep(connection, slot, event, event->length);
		note_chunk(connection, slot, event->offset, event->length);
		return true;
	case NBD_EVENT_ERROR:
		note_error(connection, slot, event);
		return true;
	case NBD_EVENT_DONE:
		if (slot->type == NBD_CMD_READ && !(slot->marks & SLOT_FAILED) &&
		    !check_chunks(connection, slot))
			return false;
		if (connection->data)
			end_verified(connection, slot, data_of(connection, slot));
		connection_end(connection, slot);
		return true;
	default:
		return true;
	}
}

/* Parses all of the input. */
static void take(struct connection *connection, const uint8_t *bytes, size_t count)
{
	struct nbd_event event;
	size_t taken;
	for (;;) {
		taken = take_row(connection, bytes, count);
		bytes += taken;
		count -= taken;
		/* up to the end of one reply */
		do {
			enum nbd_event_kind kind =
				nbd_parser_feed(&connection->parser, bytes, count, &taken, &event);
			bytes += taken;
			count -= taken;
			if (kind == NBD_EVENT_MORE)
				return;
			if (unlikely(!take_event(connection, &event)))
				return;
		} while (event.kind != NBD_EVENT_DONE);
	}
}

static void take_sealed(struct connection *connection, const uint8_t *bytes, size_t count)
{
	struct tls_session *tls = connection->line.tls;
	struct tls_input in = {bytes, count};
	uint8_t *plain = connection->worker->plain;
	size_t got;
	int rc;
	do {
		rc = tls_session_read(tls, &in, plain, WORKER_PLAIN_BYTES, &got, NULL);
		if (got)
			take(connection, plain, got);
	} while (!rc && got == WORKER_PLAIN_BYTES && !connection->broken);
	if (rc == -ESHUTDOWN && !connection->goodbye)
		connection_break(connection, "the server closed the connection, %u requests waited",
				 connection->depth - connection->free_count);
	else if (rc && rc != -ESHUTDOWN)
		connection_break(connection, "TLS: %s", tls_session_reason(tls));
}

void connection_receive_failed(struct connection *connection, int result)
{
	/* once we have said goodbye, either is a farewell */
	if (connection->goodbye)
		return;
	if (result)
		connection_break(connection, "receiving: %s", strerror(-result));
	else
		connection_break(connection, "the server closed the connection, %u requests waited",
				 connection->depth - connection->free_count);
}

static void receive_done(struct uring_op *op, int result, uint32_t flags)
{
	struct connection *connection = container_of(op, struct connection, receive);
	connection->receiving = false;
	if (unlikely(connection->broken))
		return;
	if (unlikely(result <= 0)) {
		connection_receive_failed(connection, result);
		return;
	}
	if (connection->line.tls)
		take_sealed(connection, connection->received, result);
	else
		take(connection, connection->received, result);
	if (unlikely(connection->broken))
		return;
	connection_fill(connection);
	connection_receive(connection);
}
