/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pass_ring: NVMe commands on a core's side ring: which polls where the device has queues to be
 * polled. All functions run on the ring's core, but pass_ring_prepare(), which is pure.
 */
#ifndef POLLUX_BDEV_NVME_PASS_RING_H
#define POLLUX_BDEV_NVME_PASS_RING_H

#include "bdev/nvme/transport.h"
#include "bdev/side_ring.h"

/* Where a command is sent, and what is known about it. */
struct pass_target {
	int fd;
	int slot;	     /* of the ring's registered files; < 0: none */
	bool fixed;	     /* the kernel takes registered buffers */
	uint32_t timeout_ms; /* of a command; 0: the kernel's own (nvme_core.io_timeout) */
};

/* side_ring_get(), given back by side_ring_put(). */
struct side_ring *pass_ring_get(bool polled, unsigned depth);

/* Describes a command in an SQE of 128 bytes. region: NULL, or the buffers that are registered. */
void pass_ring_prepare(struct io_uring_sqe *sqe, const struct nvme_command *command,
		       const struct pass_target *target, const struct side_region *region);

/* Takes a command; it is handed over at the end of the pass, and ends by pass_completed(). */
void pass_ring_command(struct side_ring *ring, struct nvme_command *command,
		       const struct pass_target *target);

/* pass_queue.c: status: an NVMe status, or -errno. */
void pass_completed(struct nvme_command *command, int status, uint32_t result);

#endif
