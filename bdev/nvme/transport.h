/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * transport: how commands reach an NVMe namespace. What is common to all ways - a bdev's requests cut
 * into commands, geometry, status - stands above (io.c, namespace.c, status.c); below stand the
 * kernel's passthrough (pass_*.c) and the driver over VFIO (pcie_*.c).
 *
 * A queue is one core's: its commands, those that are free, and the requests that wait for one. All
 * functions marked (core) run on that core; the rest on the control thread or a worker, as said.
 */
#ifndef POLLUX_BDEV_NVME_TRANSPORT_H
#define POLLUX_BDEV_NVME_TRANSPORT_H

#include "bdev/bdev.h"
#include "bdev/nvme/spec.h"

enum { NVME_QUEUE_COMMANDS_MAX = 1024 };

struct nvme_queue;
struct nvme_io;
struct nvme_namespace;

/*
 * One command. Above the transport: sqe (but for cid, prp1, prp2, PSDT), iov, iovcnt, bytes, done,
 * owner. The transport describes the payload in its own way and calls done() once.
 */
struct nvme_command {
	struct nvme_sqe sqe;
	struct iovec iov[BDEV_IO_MAX_IOVS]; /* payload; whole pages but for both its ends */
	uint16_t iovcnt;
	uint16_t index;  /* in queue->commands, for ever */
	uint32_t bytes;  /* of the payload; 0: none */
	uint64_t issued; /* ticks */
	struct nvme_queue *queue;
	struct nvme_io *owner;
	/* (core) status: without the phase bit, 0 is success; or -errno where no status was got. */
	void (*done)(struct nvme_command *command, int status, uint32_t result);
	struct nvme_command *next_free;
};

/* The first member of the transport's own. Owned by its core. */
struct nvme_queue {
	const struct nvme_transport *transport;
	struct reactor *reactor;
	struct nvme_command *commands; /* [depth] */
	unsigned depth;		       /* commands that may be in flight at a time */
	unsigned inflight;
	struct nvme_command *free;
	TAILQ_HEAD(, nvme_io) waiting; /* for a free command */
};

struct nvme_transport {
	const char *name; /* "PCIe", "passthrough": for messages and the RPC */
	/*
	 * (core) The queue by which this namespace is reached from here, counted by its users; NULL:
	 * errno tells why.
	 */
	struct nvme_queue *(*queue_get)(struct nvme_namespace *ns);
	/* (core) No command of that user is in flight. */
	void (*queue_put)(struct nvme_queue *queue);
	/*
	 * (core) Takes a command; doorbells and system calls may wait for the end of the pass. done()
	 * never runs inside. -ENODEV: the device is gone.
	 */
	int (*issue)(struct nvme_queue *queue, struct nvme_command *command);
	/* (core) Has waited too long: try to end it early. */
	void (*abort)(struct nvme_queue *queue, struct nvme_command *command);
	/* Frees what the namespace holds of the transport; its bdev is gone. Control thread. */
	void (*namespace_free)(struct nvme_namespace *ns);
};

/*
 * A namespace as a bdev. The transport fills the geometry by nvme_namespace_describe() from what
 * IDENTIFY told, then the bdev is registered (namespace.h).
 */
struct nvme_namespace {
	struct bdev bdev;
	const struct nvme_transport *transport;
	uint32_t nsid;
	uint32_t block_shift;
	uint32_t transfer_bytes_max; /* of one READ or WRITE: MDTS; a multiple of the block */
	bool write_cache;	     /* volatile: FLUSH must reach the device */
	bool deallocate_zeroes;	     /* deallocated blocks read as zeroes, surely */
	bool deac;		     /* WRITE ZEROES with DEAC is known */
	void *transport_data;	     /* the transport's */
	/* errors by what they were, counted on the cores with counter_add() at [reactor index] */
	struct nvme_error_counters *errors;
};

#endif
