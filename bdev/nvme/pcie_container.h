/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_container: VFIO's container and groups, and the addresses (IOVAs) that devices see memory
 * at. IOVAs are handed out here, not taken from the memory's own address: some IOMMUs know 39 bits
 * only, fewer than a process's addresses have. Any thread that may block.
 */
#ifndef POLLUX_BDEV_NVME_PCIE_CONTAINER_H
#define POLLUX_BDEV_NVME_PCIE_CONTAINER_H

#include "bdev/nvme/pcie_vfio.h"

/*
 * Opens the group of a device (its number in sysfs), or shares it where another device of it is
 * open already, and puts it into the container; the first maps the I/O buffers. The group's
 * descriptor, or -errno and a sentence.
 */
int pcie_group_get(unsigned number, const char *address, char why[NVME_WHY_BYTES]);
/* The device's own descriptor is closed. */
void pcie_group_put(int fd);

struct pcie_iova_span {
	uint64_t first, last;
};

/*
 * Pure: the lowest multiple of REGION_HUGE_BYTES, not 0, where so many bytes fit into one of the
 * `usable` spans and touch none of the `taken` ones, which are sorted. 0: nowhere.
 */
uint64_t pcie_iova_find(const struct pcie_iova_span *usable, unsigned usable_count,
			const struct pcie_iova_span *taken, unsigned taken_count, uint64_t bytes);

#endif
