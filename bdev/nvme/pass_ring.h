/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pass_ring: a core's ring for NVMe commands, beside its main one: entries are bigger (SQE128,
 * CQE32), and where the device has queues to be polled it polls (IOPOLL), which sockets do not
 * allow. At most one of each kind a core, shared by the namespaces there. All functions run on the
 * ring's core, but pass_ring_prepare(), which is pure.
 */
#ifndef POLLUX_BDEV_NVME_PASS_RING_H
#define POLLUX_BDEV_NVME_PASS_RING_H

#include "bdev/nvme/transport.h"
#include "lib/uring/uring.h"

enum {
	PASS_RING_SQ_ENTRIES = 512,
	PASS_RING_CQ_ENTRIES = 8192, /* commands in flight of all its namespaces */
	PASS_REGION_PIECES_MAX = 8,
	PASS_REGION_PIECE_BYTES = 1 << 30, /* the kernel's limit of one registered buffer */
};

/* The core's I/O buffers, as far as they are registered with a ring. */
struct pass_region {
	uintptr_t base;
	size_t bytes;
	uint16_t index[PASS_REGION_PIECES_MAX];
};

struct pass_ring {
	struct uring uring;
	struct reactor *reactor;
	struct poller poller;
	struct deferred bell; /* hands over the commands of the pass */
	struct pass_region region;
	unsigned users;	   /* namespaces */
	unsigned room;	   /* completions that nobody has reserved */
	unsigned inflight; /* given by pass_ring_command(), not completed */
	bool polled;
	bool wakes; /* a completion wakes the core */
};

/* Where a command is sent, and what is known about it. */
struct pass_target {
	int fd;
	int slot;   /* of the ring's registered files; < 0: none */
	bool fixed; /* the kernel takes registered buffers */
	uint32_t timeout_ms; /* of a command; 0: the kernel's own (nvme_core.io_timeout) */
};

/*
 * This core's ring of that kind, made where there is none; `depth` completions of it are reserved.
 * NULL: errno tells why (-ENOSPC: all completions are reserved).
 */
struct pass_ring *pass_ring_get(bool polled, unsigned depth);
/* The last one's put ends the ring, at the end of the pass. */
void pass_ring_put(struct pass_ring *ring, unsigned depth);

/* Describes a command in an SQE of 128 bytes. region: NULL, or the buffers that are registered. */
void pass_ring_prepare(struct io_uring_sqe *sqe, const struct nvme_command *command,
		       const struct pass_target *target, const struct pass_region *region);

/* Takes a command; it is handed over at the end of the pass, and ends by pass_completed(). */
void pass_ring_command(struct pass_ring *ring, struct nvme_command *command,
		       const struct pass_target *target);

/* pass_queue.c: status: an NVMe status, or -errno. */
void pass_completed(struct nvme_command *command, int status, uint32_t result);

#endif
