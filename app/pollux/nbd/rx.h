/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rx: the buffers that a net reactor's ring receives into. io_uring picks one when data is there,
 * so that an idle connection holds none. The kernel takes them in the order in which they were
 * given; so there are only as many in the ring as there are connections to receive: a few that are
 * used again and again stay in the core's cache, where many would pass through it in turn.
 *
 * Owned by one net reactor; every function runs on it.
 * Source: io_uring_register_buf_ring(3).
 */
#ifndef POLLUX_APP_NBD_RX_H
#define POLLUX_APP_NBD_RX_H

#include <liburing.h>

#include "lib/base/compiler.h"
#include "lib/mem/region.h"

enum {
	RX_BUFFERS = 64, /* at most */
	RX_BUFFERS_LEAST = 4,
	RX_BUFFER_BYTES = 64 << 10,
	RX_GROUP = 0,
};

struct rx_pool {
	struct io_uring_buf_ring *ring;
	struct region region;
	unsigned provided; /* in the ring, or filled and about to come back to it */
	unsigned wanted;
	unsigned spare_count;
	uint16_t spare[RX_BUFFERS]; /* the rest */
};

/* Any thread, before rx_start(): takes the memory on that node. 0 or -errno. */
int rx_init(struct rx_pool *pool, int node);
/* On the ring's thread: registers with it. 0 or -errno. */
int rx_start(struct rx_pool *pool, struct io_uring *ring);
/* Any thread, after the ring is gone. */
void rx_fini(struct rx_pool *pool);
/* So many connections may receive at a time. */
void rx_serve(struct rx_pool *pool, unsigned connections);

static inline uint8_t *rx_buffer(const struct rx_pool *pool, unsigned id)
{
	return (uint8_t *)pool->region.base + (size_t)id * RX_BUFFER_BYTES;
}

static inline void rx_provide(struct rx_pool *pool, unsigned id)
{
	io_uring_buf_ring_add(pool->ring, rx_buffer(pool, id), RX_BUFFER_BYTES, id, RX_BUFFERS - 1,
			      0);
	io_uring_buf_ring_advance(pool->ring, 1);
}

/* What the buffer held has been taken. */
static inline void rx_give_back(struct rx_pool *pool, unsigned id)
{
	if (likely(pool->provided <= pool->wanted)) {
		rx_provide(pool, id);
		return;
	}
	pool->provided--;
	pool->spare[pool->spare_count++] = id;
}

#endif
