/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * negotiate: a connection's handshake - lib/nbd/server.h between the socket and the table of
 * exports. Replies are gathered in a buffer that is sent before anything more is read, so that a
 * client which asks without listening costs little.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "app/pollux/nbd/connection.h"
#include "app/pollux/nbd/secure_log.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/tls/credentials.h"

enum {
	FEED_BYTES = 256, /* a slice of the input, so that few options' replies gather at a time */
	OUT_MOST_BYTES = 64 << 10,
	DRAIN_US = 250000, /* a handshake that is under way learns that the server ends */
};

/* ---- The handshake's view of the exports ---- */

static uint16_t transmission_flags(const struct export *export)
{
	static const struct {
		uint32_t cap;
		uint16_t flag;
	} map[] = {
		{BDEV_CAP_FLUSH, NBD_FLAG_SEND_FLUSH},
		{BDEV_CAP_FUA, NBD_FLAG_SEND_FUA},
		{BDEV_CAP_TRIM, NBD_FLAG_SEND_TRIM},
		{BDEV_CAP_WRITE_ZEROES, NBD_FLAG_SEND_WRITE_ZEROES},
		{BDEV_CAP_FAST_ZERO, NBD_FLAG_SEND_FAST_ZERO},
		{BDEV_CAP_CACHE, NBD_FLAG_SEND_CACHE},
		{BDEV_CAP_ROTATIONAL, NBD_FLAG_ROTATIONAL},
	};
	/* a flush covers what any connection had completed, so that several may share the export */
	uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_CAN_MULTI_CONN;
	for (unsigned i = 0; i < COUNT_OF(map); i++) {
		if (export->bdev->caps & map[i].cap)
			flags |= map[i].flag;
	}
	if (export->read_only) {
		flags |= NBD_FLAG_READ_ONLY;
		flags &= ~(NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
			   NBD_FLAG_SEND_FAST_ZERO);
	}
	return flags;
}

static void describe(struct export *export, struct nbd_export_info *info)
{
	*info = (struct nbd_export_info){
		.export = export,
		.name = export->name,
		.description = export->description,
		.size = atomic_load(&export->bdev->size_bytes),
		.flags = transmission_flags(export),
		.min_block = 1,
		.preferred_block = export->preferred_bytes,
		.max_payload = NBD_MAX_PAYLOAD_BYTES,
		.needs_tls = export->tls_required,
	};
}

/* Whether this client may know of the export. */
static bool may_see(const struct connection *conn, const struct export *export)
{
	return network_list_admits(export->allow, &conn->address);
}

static int find(void *arg, const char *name, size_t length, bool opening,
		struct nbd_export_info *info)
{
	struct connection *conn = arg;
	if (!access_resolve(conn->access, &name, &length))
		return -ENOENT;
	struct export *export = export_table_find(name, length);
	if (!export || !may_see(conn, export))
		return -ENOENT;
	describe(export, info);
	if (!opening)
		return 0;
	if (!export_admit(export))
		return -EMFILE;
	conn->export = export;
	return 0;
}

/* Each search goes on where the last one ended, since a listing asks for one after the other. */
static int list(void *arg, unsigned index, struct nbd_export_info *info)
{
	struct connection *conn = arg;
	const struct export_table *table = export_table();
	if (!index || index != conn->list_index) {
		conn->list_index = 0;
		conn->list_at = 0;
	}
	while (conn->list_at < table->count) {
		struct export *export = table->exports[conn->list_at++];
		if (!access_shows(conn->access, export->name) || !may_see(conn, export) ||
		    conn->list_index++ < index)
			continue;
		describe(export, info);
		return 0;
	}
	return -ENOENT;
}

static const char *context(void *arg, const struct nbd_export_info *info, unsigned index)
{
	const struct export *export = info->export;
	return bdev_context_name(export->bdev, index);
}

static void out(void *arg, const void *bytes, size_t count)
{
	struct connection *conn = arg;
	size_t needed = conn->handshake_out_bytes + count;
	if (needed > conn->handshake_out_room) {
		size_t room = MAX_OF(needed, 2 * conn->handshake_out_room);
		uint8_t *bigger = realloc(conn->handshake_out, room);
		if (!bigger) {
			connection_kill(conn, "no memory for the handshake");
			return;
		}
		conn->handshake_out = bigger;
		conn->handshake_out_room = room;
	}
	memcpy(conn->handshake_out + conn->handshake_out_bytes, bytes, count);
	conn->handshake_out_bytes += count;
}

static const struct nbd_server_ops ops = {
	.find = find,
	.list = list,
	.context = context,
	.send = out,
};

/* ---- Sending ---- */

static void send_more(struct connection *conn)
{
	uint8_t *at = conn->handshake_sending + conn->handshake_sent_bytes;
	size_t left = conn->handshake_sending_bytes - conn->handshake_sent_bytes;
	struct io_uring_sqe *sqe = uring_get_sqe(&conn->core->reactor->uring);
	if (conn->is_socket)
		io_uring_prep_send(sqe, conn->tx_fd, at, left, conn->send_flags);
	else
		io_uring_prep_write(sqe, conn->tx_fd, at, left, -1);
	uring_set_op(sqe, &conn->send_op);
	conn->sending = true;
	conn->send_started = conn->core->reactor->now;
}

bool negotiate_flush(struct connection *conn)
{
	if (conn->handshake_sending)
		return true;
	if (!conn->handshake_out_bytes)
		return false;
	conn->handshake_sending = conn->handshake_out;
	conn->handshake_sending_bytes = conn->handshake_out_bytes;
	conn->handshake_sent_bytes = 0;
	conn->handshake_out = NULL;
	conn->handshake_out_bytes = conn->handshake_out_room = 0;
	send_more(conn);
	return true;
}

void negotiate_sent(struct connection *conn, int result)
{
	if (result > 0)
		conn->handshake_sent_bytes += result;
	bool again = result >= 0 || result == -EAGAIN || result == -EINTR;
	if (conn->state != CONN_DEAD && !again)
		connection_kill(conn, strerror(-result));
	if (conn->state != CONN_DEAD &&
	    conn->handshake_sent_bytes < conn->handshake_sending_bytes) {
		send_more(conn);
		return;
	}
	free(conn->handshake_sending);
	conn->handshake_sending = NULL;
	reactor_defer(conn->core->reactor, &conn->flush);
	if (conn->state == CONN_HANDSHAKE || conn->state == CONN_TRANSMISSION)
		connection_resume(conn);
}

/* ---- Receiving ---- */

static void begin_transmission(struct connection *conn)
{
	const struct nbd_handshake *hs = conn->handshake;
	struct export *export = conn->export;
	conn->storage = export_place(export, conn->core->reactor);
	conn->stats = &export->stats[conn->core->reactor->index];
	bool local = conn->storage == conn->core->reactor;
	conn->sync_writes = local && (export->bdev->caps & BDEV_CAP_SYNC);
	conn->lends = request_may_lend(export->bdev, conn->core->reactor, conn->storage);
	conn->read_flags =
		(conn->lends ? BDEV_LEND : 0) | (hs->mode == NBD_MODE_SIMPLE ? 0 : BDEV_SPARSE);
	conn->limits = (struct nbd_limits){
		.size = hs->selected.size,
		.max_payload = hs->selected.max_payload,
		.transmission_flags = hs->selected.flags,
		.mode = hs->mode,
		.contexts = hs->context_count > 0,
	};
	memcpy(conn->contexts, hs->contexts, sizeof(conn->contexts));
	conn->context_count = hs->context_count;
	conn->state = CONN_TRANSMISSION;
	reactor_disarm_timer(&conn->timer);
	negotiate_end(conn);
}

size_t negotiate_feed(struct connection *conn, const uint8_t *bytes, size_t count)
{
	size_t taken = 0;
	while (taken < count && conn->state == CONN_HANDSHAKE &&
	       conn->handshake_out_bytes < OUT_MOST_BYTES && !conn->handshake_sending) {
		size_t slice = MIN_OF(count - taken, (size_t)FEED_BYTES), n = 0;
		enum nbd_handshake_result result =
			nbd_handshake_feed(conn->handshake, bytes + taken, slice, &n);
		taken += n;
		if (conn->state == CONN_DEAD)
			break; /* no memory for what it was to be told */
		if (result == NBD_HANDSHAKE_TRANSMIT) {
			begin_transmission(conn);
		} else if (result == NBD_HANDSHAKE_STARTTLS) {
			secure_begin(conn, bytes + taken, count - taken);
			return count;
		} else if (result == NBD_HANDSHAKE_CLOSE) {
			char reason[sizeof(conn->reason)];
			memcpy(reason, conn->handshake->reason, sizeof(reason));
			connection_finish(conn, reason);
		}
	}
	if (conn->handshake_out_bytes)
		reactor_defer(conn->core->reactor, &conn->flush);
	return taken;
}

static void timed_out(struct timer *timer)
{
	struct connection *conn = container_of(timer, struct connection, timer);
	if (conn->tls)
		secure_timed_out(conn);
	connection_kill(conn, "the handshake took too long");
}

int negotiate_begin(struct connection *conn)
{
	conn->handshake = malloc(sizeof(*conn->handshake));
	if (!conn->handshake)
		return -ENOMEM;
	struct nbd_server_config config = nbd_settings.protocol;
	config.no_zeroes = config.no_zeroes && !conn->access->hide_no_zeroes;
	config.tls_offered = conn->offer.credentials != NULL;
	config.tls_required = conn->offer.required;
	nbd_handshake_init(conn->handshake, &config, &ops, conn);
	conn->timer.fire = timed_out;
	reactor_arm_timer(&conn->timer, nbd_settings.handshake_timeout_ms * 1000ull);
	reactor_defer(conn->core->reactor, &conn->flush);
	return 0;
}

static void drained(struct timer *timer)
{
	connection_finish(container_of(timer, struct connection, timer), NULL);
}

void negotiate_drain(struct connection *conn)
{
	if (conn->handshake->shutting_down)
		return;
	conn->handshake->shutting_down = true;
	conn->timer.fire = drained;
	reactor_arm_timer(&conn->timer, DRAIN_US);
}

void negotiate_end(struct connection *conn)
{
	const struct nbd_handshake *hs = conn->handshake;
	if (!hs)
		return;
	if (hs->tls_missed && !conn->tls && conn->state != CONN_TRANSMISSION)
		secure_log_failure(conn, "the client has not begun it, and what it wanted needs it");
	nbd_handshake_fini(conn->handshake);
	free(conn->handshake);
	conn->handshake = NULL;
	tls_credentials_put(conn->offer.credentials);
	conn->offer.credentials = NULL;
}
