/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * options: what holds for all controllers that are attached from then on: how long a command may
 * take, and what is done about one that takes longer. Set by the control thread, read by any thread.
 */
#ifndef POLLUX_BDEV_NVME_OPTIONS_H
#define POLLUX_BDEV_NVME_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum nvme_timeout_action {
	NVME_TIMEOUT_NONE,  /* it is logged and counted */
	NVME_TIMEOUT_RESET, /* the controller is reset */
	NVME_TIMEOUT_ABORT, /* the command is aborted; the controller is reset if that does not help */
};

enum {
	NVME_TIMEOUT_US = 30000000,
	NVME_TIMEOUT_ADMIN_US = 10000000,
};

struct nvme_options {
	uint64_t timeout_us;	   /* of an I/O command; 0: none */
	uint64_t timeout_admin_us; /* never 0: who waits for one holds up others */
	uint8_t action_on_timeout; /* enum nvme_timeout_action */
	bool sgl; /* payloads are described by SGLs where the device takes them */
	/* The kernel has time-outs of its own: passthrough uses these only where somebody has set them. */
	bool timeout_is_set, timeout_admin_is_set;
};

extern const struct nvme_options nvme_options_default;

struct nvme_options nvme_options_get(void);
void nvme_options_set(const struct nvme_options *options);

#endif
