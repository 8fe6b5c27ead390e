/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * side_ring: one io_uring_enter(2) a pass hands over what was asked for and looks for completions -
 * by polling the device where the ring is of that kind. A ring that is not wakes its core by the
 * core's own eventfd, which is told of completions only while the core is about to sleep.
 */
#include "bdev/side_ring.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "lib/base/counter.h"

enum { REAP_MOST = 512 };

/* What a kind adds to the flags of a core's rings. */
static const unsigned setup_flags[SIDE_RING_KINDS] = {
	[SIDE_RING_NVME] = IORING_SETUP_SQE128 | IORING_SETUP_CQE32,
	[SIDE_RING_NVME_POLLED] = IORING_SETUP_SQE128 | IORING_SETUP_CQE32 | IORING_SETUP_IOPOLL,
	[SIDE_RING_POLLED] = IORING_SETUP_IOPOLL,
};

/* By reactor index and kind, each its core's. */
static struct side_ring *rings[REACTOR_MAX][SIDE_RING_KINDS];

/* ---- The pass ---- */

static bool kernel_asks(const struct side_ring *ring)
{
	return IO_URING_READ_ONCE(*ring->uring.ring.sq.kflags) &
	       (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static void destroy(struct side_ring *ring);

/* At the end of the pass. Here alone a ring ends: nothing is in the middle of using it. */
static void ring_bell(struct deferred *deferred)
{
	struct side_ring *ring = container_of(deferred, struct side_ring, bell);
	if (unlikely(!ring->users)) {
		destroy(ring);
		return;
	}
	counter_add(&ring->uring.enters, 1);
	io_uring_submit_and_get_events(&ring->uring.ring);
}

static void set_wakes(struct side_ring *ring, bool wakes)
{
	ring->wakes = wakes;
	io_uring_cq_eventfd_toggle(&ring->uring.ring, wakes);
}

static unsigned reap(struct side_ring *ring)
{
	struct io_uring *io_ring = &ring->uring.ring;
	struct io_uring_cqe *cqe;
	unsigned head, count = 0;
	io_uring_for_each_cqe(io_ring, head, cqe)
	{
		ring->inflight--;
		ring->completed(cqe);
		if (++count == REAP_MOST)
			break;
	}
	io_uring_cq_advance(io_ring, count);
	return count;
}

static unsigned poll(struct poller *poller)
{
	struct side_ring *ring = container_of(poller, struct side_ring, poller);
	if (unlikely(ring->wakes))
		set_wakes(ring, false);
	if (!ring->inflight)
		return 0;
	unsigned count = reap(ring);
	if (kernel_asks(ring) || (ring->polled && ring->inflight))
		reactor_defer(ring->reactor, &ring->bell);
	return count;
}

/*
 * A core that polls the device must go on. Else the eventfd is switched on before the last look, so
 * that what comes behind it ends the sleep.
 */
static bool may_sleep(struct poller *poller)
{
	struct side_ring *ring = container_of(poller, struct side_ring, poller);
	if (!ring->inflight)
		return true;
	if (ring->polled)
		return false;
	if (!ring->wakes)
		set_wakes(ring, true);
	atomic_thread_fence(memory_order_seq_cst);
	return !kernel_asks(ring) && !io_uring_cq_ready(&ring->uring.ring);
}

struct io_uring_sqe *side_ring_sqe(struct side_ring *ring)
{
	reactor_assert_owner(ring->reactor);
	ring->inflight++;
	reactor_defer(ring->reactor, &ring->bell);
	return uring_get_sqe(&ring->uring);
}

/* ---- Beginning and end ---- */

static struct side_ring *make(enum side_ring_kind kind)
{
	struct side_ring *ring = calloc(1, sizeof(*ring));
	int error = ring ? 0 : -ENOMEM;
	bool polled = setup_flags[kind] & IORING_SETUP_IOPOLL;
	if (!error)
		error = uring_init_with(&ring->uring, &reactor_caps, SIDE_RING_SQ_ENTRIES,
					SIDE_RING_CQ_ENTRIES, setup_flags[kind]);
	if (!error && !polled) {
		error = io_uring_register_eventfd(&ring->uring.ring, reactor_self->wake_fd);
		if (error)
			uring_fini(&ring->uring);
		else
			set_wakes(ring, false);
	}
	if (error) {
		free(ring);
		errno = -error;
		return NULL;
	}
	ring->reactor = reactor_self;
	ring->kind = kind;
	ring->polled = polled;
	ring->room = SIDE_RING_CQ_ENTRIES;
	ring->bell.run = ring_bell;
	ring->poller = (struct poller){.poll = poll, .may_sleep = may_sleep};
	side_region_register(&ring->region, &ring->uring, &ring->reactor->buffers);
	reactor_add_poller(&ring->poller);
	return ring;
}

static void destroy(struct side_ring *ring)
{
	rings[ring->reactor->index][ring->kind] = NULL;
	reactor_remove_poller(&ring->poller);
	uring_fini(&ring->uring);
	free(ring);
}

struct side_ring *side_ring_get(enum side_ring_kind kind, unsigned depth,
				void (*completed)(const struct io_uring_cqe *cqe))
{
	struct side_ring **ring = &rings[reactor_self->index][kind];
	if (!*ring)
		*ring = make(kind);
	if (!*ring)
		return NULL;
	if ((*ring)->room < depth) {
		errno = ENOSPC;
		return NULL;
	}
	(*ring)->completed = completed;
	(*ring)->room -= depth;
	(*ring)->users++;
	return *ring;
}

void side_ring_put(struct side_ring *ring, unsigned depth)
{
	ring->room += depth;
	if (--ring->users == 0)
		reactor_defer(ring->reactor, &ring->bell);
}
