/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pass_ring: one io_uring_enter(2) a pass hands over what was asked for and looks for completions -
 * by polling the device where the ring is of that kind. A ring that is not wakes its core by the
 * core's own eventfd, which is told of completions only while the core is about to sleep.
 */
#include "bdev/nvme/pass_ring.h"

#include <errno.h>
#include <linux/nvme_ioctl.h>
#include <stdlib.h>
#include <string.h>

enum { SQE_BYTES = 128, REAP_MOST = 512 };

/* By reactor index and kind, each its core's. */
static struct pass_ring *rings[REACTOR_MAX][2];

/* ---- Commands ---- */

static int fixed_index(const struct pass_region *region, const struct iovec *iov)
{
	uintptr_t offset = (uintptr_t)iov->iov_base - region->base;
	if (offset >= region->bytes || iov->iov_len > region->bytes - offset)
		return -1;
	size_t piece = offset / PASS_REGION_PIECE_BYTES;
	size_t last = (offset + iov->iov_len - 1) / PASS_REGION_PIECE_BYTES;
	return piece == last ? region->index[piece] : -1;
}

static void set_payload(struct io_uring_sqe *sqe, struct nvme_uring_cmd *cmd,
			const struct nvme_command *command, const struct pass_region *region)
{
	if (command->iovcnt > 1) {
		sqe->cmd_op = NVME_URING_CMD_IO_VEC;
		cmd->addr = (uintptr_t)command->iov;
		cmd->data_len = command->iovcnt;
		return;
	}
	cmd->addr = (uintptr_t)command->iov[0].iov_base;
	cmd->data_len = command->bytes;
	int index = region ? fixed_index(region, command->iov) : -1;
	if (index < 0)
		return;
	sqe->rw_flags = IORING_URING_CMD_FIXED; /* the field is uring_cmd_flags, too */
	sqe->buf_index = (uint16_t)index;
}

void pass_ring_prepare(struct io_uring_sqe *sqe, const struct nvme_command *command,
		       const struct pass_target *target, const struct pass_region *region)
{
	const struct nvme_sqe *from = &command->sqe;
	struct nvme_uring_cmd *cmd = (void *)((uint8_t *)sqe + offsetof(struct io_uring_sqe, cmd));
	memset(sqe, 0, SQE_BYTES);
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = target->slot >= 0 ? target->slot : target->fd;
	sqe->flags = target->slot >= 0 ? IOSQE_FIXED_FILE : 0;
	sqe->cmd_op = NVME_URING_CMD_IO;
	sqe->user_data = (uintptr_t)command;
	cmd->opcode = from->opcode;
	cmd->nsid = from->nsid;
	cmd->cdw2 = from->cdw2;
	cmd->cdw3 = from->cdw3;
	cmd->cdw10 = from->cdw10;
	cmd->cdw11 = from->cdw11;
	cmd->cdw12 = from->cdw12;
	cmd->cdw13 = from->cdw13;
	cmd->cdw14 = from->cdw14;
	cmd->cdw15 = from->cdw15;
	cmd->timeout_ms = target->timeout_ms;
	if (command->bytes)
		set_payload(sqe, cmd, command, target->fixed ? region : NULL);
}

void pass_ring_command(struct pass_ring *ring, struct nvme_command *command,
		       const struct pass_target *target)
{
	reactor_assert_owner(ring->reactor);
	pass_ring_prepare(uring_get_sqe(&ring->uring), command, target, &ring->region);
	ring->inflight++;
	reactor_defer(ring->reactor, &ring->bell);
}

/* ---- The pass ---- */

static bool kernel_asks(const struct pass_ring *ring)
{
	return IO_URING_READ_ONCE(*ring->uring.ring.sq.kflags) &
	       (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static void destroy(struct pass_ring *ring);

/* At the end of the pass. Here alone a ring ends: nothing is in the middle of using it. */
static void ring_bell(struct deferred *deferred)
{
	struct pass_ring *ring = container_of(deferred, struct pass_ring, bell);
	if (unlikely(!ring->users)) {
		destroy(ring);
		return;
	}
	ring->uring.enters++;
	io_uring_submit_and_get_events(&ring->uring.ring);
}

static void set_wakes(struct pass_ring *ring, bool wakes)
{
	ring->wakes = wakes;
	io_uring_cq_eventfd_toggle(&ring->uring.ring, wakes);
}

static unsigned reap(struct pass_ring *ring)
{
	struct io_uring *io_ring = &ring->uring.ring;
	struct io_uring_cqe *cqe;
	unsigned head, count = 0;
	io_uring_for_each_cqe(io_ring, head, cqe)
	{
		struct nvme_command *command = io_uring_cqe_get_data(cqe);
		uint32_t result = (uint32_t)cqe->big_cqe[0];
		int status = cqe->res;
		ring->inflight--;
		pass_completed(command, status, result);
		if (++count == REAP_MOST)
			break;
	}
	io_uring_cq_advance(io_ring, count);
	return count;
}

static unsigned poll(struct poller *poller)
{
	struct pass_ring *ring = container_of(poller, struct pass_ring, poller);
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
	struct pass_ring *ring = container_of(poller, struct pass_ring, poller);
	if (!ring->inflight)
		return true;
	if (ring->polled)
		return false;
	if (!ring->wakes)
		set_wakes(ring, true);
	atomic_thread_fence(memory_order_seq_cst);
	return !kernel_asks(ring) && !io_uring_cq_ready(&ring->uring.ring);
}

/* ---- Beginning and end ---- */

static void register_buffers(struct pass_ring *ring)
{
	struct pass_region *region = &ring->region;
	uint8_t *base = ring->reactor->buffers.region.base;
	size_t total = ring->reactor->buffers.total_bytes;
	region->base = (uintptr_t)base;
	for (unsigned i = 0; i < PASS_REGION_PIECES_MAX && region->bytes < total; i++) {
		size_t bytes = MIN_OF(total - region->bytes, (size_t)PASS_REGION_PIECE_BYTES);
		int index = uring_buffer_add(&ring->uring, base + region->bytes, bytes);
		if (index < 0)
			break;
		region->index[i] = (uint16_t)index;
		region->bytes += bytes;
	}
}

static struct pass_ring *make(bool polled)
{
	struct pass_ring *ring = calloc(1, sizeof(*ring));
	int error = ring ? 0 : -ENOMEM;
	unsigned flags = IORING_SETUP_SQE128 | IORING_SETUP_CQE32;
	if (!error)
		error = uring_init_with(&ring->uring, &reactor_caps, PASS_RING_SQ_ENTRIES,
					PASS_RING_CQ_ENTRIES,
					flags | (polled ? IORING_SETUP_IOPOLL : 0));
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
	ring->polled = polled;
	ring->room = PASS_RING_CQ_ENTRIES;
	ring->bell.run = ring_bell;
	ring->poller = (struct poller){.poll = poll, .may_sleep = may_sleep};
	register_buffers(ring);
	reactor_add_poller(&ring->poller);
	return ring;
}

static void destroy(struct pass_ring *ring)
{
	rings[ring->reactor->index][ring->polled] = NULL;
	reactor_remove_poller(&ring->poller);
	uring_fini(&ring->uring);
	free(ring);
}

struct pass_ring *pass_ring_get(bool polled, unsigned depth)
{
	struct pass_ring **ring = &rings[reactor_self->index][polled];
	if (!*ring)
		*ring = make(polled);
	if (!*ring)
		return NULL;
	if ((*ring)->room < depth) {
		errno = ENOSPC;
		return NULL;
	}
	(*ring)->room -= depth;
	(*ring)->users++;
	return *ring;
}

void pass_ring_put(struct pass_ring *ring, unsigned depth)
{
	ring->room += depth;
	if (--ring->users == 0)
		reactor_defer(ring->reactor, &ring->bell);
}
