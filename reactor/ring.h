/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ring: what rte_ring lacks for C11 and ThreadSanitizer. Its rte_ring_count() and the like read by
 * no atomic load; the consumer of a ring in relaxed mode (RTS) looks at half of the word that the
 * producers release. These do it properly, and cost the same.
 */
#ifndef POLLUX_REACTOR_RING_H
#define POLLUX_REACTOR_RING_H

#include <rte_ring.h>
#include <stdbool.h>
#include <stdint.h>

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

/* For the consumer of a ring whose producers are in relaxed mode: how many it may take. */
static inline unsigned ring_ready_rts(const struct rte_ring *ring)
{
	union __rte_ring_rts_poscnt tail;
	tail.raw = __atomic_load_n(&ring->rts_prod.tail.raw, __ATOMIC_ACQUIRE);
	return tail.val.pos - __atomic_load_n(&ring->cons.tail, __ATOMIC_RELAXED);
}

#endif
