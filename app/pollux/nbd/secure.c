/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * secure: the TLS of a connection. From STARTTLS on it takes the place of transmit.c's sending: the
 * connection's send operation and its flush are its own, so that connections in the clear pay
 * nothing. One reactor.
 */
#include "app/pollux/nbd/secure.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "app/pollux/nbd/connection.h"
#include "app/pollux/nbd/kernel_tls.h"
#include "app/pollux/nbd/secure_log.h"
#include "lib/tls/credentials.h"
#include "lib/tls/session.h"

enum {
	/* Half a record inside the session and a receive buffer: more can not come out at once. */
	PLAIN_BYTES = 128 << 10,
	CIPHER_BYTES = 128 << 10,
	CIPHER_BUFFERS_KEPT = 16, /* free ones that a core keeps */
	PENDING_MOST_BYTES =
		256 << 10, /* that TLS itself has to say to a client that reads nothing */
};

_Static_assert(PLAIN_BYTES > RX_BUFFER_BYTES + TLS_RECORD_WIRE_BYTES, "a read must take all");

/* Ciphertext on its way out. */
struct cipher_buffer {
	struct cipher_buffer *next;
	uint8_t bytes[CIPHER_BYTES];
};

struct secure {
	struct tls_session *session;
	struct cipher_buffer *buffer; /* while sending */
	size_t at, end;		      /* of it: what is still to be sent */
	struct tls_source source;     /* what is left of the first batch, if batch_begun */
	bool batch_begun;
	size_t replies_taken; /* bytes of conn->handshake_out already encrypted */
	bool in_clear;	      /* the ACK of STARTTLS is still to be sent */
	bool replied;	      /* handshake replies are in the buffer: then the client may go on */
	bool deaf;	      /* the socket takes nothing any more */
	bool to_kernel;	      /* the kernel is to take over when nothing is under way */
	bool heard;	      /* the client has said something inside TLS */
	int over;	      /* the result that ended reading; 0: it goes on */
};

/* ---- Buffers ---- */

static struct cipher_buffer *get_buffer(struct secure_core *core)
{
	struct cipher_buffer *buffer = core->free;
	if (unlikely(!buffer))
		return malloc(sizeof(*buffer));
	core->free = buffer->next;
	core->free_count--;
	return buffer;
}

static void put_buffer(struct connection *conn)
{
	struct secure_core *core = &conn->core->secure;
	struct cipher_buffer *buffer = conn->tls->buffer;
	conn->tls->buffer = NULL;
	if (core->free_count >= CIPHER_BUFFERS_KEPT) {
		free(buffer);
		return;
	}
	buffer->next = core->free;
	core->free = buffer;
	core->free_count++;
}

void secure_free_core(struct nbd_core *core)
{
	while (core->secure.free) {
		struct cipher_buffer *buffer = core->secure.free;
		core->secure.free = buffer->next;
		free(buffer);
	}
	free(core->secure.plain);
	core->secure = (struct secure_core){0};
}

/* ---- The end ---- */

static const char *why_over(const struct connection *conn)
{
	const char *reason = tls_session_reason(conn->tls->session);
	return reason[0] ? reason : "the client has ended TLS without a disconnect";
}

/*
 * Nothing but the alert goes out any more. Requests that came before may be waiting for the buffers
 * of replies: these are let go of.
 */
static void give_up_replies(struct connection *conn)
{
	free(conn->handshake_out);
	conn->handshake_out = NULL;
	conn->handshake_out_bytes = conn->handshake_out_room = 0;
	conn->tls->batch_begun &= conn->sending;
	transmit_mute(conn);
}

static void fail(struct connection *conn)
{
	secure_log_failure(conn, why_over(conn));
	give_up_replies(conn);
	connection_finish(conn, why_over(conn));
}

static bool in_handshake(const struct connection *conn)
{
	return conn->state == CONN_HANDSHAKE &&
	       tls_session_state(conn->tls->session) == TLS_HANDSHAKE;
}

/*
 * A client that goes without a word, in TLS's handshake or as soon as it is over: libnbd does the
 * one and qemu the other if they do not trust us, both without an alert.
 */
static void log_silent_end(const struct connection *conn, const char *how)
{
	char reason[160];
	if (conn->tls->heard || conn->state != CONN_HANDSHAKE ||
	    tls_session_state(conn->tls->session) == TLS_FAILED)
		return;
	snprintf(reason, sizeof(reason), "the client broke off %s (%s); it may not trust us",
		 in_handshake(conn) ? "in the handshake" : "right after the handshake", how);
	secure_log_failure(conn, reason);
}

bool secure_over(struct connection *conn)
{
	int over = conn->tls->over;
	if (likely(!over) || conn->state >= CONN_FINISHING)
		return false;
	if (over == -ESHUTDOWN) {
		log_silent_end(conn, "close_notify");
		connection_finish(conn, why_over(conn));
	} else {
		fail(conn);
	}
	return true;
}

void secure_timed_out(struct connection *conn)
{
	if (in_handshake(conn))
		secure_log_failure(conn, "the handshake took too long");
}

void secure_broken_off(struct connection *conn, int error)
{
	log_silent_end(conn, error ? strerror(-error) : "end of file");
}

bool secure_info(const struct connection *conn, struct tls_session_info *info)
{
	if (conn->kernel_tls) {
		kernel_tls_info(conn, info);
		return true;
	}
	if (tls_session_state(conn->tls->session) != TLS_OPEN)
		return false;
	tls_session_info(conn->tls->session, info);
	return true;
}

void secure_free(struct connection *conn)
{
	if (conn->tls->buffer)
		put_buffer(conn);
	tls_session_destroy(conn->tls->session);
	free(conn->tls);
	conn->tls = NULL;
}

/* ---- Receiving ---- */

/* True when the session is open. */
static bool advance_handshake(struct connection *conn, struct tls_input *in)
{
	struct secure *tls = conn->tls;
	int result = tls_session_handshake(tls->session, in, NULL);
	if (result == -EAGAIN)
		return false;
	if (result) {
		tls->over = result;
		return false;
	}
	nbd_handshake_tls_done(conn->handshake);
	secure_log_session(conn, tls->session);
	return true;
}

void secure_receive(struct connection *conn, const uint8_t *bytes, size_t count)
{
	struct secure *tls = conn->tls;
	struct tls_input in = {bytes, count};
	size_t got;
	if (unlikely(conn->state >= CONN_FINISHING || tls->over))
		return;
	bool open = likely(tls_session_state(tls->session) != TLS_HANDSHAKE) ||
		    advance_handshake(conn, &in);
	if (likely(open)) {
		uint8_t *plain = conn->core->secure.plain;
		tls->over = tls_session_read(tls->session, &in, plain, PLAIN_BYTES, &got, NULL);
		if (likely(got)) {
			tls->heard = true;
			receive_take(conn, plain, got);
		}
		if (unlikely(tls->over && tls->over != -ESHUTDOWN && conn->state != CONN_DEAD))
			give_up_replies(conn);
	}
	size_t pending = tls_session_output_pending(tls->session);
	if (unlikely(pending > PENDING_MOST_BYTES))
		connection_kill(conn, "it takes nothing of what TLS has to say");
	else if (unlikely(pending))
		reactor_defer(conn->core->reactor, &conn->flush);
}

/* ---- Sending ---- */

static void submit(struct connection *conn)
{
	struct secure *tls = conn->tls;
	struct io_uring_sqe *sqe = uring_get_sqe(&conn->core->reactor->uring);
	uint8_t *at = tls->buffer->bytes + tls->at;
	size_t left = tls->end - tls->at;
	if (likely(conn->is_socket))
		io_uring_prep_send(sqe, conn->tx_fd, at, left, conn->send_flags);
	else
		io_uring_prep_write(sqe, conn->tx_fd, at, left, -1);
	uring_set_op(sqe, &conn->send_op);
	conn->sending = true;
	conn->send_started = conn->core->reactor->now;
}

/* Replies of NBD's handshake. Returns as tls_session_write() does. */
static int write_replies(struct connection *conn, struct tls_output *out)
{
	struct secure *tls = conn->tls;
	struct iovec iov = {conn->handshake_out, conn->handshake_out_bytes};
	struct tls_source source = {&iov, 1, tls->replies_taken};
	tls->replied = true;
	int result = tls_session_write(tls->session, &source, out);
	tls->replies_taken = source.count ? source.at : iov.iov_len;
	if (result)
		return result;
	free(conn->handshake_out);
	conn->handshake_out = NULL;
	conn->handshake_out_bytes = conn->handshake_out_room = 0;
	tls->replies_taken = 0;
	return 0;
}

static int write_batches(struct connection *conn, struct tls_output *out)
{
	struct secure *tls = conn->tls;
	while (conn->batches) {
		struct tx_batch *batch = conn->batches;
		if (!tls->batch_begun)
			tls->source = (struct tls_source){batch->iov, batch->iovs, 0};
		tls->batch_begun = true;
		int result = tls_session_write(tls->session, &tls->source, out);
		if (result)
			return result;
		tls->batch_begun = false;
		transmit_pop(conn);
	}
	return 0;
}

/* Encrypts as much of what there is to say as there is room for. */
static int fill(struct connection *conn, struct tls_output *out)
{
	struct secure *tls = conn->tls;
	/* what TLS has to say itself comes first: its handshake, alerts, answers to key updates */
	int result = tls_session_flush(tls->session, out);
	if (result || tls_session_state(tls->session) != TLS_OPEN)
		return result;
	if (unlikely(conn->handshake_out_bytes))
		result = write_replies(conn, out);
	if (likely(!result))
		result = write_batches(conn, out);
	if (unlikely(conn->state == CONN_FINISHING && !result && !conn->inflight))
		tls_session_close(tls->session, out);
	return result;
}

/* Sends what there is. False: nothing. */
static bool send_more(struct connection *conn)
{
	struct secure *tls = conn->tls;
	if (unlikely(tls->deaf))
		return false;
	tls->buffer = get_buffer(&conn->core->secure);
	if (unlikely(!tls->buffer)) {
		connection_kill(conn, "no memory for its replies");
		return false;
	}
	struct tls_output out = {tls->buffer->bytes, CIPHER_BYTES, 0};
	int result = fill(conn, &out);
	if (unlikely(result && result != -EAGAIN)) {
		fail(conn);
		tls_session_flush(tls->session, &out);
	}
	tls->at = 0;
	tls->end = out.used;
	if (!out.used) {
		put_buffer(conn);
		return false;
	}
	submit(conn);
	return true;
}

/* In the place of transmit_run(). */
static void run(struct deferred *deferred)
{
	struct connection *conn = container_of(deferred, struct connection, flush);
	struct secure *tls = conn->tls;
	if (unlikely(conn->draining && !conn->busy))
		connection_finish(conn, NULL);
	if (likely(conn->state != CONN_DEAD && !conn->sending)) {
		if (unlikely(tls->in_clear)) {
			if (negotiate_flush(conn))
				return;
			tls->in_clear = false;
		}
		if (likely(send_more(conn)))
			return;
	}
	connection_check(conn);
}

/* ---- The kernel takes over ---- */

bool secure_is_handing_over(const struct connection *conn)
{
	return conn->tls->to_kernel && conn->state < CONN_FINISHING &&
	       (conn->handshake_out_bytes || conn->tls->replied);
}

/*
 * A reply of NBD's handshake has gone out, and nothing was received since the client's last words:
 * a moment as good as any, unless the client has sent more than it should have.
 */
static void hand_over(struct connection *conn)
{
	struct secure *tls = conn->tls;
	if (likely(!tls->to_kernel))
		return;
	bool quiet = !conn->receiving && !conn->sending && !tls->batch_begun && !conn->mute &&
		     !tls->over && conn->state < CONN_FINISHING;
	switch (quiet ? kernel_tls_begin(conn, tls->session) : KERNEL_TLS_LATER) {
	case KERNEL_TLS_DONE:
		secure_free(conn);
		conn->flush.run = transmit_run;
		conn->send_op.done = transmit_done;
		/* Linux 6.1 refuses MSG_WAITALL there; what is not sent at once is sent again */
		conn->send_flags = MSG_NOSIGNAL;
		reactor_defer(conn->core->reactor, &conn->flush);
		break;
	case KERNEL_TLS_LATER:
		/* in transmission there are no such moments */
		tls->to_kernel = conn->state == CONN_HANDSHAKE;
		break;
	case KERNEL_TLS_NEVER:
		tls->to_kernel = false;
	}
}

static void sent_all(struct connection *conn)
{
	struct secure *tls = conn->tls;
	put_buffer(conn);
	conn->sending = false;
	if (unlikely(conn->mute)) {
		tls->batch_begun = false;
		transmit_drop(conn);
	}
	/* a batch that is half sent must not grow before it goes on */
	if (tls->batch_begun && send_more(conn))
		return;
	if (conn->batches || unlikely(conn->handshake_out_bytes || conn->state >= CONN_FINISHING ||
				      tls_session_output_pending(tls->session)))
		reactor_defer(conn->core->reactor, &conn->flush);
	if (unlikely(tls->replied && !conn->handshake_out_bytes)) {
		tls->replied = false;
		hand_over(conn);
		connection_resume(conn);
	}
}

/* In the place of transmit_done(). */
static void sent(struct uring_op *op, int result, uint32_t cqe_flags)
{
	struct connection *conn = container_of(op, struct connection, send_op);
	struct secure *tls = conn->tls;
	if (unlikely(conn->handshake_sending != NULL)) {
		conn->sending = false;
		negotiate_sent(conn, result);
		return;
	}
	if (unlikely(result < 0 && result != -EAGAIN && result != -EINTR)) {
		tls->deaf = true;
		/* as in the clear: what a client that is gone has sent before still counts */
		if (conn->state == CONN_HANDSHAKE)
			connection_kill(conn, strerror(-result));
		else
			transmit_mute(conn);
	} else if (result > 0) {
		tls->at += result;
	}
	if (unlikely(!tls->deaf && conn->state != CONN_DEAD && tls->at < tls->end)) {
		submit(conn);
		return;
	}
	sent_all(conn);
}

/* ---- The beginning ---- */

void secure_begin(struct connection *conn, const uint8_t *bytes, size_t count)
{
	struct secure_core *core = &conn->core->secure;
	if (!core->plain)
		core->plain = malloc(PLAIN_BYTES);
	struct secure *tls = calloc(1, sizeof(*tls));
	if (!core->plain || !tls ||
	    tls_session_create(&tls->session, conn->offer.credentials, NULL)) {
		free(tls);
		connection_kill(conn, "no memory for TLS");
		return;
	}
	tls->in_clear = true;
	struct tls_credentials_info credentials;
	tls_credentials_info(conn->offer.credentials, &credentials);
	tls->to_kernel = credentials.kernel;
	conn->tls = tls;
	conn->flush.run = run;
	conn->send_op.done = sent;
	reactor_defer(conn->core->reactor, &conn->flush);
	if (count)
		secure_receive(conn, bytes, count);
}
