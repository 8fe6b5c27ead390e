/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_vfio: a PCI device in this process's hands, through Linux's VFIO: its registers, memory that
 * it may reach, and the kernel's wish to have it back. All devices share one container, hence one
 * address space (IOVA); an IOMMU keeps them inside it. Any thread; may block: workers.
 * Source: linux/vfio.h, Documentation/driver-api/vfio.rst.
 */
#ifndef POLLUX_BDEV_NVME_PCIE_VFIO_H
#define POLLUX_BDEV_NVME_PCIE_VFIO_H

#include "bdev/nvme/pcie_dma.h"
#include "bdev/nvme/pcie_registers.h"
#include "bdev/nvme/transport.h"

enum { PCIE_ADDRESS_BYTES = sizeof("ffff:ff:1f.7") };

struct pcie_device {
	char address[PCIE_ADDRESS_BYTES];
	struct pcie_registers registers; /* BAR0 */
	int node;			 /* NUMA, or REGION_ANY_NODE */
	int group_fd, device_fd;
	int request_fd; /* eventfd: the kernel wants the device back; -1: it does not tell */
	uint64_t config_offset; /* of the configuration space, in device_fd */
};

/*
 * "0000:01:00.0", or short without its domain: the long form into `full`. False: it is none.
 */
bool pcie_address_parse(const char *text, char full[PCIE_ADDRESS_BYTES]);

/*
 * Opens an NVMe controller that is bound to vfio-pci: BAR0 is mapped, the device may do DMA, and
 * reaches every reactor's I/O buffers. 0, or -errno and a sentence that says what to do: -EINVAL
 * (no address, no NVMe controller), -ENODEV (no such device), -EBUSY (another driver's, or in use),
 * -EACCES, -ENOENT (no VFIO, no IOMMU), -ENOMEM (RLIMIT_MEMLOCK).
 */
int pcie_device_open(struct pcie_device *device, const char *address, char why[NVME_WHY_BYTES]);
void pcie_device_close(struct pcie_device *device);
/* It does no DMA from here on. */
void pcie_device_stop(const struct pcie_device *device);

/* While a device is open: */

/* Zeroed memory, on huge pages where there are any. -ENOMEM and a sentence. */
int pcie_memory_get(struct pcie_memory *memory, size_t bytes, int node, char why[NVME_WHY_BYTES]);
void pcie_memory_put(struct pcie_memory *memory);
/* The reactors' I/O buffers. */
const struct pcie_dma *pcie_dma_buffers(void);

#endif
