/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * connection: making, ending and watching connections, and what goes out on them: requests, their
 * batches, and the sending, through TLS where there is any. receive.c is the other direction.
 */
#include "app/perf/connection.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/base/compiler.h"

enum { ALIGNMENT = 4096 };

static void send_done(struct uring_op *op, int result, uint32_t flags);

/* ---- Life ---- */

static int make_batch(struct batch *batch, unsigned depth)
{
	/* one request more: DISC */
	batch->headers = calloc(depth + 1, NBD_CLIENT_REQUEST_BYTES);
	batch->iov = calloc(2 * (size_t)depth + 1, sizeof(*batch->iov));
	return batch->headers && batch->iov ? 0 : -ENOMEM;
}

static void *pages(size_t bytes)
{
	return aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1));
}

static int make_buffers(struct connection *connection, const struct perf_options *options)
{
	size_t most = (size_t)options->depth * (options->block_bytes + NBD_CLIENT_REQUEST_BYTES);
	connection->receive_bytes =
		MIN_OF(MAX_OF(most, (size_t)RECEIVE_MIN_BYTES), (size_t)RECEIVE_MAX_BYTES);
	connection->slots = calloc(options->depth, sizeof(*connection->slots));
	connection->free = calloc(options->depth, sizeof(*connection->free));
	connection->received = pages(connection->receive_bytes);
	if (options->verify)
		connection->data = pages((size_t)options->depth * options->block_bytes);
	if (connection->line.tls)
		connection->sealed = pages(SEAL_BYTES);
	if (!connection->slots || !connection->free || !connection->received ||
	    (options->verify && !connection->data) || (connection->line.tls && !connection->sealed))
		return -ENOMEM;
	return make_batch(&connection->batches[0], options->depth) ||
			       make_batch(&connection->batches[1], options->depth)
		       ? -ENOMEM
		       : 0;
}

/* Which blocks are its own: all of them, or a slice where sequences or generations want one. */
static void take_slice(struct connection *connection, const struct perf_options *options)
{
	const struct target *target = connection->target;
	uint64_t each = target->blocks / options->connections;
	connection->block_count = target->blocks;
	if (options->random && !options->verify)
		return;
	connection->first_block = each * connection->number;
	connection->block_count = connection->number + 1 == options->connections
					  ? target->blocks - connection->first_block
					  : each;
}

/* So that two targets do not get the same blocks, and the same target gets the same again. */
static uint64_t text_number(const char *text)
{
	uint64_t number = 0;
	while (*text)
		number = number * 31 + (unsigned char)*text++;
	return number % 251;
}

int connection_create(struct connection **made, struct target *target, unsigned number,
		      const struct perf_options *options, const struct line *line)
{
	struct connection *connection = calloc(1, sizeof(*connection));
	*made = NULL;
	if (!connection) {
		struct line copy = *line;
		line_close(&copy);
		return -ENOMEM;
	}
	connection->line = *line;
	connection->target = target;
	connection->number = number;
	connection->depth = options->depth;
	connection->quota = UINT64_MAX;
	connection->next_cookie = connection->handed_cookie = 1 << SLOT_INDEX_BITS;
	connection->secret = options->nonce;
	connection->send.done = send_done;
	if (make_buffers(connection, options)) {
		connection_destroy(connection);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < options->depth; i++) {
		connection->slots[i].cookie = SLOT_FREE;
		connection->free[i] = i;
	}
	connection->free_count = options->depth;
	take_slice(connection, options);
	pattern_init(&connection->pattern,
		     options->seed + 0x10001 * (uint64_t)number +
			     text_number(target->uri_text),
		     connection->block_count, options->read_percent, options->random);
	if (options->discard)
		discard_init(connection);
	else
		receive_init(connection);
	*made = connection;
	return 0;
}

void connection_destroy(struct connection *connection)
{
	if (!connection)
		return;
	line_close(&connection->line);
	for (unsigned i = 0; i < 2; i++) {
		free(connection->batches[i].headers);
		free(connection->batches[i].iov);
	}
	free(connection->slots);
	free(connection->free);
	free(connection->received);
	free(connection->data);
	free(connection->sealed);
	free(connection);
}

void connection_start(struct connection *connection)
{
	connection_receive(connection);
}

void connection_break(struct connection *connection, const char *format, ...)
{
	char what[WORKER_FAILURE_BYTES / 2];
	va_list args;
	if (connection->broken)
		return;
	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	connection->broken = true;
	worker_fail(connection->worker, "connection %u to %s: %s", connection->number,
		    connection->target->uri_text, what);
	connection->worker->in_flight -= connection->depth - connection->free_count;
	/* ends what the kernel still has of it */
	shutdown(connection->line.fd, SHUT_RDWR);
}

void connection_tick(struct connection *connection)
{
	const struct worker *worker = connection->worker;
	uint64_t timeout_ns = worker->run->options->timeout_ns, oldest_ns = UINT64_MAX;
	unsigned waiting = 0;
	if (connection->broken || connection->free_count == connection->depth)
		return;
	for (unsigned i = 0; i < connection->depth; i++) {
		const struct slot *slot = &connection->slots[i];
		/* with --rate it may have been due long before it could be sent */
		if (slot->cookie == SLOT_FREE)
			continue;
		oldest_ns = MIN_OF(oldest_ns, slot->sent_ns);
		waiting++;
	}
	if (worker->now_ns < oldest_ns + timeout_ns)
		return;
	connection_break(connection, "no reply for %.1f s, %u requests are waiting (--timeout)%s",
			 (double)(worker->now_ns - oldest_ns) / 1e9, waiting,
			 worker->run->options->discard
				 ? "; errors in replies look like that with --discard"
				 : "");
}

/* ---- Sending ---- */

static void queue_send(struct connection *connection, const struct iovec *iov, unsigned count)
{
	struct io_uring_sqe *sqe = uring_get_sqe(&connection->worker->uring);
	int fd = connection->line.fd;
	if (count == 1) {
		io_uring_prep_send(sqe, fd, iov->iov_base, iov->iov_len,
				   MSG_NOSIGNAL | MSG_WAITALL);
	} else {
		connection->message = (struct msghdr){
			.msg_iov = (struct iovec *)iov,
			.msg_iovlen = MIN_OF(count, (unsigned)SEND_IOV_MAX),
		};
		io_uring_prep_sendmsg(sqe, fd, &connection->message, MSG_NOSIGNAL | MSG_WAITALL);
	}
	uring_set_op(sqe, &connection->send);
	connection->sending = true;
}

static void queue_sealed(struct connection *connection)
{
	const struct iovec iov = {connection->sealed + connection->sealed_at,
				  connection->sealed_bytes - connection->sealed_at};
	queue_send(connection, &iov, 1);
}

/* Encrypts what fits of the batch in flight, and sends that. */
static void seal(struct connection *connection)
{
	struct tls_output out = {connection->sealed, SEAL_BYTES, 0};
	int rc = tls_session_write(connection->line.tls, &connection->source, &out);
	if (rc && rc != -EAGAIN) {
		connection_break(connection, "TLS: %s", tls_session_reason(connection->line.tls));
		return;
	}
	/* DISC is the last that is ever sent */
	if (!rc && connection->goodbye && !connection->batches[connection->filling].count)
		tls_session_close(connection->line.tls, &out);
	connection->sealed_at = 0;
	connection->sealed_bytes = out.used;
	if (out.used)
		queue_sealed(connection);
}

void connection_flush(struct connection *connection)
{
	struct batch *batch = &connection->batches[connection->filling];
	if (connection->sending || !batch->count || connection->broken)
		return;
	connection->handed_cookie = connection->next_cookie;
	connection->filling ^= 1;
	connection->batches[connection->filling].count = 0;
	connection->batches[connection->filling].header_bytes = 0;
	connection->source = (struct tls_source){batch->iov, batch->count, 0};
	if (connection->line.tls)
		seal(connection);
	else
		queue_send(connection, batch->iov, batch->count);
}

/* Moves on over what was sent; true if there is more. */
static bool advance(struct tls_source *source, size_t sent)
{
	while (source->count && sent >= source->iov->iov_len) {
		sent -= source->iov->iov_len;
		source->iov++;
		source->count--;
	}
	if (!source->count)
		return false;
	/* the batch is ours, and is filled anew before it is used again */
	struct iovec *rest = (struct iovec *)source->iov;
	rest->iov_base = (uint8_t *)rest->iov_base + sent;
	rest->iov_len -= sent;
	return true;
}

static void send_done(struct uring_op *op, int result, uint32_t flags)
{
	struct connection *connection = container_of(op, struct connection, send);
	connection->sending = false;
	if (unlikely(result < 0)) {
		if (!connection->goodbye)
			connection_break(connection, "sending: %s", strerror(-result));
		shutdown(connection->line.fd, SHUT_RDWR);
		return;
	}
	if (connection->broken)
		return;
	if (connection->line.tls) {
		connection->sealed_at += result;
		if (connection->sealed_at < connection->sealed_bytes)
			queue_sealed(connection);
		else if (connection->source.count)
			seal(connection);
	} else if (unlikely(advance(&connection->source, result))) {
		queue_send(connection, connection->source.iov, connection->source.count);
	}
	if (connection->sending)
		return;
	connection_flush(connection);
	/* the server closes its side when it has read DISC */
	if (connection->goodbye && !connection->sending)
		shutdown(connection->line.fd, SHUT_WR);
}

/* ---- Requests ---- */

static void append(struct batch *batch, const void *bytes, size_t count)
{
	struct iovec *next = &batch->iov[batch->count];
	if (batch->count && (const uint8_t *)next[-1].iov_base + next[-1].iov_len == bytes) {
		next[-1].iov_len += count;
		return;
	}
	*next = (struct iovec){(void *)bytes, count};
	batch->count++;
}

static void append_request(struct connection *connection, uint16_t type, uint16_t flags,
			   uint64_t cookie, uint64_t offset, uint64_t length)
{
	struct batch *batch = &connection->batches[connection->filling];
	uint8_t *header = batch->headers + batch->header_bytes;
	size_t bytes = nbd_client_request(header, connection->target->mode, type, flags, cookie,
					  offset, length);
	batch->header_bytes += bytes;
	append(batch, header, bytes);
}

/* The next block of the read-back that a good write has reached; with --discard, one block. */
static bool next_check(struct connection *connection, uint64_t *block)
{
	const uint32_t *entries = connection->target->verify.entries;
	if (!entries) {
		*block = connection->first_block;
		return !connection->check_next++;
	}
	while (connection->check_next < connection->block_count) {
		*block = connection->first_block + connection->check_next++;
		if (entries[*block] & VERIFY_GENERATIONS && !(entries[*block] & VERIFY_UNCERTAIN))
			return true;
	}
	return false;
}

/* What the next request is. False: there is none. */
static inline bool choose(struct connection *connection, struct slot *slot)
{
	const struct perf_options *options = connection->worker->run->options;
	const struct target *target = connection->target;
	slot->length = options->block_bytes;
	if (unlikely(connection->worker->phase == WORKER_CHECK)) {
		slot->type = NBD_CMD_READ;
		return next_check(connection, &slot->block);
	}
	if (unlikely(options->flush_every && connection->writes >= options->flush_every)) {
		connection->writes = 0;
		slot->type = NBD_CMD_FLUSH;
		slot->length = 0;
		return true;
	}
	slot->type = pattern_reads(&connection->pattern) ? NBD_CMD_READ : NBD_CMD_WRITE;
	slot->block = connection->first_block + pattern_block(&connection->pattern);
	if (unlikely(options->verify))
		slot->block = verify_free_block(&target->verify, connection->first_block,
						connection->block_count, slot->block);
	return true;
}

/* False: there is no request to begin. */
static bool begin(struct connection *connection, uint64_t start_ns)
{
	struct worker *worker = connection->worker;
	unsigned index = connection->free[connection->free_head];
	struct slot *slot = &connection->slots[index];
	struct target *target = connection->target;
	const uint8_t *payload = connection->payload;
	bool write;
	if (unlikely(!choose(connection, slot)))
		return false;
	connection->free_count--;
	if (++connection->free_head == connection->depth)
		connection->free_head = 0;
	worker->in_flight++;
	write = slot->type == NBD_CMD_WRITE;
	slot->cookie = connection->next_cookie | index;
	connection->next_cookie += 1 << SLOT_INDEX_BITS;
	slot->start_ns = start_ns;
	slot->sent_ns = worker->now_ns;
	slot->offset = slot->length ? target->offset + slot->block * slot->length : 0;
	slot->have = 0;
	slot->marks = 0;
	if (unlikely(target->verify.entries != NULL) && slot->length) {
		payload = connection->data + (size_t)index * slot->length;
		if (write)
			verify_begin_write(&target->verify, slot->block, (void *)payload);
		else
			verify_begin_read(&target->verify, slot->block);
	}
	append_request(connection, slot->type,
		       write && worker->run->options->fua ? NBD_CMD_FLAG_FUA : 0, slot->cookie,
		       slot->offset, slot->length);
	if (write) {
		append(&connection->batches[connection->filling], payload, slot->length);
		connection->writes++;
	}
	return true;
}

void connection_begin(struct connection *connection, uint64_t start_ns)
{
	if (--connection->quota == 0)
		connection->worker->with_quota--;
	begin(connection, start_ns);
}

void connection_begin_late(struct connection *connection, uint64_t start_ns)
{
	struct slot *slot = &connection->slots[connection->free[connection->free_head]];
	if (begin(connection, start_ns))
		slot->marks |= SLOT_WARMUP;
}

void connection_end_warmup(struct connection *connection)
{
	for (unsigned i = 0; i < connection->depth; i++)
		connection->slots[i].marks |= SLOT_WARMUP; /* of a free one it says nothing */
}

void connection_fill(struct connection *connection)
{
	const struct worker *worker = connection->worker;
	if (worker->phase == WORKER_CHECK) {
		while (connection->free_count && !connection->broken &&
		       begin(connection, worker->now_ns))
			;
	} else if (worker->issuing && !worker->run->options->rate && !connection->broken) {
		while (connection->free_count && connection->quota)
			connection_begin(connection, worker->now_ns);
	}
	connection_flush(connection);
}

void connection_goodbye(struct connection *connection)
{
	if (connection->broken || connection->goodbye)
		return;
	connection->goodbye = true;
	append_request(connection, NBD_CMD_DISC, 0, 0, 0, 0);
	connection_flush(connection);
}
