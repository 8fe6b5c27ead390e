/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ring: rte_ring, as C11 and ThreadSanitizer want it. With RTE_USE_C11_MEM_MODEL DPDK 22.11 lets a
 * producer wait for an earlier one's tail by a relaxed load, so that nothing orders the earlier
 * one's element before the consumer; and rte_ring_count() and its like read by no atomic load.
 * Costs nothing on x86, where a load is a load.
 */
#ifndef POLLUX_REACTOR_RING_H
#define POLLUX_REACTOR_RING_H

#include <rte_pause.h>
#define rte_wait_until_equal_32(address, expected, order)                                          \
	rte_wait_until_equal_32(address, expected, __ATOMIC_ACQUIRE)
#include <rte_ring.h>
#include <rte_ring_elem.h>
#undef rte_wait_until_equal_32

#include "lib/base/compiler.h"

/* Any thread. */
static inline unsigned ring_count(const struct rte_ring *ring)
{
	uint32_t tail = __atomic_load_n(&ring->prod.tail, __ATOMIC_RELAXED);
	uint32_t head = __atomic_load_n(&ring->cons.tail, __ATOMIC_RELAXED);
	return MIN_OF((tail - head) & ring->mask, ring->capacity);
}

/* For its consumer. */
static inline bool ring_empty(const struct rte_ring *ring)
{
	return __atomic_load_n(&ring->prod.tail, __ATOMIC_RELAXED) ==
	       __atomic_load_n(&ring->cons.tail, __ATOMIC_RELAXED);
}

/* For its only producer: room for so many, at least. */
static inline unsigned ring_room(const struct rte_ring *ring)
{
	return ring->capacity - ring_count(ring);
}

#endif
