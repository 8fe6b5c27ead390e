/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fault: what is told of a command that has failed: one line with what it was and the status that
 * the device gave. Limited to a few lines a second and core, so that a failing device does not flood
 * the log. On the queue's core, where nothing else is said; the control thread writes.
 */
#ifndef POLLUX_BDEV_NVME_FAULT_H
#define POLLUX_BDEV_NVME_FAULT_H

#include "bdev/nvme/transport.h"
#include "lib/base/log_limit.h"

enum { NVME_FAULT_BYTES = 512 };

/*
 * Any thread: "READ of namespace 1, 8 blocks at LBA 2048: SCT 2, SC 0x81 (unrecovered read error),
 * DNR" for a status as in status.h. Cut where there is no room.
 */
void nvme_fault_describe(const struct nvme_command *command, int status, char *line,
			 size_t line_bytes);

/* Logs it, if the limit allows. -ENODEV is left out: that the device is gone is told of as such. */
void nvme_fault_log(const struct nvme_namespace *ns, const struct nvme_command *command, int status,
		    struct log_limit *limit);

#endif
