/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * receive: bytes to requests. One receive operation a connection is in flight: into buffers that
 * the ring provides when data is there (an idle connection holds none), or, for the rest of a large
 * WRITE, straight into its I/O buffer. The first goes on by itself (multishot) where requests come
 * that need nothing else, or is asked for anew each time. What can not be taken - no slot, no
 * buffer, no credit - is kept back, and nothing more is read until it can.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "app/pollux/nbd/connection.h"
#include "app/pollux/nbd/kernel_tls.h"
#include "lib/base/clock.h"
#include "lib/base/counter.h"
#include "lib/base/log.h"

enum {
	DIRECT_MIN_BYTES = 16 << 10, /* less is copied: it costs less than another receive */
	/*
	 * Ending a multishot receive costs as much as some single ones: a connection that needed it
	 * has so many of those before the next.
	 */
	SINGLE_AFTER_STOP = 1000,
	SILENCE_US = 50000,
	/*
	 * What one multishot receive can bring before it is stopped: all buffers of the ring. When
	 * a core's connections keep as much back, none of them has one until it is half of that.
	 */
	KEPT_MOST_BYTES = RX_BUFFERS * RX_BUFFER_BYTES,
};

/* The rest of a WRITE is best received where it is to lie. */
static bool wants_direct(const struct connection *conn)
{
	return conn->filling && conn->filling_bytes - conn->filling_have >= DIRECT_MIN_BYTES &&
	       likely(!conn->tls);
}

/*
 * In the handshake no byte may be taken too early: TLS may begin. With kernel TLS a record that is
 * no data has to stay in the socket.
 */
static bool goes_on_by_itself(struct connection *conn)
{
	if (conn->state != CONN_TRANSMISSION || !conn->is_socket || conn->tls || conn->kernel_tls ||
	    nbd_settings.receive == RECEIVE_SINGLE || !reactor_caps.multishot_recv ||
	    unlikely(conn->core->kept_too_much))
		return false;
	if (likely(!conn->single_left))
		return true;
	conn->single_left--;
	return false;
}

/* Nothing more is to be received for now, or elsewhere. */
static void stop_multishot(struct connection *conn, uint32_t single_receives)
{
	uint64_t pass = counter_read(&conn->core->reactor->stats.loops);
	conn->single_left = single_receives;
	/* one that was just about to receive is not found, and goes on: it is looked for again */
	if (conn->stopping && pass - conn->stopping_since < 2)
		return;
	conn->stopping = true;
	conn->stopping_since = pass;
	struct io_uring_sqe *sqe = uring_get_sqe(&conn->core->reactor->uring);
	io_uring_prep_cancel(sqe, &conn->receive_op, 0);
	uring_set_op(sqe, NULL);
}

void receive_arm(struct connection *conn)
{
	reactor_assert_owner(conn->core->reactor);
	if (conn->state == CONN_DEAD || conn->end_of_file)
		return;
	if (conn->receiving) {
		/* the client's end is waited for: see receive_look() */
		if (conn->multishot && conn->state == CONN_FINISHING)
			stop_multishot(conn, SINGLE_AFTER_STOP);
		return;
	}
	struct io_uring_sqe *sqe = uring_get_sqe(&conn->core->reactor->uring);
	conn->filling_direct = wants_direct(conn);
	conn->multishot = !conn->filling_direct && goes_on_by_itself(conn);
	if (conn->filling_direct) {
		uint32_t left = conn->filling_bytes - conn->filling_have;
		void *at = (uint8_t *)conn->filling->buffer + conn->filling_have;
		if (conn->is_socket)
			io_uring_prep_recv(sqe, conn->rx_fd, at, left, 0);
		else
			io_uring_prep_read(sqe, conn->rx_fd, at, left, -1);
	} else {
		if (likely(conn->multishot))
			io_uring_prep_recv_multishot(sqe, conn->rx_fd, NULL, 0, 0);
		else if (conn->is_socket)
			io_uring_prep_recv(sqe, conn->rx_fd, NULL, RX_BUFFER_BYTES, 0);
		else
			io_uring_prep_read(sqe, conn->rx_fd, NULL, RX_BUFFER_BYTES, -1);
		sqe->flags |= IOSQE_BUFFER_SELECT;
		sqe->buf_group = RX_GROUP;
	}
	/* the try that would only find an empty socket is spared */
	if (conn->is_socket && !conn->more_expected)
		sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
	uring_set_op(sqe, &conn->receive_op);
	conn->receiving = true;
}

static uint32_t credit_limit(const struct connection *conn)
{
	uint32_t most = nbd_settings.max_requests;
	unsigned left = conn->core->requests.free_count;
	if (likely(left > REQUEST_SLOTS / 4))
		return most;
	return MIN_OF(most, left > REQUEST_SLOTS / 16 ? 16u : 1u);
}

/* Whole headers without a payload, one after the other. Returns what it took of them. */
static inline size_t take_headers(struct connection *conn, const uint8_t *bytes, size_t count,
				  size_t head_bytes)
{
	size_t taken = 0;
	while (count - taken >= head_bytes && conn->inflight < credit_limit(conn) &&
	       command_begin(conn, bytes + taken)) {
		taken += head_bytes;
		if (unlikely(conn->writing || conn->skip || conn->state != CONN_TRANSMISSION))
			break;
	}
	return taken;
}

/* Of a header that is not whole: with a wrong magic there is nothing to wait for. */
static void check_magic(struct connection *conn)
{
	if (conn->head_have >= sizeof(be32) &&
	    be32_get(*(const be32 *)conn->head) != nbd_request_magic(conn->limits.mode))
		connection_kill(conn, "a request with a wrong magic");
}

/* Transmission: requests and payload. Returns what it took. */
static size_t take_requests(struct connection *conn, const uint8_t *bytes, size_t count)
{
	const size_t head_bytes = nbd_request_bytes(conn->limits.mode);
	size_t taken = 0;
	while (conn->state == CONN_TRANSMISSION) {
		size_t left = count - taken;
		if (conn->writing) {
			if (!left)
				break;
			size_t n = command_payload(conn, bytes + taken, left);
			if (!n && conn->writing)
				break;
			taken += n;
			continue;
		}
		if (unlikely(conn->skip)) {
			size_t n = MIN_OF(conn->skip, left);
			if (!n)
				break;
			conn->skip -= n;
			taken += n;
			continue;
		}
		const uint8_t *head = bytes + taken;
		if (likely(!conn->head_have)) {
			size_t n = take_headers(conn, head, left, head_bytes);
			taken += n;
			if (n)
				continue;
			if (left >= head_bytes) {
				conn->starved |= conn->inflight >= credit_limit(conn);
				break;
			}
		}
		/* a header that comes in pieces, or waits without any byte behind it */
		size_t n = MIN_OF(head_bytes - conn->head_have, left);
		if (n)
			memcpy(conn->head + conn->head_have, head, n);
		conn->head_have += n;
		taken += n;
		if (conn->head_have < head_bytes) {
			check_magic(conn);
			break;
		}
		conn->starved |= conn->inflight >= credit_limit(conn);
		if (conn->starved || !command_begin(conn, conn->head))
			break;
		conn->head_have = 0;
	}
	return taken;
}

static size_t take(struct connection *conn, const uint8_t *bytes, size_t count)
{
	size_t taken = 0;
	if (unlikely(conn->state == CONN_HANDSHAKE))
		taken = negotiate_feed(conn, bytes, count);
	if (likely(conn->state == CONN_TRANSMISSION))
		taken += take_requests(conn, bytes + taken, count - taken);
	if (unlikely(conn->state == CONN_FINISHING || conn->state == CONN_DEAD))
		return count; /* nobody wants it any more */
	return taken;
}

/* True while something must happen before more can be read. */
static bool must_wait(const struct connection *conn)
{
	return conn->blocked || conn->starved || conn->spill ||
	       (conn->state == CONN_HANDSHAKE && conn->handshake_out_bytes) ||
	       (unlikely(conn->tls != NULL) && secure_is_handing_over(conn));
}

/* Goes on receiving, unless something must happen before, or nothing can come any more. */
static void go_on(struct connection *conn)
{
	if (unlikely(must_wait(conn)))
		return;
	if (unlikely(conn->tls != NULL) && secure_over(conn))
		return;
	receive_arm(conn);
}

/* A multishot receive is in flight: may it stay? */
static void stay(struct connection *conn)
{
	if (unlikely(must_wait(conn) || wants_direct(conn) || conn->state == CONN_FINISHING))
		stop_multishot(conn, SINGLE_AFTER_STOP);
}

/* Each connection could bring so much that it can not take: from now on one buffer at a time. */
static void kept_too_much(struct nbd_core *core)
{
	struct connection *conn;
	core->kept_too_much = true;
	TAILQ_FOREACH (conn, &core->connections, link) {
		if (conn->receiving && conn->multishot)
			stop_multishot(conn, SINGLE_AFTER_STOP);
	}
}

void receive_drop_kept(struct connection *conn)
{
	struct nbd_core *core = conn->core;
	if (!conn->spill)
		return;
	free(conn->spill);
	conn->spill = NULL;
	core->kept_bytes -= conn->spill_bytes;
	if (core->kept_bytes <= KEPT_MOST_BYTES / 2)
		core->kept_too_much = false;
}

/* Behind what is kept back already. */
static void keep_back(struct connection *conn, const uint8_t *bytes, size_t count)
{
	struct nbd_core *core = conn->core;
	size_t have = conn->spill ? conn->spill_bytes : 0;
	uint8_t *spill = realloc(conn->spill, have + count);
	if (!spill) {
		connection_kill(conn, "no memory to keep its bytes back");
		return;
	}
	memcpy(spill + have, bytes, count);
	if (!have)
		conn->spill_at = 0;
	conn->spill = spill;
	conn->spill_bytes = have + count;
	core->kept_bytes += count;
	if (unlikely(core->kept_bytes > KEPT_MOST_BYTES && !core->kept_too_much))
		kept_too_much(core);
}

void receive_take(struct connection *conn, const uint8_t *bytes, size_t count)
{
	/* a multishot receive has gone on before it could be stopped */
	if (unlikely(conn->multishot && must_wait(conn))) {
		keep_back(conn, bytes, count);
		return;
	}
	size_t taken = take(conn, bytes, count);
	if (unlikely(taken < count))
		keep_back(conn, bytes + taken, count - taken);
}

/* Bytes kept back are tried again. */
void receive_resume(struct connection *conn)
{
	reactor_assert_owner(conn->core->reactor);
	conn->starved = false;
	if (conn->spill) {
		uint8_t *spill = conn->spill;
		size_t count = conn->spill_bytes - conn->spill_at;
		size_t taken = take(conn, spill + conn->spill_at, count);
		if (conn->spill != spill)
			return; /* it ended meanwhile, and let go of the bytes */
		conn->spill_at += taken;
		if (taken < count)
			return;
		receive_drop_kept(conn);
	} else if (conn->head_have) {
		/* a whole header may wait without any byte behind it */
		take(conn, conn->head, 0);
	}
	go_on(conn);
}

static void ended(struct connection *conn, int result)
{
	if (conn->tls)
		secure_broken_off(conn, result);
	if (result < 0) {
		connection_kill(conn, strerror(-result));
		return;
	}
	conn->end_of_file = true;
	if (conn->lingering)
		connection_kill(conn, NULL);
	else
		connection_finish(conn, "the client has gone without a disconnect");
	reactor_defer(conn->core->reactor, &conn->flush);
}

/* Without bytes: the end, an error, or nothing was received after all. */
static void nothing_received(struct connection *conn, int result)
{
	if (conn->state == CONN_DEAD) {
		reactor_defer(conn->core->reactor, &conn->flush);
	} else if (result == -ENOBUFS || result == -EAGAIN || result == -EINTR) {
		/* all receive buffers are in this pass's completions: there again next pass */
		conn->more_expected = true;
		go_on(conn);
	} else if (result == -ECANCELED) {
		reactor_defer(conn->core->reactor, &conn->flush);
		if (conn->is_socket)
			go_on(conn);
	} else if (result == 0 && conn->multishot && must_wait(conn)) {
		/* the end comes behind what is kept back: the next receive finds it again */
	} else if (conn->kernel_tls && kernel_tls_take_error(conn, result)) {
		reactor_defer(conn->core->reactor, &conn->flush);
		if (conn->state != CONN_DEAD)
			go_on(conn);
	} else {
		ended(conn, result);
	}
}

void receive_done(struct uring_op *op, int result, uint32_t cqe_flags)
{
	struct connection *conn = container_of(op, struct connection, receive_op);
	struct nbd_core *core = conn->core;
	conn->receiving = cqe_flags & IORING_CQE_F_MORE;
	conn->stopping &= conn->receiving;
	conn->more_expected = cqe_flags & IORING_CQE_F_SOCK_NONEMPTY;
	if (unlikely(conn->filling && conn->state >= CONN_FINISHING))
		command_drop_payload(
			conn); /* it could not be while the kernel might write into it */
	if (unlikely(result <= 0)) {
		if (cqe_flags & IORING_CQE_F_BUFFER)
			rx_give_back(&core->rx, cqe_flags >> IORING_CQE_BUFFER_SHIFT);
		nothing_received(conn, result);
		return;
	}
	conn->received_at = core->reactor->now;
	conn->looked_at = false;
	conn->bytes_in += result;
	if (conn->filling_direct && conn->filling) {
		conn->filling_have += result;
		conn->writing->at += result;
		if (conn->filling_have == conn->filling_bytes)
			command_filled(conn);
	} else if (likely(cqe_flags & IORING_CQE_F_BUFFER)) {
		unsigned id = cqe_flags >> IORING_CQE_BUFFER_SHIFT;
		if (unlikely(conn->tls != NULL))
			secure_receive(conn, rx_buffer(&core->rx, id), result);
		else if (likely(conn->state != CONN_DEAD))
			receive_take(conn, rx_buffer(&core->rx, id), result);
		rx_give_back(&core->rx, id);
	}
	if (unlikely(conn->state == CONN_DEAD))
		reactor_defer(core->reactor, &conn->flush);
	else if (conn->receiving)
		stay(conn);
	else
		go_on(conn);
}

/*
 * A multishot receive may miss the end of the stream, or a reset, that comes close behind the last
 * bytes, and wait for ever (seen with Linux 6.18, resets by the thousand). So a connection that has
 * fallen silent is looked at, once; a new receive finds what this one has missed.
 */
void receive_look(struct connection *conn)
{
	char byte;
	if (!conn->receiving || !conn->multishot || conn->looked_at ||
	    conn->core->reactor->now - conn->received_at < clock_us_to_ticks(SILENCE_US))
		return;
	conn->looked_at = recv(conn->rx_fd, &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT) < 0 &&
			  errno == EAGAIN;
	if (!conn->looked_at) /* again, until it has ended */
		stop_multishot(conn, 1);
}
