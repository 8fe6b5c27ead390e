/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_dma: which memory a device may reach, and at which address of its own (IOVA). What requests
 * live in - every reactor's I/O buffers - is mapped once, before the first device is opened, and
 * stays so until the last is closed: finding an address is a subtraction. Any thread; pure.
 */
#ifndef POLLUX_BDEV_NVME_PCIE_DMA_H
#define POLLUX_BDEV_NVME_PCIE_DMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reactor/reactor.h"

struct pcie_dma_range {
	uintptr_t base;
	size_t bytes;
	uint64_t iova;
};

/* Constant while a device is open. */
struct pcie_dma {
	unsigned count;
	struct pcie_dma_range ranges[REACTOR_MAX];
};

/* Memory of this driver's own: rings, lists, pages to bounce through. */
struct pcie_memory {
	struct region region;
	uint64_t iova;
};

static inline bool pcie_dma_inside(const struct pcie_dma_range *range, uintptr_t address,
				   size_t bytes)
{
	uintptr_t at = address - range->base;
	return at < range->bytes && bytes <= range->bytes - at;
}

/*
 * The IOVA of memory that lies in one of the ranges as a whole. *hint: the range that is looked at
 * first, and the one where it was found. False: it lies in none.
 */
static inline bool pcie_dma_find(const struct pcie_dma *dma, unsigned *hint, const void *memory,
				 size_t bytes, uint64_t *iova)
{
	uintptr_t address = (uintptr_t)memory;
	const struct pcie_dma_range *range = &dma->ranges[*hint];
	if (unlikely(*hint >= dma->count || !pcie_dma_inside(range, address, bytes))) {
		unsigned i = 0;
		while (i < dma->count && !pcie_dma_inside(&dma->ranges[i], address, bytes))
			i++;
		if (i == dma->count)
			return false;
		*hint = i;
		range = &dma->ranges[i];
	}
	*iova = range->iova + (address - range->base);
	return true;
}

#endif
