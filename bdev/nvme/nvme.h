/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme: NVMe namespaces as bdevs, driven from user space over VFIO, or by the kernel's driver with the
 * block layer left out. Control thread.
 */
#ifndef POLLUX_BDEV_NVME_NVME_H
#define POLLUX_BDEV_NVME_NVME_H

#include "bdev/bdev.h"

struct bdev_nvme_options {
	const char *address; /* "0000:01:00.0", or a path: /dev/ng0n1 */
	uint32_t nsid;	     /* 0: the only one that there is */
};

/*
 * The bdev of a namespace; its controller is attached where it is not yet, all its namespaces with
 * it, and gets a name like Nvme0. A path through which the kernel passes no commands becomes a file
 * bdev on the block device, with O_DIRECT, polled where the device has queues for that. The options are copied. opened(arg, bdev, 0, NULL) or opened(arg,
 * NULL, -errno, sentence) runs once, later.
 */
void bdev_nvme_open(const struct bdev_nvme_options *options,
		    void (*opened)(void *arg, struct bdev *bdev, int error, const char *why),
		    void *arg);

#endif
