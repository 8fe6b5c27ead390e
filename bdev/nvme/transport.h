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
#include "lib/base/why.h"

enum { NVME_WHY_BYTES = 512, NVME_ADDRESS_BYTES = 256, NVME_CONTROLLER_NAME_BYTES = 64 };

/* why_refuse() with a `why` of NVME_WHY_BYTES. */
#define nvme_refuse(why, error, ...) why_refuse(why, NVME_WHY_BYTES, error, __VA_ARGS__)

struct nvme_queue;
struct nvme_io;
struct nvme_namespace;
struct nvme_controller;

/*
 * One command. Above the transport: sqe (but for cid, prp1, prp2, sgl, PSDT), iov, iovcnt, bytes, done,
 * owner. The transport describes the payload in its own way and calls done() once.
 */
struct nvme_command {
	struct nvme_sqe sqe;
	struct iovec iov[BDEV_IO_MAX_IOVS]; /* payload; whole pages but for both its ends (!queue->sgl) */
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
	bool sgl;		       /* a payload's segments may begin and end anywhere */
	struct nvme_command *free;
	TAILQ_HEAD(, nvme_io) waiting; /* for a free command */
};

/* For a transport, before the queue is used: all of its commands are free. */
static inline void nvme_queue_init(struct nvme_queue *queue)
{
	queue->free = NULL;
	for (unsigned i = queue->depth; i-- > 0;) {
		struct nvme_command *command = &queue->commands[i];
		command->index = (uint16_t)i;
		command->queue = queue;
		command->next_free = queue->free;
		queue->free = command;
	}
	TAILQ_INIT(&queue->waiting);
}

struct nvme_transport {
	const char *name; /* "PCIe", "passthrough": for messages and the RPC */
	bool lists_namespaces; /* a controller may get namespaces later, and is asked which it has */
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
	/*
	 * (worker) Opens what stands at the address ("0000:01:00.0", "/dev/ng0n1") and finds its
	 * namespaces: nvme_namespace_add() for each, which are not registered yet. 0 with a controller
	 * that the transport has allocated (the first member of its own), or -errno and a sentence that
	 * says what to do.
	 */
	int (*attach)(const char *address, struct nvme_controller **controller,
		      char why[NVME_WHY_BYTES]);
	/*
	 * (worker) Ends it in an orderly way and frees it; no queue is in use any more. A process
	 * ends only after that: the last bdev_destroyed() of a controller's comes behind it.
	 */
	void (*detach)(struct nvme_controller *controller);
	/*
	 * (worker) One admin command, which waits its turn. `bytes` come from or go to `data`. The
	 * status, or -errno where none was got.
	 */
	int (*admin)(struct nvme_controller *controller, const struct nvme_sqe *sqe, void *data,
		     uint32_t bytes, uint32_t *result);
	/*
	 * Control thread: a reset by hand; commands in flight are done again. -errno: it has not
	 * begun; 0: done (or NULL) is called later with how it went. NULL: there is none.
	 */
	int (*reset)(struct nvme_controller *controller, void (*done)(void *arg, int error),
		     void *arg);
	/* Control thread: adds members for bdev_nvme_get_controllers. May be NULL. */
	void (*dump)(const struct nvme_controller *controller, json_t *object);
};

/*
 * What attach() has opened. Owned by the control thread; on the worker while attach() and detach()
 * run. The transport fills address, identify; the rest is the common half's.
 */
struct nvme_controller {
	const struct nvme_transport *transport;
	char name[NVME_CONTROLLER_NAME_BYTES];
	char address[NVME_ADDRESS_BYTES];
	struct nvme_identify_controller identify;
	TAILQ_HEAD(, nvme_namespace) namespaces;
	bool gone;     /* nvme_controller_gone() was called */
	bool leaving;  /* nvme_detach() is under way */
	unsigned asks; /* admin commands of the control thread's under way: it stays so long */
	struct nvme_departure *departure; /* begins when there are none; else NULL */
	/* the bdev that has left last, while a rescan looks whether a namespace is back; else NULL */
	struct nvme_namespace *last;
	uint32_t transfer_bytes_max; /* as given to nvme_namespace_add() last */
	/* rescan.c */
	struct nvme_rescan *rescan; /* under way, or NULL */
	bool rescan_again;	    /* another one is wanted behind it, of all namespaces */
	struct nvme_rescan_wait *rescan_waits; /* to be told when that has ended */
	void (*detached)(void *arg, int error);
	void *detached_arg;
	TAILQ_ENTRY(nvme_controller) link;
};

/*
 * From a transport, control thread: the device is gone, or can not be made to work again. Its bdevs
 * are removed by force, then it is detached. Commands end with -ENODEV by then.
 */
void nvme_controller_gone(struct nvme_controller *controller);

/*
 * Control thread (rescan.c): these namespaces (count 0: perhaps any) are not what they were: they are
 * looked at anew.
 */
void nvme_controller_changed(struct nvme_controller *controller, const uint32_t *nsids,
			     unsigned count);

/*
 * A namespace as a bdev. The transport fills the geometry by nvme_namespace_describe() from what
 * IDENTIFY told, then the bdev is registered (namespace.h).
 */
struct nvme_namespace {
	struct bdev bdev;
	const struct nvme_transport *transport;
	struct nvme_controller *controller; /* NULL when it is let go of */
	TAILQ_ENTRY(nvme_namespace) link; /* of the controller's */
	uint32_t nsid;
	uint32_t block_shift;
	uint32_t transfer_bytes_max; /* of one READ or WRITE: MDTS; a multiple of the block */
	bool write_cache;	     /* volatile: FLUSH must reach the device */
	bool deac;		     /* WRITE ZEROES with DEAC is known */
	bool look_again; /* the bdev leaves, but the device has the namespace: it becomes a new bdev */
	/* errors by what they were, counted on the cores with counter_add() at [reactor index] */
	struct nvme_error_counters *errors;
};

/*
 * From a transport, in attach(): one more namespace, described by what IDENTIFY told. 0; -ENOTSUP and
 * a sentence: a format that is not served (metadata); -EINVAL: what the device tells makes no sense;
 * -ENOMEM.
 */
int nvme_namespace_add(struct nvme_controller *controller, uint32_t nsid,
		       const struct nvme_identify_namespace *identify, uint32_t transfer_bytes_max,
		       struct nvme_namespace **ns, char why[NVME_WHY_BYTES]);

#endif
