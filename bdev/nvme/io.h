/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * io: a bdev's requests cut into NVMe commands. One request may have several commands in flight; where
 * none is free it waits, in order. On the channel's core.
 */
#ifndef POLLUX_BDEV_NVME_IO_H
#define POLLUX_BDEV_NVME_IO_H

#include "bdev/nvme/fault.h"
#include "bdev/nvme/status.h"
#include "bdev/nvme/transport.h"

enum {
	NVME_RETRIES_MAX = 4,		  /* of one request's commands */
	NVME_DOUBT_US = 1000000,	  /* between two looks at a namespace that is not what it was */
	NVME_ZERO_BYTES = 128 << 10,	  /* of the zeroes that are written where nothing else zeroes */
	NVME_DSM_BLOCKS_MAX = 0xffffffff, /* of one range */
};

/* Each core counts its own. Read by the control thread. */
struct nvme_error_counters {
	cache_aligned uint64_t by_type[NVME_SCT_COUNT]; /* statuses, by their type */
	uint64_t no_status;				 /* ended without one: the device is gone, … */
	uint64_t retries;
	/* the core's alone */
	struct log_limit limit; /* of lines about failed commands */
	uint64_t doubted;	/* ticks: the control thread was asked to look at the namespace; 0: never */
};

/* A request, in bdev_io.ctx. */
struct nvme_io {
	struct bdev_io *io;
	TAILQ_ENTRY(nvme_io) link; /* queue->waiting */
	uint64_t cut;		   /* bytes of the range that commands were made for */
	size_t iov_offset;	   /* the next command's payload: in iov[iov_at] */
	uint16_t iov_at;
	bool waiting; /* in queue->waiting */
	bool whole;   /* no command is to be made any more */
	bool syncing; /* the FLUSH behind a TRIM with FUA */
	bool aborted;
	uint32_t commands; /* in flight */
	uint32_t retries;
	int32_t status;	   /* 0, or the first error: -errno */
};

struct nvme_channel {
	struct nvme_queue *queue;
	struct nvme_error_counters *errors;
	struct nvme_dsm_range *ranges; /* one for each command of the queue; NULL: no TRIM */
	uint8_t *zeroes;	       /* NVME_ZERO_BYTES; NULL: WRITE ZEROES is known */
};

int nvme_channel_open(struct bdev_channel *ch);
void nvme_channel_close(struct bdev_channel *ch);
void nvme_submit(struct bdev_channel *ch, struct bdev_io **ios, unsigned n);
void nvme_abort(struct bdev_channel *ch, struct bdev_io *io);

#endif
