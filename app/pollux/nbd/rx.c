/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rx: setting up the receive buffers, and how many of them the kernel has.
 */
#include "app/pollux/nbd/rx.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int rx_init(struct rx_pool *pool, int node)
{
	int error = region_map(&pool->region, (size_t)RX_BUFFERS * RX_BUFFER_BYTES, node, false);
	if (error)
		return error;
	size_t bytes = RX_BUFFERS * sizeof(struct io_uring_buf);
	if (posix_memalign((void **)&pool->ring, REGION_PAGE_BYTES, bytes)) {
		pool->ring = NULL;
		return -ENOMEM;
	}
	memset(pool->ring, 0, bytes);
	for (unsigned id = RX_BUFFERS; id-- > 0;)
		pool->spare[pool->spare_count++] = id;
	return 0;
}

int rx_start(struct rx_pool *pool, struct io_uring *ring)
{
	struct io_uring_buf_reg registration = {
		.ring_addr = (uint64_t)(uintptr_t)pool->ring,
		.ring_entries = RX_BUFFERS,
		.bgid = RX_GROUP,
	};
	int error = io_uring_register_buf_ring(ring, &registration, 0);
	if (error)
		return error;
	io_uring_buf_ring_init(pool->ring);
	rx_serve(pool, 0);
	return 0;
}

void rx_fini(struct rx_pool *pool)
{
	region_unmap(&pool->region);
	free(pool->ring);
	pool->ring = NULL;
}

void rx_serve(struct rx_pool *pool, unsigned connections)
{
	pool->wanted =
		MIN_OF(MAX_OF(connections, (unsigned)RX_BUFFERS_LEAST), (unsigned)RX_BUFFERS);
	for (; pool->provided < pool->wanted && pool->spare_count; pool->provided++)
		rx_provide(pool, pool->spare[--pool->spare_count]);
}
