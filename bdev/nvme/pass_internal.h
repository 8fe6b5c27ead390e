/* SPDX-License-Identifier: BSD-3-Clause */
/* pass_internal: what the files of the passthrough transport share: a device, its queues. */
#ifndef POLLUX_BDEV_NVME_PASS_INTERNAL_H
#define POLLUX_BDEV_NVME_PASS_INTERNAL_H

#include "bdev/nvme/pass_ring.h"

enum { PASS_QUEUE_COMMANDS = 256 };

/* A namespace on one core. Owned by that core. */
struct pass_queue {
	struct nvme_queue base;
	struct side_ring *ring;
	struct pass_target target;
	/*
	 * For commands without data: never a polled one. Linux 6.1 takes what such a command leaves
	 * behind for something to poll, and crashes.
	 */
	struct side_ring *quiet_ring;
	struct pass_target quiet_target;
	struct pass *pass;
	unsigned users;
	bool sent_fixed[PASS_QUEUE_COMMANDS]; /* by command index: sent with registered buffers */
};

/* A namespace of the kernel's; as a controller it has this one only. */
struct pass {
	struct nvme_controller base;
	int fd;	       /* of the character device */
	int claim_fd;  /* the block device, opened exclusively: nobody mounts it meanwhile; or -1 */
	char disk[64]; /* "nvme0n1"; empty: it has none that is known */
	/* ---- constant after attach() ---- */
	bool polled; /* the device has queues to be polled */
	bool fixed;  /* the kernel takes registered buffers for commands */
	uint32_t transfer_bytes_max;
	uint32_t timeout_ms, timeout_admin_ms; /* 0: the kernel's own */
	/* ---- shared ---- */
	_Atomic bool lost;			/* the control thread was told */
	struct pass_queue *queues[REACTOR_MAX]; /* each its core's */
};

static inline struct pass *pass_of(struct nvme_controller *controller)
{
	return container_of(controller, struct pass, base);
}

/* pass_queue.c: for nvme_transport. */
struct nvme_queue *pass_queue_get(struct nvme_namespace *ns);
void pass_queue_put(struct nvme_queue *queue);
int pass_queue_issue(struct nvme_queue *queue, struct nvme_command *command);
void pass_queue_abort(struct nvme_queue *queue, struct nvme_command *command);

/*
 * pass_probe.c, on a worker: reads the first block by io_uring, which tells whether commands pass
 * at all (0 or -errno), and fills pass->polled and pass->fixed.
 */
int pass_probe(struct pass *pass, uint32_t nsid, uint32_t block_bytes);

#endif
