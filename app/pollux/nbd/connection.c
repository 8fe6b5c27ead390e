/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * connection: the life of a connection - the transitions of its state, what keeps it alive, and its
 * end. A connection is freed in one place only: at the end of a pass, from its own deferred call,
 * when it is dead and nothing uses it any more.
 */
#include "app/pollux/nbd/connection.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/pollux/nbd/kernel_tls.h"
#include "app/pollux/nbd/zero_copy.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/tls/credentials.h"
#include "reactor/control.h"

enum {
	LINGER_US = 1000000, /* for the client to take the last replies and close */
	ABORT_AFTER_US =
		2000000, /* then the drivers are asked to end a dead connection's requests */
	/* a peer that has vanished without a word is found out after two minutes */
	KEEPALIVE_IDLE_S = 60,
	KEEPALIVE_INTERVAL_S = 10,
	KEEPALIVE_PROBES = 6,
};

const char *const connection_state_names[] = {
	[CONN_HANDSHAKE] = "handshake",
	[CONN_TRANSMISSION] = "transmission",
	[CONN_FINISHING] = "finishing",
	[CONN_DEAD] = "dead",
};

static bool is_socket(int fd)
{
	int type;
	socklen_t bytes = sizeof(type);
	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) == 0;
}

/* No error where it is no TCP socket. */
static void tune_tcp(int fd)
{
	static const struct {
		int level, name, value;
	} options[] = {
		{IPPROTO_TCP, TCP_NODELAY, 1},
		{SOL_SOCKET, SO_KEEPALIVE, 1},
		{IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S},
		{IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S},
		{IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES},
	};
	for (unsigned i = 0; i < COUNT_OF(options); i++)
		if (setsockopt(fd, options[i].level, options[i].name, &options[i].value,
			       sizeof(options[i].value)))
			return;
}

struct connection *connection_open(struct nbd_core *core, const struct connection_options *options)
{
	static _Atomic uint64_t next_id = 1;
	struct connection *conn = calloc(1, sizeof(*conn));
	if (!conn)
		goto refuse;
	conn->core = core;
	conn->rx_fd = options->rx_fd;
	conn->tx_fd = options->tx_fd;
	conn->address = options->address;
	conn->access = options->access;
	conn->offer = options->offer;
	conn->state = CONN_HANDSHAKE;
	conn->send_flags = MSG_WAITALL | MSG_NOSIGNAL;
	conn->id = atomic_fetch_add(&next_id, 1);
	conn->receive_op.done = receive_done;
	conn->send_op.done = transmit_done;
	conn->flush.run = transmit_run;
	conn->big_last = &conn->big_first;
	conn->held_last = &conn->held_first;
	conn->connected_at = core->reactor->now;
	snprintf(conn->peer, sizeof(conn->peer), "%s", options->peer);
	conn->is_socket = is_socket(conn->rx_fd) && is_socket(conn->tx_fd);
	tune_tcp(conn->tx_fd);
	zero_copy_init(conn);
	if (negotiate_begin(conn))
		goto refuse;
	TAILQ_INSERT_TAIL(&core->connections, conn, link);
	if (!core->connection_count++)
		reactor_arm_timer(&core->watch, 0);
	rx_serve(&core->rx, core->connection_count);
	receive_arm(conn);
	return conn;
refuse:
	free(conn);
	tls_credentials_put(options->offer.credentials);
	close(options->rx_fd);
	if (options->tx_fd != options->rx_fd)
		close(options->tx_fd);
	atomic_fetch_sub(&core->reactor->load, 1);
	atomic_fetch_sub(&nbd_connection_count, 1);
	access_leave(options->access);
	return NULL;
}

/* ---- Waiting for the core ---- */

void connection_block(struct connection *conn)
{
	reactor_assert_owner(conn->core->reactor);
	if (conn->blocked)
		return;
	conn->blocked = true;
	TAILQ_INSERT_TAIL(&conn->core->blocked, conn, blocked_link);
}

static void unblock(struct connection *conn)
{
	if (!conn->blocked)
		return;
	conn->blocked = false;
	TAILQ_REMOVE(&conn->core->blocked, conn, blocked_link);
}

void connection_resume(struct connection *conn)
{
	unblock(conn);
	if (conn->state == CONN_DEAD)
		return;
	command_continue_read(conn);
	if (!conn->blocked)
		receive_resume(conn);
}

void connection_credit(struct connection *conn, unsigned count)
{
	conn->inflight -= count;
	if (unlikely(conn->starved)) {
		connection_block(conn);
		reactor_defer(conn->core->reactor, &conn->core->resume);
	}
	if (unlikely(conn->state >= CONN_FINISHING && !conn->inflight))
		reactor_defer(conn->core->reactor, &conn->flush);
}

/* ---- Ending ---- */

static void log_end(void *arg)
{
	char *line = arg;
	log_info("nbd", "%s", line);
	free(line);
}

static void tell_end(struct connection *conn)
{
	char *line;
	if (log_level_now < LOG_INFO)
		return;
	if (asprintf(&line, "connection %lu (%s) ends%s%s", (unsigned long)conn->id, conn->peer,
		     conn->reason[0] ? ": " : "", conn->reason) > 0)
		control_send(log_end, line);
}

static void remember(struct connection *conn, const char *reason)
{
	if (reason && !conn->reason[0])
		snprintf(conn->reason, sizeof(conn->reason), "%s", reason);
}

static void drop_input(struct connection *conn)
{
	receive_drop_kept(conn);
	conn->starved = false;
	unblock(conn);
	command_drop_payload(conn);
}

static void cancel(struct connection *conn, struct uring_op *op)
{
	struct io_uring_sqe *sqe = uring_get_sqe(&conn->core->reactor->uring);
	io_uring_prep_cancel(sqe, op, 0);
	uring_set_op(sqe, NULL);
}

void connection_drain(struct connection *conn, const char *reason)
{
	reactor_assert_owner(conn->core->reactor);
	remember(conn, reason);
	if (conn->state == CONN_HANDSHAKE)
		negotiate_drain(conn);
	if (conn->state != CONN_TRANSMISSION)
		return;
	conn->draining = true;
	reactor_defer(conn->core->reactor, &conn->flush);
}

void connection_finish(struct connection *conn, const char *reason)
{
	reactor_assert_owner(conn->core->reactor);
	if (conn->state >= CONN_FINISHING)
		return;
	remember(conn, reason);
	conn->state = CONN_FINISHING;
	reactor_disarm_timer(&conn->timer);
	drop_input(conn);
	if (conn->receiving && conn->filling)
		cancel(conn, &conn->receive_op); /* the rest of a WRITE that is not waited for */
	if (conn->big || conn->big_first)
		command_continue_read(conn);
	/* a client that is blocked in sending must get to reading its replies */
	receive_arm(conn);
	reactor_defer(conn->core->reactor, &conn->flush);
}

static void abort_requests(struct timer *timer)
{
	struct connection *conn = container_of(timer, struct connection, timer);
	struct request_pool *pool = &conn->core->requests;
	for (unsigned i = 0; i < pool->unused; i++) {
		if (pool->slots[i].in_bdev && pool->slots[i].owner == conn)
			request_abort(&pool->slots[i]);
	}
	reactor_arm_timer(timer, ABORT_AFTER_US);
}

void connection_kill(struct connection *conn, const char *reason)
{
	reactor_assert_owner(conn->core->reactor);
	if (conn->state == CONN_DEAD)
		return;
	remember(conn, reason);
	conn->state = CONN_DEAD;
	conn->mute = true;
	if (conn->is_socket)
		shutdown(conn->tx_fd, SHUT_RDWR);
	else
		for (unsigned i = 0; i < 2; i++)
			cancel(conn, i ? &conn->receive_op : &conn->send_op);
	zero_copy_abort(conn);
	drop_input(conn);
	transmit_drop(conn);
	if (conn->big || conn->big_first)
		command_continue_read(conn);
	conn->timer.fire = abort_requests;
	reactor_arm_timer(&conn->timer, ABORT_AFTER_US);
	reactor_defer(conn->core->reactor, &conn->flush);
}

static uint64_t stall_ticks(void)
{
	return clock_us_to_ticks(nbd_settings.stall_timeout_ms * 1000ull);
}

static void linger_over(struct timer *timer)
{
	struct connection *conn = container_of(timer, struct connection, timer);
	if (conn->kernel_tls && kernel_tls_is_sending(conn) &&
	    conn->core->reactor->now - conn->send_started < stall_ticks())
		reactor_arm_timer(timer, LINGER_US);
	else
		connection_kill(conn, NULL);
}

/*
 * All has been answered. Closing with unread bytes in the socket would make the kernel reset the
 * connection and the client might lose the last replies: so the client's end of file is waited for.
 */
static void linger(struct connection *conn)
{
	if (conn->lingering)
		return;
	bool deaf = conn->kernel_tls && kernel_tls_is_deaf(conn);
	if ((conn->end_of_file && !deaf) || !conn->is_socket) {
		connection_kill(conn, NULL);
		return;
	}
	conn->lingering = true;
	if (conn->kernel_tls)
		kernel_tls_close(conn);
	else
		shutdown(conn->tx_fd, SHUT_WR);
	conn->timer.fire = linger_over;
	reactor_arm_timer(&conn->timer, LINGER_US);
	receive_arm(conn);
}

static void connection_free(struct connection *conn)
{
	struct nbd_core *core = conn->core;
	tell_end(conn);
	reactor_disarm_timer(&conn->timer);
	negotiate_end(conn);
	if (conn->tls)
		secure_free(conn);
	if (conn->kernel_tls)
		kernel_tls_free(conn);
	free(conn->handshake_out);
	close(conn->rx_fd);
	if (conn->tx_fd != conn->rx_fd)
		close(conn->tx_fd);
	TAILQ_REMOVE(&core->connections, conn, link);
	rx_serve(&core->rx, --core->connection_count);
	atomic_fetch_sub(&core->reactor->load, 1);
	atomic_fetch_sub(&nbd_connection_count, 1);
	if (conn->export)
		export_put(conn->export);
	access_leave(conn->access);
	free(conn);
}

void connection_check(struct connection *conn)
{
	reactor_assert_owner(conn->core->reactor);
	bool quiet = !conn->inflight && !conn->sending && !conn->pins;
	if (conn->state == CONN_FINISHING && quiet && !conn->batches && !conn->handshake_out_bytes)
		linger(conn);
	if (conn->state == CONN_DEAD && quiet && !conn->receiving && !conn->flush.queued)
		connection_free(conn);
}

/* ---- The watch ---- */

/* A client that takes or sends nothing while it holds buffers that others wait for. */
static bool is_stalled(const struct connection *conn, uint64_t now)
{
	bool sends = conn->pins || (conn->sending && conn->batches && conn->batches->holding);
	return (sends && now - conn->send_started > stall_ticks()) ||
	       (conn->filling && now - conn->received_at > stall_ticks());
}

/* One that is to end, and takes neither its last replies nor its leave. */
static bool is_lingering_too_long(const struct connection *conn, uint64_t now)
{
	return conn->state == CONN_FINISHING && (conn->sending || conn->pins) &&
	       now - conn->send_started > stall_ticks();
}

/* In the bdev's place; what that makes of it is dropped. False: it can not be, or was before. */
static bool answer_early(struct connection *conn, struct request *request, uint32_t error,
			 const char *message)
{
	struct request *whole = request->parent ? request->parent : request;
	struct nbd_command_request wire = {
		.cookie = whole->cookie,
		.offset = whole->offset,
		.type = whole->type,
	};
	if (whole->answered || conn->writing == whole || conn->mute)
		return false;
	if (conn->big == whole && conn->big_exclusive) {
		connection_kill(conn, "a READ was not ended after its reply had begun");
		return false;
	}
	whole->answered = true;
	transmit_error(conn, &wire, error, message);
	if (conn->big == whole)
		command_leave_read(conn);
	return true;
}

void connection_time_out(struct connection *conn, struct request *request)
{
	answer_early(conn, request, NBD_EIO, "the request timed out");
}

/* One READ behind another may reach the bdev only now: until there are none. */
static bool answer_some(struct connection *conn)
{
	struct request_pool *pool = &conn->core->requests;
	bool any = false;
	for (unsigned i = 0; i < pool->unused; i++) {
		struct request *request = &pool->slots[i];
		if (!request->in_bdev || request->owner != conn)
			continue;
		any |= answer_early(conn, request, NBD_ESHUTDOWN, "the export's bdev is removed");
		request_abort(request);
	}
	return any;
}

void connection_answer_all(struct connection *conn)
{
	reactor_assert_owner(conn->core->reactor);
	while (answer_some(conn))
		;
	conn->stuck = true; /* until the next look at all requests */
	command_fail_waiting(conn);
}

bool connection_is_late(const struct connection *conn, uint64_t since)
{
	uint64_t limit = conn->export->io_timeout_ms * 1000ull;
	return limit && conn->core->reactor->now - since > clock_us_to_ticks(limit);
}

/*
 * Its time counts from when the device got it: that a client is slow to send a WRITE, or to take
 * the parts of a READ, is not the device's fault.
 */
static uint64_t counts_from(const struct request *request)
{
	const struct request *whole = request->parent;
	return whole && whole->type == NBD_CMD_READ && whole->behind_stuck ? whole->started
									   : request->submitted;
}

static void time_out_requests(struct nbd_core *core)
{
	struct request_pool *pool = &core->requests;
	for (unsigned i = 0; i < pool->unused; i++) {
		struct request *request = &pool->slots[i];
		if (!request->in_bdev)
			continue;
		struct connection *conn = request->owner;
		if (!connection_is_late(conn, counts_from(request)))
			continue;
		if (request->aborted) {
			conn->stuck = true;
			connection_time_out(conn, request);
		}
		request->aborted = true;
		request_abort(request);
	}
}

void connection_watch_all(struct nbd_core *core)
{
	struct connection *conn, *next;
	TAILQ_FOREACH (conn, &core->connections, link)
		conn->stuck = false;
	time_out_requests(core);
	bool waited_for = !TAILQ_EMPTY(&core->blocked);
	for (conn = TAILQ_FIRST(&core->connections); conn; conn = next) {
		next = TAILQ_NEXT(conn, link);
		receive_look(conn);
		if (waited_for && is_stalled(conn, core->reactor->now))
			connection_kill(conn, "it stands still while others wait for its memory");
		else if (is_lingering_too_long(conn, core->reactor->now))
			connection_kill(conn, "it does not take its last replies");
		else if (unlikely(conn->stuck))
			command_fail_waiting(conn);
	}
}
