/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * status: what an NVMe status means. A status is as in struct nvme_command's done(): without the phase
 * bit, 0 success, negative an errno where no status was got. Pure. Source: NVM Express Base
 * Specification 2.0, 3.3.3.2.1; NVM Command Set Specification 1.0, 3.1.
 */
#ifndef POLLUX_BDEV_NVME_STATUS_H
#define POLLUX_BDEV_NVME_STATUS_H

#include <stdbool.h>

/* Status code types: bits 10:8. */
enum nvme_status_type {
	NVME_SCT_GENERIC = 0,
	NVME_SCT_COMMAND = 1,
	NVME_SCT_MEDIA = 2,
	NVME_SCT_PATH = 3,
	NVME_SCT_VENDOR = 7,
	NVME_SCT_COUNT = 8,
};

/* The type and code of `status`, as one number: what the enumeration below holds. */
#define NVME_STATUS(type, code) ((type) << 8 | (code))

enum nvme_status_code {
	NVME_SC_INVALID_OPCODE = NVME_STATUS(NVME_SCT_GENERIC, 0x01),
	NVME_SC_INVALID_FIELD = NVME_STATUS(NVME_SCT_GENERIC, 0x02),
	NVME_SC_DATA_TRANSFER = NVME_STATUS(NVME_SCT_GENERIC, 0x04),
	NVME_SC_POWER_LOSS = NVME_STATUS(NVME_SCT_GENERIC, 0x05),
	NVME_SC_INTERNAL = NVME_STATUS(NVME_SCT_GENERIC, 0x06),
	NVME_SC_ABORT_REQUESTED = NVME_STATUS(NVME_SCT_GENERIC, 0x07),
	NVME_SC_ABORT_SQ_DELETED = NVME_STATUS(NVME_SCT_GENERIC, 0x08),
	NVME_SC_INVALID_NAMESPACE = NVME_STATUS(NVME_SCT_GENERIC, 0x0b),
	NVME_SC_NAMESPACE_WRITE_PROTECTED = NVME_STATUS(NVME_SCT_GENERIC, 0x20),
	NVME_SC_INTERRUPTED = NVME_STATUS(NVME_SCT_GENERIC, 0x21),
	NVME_SC_TRANSIENT = NVME_STATUS(NVME_SCT_GENERIC, 0x22),
	NVME_SC_LBA_OUT_OF_RANGE = NVME_STATUS(NVME_SCT_GENERIC, 0x80),
	NVME_SC_CAPACITY_EXCEEDED = NVME_STATUS(NVME_SCT_GENERIC, 0x81),
	NVME_SC_NAMESPACE_NOT_READY = NVME_STATUS(NVME_SCT_GENERIC, 0x82),
	NVME_SC_RESERVATION_CONFLICT = NVME_STATUS(NVME_SCT_GENERIC, 0x83),
	NVME_SC_FORMAT_IN_PROGRESS = NVME_STATUS(NVME_SCT_GENERIC, 0x84),
	NVME_SC_READ_ONLY_RANGE = NVME_STATUS(NVME_SCT_COMMAND, 0x82),
	NVME_SC_WRITE_FAULT = NVME_STATUS(NVME_SCT_MEDIA, 0x80),
	NVME_SC_UNRECOVERED_READ = NVME_STATUS(NVME_SCT_MEDIA, 0x81),
	NVME_SC_ACCESS_DENIED = NVME_STATUS(NVME_SCT_MEDIA, 0x86),
	NVME_SC_UNWRITTEN_BLOCK = NVME_STATUS(NVME_SCT_MEDIA, 0x87),
};

/* 0 or -errno, as a bdev completes with it. */
int nvme_status_errno(int status);
/* The same command may succeed when it is sent again, and is allowed to be. */
bool nvme_status_may_retry(int status);
/* In words: "unrecovered read error". Never NULL. */
const char *nvme_status_text(int status);

#endif
