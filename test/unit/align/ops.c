/* SPDX-License-Identifier: BSD-3-Clause */
/* ops: requests of the alignment tests, on the fake reactors. */
#include "test/unit/align/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/align_internal.h"
#include "test/unit/fake/reactor.h"

static unsigned ends;

static void set_true(void *arg, int error)
{
	assert_int_equal(error, 0);
	*(bool *)arg = true;
}

struct disk *ops_start(uint32_t align_bytes, uint64_t size_bytes)
{
	bool opened = false;
	fake_start(OPS_CORES);
	struct disk *disk = disk_create("disk", align_bytes, size_bytes);
	bdev_open_channels(&disk->bdev, set_true, &opened);
	fake_settle();
	assert_true(opened);
	ends = 0;
	return disk;
}

void ops_stop(struct disk *disk)
{
	bool closed = false, removed = false;
	fake_settle();
	for (unsigned i = 0; i < OPS_CORES; i++) {
		struct bdev_channel *ch = atomic_load(&disk->bdev.channels[i]);
		assert_non_null(ch);
		assert_int_equal(ch->inflight, 0);
		if (!ch->align)
			continue;
		assert_int_equal(ch->align->free_writes, 0);
		assert_int_equal(ch->align->jobs_active, 0);
		assert_int_equal(ch->align->acks_left, 0);
		assert_true(TAILQ_EMPTY(&ch->align->active));
		assert_true(TAILQ_EMPTY(&ch->align->waiting));
		assert_null(ch->align->queued_first);
	}
	bdev_close_channels(&disk->bdev, set_true, &closed);
	fake_settle();
	assert_true(closed);
	assert_int_equal(bdev_remove(&disk->bdev, false, set_true, &removed), 0);
	fake_settle();
	assert_true(removed);
	disk_free(disk);
	fake_stop();
}

static void on_done(struct bdev_io *io)
{
	struct op *op = container_of(io, struct op, io);
	assert_int_equal(op->ended, 0);
	assert_ptr_equal(io->ch->reactor, reactor_self);
	op->ended++;
	op->order = ends++;
	op->status = io->status;
}

void op_init(struct op *op, enum bdev_op kind, uint64_t offset, uint64_t length, uint8_t fill,
	     unsigned split)
{
	memset(op, 0xee, sizeof(*op)); /* the layer may count on what the contract names alone */
	op->io.op = kind;
	op->io.flags = 0;
	op->io.offset = op->offset = offset;
	op->io.length = op->length = length;
	op->io.done = on_done;
	op->io.iov = NULL;
	op->io.iovcnt = 0;
	op->memory = NULL;
	op->ended = 0;
	op->status = 1;
	if (kind != BDEV_READ && kind != BDEV_WRITE)
		return;
	op->memory = malloc(length ? length : 1);
	assert_non_null(op->memory);
	memset(op->memory, kind == BDEV_READ ? 0xcd : fill, length);
	uint64_t cuts[4] = {0, split % (length + 1), split / 7 % (length + 1), length};
	if (cuts[1] > cuts[2]) {
		uint64_t swap = cuts[1];
		cuts[1] = cuts[2];
		cuts[2] = swap;
	}
	for (int i = 0; i < 3; i++)
		op->iov[i] = (struct iovec){op->memory + cuts[i], cuts[i + 1] - cuts[i]};
	op->io.iov = op->iov;
	op->io.iovcnt = 3;
}

void op_submit(struct disk *disk, struct op *op, unsigned core)
{
	fake_become(core);
	bdev_submit(bdev_channel_here(&disk->bdev), &op->io);
	fake_become(0);
}

int op_run(struct disk *disk, struct op *op, unsigned core)
{
	op_submit(disk, op, core);
	fake_settle();
	assert_int_equal(op->ended, 1);
	return op->status;
}

void op_free(struct op *op)
{
	free(op->memory);
	op->memory = NULL;
}

int ops_do(struct disk *disk, unsigned core, enum bdev_op kind, uint64_t offset, uint64_t length,
	   uint8_t fill)
{
	struct op op;
	op_init(&op, kind, offset, length, fill, 0);
	int status = op_run(disk, &op, core);
	op_free(&op);
	return status;
}

struct align_channel *align_on(struct disk *disk, unsigned core)
{
	return atomic_load(&disk->bdev.channels[core])->align;
}
