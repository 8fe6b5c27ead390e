/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie: NVMe controllers that Pollux drives itself, by polling, with the kernel's VFIO keeping them
 * in their place. Address: "0000:01:00.0".
 */
#ifndef POLLUX_BDEV_NVME_PCIE_H
#define POLLUX_BDEV_NVME_PCIE_H

#include "bdev/nvme/transport.h"

extern const struct nvme_transport nvme_pcie_transport;

#endif
