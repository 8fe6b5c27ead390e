/* SPDX-License-Identifier: BSD-3-Clause */
/* fault: the line is made on the core, for the command goes on to be used for something else. */
#include "bdev/nvme/fault.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "bdev/nvme/status.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "reactor/control.h"

static const char *opcode_name(uint8_t opcode)
{
	switch (opcode) {
	case NVME_FLUSH:
		return "FLUSH";
	case NVME_WRITE:
		return "WRITE";
	case NVME_READ:
		return "READ";
	case NVME_WRITE_ZEROES:
		return "WRITE ZEROES";
	case NVME_DSM:
		return "DATASET MANAGEMENT";
	default:
		return "a command";
	}
}

/* ", 8 blocks at LBA 2048"; nothing for a command without a range. */
static void describe_range(const struct nvme_command *command, char *text, size_t text_bytes)
{
	const struct nvme_sqe *sqe = &command->sqe;
	uint64_t lba = sqe->cdw10 | (uint64_t)sqe->cdw11 << 32;
	uint32_t blocks = (sqe->cdw12 & (NVME_COMMAND_BLOCKS_MAX - 1)) + 1;
	text[0] = 0;
	if (sqe->opcode == NVME_FLUSH)
		return;
	if (sqe->opcode == NVME_DSM) {
		const struct nvme_dsm_range *range = command->iov[0].iov_base;
		lba = range->lba;
		blocks = range->blocks;
	}
	snprintf(text, text_bytes, ", %u block%s at LBA %" PRIu64, blocks, blocks == 1 ? "" : "s",
		 lba);
}

void nvme_fault_describe(const struct nvme_command *command, int status, char *line,
			 size_t line_bytes)
{
	char range[64];
	int code = status & NVME_STATUS_CODE;
	describe_range(command, range, sizeof(range));
	if (status < 0)
		snprintf(line, line_bytes, "%s of namespace %u%s: no status (%s)",
			 opcode_name(command->sqe.opcode), command->sqe.nsid, range,
			 nvme_status_text(status));
	else
		snprintf(line, line_bytes, "%s of namespace %u%s: SCT %d, SC 0x%02x (%s)%s",
			 opcode_name(command->sqe.opcode), command->sqe.nsid, range, code >> 8,
			 code & 0xff, nvme_status_text(status),
			 status & NVME_STATUS_DNR ? ", DNR" : "");
}

static void write_line(void *arg)
{
	log_error("nvme", "%s", (const char *)arg);
	free(arg);
}

void nvme_fault_log(const struct nvme_namespace *ns, const struct nvme_command *command, int status,
		    struct log_limit *limit)
{
	uint64_t second = clock_ticks_to_us(command->queue->reactor->now) / 1000000;
	char what[NVME_FAULT_BYTES], *line;
	unsigned left_out;
	if (status == -ENODEV || log_level_now < LOG_ERROR)
		return;
	bool may = log_limit_take(limit, second, &left_out);
	if (left_out && asprintf(&line, "%s: %u more failed commands were not logged",
				 ns->bdev.name, left_out) > 0)
		control_send(write_line, line);
	if (!may)
		return;
	nvme_fault_describe(command, status, what, sizeof(what));
	if (asprintf(&line, "%s: %s", ns->bdev.name, what) > 0)
		control_send(write_line, line);
}
