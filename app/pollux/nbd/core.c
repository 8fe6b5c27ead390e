/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * core: setting up and taking down a net reactor's NBD state, and the waiting for slots and
 * buffers.
 */
#include "app/pollux/nbd/core.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/pollux/nbd/connection.h"
#include "lib/base/log.h"

enum { WATCH_US = 100000 };

struct nbd_settings nbd_settings = {
	.handshake_timeout_ms = 10000,
	.stall_timeout_ms = 10000,
	.max_connections = 65536,
	.max_requests = 256,
	.protocol = {.no_zeroes = true, .structured = true, .extended = true},
};

struct nbd_core *nbd_cores[REACTOR_MAX];
_Atomic uint32_t nbd_connection_count;

/* Tries those that wait, in order; who has to wait again stands behind. */
static void resume_blocked(struct deferred *deferred)
{
	struct nbd_core *core = container_of(deferred, struct nbd_core, resume);
	struct connection *last = TAILQ_LAST(&core->blocked, connection_list), *conn;
	while ((conn = TAILQ_FIRST(&core->blocked))) {
		connection_resume(conn);
		if (conn == last)
			break;
	}
}

static void watch(struct timer *timer)
{
	struct nbd_core *core = container_of(timer, struct nbd_core, watch);
	connection_watch_all(core);
	if (core->connection_count)
		reactor_arm_timer(timer, WATCH_US);
}

static int init_rx(struct nbd_core *core)
{
	int error = region_map(&core->rx_region, (size_t)RX_BUFFERS * RX_BUFFER_BYTES,
			       core->reactor->node, false);
	if (error)
		return error;
	if (posix_memalign((void **)&core->rx_ring, REGION_PAGE_BYTES,
			   RX_BUFFERS * sizeof(struct io_uring_buf)))
		return -ENOMEM;
	memset(core->rx_ring, 0, RX_BUFFERS * sizeof(struct io_uring_buf));
	return 0;
}

/* On the reactor: its ring takes registrations from its own thread only. */
static void start_here(void *arg)
{
	struct nbd_core *core = nbd_core_here();
	struct io_uring_buf_reg registration = {
		.ring_addr = (uint64_t)(uintptr_t)core->rx_ring,
		.ring_entries = RX_BUFFERS,
		.bgid = RX_GROUP,
	};
	core->error = io_uring_register_buf_ring(&core->reactor->uring.ring, &registration, 0);
	if (!core->error) {
		io_uring_buf_ring_init(core->rx_ring);
		for (unsigned i = 0; i < RX_BUFFERS; i++)
			io_uring_buf_ring_add(core->rx_ring, rx_buffer(core, i), RX_BUFFER_BYTES, i,
					      RX_BUFFERS - 1, i);
		io_uring_buf_ring_advance(core->rx_ring, RX_BUFFERS);
	}
	core->reserve = buffers_get(&core->reactor->buffers, CORE_RESERVE_BYTES);
	atomic_store(&core->started, true);
}

static int make_core(struct reactor *reactor)
{
	struct nbd_core *core;
	if (posix_memalign((void **)&core, CACHE_LINE_BYTES, sizeof(*core)))
		return -ENOMEM;
	memset(core, 0, sizeof(*core));
	core->reactor = reactor;
	TAILQ_INIT(&core->connections);
	TAILQ_INIT(&core->blocked);
	core->resume.run = resume_blocked;
	core->watch.fire = watch;
	nbd_cores[reactor->index] = core;
	int error = init_rx(core);
	if (!error)
		error = request_pool_init(&core->requests, reactor->node);
	if (error)
		return error;
	reactor_send(reactor, start_here, NULL);
	while (!atomic_load(&core->started))
		usleep(20);
	return core->error;
}

int nbd_cores_start(void)
{
	for (unsigned i = 0; i < reactor_count; i++) {
		if (!(reactors[i]->roles & REACTOR_NET))
			continue;
		int error = make_core(reactors[i]);
		if (error)
			return error;
	}
	return 0;
}

void nbd_cores_free(void)
{
	for (unsigned i = 0; i < REACTOR_MAX; i++) {
		struct nbd_core *core = nbd_cores[i];
		if (!core)
			continue;
		connection_free_batches(core);
		secure_free_core(core);
		request_pool_fini(&core->requests);
		region_unmap(&core->rx_region);
		free(core->rx_ring);
		free(core);
		nbd_cores[i] = NULL;
	}
}
