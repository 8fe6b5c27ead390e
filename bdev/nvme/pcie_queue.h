/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_queue: an I/O queue pair of a controller: one a reactor with the storage role, owned by that
 * core once a channel uses it. Describes payloads by PRPs, submits, polls for completions, watches
 * for those that do not come. What needs the controller as a whole - an Abort, a reset - it asks
 * for by alarm(), and is then paused and resumed, or failed. Memory and registers, no system call.
 */
#ifndef POLLUX_BDEV_NVME_PCIE_QUEUE_H
#define POLLUX_BDEV_NVME_PCIE_QUEUE_H

#include "bdev/nvme/options.h"
#include "bdev/nvme/pcie_dma.h"
#include "bdev/nvme/pcie_ring.h"
#include "bdev/nvme/transport.h"

enum {
	PCIE_QUEUE_ENTRIES = 256, /* or what the controller can, if that is less */
	PCIE_TRANSFER_MAX_BYTES = BDEV_IO_MAX_BYTES,
	/* a payload that begins in the middle of a page has one page more; its first stands in PRP1
	 */
	PCIE_PRP_LIST_ENTRIES = PCIE_TRANSFER_MAX_BYTES / NVME_PAGE_BYTES,
	PCIE_PRP_LIST_BYTES = PCIE_PRP_LIST_ENTRIES * 8, /* half a page: none crosses one */
	PCIE_QUEUE_BYTES = REGION_HUGE_BYTES, /* rings, lists, and pages to bounce through */
	PCIE_WATCH_MAX_US = 500000, /* between two looks at the age of commands: a quarter of what */
	PCIE_WATCH_MIN_US = 1000,   /* they are allowed, within these bounds */
	PCIE_ABORT_GRACE_MS = 2000, /* from an Abort in vain to a reset */
	PCIE_TRIES_MAX = 3,	    /* of one command, over resets */
};

enum pcie_queue_state {
	PCIE_QUEUE_RUNS,
	PCIE_QUEUE_PAUSED, /* for a reset: commands are held, nothing is looked at */
	PCIE_QUEUE_DEAD,   /* the device is gone: everything fails with -ENODEV */
};

enum pcie_alarm {
	PCIE_ALARM_GONE,    /* its registers read as all ones */
	PCIE_ALARM_FATAL,   /* CSTS.CFS, or a command that did not end in spite of an Abort */
	PCIE_ALARM_TIMEOUT, /* of one command: to be aborted */
	PCIE_ALARM_LATE,    /* of one command, which is waited for on */
};

enum pcie_slot_state {
	PCIE_SLOT_FREE,
	PCIE_SLOT_FLIGHT, /* the controller has it, or will at the end of the pass */
	PCIE_SLOT_HELD,	  /* waits for the end of a pause, or for pages to bounce through */
};

/* What the driver knows of commands[i]. */
struct pcie_slot {
	uint8_t state; /* enum pcie_slot_state */
	uint8_t tries;
	bool aborted;	     /* asked to end: its error is -ETIMEDOUT */
	bool late;	     /* has passed its time, and that was told */
	bool retry;	     /* was in flight when the controller was reset */
	uint16_t bounced;    /* pages taken from the stack, 0: the payload itself was described */
	uint64_t aborted_at; /* ticks */
	TAILQ_ENTRY(pcie_slot) link;
};

TAILQ_HEAD(pcie_slot_list, pcie_slot);

/* counter_add() by the owner, counter_read() by any thread. */
struct pcie_queue_stats {
	uint64_t strays;   /* completions that name no command in flight */
	uint64_t timeouts; /* commands that were too old, or aborted because it was asked for */
	uint64_t retries;  /* commands given to the controller again */
	uint64_t bounces;  /* payloads copied: memory the device can not reach, or of a shape it can
			      not */
};

struct pcie_queue {
	struct nvme_queue base;
	struct pcie_ring ring;
	struct poller poller;
	struct deferred bell;
	struct timer watch;
	const struct pcie_dma *dma;
	unsigned dma_hint;
	unsigned flying; /* slots in flight or held */
	enum pcie_queue_state state;
	struct pcie_slot *slots; /* [depth] */
	struct pcie_slot_list held;
	uint64_t *lists; /* PCIE_PRP_LIST_ENTRIES for each command */
	uint32_t sgl_mask; /* with base.sgl: bits that are 0 in a segment's address and length */
	uint64_t lists_iova;
	uint8_t *pages; /* to bounce through; page_count of them */
	uint64_t pages_iova;
	uint16_t *page_stack; /* the free ones: [0, page_free) */
	uint16_t page_count, page_free;
	unsigned users; /* channels */
	struct pcie_queue_stats stats;
	struct pcie_memory memory;
	struct pcie_registers registers;
	struct nvme_options options; /* the controller's */
	/* (core) Tells the controller; cid: PCIE_ALARM_TIMEOUT's, _LATE's. */
	void (*alarm)(struct pcie_queue *queue, enum pcie_alarm alarm, uint16_t cid);
	void *controller;
};

/*
 * Any thread, before a core uses it: lays out queue->memory (PCIE_QUEUE_BYTES), which is mapped, as
 * are dma, registers, alarm, controller, options set. stride: NVME_CAP_DSTRD. entries: 2 to
 * PCIE_QUEUE_ENTRIES. 0 or -ENOMEM.
 */
int pcie_queue_init(struct pcie_queue *queue, uint16_t id, uint16_t entries, uint32_t stride);
void pcie_queue_fini(struct pcie_queue *queue);

/* ---- On the owner's core ---- */
/* For nvme_transport: queue_get(), queue_put(), issue(), abort(). */
void pcie_queue_open(struct pcie_queue *queue);
void pcie_queue_close(struct nvme_queue *base);
int pcie_queue_issue(struct nvme_queue *base, struct nvme_command *command);
void pcie_queue_abort(struct nvme_queue *base, struct nvme_command *command);

/* Until pcie_queue_resume() or _fail() the rings are not touched by this core. */
void pcie_queue_pause(struct pcie_queue *queue);
/*
 * The rings are new, nothing is in flight at the device any more. Commands that were, are done
 * again - those that timed out, or were done again too often already, end with an error - and those
 * held begin.
 */
void pcie_queue_resume(struct pcie_queue *queue);
/* All end with -ENODEV, as do those that come. The device does no DMA any more. */
void pcie_queue_fail(struct pcie_queue *queue);

/* ---- pcie_sgl.c ---- */
/* Describes the payload by a scatter gather list. False: it can not be, as it lies. */
bool pcie_sgl_set(struct pcie_queue *queue, struct nvme_command *command);

/* ---- pcie_prp.c ---- */
/*
 * Describes a command's payload: by PRPs, or where the queue has them by an SGL. -EAGAIN: it has to be bounced and there are not enough
 * pages; -EINVAL: more than PCIE_TRANSFER_MAX_BYTES, or iov and bytes disagree.
 */
int pcie_prp_set(struct pcie_queue *queue, struct nvme_command *command);
/* A bounced command has ended: copies what was read (ok) and gives the pages back. */
void pcie_prp_end(struct pcie_queue *queue, struct nvme_command *command, bool ok);

#endif
