/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * support: a started controller on a device of the tests, requests to its queues, and what the
 * common half would be told.
 */
#ifndef POLLUX_TEST_NVME_PCIE_SUPPORT_H
#define POLLUX_TEST_NVME_PCIE_SUPPORT_H

#include "test/unit/nvme_pcie/device.h"

enum { NAMESPACES_SEEN_MAX = 4096 };

struct seen {
	unsigned gone; /* calls of nvme_controller_gone() */
	unsigned changed; /* calls of nvme_controller_changed(), and what the last one brought */
	unsigned changed_count;
	uint32_t changed_first, changed_last;
	unsigned namespaces;
	uint32_t nsids[NAMESPACES_SEEN_MAX];
	uint64_t size; /* of the last */
	uint32_t transfer_bytes_max;
	int add_error; /* of nvme_namespace_add() */
};

extern struct seen seen;

/* A command, and how it ended. */
struct request {
	struct nvme_command *command;
	unsigned done;
	int status;
	bool again; /* done() issues it anew */
};

struct world {
	struct device *device;
	struct pcie_controller controller;
	struct pcie_queue *queue; /* core 0's, open */
};

/* Started, with core 0's queue in use. */
void world_start(struct world *world);
/* The same, on a device that the caller has made and changed. */
void world_start_on(struct world *world, struct device *device);
void world_stop(struct world *world);

/* Begins it on core 0: READ or WRITE of whole blocks with the payload in command->iov. */
int request_issue(struct world *world, struct request *request, enum nvme_opcode opcode,
		  uint64_t block, const struct iovec *iov, unsigned iovcnt);
/* One segment. */
int request_rw(struct world *world, struct request *request, enum nvme_opcode opcode,
	       uint64_t block, void *buffer, uint32_t bytes);
/* Passes, with the device's own steps and clock between them. */
void world_settle(struct world *world);

#define assert_pending(request) assert_int_equal((request)->done, 0)
#define assert_done(request, result)                                                               \
	do {                                                                                       \
		assert_int_equal((request)->done, 1);                                              \
		assert_int_equal((request)->status, result);                                       \
	} while (0)

#endif
