/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_prp: a command's payload as physical region pages (Base 4.1.1): the first in PRP1, where it
 * may begin in the middle of a page; the second in PRP2, or there the address of the list of all
 * but the first. Each but the last ends where its page does.
 *
 * A payload of one page or two needs no list: it has PRPs in any case. Others have an SGL instead
 * where the device takes those (pcie_sgl.c).
 *
 * A payload that lies in memory the device can not reach, or that has no such shape, is copied
 * through pages of the queue's own. They need not lie one behind the other, so any that are free
 * do.
 */
#include <errno.h>
#include <string.h>

#include "bdev/nvme/pcie_queue.h"

enum { PAGE_MASK = NVME_PAGE_BYTES - 1, PRP_ALIGN_MASK = 3 };

static uint64_t *list_of(const struct pcie_queue *queue, const struct nvme_command *command)
{
	return queue->lists + (size_t)command->index * PCIE_PRP_LIST_ENTRIES;
}

/* Fills in the PRPs one after the other. */
struct prps {
	uint64_t first;
	uint64_t *list; /* the second and on */
	unsigned count;
};

static bool add(struct prps *prps, uint64_t address)
{
	if (prps->count > PCIE_PRP_LIST_ENTRIES)
		return false;
	if (!prps->count)
		prps->first = address;
	else
		prps->list[prps->count - 1] = address;
	prps->count++;
	return true;
}

static void finish(const struct pcie_queue *queue, struct nvme_command *command,
		   const struct prps *prps)
{
	command->sqe.prp1 = prps->first;
	if (prps->count <= 1)
		command->sqe.prp2 = 0;
	else if (prps->count == 2)
		command->sqe.prp2 = prps->list[0];
	else
		command->sqe.prp2 =
			queue->lists_iova + (uint64_t)command->index * PCIE_PRP_LIST_BYTES;
}

/* False: the payload can not be described as it lies. */
static bool describe(struct pcie_queue *queue, const struct nvme_command *command,
		     struct prps *prps)
{
	size_t bytes = 0;
	for (unsigned i = 0; i < command->iovcnt; i++) {
		const struct iovec *iov = &command->iov[i];
		uint64_t iova;
		if (!iov->iov_len || !pcie_dma_find(queue->dma, &queue->dma_hint, iov->iov_base,
						    iov->iov_len, &iova))
			return false;
		uint64_t end = iova + iov->iov_len;
		if (iova & (i ? PAGE_MASK : PRP_ALIGN_MASK))
			return false;
		if (end & PAGE_MASK && i + 1u < command->iovcnt)
			return false;
		for (; iova < end; iova = (iova | PAGE_MASK) + 1) {
			if (!add(prps, iova))
				return false;
		}
		bytes += iov->iov_len;
	}
	return bytes == command->bytes;
}

/* The nth page of a bounced payload, in memory. */
static uint8_t *bounce_page(const struct pcie_queue *queue, const struct nvme_command *command,
			    unsigned n)
{
	uint64_t iova = n ? list_of(queue, command)[n - 1] : command->sqe.prp1;
	return queue->pages + (iova - queue->pages_iova);
}

/* Copies between the payload and its pages. */
static void copy(const struct pcie_queue *queue, const struct nvme_command *command, bool to_device)
{
	uint32_t at = 0;
	for (unsigned i = 0; i < command->iovcnt; i++) {
		uint8_t *memory = command->iov[i].iov_base;
		size_t left = command->iov[i].iov_len;
		while (left) {
			uint32_t offset = at & PAGE_MASK;
			size_t part = MIN_OF(left, (size_t)NVME_PAGE_BYTES - offset);
			uint8_t *page = bounce_page(queue, command, at / NVME_PAGE_BYTES) + offset;
			if (to_device)
				memcpy(page, memory, part);
			else
				memcpy(memory, page, part);
			memory += part;
			at += part;
			left -= part;
		}
	}
}

/* Bits 1:0 of an opcode tell which way the data goes. */
static bool goes_to_device(const struct nvme_command *command)
{
	return (command->sqe.opcode & 3) == 1;
}

static int bounce(struct pcie_queue *queue, struct nvme_command *command)
{
	struct prps prps = {.list = list_of(queue, command)};
	unsigned pages = (command->bytes + PAGE_MASK) / NVME_PAGE_BYTES;
	size_t bytes = 0;
	for (unsigned i = 0; i < command->iovcnt; i++)
		bytes += command->iov[i].iov_len;
	if (bytes != command->bytes || pages > queue->page_count)
		return -EINVAL;
	if (pages > queue->page_free)
		return -EAGAIN;
	for (unsigned i = 0; i < pages; i++) {
		uint64_t page = queue->page_stack[--queue->page_free];
		add(&prps, queue->pages_iova + page * NVME_PAGE_BYTES);
	}
	finish(queue, command, &prps);
	queue->slots[command->index].bounced = (uint16_t)pages;
	counter_add(&queue->stats.bounces, 1);
	if (goes_to_device(command))
		copy(queue, command, true);
	return 0;
}

/* Most payloads: one segment that touches one page or two. False: it is another. */
static bool describe_small(struct pcie_queue *queue, struct nvme_command *command)
{
	const struct iovec *iov = command->iov;
	uint64_t iova;
	if (command->iovcnt != 1 || iov->iov_len != command->bytes ||
	    iov->iov_len > NVME_PAGE_BYTES ||
	    !pcie_dma_find(queue->dma, &queue->dma_hint, iov->iov_base, iov->iov_len, &iova) ||
	    iova & PRP_ALIGN_MASK)
		return false;
	uint64_t last = (iova + iov->iov_len - 1) & ~(uint64_t)PAGE_MASK;
	command->sqe.prp1 = iova;
	command->sqe.prp2 = last > iova ? last : 0;
	return true;
}

int pcie_prp_set(struct pcie_queue *queue, struct nvme_command *command)
{
	command->sqe.flags = 0;
	if (!command->bytes) {
		command->sqe.prp1 = command->sqe.prp2 = 0;
		return 0;
	}
	if (likely(describe_small(queue, command)))
		return 0;
	struct prps prps = {.list = list_of(queue, command)};
	if (unlikely(command->bytes > PCIE_TRANSFER_MAX_BYTES))
		return -EINVAL;
	if (queue->base.sgl)
		return likely(pcie_sgl_set(queue, command)) ? 0 : bounce(queue, command);
	if (unlikely(!describe(queue, command, &prps)))
		return bounce(queue, command);
	finish(queue, command, &prps);
	return 0;
}

void pcie_prp_end(struct pcie_queue *queue, struct nvme_command *command, bool ok)
{
	struct pcie_slot *slot = &queue->slots[command->index];
	if (ok && !goes_to_device(command))
		copy(queue, command, false);
	for (unsigned i = 0; i < slot->bounced; i++) {
		size_t at = (size_t)(bounce_page(queue, command, i) - queue->pages);
		queue->page_stack[queue->page_free++] = (uint16_t)(at / NVME_PAGE_BYTES);
	}
	slot->bounced = 0;
}
