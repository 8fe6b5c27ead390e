/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * side_ring: a core's second io_uring, for what the main one can not do: polling devices (IOPOLL),
 * which sockets do not allow, and NVMe commands, whose entries are bigger (SQE128, CQE32). At most
 * one of each kind a core, shared by all bdevs there. All functions run on the ring's core.
 */
#ifndef POLLUX_BDEV_SIDE_RING_H
#define POLLUX_BDEV_SIDE_RING_H

#include "lib/base/compiler.h"
#include "lib/uring/uring.h"
#include "reactor/reactor.h"

enum side_ring_kind {
	SIDE_RING_NVME,	       /* NVMe commands; completions by interrupts */
	SIDE_RING_NVME_POLLED, /* the same, of devices with queues to be polled */
	SIDE_RING_POLLED,      /* READs and WRITEs with O_DIRECT on such devices */
	SIDE_RING_KINDS,
};

enum {
	SIDE_RING_SQ_ENTRIES = 512,
	SIDE_RING_CQ_ENTRIES = 8192, /* operations in flight of all its users */
	SIDE_REGION_PIECES_MAX = URING_BUFFER_SLOTS,
	SIDE_REGION_PIECE_BYTES = 1 << 30, /* the kernel's limit of one registered buffer */
};

/* A core's I/O buffers, as far as they are registered with a ring. */
struct side_region {
	uintptr_t base;
	size_t bytes; /* registered; 0: none */
	uint16_t index[SIDE_REGION_PIECES_MAX];
};

struct side_ring {
	struct uring uring;
	struct reactor *reactor;
	struct poller poller;
	struct deferred bell; /* hands over what the pass has asked for */
	struct side_region region;
	enum side_ring_kind kind;
	void (*completed)(const struct io_uring_cqe *cqe);
	unsigned users;
	unsigned room;	   /* completions that nobody has reserved */
	unsigned inflight; /* given by side_ring_sqe(), not completed */
	bool polled;
	bool wakes; /* a completion wakes the core */
};

/*
 * This core's ring of that kind, made where there is none; `depth` completions of it are reserved.
 * `completed` is the same for all users of a kind. NULL: errno tells why (-ENOSPC: all completions
 * are reserved).
 */
struct side_ring *side_ring_get(enum side_ring_kind kind, unsigned depth,
				void (*completed)(const struct io_uring_cqe *cqe));
/* The last one's put ends the ring, at the end of the pass. */
void side_ring_put(struct side_ring *ring, unsigned depth);

/*
 * An SQE for one operation, handed over at the end of the pass; its first 64 bytes are cleared. It
 * ends by completed(), later.
 */
struct io_uring_sqe *side_ring_sqe(struct side_ring *ring);

/* Registers the buffers as a whole, as far as the limits of locked memory allow it. */
static inline void side_region_register(struct side_region *region, struct uring *uring,
					const struct buffers *buffers)
{
	uint8_t *base = buffers->region.base;
	region->base = (uintptr_t)base;
	for (unsigned i = 0; i < SIDE_REGION_PIECES_MAX && region->bytes < buffers->total_bytes;
	     i++) {
		size_t bytes = MIN_OF(buffers->total_bytes - region->bytes,
				      (size_t)SIDE_REGION_PIECE_BYTES);
		int index = uring_buffer_add(uring, base + region->bytes, bytes);
		if (index < 0)
			break;
		region->index[i] = (uint16_t)index;
		region->bytes += bytes;
	}
}

/* The registered buffer that [base, base + bytes) lies in, or -1. */
static inline int side_region_index(const struct side_region *region, const void *base,
				    size_t bytes)
{
	uintptr_t offset = (uintptr_t)base - region->base;
	if (offset >= region->bytes || bytes > region->bytes - offset)
		return -1;
	size_t piece = offset / SIDE_REGION_PIECE_BYTES;
	return piece == (offset + bytes - 1) / SIDE_REGION_PIECE_BYTES ? region->index[piece] : -1;
}

#endif
