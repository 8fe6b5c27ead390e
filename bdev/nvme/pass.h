/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pass: namespaces that the kernel's driver has, reached past its block layer: NVMe commands
 * through io_uring (IORING_OP_URING_CMD). Address: the path of the namespace's character device,
 * "/dev/ng0n1", or of its block device, which leads there.
 */
#ifndef POLLUX_BDEV_NVME_PASS_H
#define POLLUX_BDEV_NVME_PASS_H

#include "bdev/nvme/transport.h"

extern const struct nvme_transport nvme_pass_transport;

#endif
