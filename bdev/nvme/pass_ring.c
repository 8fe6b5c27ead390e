/* SPDX-License-Identifier: BSD-3-Clause */
/* pass_ring: NVMe commands as io_uring's, on a core's side ring. */
#include "bdev/nvme/pass_ring.h"

#include <linux/nvme_ioctl.h>
#include <string.h>

enum { SQE_BYTES = 128 };

static void set_payload(struct io_uring_sqe *sqe, struct nvme_uring_cmd *cmd,
			const struct nvme_command *command, const struct side_region *region)
{
	if (command->iovcnt > 1) {
		sqe->cmd_op = NVME_URING_CMD_IO_VEC;
		cmd->addr = (uintptr_t)command->iov;
		cmd->data_len = command->iovcnt;
		return;
	}
	cmd->addr = (uintptr_t)command->iov[0].iov_base;
	cmd->data_len = command->bytes;
	int index =
		region ? side_region_index(region, command->iov[0].iov_base, command->bytes) : -1;
	if (index < 0)
		return;
	sqe->rw_flags = IORING_URING_CMD_FIXED; /* the field is uring_cmd_flags, too */
	sqe->buf_index = (uint16_t)index;
}

void pass_ring_prepare(struct io_uring_sqe *sqe, const struct nvme_command *command,
		       const struct pass_target *target, const struct side_region *region)
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

void pass_ring_command(struct side_ring *ring, struct nvme_command *command,
		       const struct pass_target *target)
{
	pass_ring_prepare(side_ring_sqe(ring), command, target, &ring->region);
}

static void completed(const struct io_uring_cqe *cqe)
{
	pass_completed(io_uring_cqe_get_data(cqe), cqe->res, (uint32_t)cqe->big_cqe[0]);
}

struct side_ring *pass_ring_get(bool polled, unsigned depth)
{
	return side_ring_get(polled ? SIDE_RING_NVME_POLLED : SIDE_RING_NVME, depth, completed);
}
