/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_ring: a submission queue and its completion queue, which have the same number of entries. Of
 * one thread at a time: the core that owns an I/O queue, or who holds the admin queue's lock. The
 * owner never has more commands under way than entries - 1, so neither queue can be full.
 *
 * Shadow doorbells (Base 5.8): where they are agreed upon, tail and head are written to memory, and
 * to the register only if that passes the mark that the controller has left there.
 */
#ifndef POLLUX_BDEV_NVME_PCIE_RING_H
#define POLLUX_BDEV_NVME_PCIE_RING_H

#include <rte_atomic.h>
#include <string.h>

#include "bdev/nvme/pcie_registers.h"
#include "lib/base/compiler.h"

struct pcie_doorbell {
	volatile uint32_t *reg;
	volatile uint32_t *shadow; /* NULL: there are none */
	volatile uint32_t *event;  /* NULL: the register is always written */
	uint16_t last;		   /* what was told last */
};

struct pcie_ring {
	struct nvme_sqe *sq;
	struct nvme_cqe *cq;
	uint64_t sq_iova, cq_iova;
	uint16_t id;
	uint16_t entries;
	uint16_t tail;	/* of the submission queue */
	uint16_t head;	/* of the completion queue */
	uint16_t phase; /* of new completions */
	struct pcie_doorbell sq_bell, cq_bell;
};

/* Where a queue's doorbells are, in BAR0 behind NVME_REG_DOORBELLS and in the shadow page alike. */
static inline uint32_t pcie_doorbell_offset(uint16_t id, bool completion, uint32_t stride)
{
	return (2u * id + completion) * stride;
}

/* As on a controller that has just been enabled. Both queues' memory is zeroed. */
static inline void pcie_ring_reset(struct pcie_ring *ring)
{
	memset(ring->sq, 0, (size_t)ring->entries * sizeof(*ring->sq));
	memset(ring->cq, 0, (size_t)ring->entries * sizeof(*ring->cq));
	ring->tail = ring->head = 0;
	ring->phase = 1;
	ring->sq_bell.last = ring->cq_bell.last = 0;
}

/* Whether a step from `last` to `now` passes the mark; all modulo 2^16. */
static inline bool pcie_passes(uint16_t event, uint16_t now, uint16_t last)
{
	return (uint16_t)(now - event - 1) < (uint16_t)(now - last);
}

static inline void pcie_doorbell_write(struct pcie_doorbell *bell, uint16_t value)
{
	uint16_t last = bell->last;
	bell->last = value;
	if (bell->shadow) {
		*bell->shadow = value;
		/* the controller looks at the shadow after it has written its mark; this, the other
		 * way round */
		rte_mb();
		if (bell->event && !pcie_passes((uint16_t)*bell->event, value, last))
			return;
	}
	*bell->reg = value;
}

/* Puts a command into the queue; the controller learns of it by pcie_ring_submit(). */
static inline void pcie_ring_push(struct pcie_ring *ring, const struct nvme_sqe *sqe)
{
	ring->sq[ring->tail] = *sqe;
	ring->tail = ring->tail + 1 == ring->entries ? 0 : ring->tail + 1;
}

static inline void pcie_ring_submit(struct pcie_ring *ring)
{
	if (ring->tail == ring->sq_bell.last)
		return;
	rte_io_wmb(); /* what lies in memory is there before the bell rings */
	pcie_doorbell_write(&ring->sq_bell, ring->tail);
}

/* Takes the next completion, if there is one. The controller learns of it by pcie_ring_ack(). */
static inline bool pcie_ring_take(struct pcie_ring *ring, struct nvme_cqe *cqe)
{
	struct nvme_cqe *entry = &ring->cq[ring->head];
	if ((*(volatile uint16_t *)&entry->status & 1) != ring->phase)
		return false;
	rte_io_rmb(); /* the rest of the entry was written before its phase bit */
	*cqe = *entry;
	if (++ring->head == ring->entries) {
		ring->head = 0;
		ring->phase ^= 1;
	}
	return true;
}

static inline void pcie_ring_ack(struct pcie_ring *ring)
{
	if (ring->head != ring->cq_bell.last)
		pcie_doorbell_write(&ring->cq_bell, ring->head);
}

#endif
