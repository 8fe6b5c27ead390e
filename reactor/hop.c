/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hop: the I/O rings, one SPSC ring for each ordered pair of reactors. What a pass sends is staged
 * in the lane and put on the ring in bursts, the last at the end of the pass; what a full ring has
 * no room for is left over for the next pass (and counts a stall), so a sender never waits.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/clock.h"
#include "lib/base/compiler.h"
#include "lib/base/counter.h"
#include "reactor/internal.h"

static void lane_flush(struct deferred *deferred);

int hop_init(struct reactor *reactor, unsigned count)
{
	reactor->lanes = aligned_alloc(CACHE_LINE_BYTES, count * sizeof(*reactor->lanes));
	if (!reactor->lanes)
		return -ENOMEM;
	memset(reactor->lanes, 0, count * sizeof(*reactor->lanes));
	ssize_t bytes = rte_ring_get_memsize(REACTOR_HOP_ENTRIES);
	if (bytes < 0)
		return bytes;
	for (unsigned i = 0; i < count; i++) {
		struct hop_lane *lane = &reactor->lanes[i];
		lane->left_last = &lane->left_first;
		lane->flush.run = lane_flush;
		lane->destination = i;
		if (i == reactor->index)
			continue;
		lane->ring = aligned_alloc(CACHE_LINE_BYTES,
					   ((size_t)bytes + CACHE_LINE_BYTES - 1) /
						   CACHE_LINE_BYTES * CACHE_LINE_BYTES);
		if (!lane->ring)
			return -ENOMEM;
		int error = rte_ring_init(lane->ring, "hop", REACTOR_HOP_ENTRIES,
					  RING_F_SP_ENQ | RING_F_SC_DEQ);
		if (error)
			return error;
	}
	return 0;
}

void hop_fini(struct reactor *reactor, unsigned count)
{
	if (!reactor->lanes)
		return;
	for (unsigned i = 0; i < count; i++)
		free(reactor->lanes[i].ring);
	free(reactor->lanes);
	reactor->lanes = NULL;
}

/* Puts the first of `burst` on the ring, as many as there is room for: returns how many. */
static unsigned enqueue(struct hop_lane *lane, struct hop **burst, unsigned count)
{
	unsigned n = MIN_OF(count, ring_room(lane->ring));
	if (unlikely(!n))
		return 0;
	/* before the enqueue: from there on the hops are the receiver's */
	burst[0]->sent_at = clock_ticks();
	rte_ring_sp_enqueue_bulk(lane->ring, (void **)burst, n, NULL);
	counter_add(&lane->sent, n);
	counter_add(&lane->bursts, 1);
	return n;
}

/* Sends what is staged; what the ring has no room for, or has to wait behind such, is left over. */
static void send_staged(struct hop_lane *lane)
{
	unsigned n = likely(!lane->left_first) ? enqueue(lane, lane->staged, lane->staged_count) : 0;
	for (; unlikely(n < lane->staged_count); n++) {
		struct hop *hop = lane->staged[n];
		hop->next = NULL;
		*lane->left_last = hop;
		lane->left_last = &hop->next;
	}
	lane->staged_count = 0;
}

/* What was left over: as much as the ring has room for. */
static never_inline void send_left(struct hop_lane *lane)
{
	while (lane->left_first) {
		struct hop *burst[REACTOR_HOP_BURST];
		unsigned count = 0;
		for (struct hop *hop = lane->left_first; hop && count < REACTOR_HOP_BURST;
		     hop = hop->next)
			burst[count++] = hop;
		count = MIN_OF(count, ring_room(lane->ring));
		if (!count)
			break;
		lane->left_first = burst[count - 1]->next;
		if (!lane->left_first)
			lane->left_last = &lane->left_first;
		enqueue(lane, burst, count);
	}
}

/* Tried again with the deferred calls that come behind these, and in the next pass. */
static never_inline void stall(struct hop_lane *lane)
{
	if (lane->stalled_at != reactor_self->now) {
		lane->stalled_at = reactor_self->now;
		counter_add(&lane->stalls, 1);
	}
	reactor_defer(reactor_self, &lane->flush);
}

/* At the end of a pass. */
static void lane_flush(struct deferred *deferred)
{
	struct hop_lane *lane = container_of(deferred, struct hop_lane, flush);
	if (unlikely(lane->left_first))
		send_left(lane);
	send_staged(lane);
	if (unlikely(lane->left_first))
		stall(lane);
	reactor_wake(reactors[lane->destination]);
}

/* The first since the last flush, or one more than a burst. */
static never_inline void stage_apart(struct hop_lane *lane, struct hop *hop)
{
	if (lane->staged_count == REACTOR_HOP_BURST)
		send_staged(lane);
	lane->staged[lane->staged_count++] = hop;
	reactor_defer(reactor_self, &lane->flush);
}

void reactor_hop(unsigned destination, struct hop *hop)
{
	struct hop_lane *lane = &reactor_self->lanes[destination];
	unsigned count = lane->staged_count;
	hop->sent_at = 0;
	if (unlikely(!count || count == REACTOR_HOP_BURST)) {
		stage_apart(lane, hop);
		return;
	}
	lane->staged[count] = hop;
	lane->staged_count = count + 1;
}

/* From one end of the ring to the other. */
static void measure(struct hop_lane *lane, uint64_t sent_at)
{
	uint64_t ticks = clock_ticks() - sent_at;
	counter_add(&lane->arrivals, 1);
	counter_add(&lane->latency_ticks, ticks);
	if (ticks > lane->latency_max_ticks)
		counter_set(&lane->latency_max_ticks, ticks);
}

static unsigned lane_drain(struct hop_lane *lane)
{
	struct hop *burst[REACTOR_HOP_BURST];
	unsigned n = rte_ring_sc_dequeue_burst(lane->ring, (void **)burst, REACTOR_HOP_BURST, NULL);
	for (unsigned k = 0; k < n; k++) {
		if (burst[k]->sent_at)
			measure(lane, burst[k]->sent_at);
		burst[k]->arrive(burst[k]);
	}
	return n;
}

unsigned hop_drain(struct reactor *reactor)
{
	unsigned total = 0;
	for (unsigned i = 0; i < reactor_count; i++) {
		if (i != reactor->index)
			total += lane_drain(&reactors[i]->lanes[reactor->index]);
	}
	return total;
}

bool hop_waiting(const struct reactor *reactor)
{
	for (unsigned i = 0; i < reactor_count; i++) {
		if (i != reactor->index && !ring_empty(reactors[i]->lanes[reactor->index].ring))
			return true;
	}
	return false;
}

unsigned reactor_ring_depth(unsigned from, unsigned to)
{
	return from == to ? 0 : ring_count(reactors[from]->lanes[to].ring);
}
