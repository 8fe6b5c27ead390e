/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device: a PCIe NVMe controller in plain memory, for unit tests. It looks at its registers and its
 * queues when device_step() or device_fetch() tell it to, never by itself, and reaches memory by
 * IOVA only: an address that is not mapped fails the test. I/O commands wait until the test ends
 * them, in the order and with the status it wants.
 */
#ifndef POLLUX_TEST_NVME_PCIE_DEVICE_H
#define POLLUX_TEST_NVME_PCIE_DEVICE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bdev/nvme/pcie_controller.h"
#include "fake/reactor.h"

enum {
	DEVICE_QUEUES = 8,
	DEVICE_MAPPINGS = 64,
	DEVICE_PENDING = 1024,
	DEVICE_BLOCK_BYTES = 512,
	DEVICE_DISK_BYTES = 4 << 20,
	DEVICE_LOG_ENTRIES = 256,
};

/* What is added to an address to make its IOVA: nobody may mistake one for the other. */
#define DEVICE_IOVA_OFFSET 0x100000000000ull

struct device_mapping {
	uintptr_t base;
	size_t bytes;
};

struct device_queue {
	uint64_t sq, cq; /* IOVA; 0: not created */
	uint32_t sq_entries, cq_entries;
	uint32_t sq_head, sq_tail, cq_tail;
	uint16_t phase;
};

struct device_command {
	struct nvme_sqe sqe;
	uint16_t sqid;
};

struct device {
	_Alignas(4096) uint8_t bar[0x1000 + 4096];
	struct nvme_options options; /* of the driver */
	/* how it is to behave */
	unsigned dstrd;	   /* CAP.DSTRD */
	unsigned mqes;	   /* CAP.MQES, 0's based */
	unsigned timeout;  /* CAP.TO, of 500 ms */
	uint64_t ready_ms; /* from CC.EN to CSTS.RDY, both ways */
	bool never_ready, never_disabled, no_shutdown;
	bool fatal_on_enable; /* CSTS.CFS in place of RDY */
	bool silent;	      /* admin commands are not answered */
	bool stray_first;     /* a completion with a wrong id before each right one */
	bool shadows;	      /* OACS bit 8 */
	bool no_list;	      /* CNS 2 is not known */
	uint32_t sgls;	      /* as in IDENTIFY */
	bool events_offered;  /* OAES: of namespaces */
	uint32_t changed[1024]; /* the log page, until it is read */
	uint8_t mdts;
	uint32_t namespaces;
	unsigned queues_max;	    /* by SET FEATURES */
	uint16_t admin_status[256]; /* by opcode; without a code it works */
	uint32_t rtd3e;		    /* as in IDENTIFY */
	/* before an admin command is done: what the test wants to happen then */
	void (*meddle)(struct device *device, const struct nvme_sqe *sqe);
	/* what IDENTIFY has told, before it is there: the test may spoil it */
	void (*spoil)(struct device *device, const struct nvme_sqe *sqe, void *page);
	/* what it saw */
	uint8_t admin_log[DEVICE_LOG_ENTRIES]; /* opcodes of the first */
	unsigned admin_count;
	unsigned enables, disables;
	bool shut_down, dma_stopped;
	struct nvme_sqe last_abort;
	unsigned sgl_count, sgl_segments; /* payloads that came by SGLs; segments of the last */
	unsigned event_requests; /* ever */
	bool event_asked;	 /* one is outstanding */
	uint32_t event_config;
	/* its state */
	uint64_t now_ms, change_ms; /* when EN last changed */
	bool enabled, was_gone;
	uint64_t shadow, events; /* IOVA; 0: none */
	struct device_queue queues[DEVICE_QUEUES];
	struct device_command pending[DEVICE_PENDING];
	unsigned pending_count;
	uint8_t *disk;
	/* the machine's */
	struct device_mapping mappings[DEVICE_MAPPINGS];
	unsigned mapping_count;
	struct pcie_dma dma;
};

/* A device that does everything right, and `cores` fake reactors, whose buffers it reaches. */
struct device *device_new(unsigned cores);
/* Fails the test where memory is still mapped. */
void device_free(struct device *device);
/* A controller before pcie_controller_start(). */
void device_controller(struct device *device, struct pcie_controller *controller);

uint32_t device_read(const struct device *device, uint32_t offset);
/* CSTS.CFS, until it is disabled. */
void device_fatal(struct device *device);
/* All its registers read as ones from now on. */
void device_vanish(struct device *device);

/* Enabling, shutting down, admin commands. */
void device_step(struct device *device);
/* Takes what the doorbells (registers, or shadows: `shadow`) show; how many commands are pending.
 */
unsigned device_fetch(struct device *device);
/*
 * Ends pending[index], which leaves the list; success (no code) moves the data of READ and WRITE.
 * Posts one completion.
 */
void device_end(struct device *device, unsigned index, uint16_t status);
/* All, in the order in which they came. */
void device_end_all(struct device *device);
/* Answers the Asynchronous Event Request that is outstanding. */
void device_tell(struct device *device, uint32_t result);
/* A completion as it stands. */
void device_post(struct device *device, uint16_t qid, uint16_t cid, uint16_t sqid, uint16_t status,
		 uint32_t result);
/* Memory behind an IOVA, all of it inside one mapping. */
void *device_at(const struct device *device, uint64_t iova, size_t bytes);
/* Moves `bytes` between the PRPs' or the SGL's memory and the buffer, as Base 4.1 says. */
void device_move(struct device *device, const struct nvme_sqe *sqe, uint8_t *buffer,
		 size_t bytes, bool to_memory);

#endif
