/* SPDX-License-Identifier: BSD-3-Clause */
/* ops: requests of the alignment tests, on the fake reactors. */
#ifndef POLLUX_TEST_ALIGN_OPS_H
#define POLLUX_TEST_ALIGN_OPS_H

#include "test/unit/align/disk.h"

struct op {
	struct bdev_io io;
	struct iovec iov[3];
	uint8_t *memory;	 /* of READ and WRITE, exactly as long */
	uint64_t offset, length; /* as asked for */
	unsigned ended;		 /* how often */
	int status;
	unsigned order; /* the how manieth to end */
};

enum { OPS_CORES = 3 };

/* Three fake reactors and a disk with open channels. */
struct disk *ops_start(uint32_t align_bytes, uint64_t size_bytes);
/* Fails the test where anything is left in flight. */
void ops_stop(struct disk *disk);

/* Memory of a READ is filled with rubbish, that of a WRITE with `fill`. Split into up to 3 iovecs
 * by `split`. */
void op_init(struct op *op, enum bdev_op kind, uint64_t offset, uint64_t length, uint8_t fill,
	     unsigned split);
void op_submit(struct disk *disk, struct op *op, unsigned core);
/* Submits and waits; returns its status. */
int op_run(struct disk *disk, struct op *op, unsigned core);
void op_free(struct op *op);
/* All of that. */
int ops_do(struct disk *disk, unsigned core, enum bdev_op kind, uint64_t offset, uint64_t length,
	   uint8_t fill);

struct align_channel *align_on(struct disk *disk, unsigned core);

#endif
