/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_controller: a controller as a whole: enabling it, its admin queue, creating I/O queues,
 * shutting it down (pcie_controller.c: worker threads, which may wait), and what happens when it
 * fails or goes (pcie_reset.c: control thread). What it needs of the machine - memory that the
 * device may reach, time - comes by a table, so that a test can play the device between any two
 * looks at it.
 */
#ifndef POLLUX_BDEV_NVME_PCIE_CONTROLLER_H
#define POLLUX_BDEV_NVME_PCIE_CONTROLLER_H

#include <pthread.h>

#include "bdev/nvme/pcie_queue.h"
#include "lib/base/log_limit.h"

enum {
	PCIE_ADMIN_ENTRIES = 32,
	PCIE_ADMIN_DATA_BYTES = 4096, /* the most that one admin command moves */
	/*
	 * How long an orderly shutdown may take: what IDENTIFY tells (RTD3E), within these bounds; where
	 * it tells nothing, the default.
	 */
	PCIE_SHUTDOWN_DEFAULT_MS = 10000,
	PCIE_SHUTDOWN_MIN_MS = 5000,
	PCIE_SHUTDOWN_MAX_MS = 60000,
	PCIE_EVENT_CID = 0xffff, /* of the Asynchronous Event Request; of no other admin command */
	PCIE_LOOK_US = 100000,	 /* between two looks for its answer */
};

struct pcie_controller;
struct pcie_alarm_call;

/* Any thread that may wait. */
struct pcie_backend {
	/* Zeroed, page aligned. 0, or -errno and a sentence. */
	int (*memory_get)(struct pcie_controller *controller, size_t bytes,
			  struct pcie_memory *memory, char why[NVME_WHY_BYTES]);
	void (*memory_put)(struct pcie_controller *controller, struct pcie_memory *memory);
	uint64_t (*now_ms)(struct pcie_controller *controller);
	/* A moment, at most a millisecond, until the next look. */
	void (*pause)(struct pcie_controller *controller);
	/* The device does no DMA from here on. */
	void (*stop_dma)(struct pcie_controller *controller);
};

enum pcie_controller_state {
	PCIE_LIVE,
	PCIE_RESETTING, /* queues are paused, or about to be */
	PCIE_GONE,	/* for ever: hot removal, or a reset that failed */
};

enum pcie_event_state {
	PCIE_EVENT_OFF,	  /* the device does not tell */
	PCIE_EVENT_ASKED, /* the request is with the device */
	PCIE_EVENT_TOLD,  /* it was answered; nobody has read the log page yet */
};

/* What the device tells by itself (pcie_events.c). */
struct pcie_event {
	enum pcie_event_state state; /* under the lock, as is result */
	uint32_t result;
	/* the worker's while `reading`, else the control thread's */
	bool fresh;    /* told, status and page are of an event */
	uint32_t told; /* its result */
	int status;    /* of the reading */
	uint32_t page[PCIE_ADMIN_DATA_BYTES / sizeof(uint32_t)];
	/* the control thread's */
	bool reading;
	uint64_t count;
};

struct pcie_controller {
	struct nvme_controller base;
	const struct pcie_backend *backend;
	struct pcie_registers registers;
	const struct pcie_dma *dma;
	uint64_t cap;
	uint32_t stride; /* bytes from doorbell to doorbell */
	uint32_t transfer_bytes_max;
	struct nvme_options options; /* as they were when it was attached */
	/* ---- under the lock ---- */
	pthread_mutex_t lock; /* held over a whole admin command, and over a whole reset */
	struct pcie_ring admin;
	uint16_t admin_cid;
	bool admin_lost; /* one never ended: its buffer may still be written. No more until a reset */
	uint64_t admin_strays;
	struct pcie_event event;
	/* ---- constant while queues are in use ---- */
	struct pcie_memory memory;		/* the admin queue's: struct pcie_admin_memory */
	struct pcie_queue *queues[REACTOR_MAX]; /* by reactor index; NULL: no storage role */
	unsigned queue_count;
	bool shadows; /* shadow doorbells are agreed upon */
	bool sgl;     /* payloads may be described by SGLs */
	uint32_t sgl_mask;
	/* ---- control thread's (pcie_reset.c) ---- */
	enum pcie_controller_state state;
	bool remove_wanted; /* it was asked for during a reset */
	int reset_error;    /* of the worker */
	void (*reset_done)(void *arg, int error); /* who waits for the reset, or NULL */
	void *reset_arg;
	uint64_t resets;
	struct log_limit late; /* lines about commands that take too long */
	bool aborting;	       /* the first of `aborts` is a worker's */
	STAILQ_HEAD(, pcie_alarm_call) aborts;
	_Atomic unsigned pending; /* messages and work that name this controller */
};

/* How the admin queue's memory is laid out. */
struct pcie_admin_memory {
	_Alignas(NVME_PAGE_BYTES) struct nvme_sqe sq[PCIE_ADMIN_ENTRIES];
	_Alignas(NVME_PAGE_BYTES) struct nvme_cqe cq[PCIE_ADMIN_ENTRIES];
	_Alignas(NVME_PAGE_BYTES) uint8_t data[PCIE_ADMIN_DATA_BYTES];
	_Alignas(NVME_PAGE_BYTES) uint8_t shadow[NVME_PAGE_BYTES];
	_Alignas(NVME_PAGE_BYTES) uint8_t events[NVME_PAGE_BYTES];
};

/* ---- pcie_controller.c: on a worker ---- */

/*
 * registers, dma, backend, options and base.address are set. Resets and enables it, identifies it
 * into base.identify, creates an I/O queue for each reactor with the storage role. 0, or -errno and
 * a sentence; what was made is undone then.
 */
int pcie_controller_start(struct pcie_controller *controller, char why[NVME_WHY_BYTES]);
/* Every namespace, by nvme_namespace_add(). 0, or -errno and a sentence: there is none to serve. */
int pcie_controller_add_namespaces(struct pcie_controller *controller, char why[NVME_WHY_BYTES]);
/* As quiesce(); frees what start() made. */
void pcie_controller_stop(struct pcie_controller *controller);

/* For nvme_transport: admin(). */
int pcie_controller_admin(struct nvme_controller *base, const struct nvme_sqe *sqe, void *data,
			  uint32_t bytes, uint32_t *result);

/*
 * With all queues paused: disables and enables it, and makes its queues anew. 0; -ENODEV: it is
 * gone; -EIO, -ETIMEDOUT: it does not come back.
 */
int pcie_controller_restart(struct pcie_controller *controller);
/*
 * With all queues paused: an orderly shutdown where the controller is ready - whatever has become of
 * admin commands -, then no DMA any more, whether it still answers or not.
 */
void pcie_controller_quiesce(struct pcie_controller *controller);

/* ---- pcie_bringup.c: with the lock held ---- */
int pcie_disable(struct pcie_controller *controller);
int pcie_enable(struct pcie_controller *controller);
/*
 * Deletes the I/O queues, tells the controller that it is to be shut down and waits for it, for as
 * long as RTD3E says within the bounds above. 0, also where there is nothing to shut down: it is not
 * enabled, not ready, or shut down already. -ENODEV; -EIO: a fatal status; -ETIMEDOUT.
 */
int pcie_shutdown(struct pcie_controller *controller);
/* One admin command; data: at most PCIE_ADMIN_DATA_BYTES, to the device or from it. */
int pcie_admin_locked(struct pcie_controller *controller, const struct nvme_sqe *sqe, void *data,
		      uint32_t bytes, uint32_t *result);
/* Number of queues, shadow doorbells, the queues themselves, events. */
int pcie_make_queues(struct pcie_controller *controller);

/* ---- pcie_events.c ---- */
/* With the lock held: the device is asked to tell of what changes. 0 or -errno. */
int pcie_events_begin(struct pcie_controller *controller);
/* With the lock held: whether this admin completion is of an event. */
bool pcie_event_take(struct pcie_controller *controller, const struct nvme_cqe *cqe);
/* Control thread, every PCIE_LOOK_US: has it told anything? */
void pcie_controller_look(struct pcie_controller *controller);

/* ---- pcie_reset.c ---- */
/* With the controller, on any thread. */
void pcie_reset_init(struct pcie_controller *controller);
/* pcie_queue.alarm: (core) */
void pcie_controller_alarm(struct pcie_queue *queue, enum pcie_alarm alarm, uint16_t cid);
/* Control thread: the device is about to be taken away, or is gone. */
void pcie_controller_remove(struct pcie_controller *controller);
/* For nvme_transport: reset(). -EBUSY: one is under way; -ENODEV. */
int pcie_controller_reset(struct nvme_controller *base, void (*done)(void *arg, int error),
			  void *arg);
/* On a worker: until nothing names the controller any more. */
void pcie_controller_wait(struct pcie_controller *controller);

#endif
