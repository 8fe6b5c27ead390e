/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_sgl: a command's payload as a scatter gather list (Base 4.1.2), where the device takes them: one
 * descriptor a segment, however many pages it has and wherever it begins. One segment stands in the
 * command itself; several in the command's part of the lists' memory, which PRPs use otherwise.
 */
#include "bdev/nvme/pcie_queue.h"

_Static_assert(BDEV_IO_MAX_IOVS * sizeof(struct nvme_sgl) <= PCIE_PRP_LIST_BYTES,
	       "a list has room for each segment");

/* Appends a segment, or makes the last one longer. */
static void add(struct nvme_sgl *list, unsigned *count, uint64_t iova, size_t bytes)
{
	struct nvme_sgl *last = &list[*count - 1];
	if (*count && last->address + last->bytes == iova) {
		last->bytes += (uint32_t)bytes;
		return;
	}
	list[(*count)++] = (struct nvme_sgl){.address = iova, .bytes = (uint32_t)bytes};
}

bool pcie_sgl_set(struct pcie_queue *queue, struct nvme_command *command)
{
	size_t offset = (size_t)command->index * PCIE_PRP_LIST_BYTES;
	struct nvme_sgl *list = (struct nvme_sgl *)((uint8_t *)queue->lists + offset);
	unsigned count = 0;
	size_t bytes = 0;
	for (unsigned i = 0; i < command->iovcnt; i++) {
		const struct iovec *iov = &command->iov[i];
		uint64_t iova;
		if (!iov->iov_len || !pcie_dma_find(queue->dma, &queue->dma_hint, iov->iov_base,
						    iov->iov_len, &iova))
			return false;
		if ((iova | iov->iov_len) & queue->sgl_mask)
			return false;
		add(list, &count, iova, iov->iov_len);
		bytes += iov->iov_len;
	}
	if (bytes != command->bytes)
		return false;
	if (count == 1)
		command->sqe.sgl = list[0];
	else
		command->sqe.sgl = (struct nvme_sgl){
			.address = queue->lists_iova + offset,
			.bytes = count * (uint32_t)sizeof(*list),
			.type = NVME_SGL_LAST_SEGMENT,
		};
	command->sqe.flags = NVME_SQE_SGL;
	return true;
}
