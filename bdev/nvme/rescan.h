/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rescan: what a controller's namespaces are now: IDENTIFY again, then each bdev grows or shrinks, one
 * whose namespace is gone or has another format is removed, and new namespaces become bdevs. One
 * rescan of a controller at a time. Control thread; the commands run on workers.
 */
#ifndef POLLUX_BDEV_NVME_RESCAN_H
#define POLLUX_BDEV_NVME_RESCAN_H

#include "bdev/nvme/transport.h"

/*
 * All namespaces. done(arg, 0 or -errno) once, later, or before it returns: -ENODEV, the controller
 * is gone or going; -EIO or another, a namespace could not be asked about.
 */
void nvme_rescan(struct nvme_controller *controller, void (*done)(void *arg, int error), void *arg);

#endif
