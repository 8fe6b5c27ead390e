/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * job: read-modify-writes one by one: an error in each step, more of them than there are jobs, ends
 * within ends, a bdev that changes its size meanwhile, aborts.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/align_internal.h"
#include "test/unit/align/ops.h"
#include "test/unit/fake/reactor.h"

enum { ALIGN = 4096, SIZE = 64 * ALIGN };

/* ---- Errors ---- */

static unsigned steps, fail_step;

static int fail_at_step(struct disk *disk, struct bdev_io *io)
{
	return ++steps == fail_step ? -EIO : 0;
}

static void check_errors(enum bdev_op kind, uint64_t offset, uint64_t length, unsigned count,
			 unsigned core)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	disk->on_submit = fail_at_step;
	for (fail_step = 1; fail_step <= count; fail_step++) {
		disk->timing = fail_step & 1 ? DISK_LATER : DISK_AT_ONCE;
		memset(disk->data, 0x5a, SIZE);
		steps = 0;
		assert_int_equal(ops_do(disk, core, kind, offset, length, 0x11), -EIO);
		/* nothing follows an error, and no byte beside the range has changed */
		assert_int_equal(steps, fail_step);
		for (uint64_t at = 0; at < SIZE; at++) {
			if (at < offset || at >= offset + length)
				assert_int_equal(disk->data[at], 0x5a);
		}
	}
	/* one step more is none: that was all of them, and it works as before */
	steps = 0;
	assert_int_equal(ops_do(disk, core, kind, offset, length, 0x11), 0);
	assert_int_equal(steps, count);
	for (uint64_t at = 0; at < length && kind != BDEV_READ; at++)
		assert_int_equal(disk->data[offset + at], kind == BDEV_WRITE ? 0x11 : 0);
	ops_stop(disk);
}

static void test_errors_reach_the_submitter(void **state)
{
	for (unsigned core = 0; core < OPS_CORES; core++) {
		check_errors(BDEV_WRITE, 10, 20, 2, core);	  /* read, write */
		check_errors(BDEV_WRITE, 10, 2 * ALIGN, 3, core); /* two reads, write */
		check_errors(BDEV_WRITE, 10, ALIGN - 10, 2, core);
		check_errors(BDEV_WRITE, ALIGN, 10, 2, core);
		/* a first and a last piece that read, one between that does not */
		check_errors(BDEV_WRITE, 1, ALIGN_JOB_BYTES + ALIGN, 4, core);
		check_errors(BDEV_READ, 3, ALIGN_JOB_BYTES, 2, core);
		/* two edges of read and write, the blocks between */
		check_errors(BDEV_WRITE_ZEROES, 5, 4 * ALIGN, 5, core);
	}
}

static void test_errors_of_aligned_writes_through_the_owner(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	disk->on_submit = fail_at_step;
	fail_step = 0;
	assert_int_equal(ops_do(disk, 1, BDEV_WRITE, 1, 1, 1), 0);
	for (unsigned core = 0; core < OPS_CORES; core++) {
		fail_step = steps + 1;
		assert_int_equal(ops_do(disk, core, BDEV_WRITE, 0, ALIGN, 1), -EIO);
		assert_int_equal(ops_do(disk, core, BDEV_WRITE, 0, ALIGN, 1), 0);
	}
	ops_stop(disk);
}

static uint8_t flags_seen[8];

static int note_flags(struct disk *disk, struct bdev_io *io)
{
	if (io->op != BDEV_READ)
		flags_seen[io->op] |= io->flags;
	else
		assert_int_equal(io->flags, 0);
	return 0;
}

static void test_durability_goes_down(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	struct op op;
	disk->on_submit = note_flags;
	op_init(&op, BDEV_WRITE, 7, 7, 0, 0);
	op.io.flags = BDEV_FUA;
	assert_int_equal(op_run(disk, &op, 1), 0);
	op_free(&op);
	assert_int_equal(flags_seen[BDEV_WRITE], BDEV_FUA);
	op_init(&op, BDEV_WRITE_ZEROES, 7, 3 * ALIGN, 0, 0);
	op.io.flags = BDEV_FUA | BDEV_NO_HOLE;
	assert_int_equal(op_run(disk, &op, 1), 0);
	assert_int_equal(flags_seen[BDEV_WRITE], BDEV_FUA);
	assert_int_equal(flags_seen[BDEV_WRITE_ZEROES], BDEV_FUA | BDEV_NO_HOLE);
	ops_stop(disk);
}

/* ---- More requests than jobs ---- */

enum { MANY = 300 };

static void submit_many(struct disk *disk, struct op *ops, enum bdev_op kind)
{
	for (unsigned i = 0; i < MANY; i++) {
		/* all in blocks of their own, or all in one */
		uint64_t offset = kind == BDEV_READ ? i % 60 * ALIGN + 1 : i * 7;
		op_init(&ops[i], kind, offset, 5, i, 0);
		op_submit(disk, &ops[i], 1);
	}
}

static void test_more_requests_than_jobs(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	struct op *ops = calloc(MANY, sizeof(*ops));
	assert_non_null(ops);
	memset(disk->data, 0x33, SIZE);
	submit_many(disk, ops, BDEV_READ);
	fake_settle();
	for (unsigned i = 0; i < MANY; i++) {
		assert_int_equal(ops[i].ended, 1);
		assert_int_equal(ops[i].status, 0);
		assert_int_equal(ops[i].memory[4], 0x33);
		op_free(&ops[i]);
	}
	assert_int_equal(atomic_load(&disk->most_pending), ALIGN_JOBS);
	submit_many(disk, ops, BDEV_WRITE);
	fake_settle();
	for (unsigned i = 0; i < MANY; i++) {
		assert_int_equal(ops[i].ended, 1);
		for (unsigned k = 0; k < 7; k++)
			assert_int_equal(disk->data[i * 7 + k], k < 5 ? (uint8_t)i : 0x33);
		op_free(&ops[i]);
	}
	free(ops);
	ops_stop(disk);
}

/* A driver that turns quick while many wait: they end one after another, not within each other. */
static uintptr_t stack_low, stack_high;

static void note_stack(struct bdev_io *io)
{
	struct op *op = container_of(io, struct op, io);
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);
	stack_low = here < stack_low ? here : stack_low;
	stack_high = here > stack_high ? here : stack_high;
	op->ended++;
	op->order = steps++;
}

enum { STACK_MOST_BYTES = 64 << 10, QUICK = 2000 };

static void test_ends_do_not_nest(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	struct op *ops = calloc(QUICK, sizeof(*ops));
	assert_non_null(ops);
	for (enum bdev_op kind = BDEV_READ; kind <= BDEV_WRITE; kind++) {
		stack_low = UINTPTR_MAX;
		stack_high = 0;
		steps = 0;
		disk->timing = DISK_LATER;
		for (unsigned i = 0; i < QUICK; i++) {
			op_init(&ops[i], kind, i % 60 * ALIGN + 1, 5, i, 0);
			ops[i].io.done = note_stack;
			op_submit(disk, &ops[i], 0);
			if (i > 2 * ALIGN_JOBS) {
				fake_pass(); /* the first are under way */
				disk->timing = DISK_AT_ONCE;
				disk->hold = true;
			}
		}
		disk->hold = false;
		fake_settle();
		for (unsigned i = 0; i < QUICK; i++) {
			assert_int_equal(ops[i].ended, 1);
			/* as they came, but for the few that the driver had first */
			if (kind == BDEV_READ && i > 4 * ALIGN_JOBS)
				assert_int_equal(ops[i].order, ops[i - 1].order + 1);
			op_free(&ops[i]);
		}
		assert_true(stack_high - stack_low < STACK_MOST_BYTES);
	}
	free(ops);
	ops_stop(disk);
}

/* done() submits again, at once, misaligned: a chain on a driver that ends everything at once. */
static struct disk *chain_disk;
static int chain_left;

static void chain_done(struct bdev_io *io)
{
	struct op *op = container_of(io, struct op, io);
	assert_int_equal(io->status, 0);
	if (chain_left-- <= 0)
		return;
	op->io.offset = op->offset = (op->offset * 3 + 1) % (SIZE - 10);
	op->io.length = op->length;
	bdev_submit(bdev_channel_here(&chain_disk->bdev), io);
}

static void test_done_submits_again(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	struct op ops[20];
	chain_disk = disk;
	disk->timing = DISK_MIXED;
	chain_left = 3000;
	for (unsigned i = 0; i < COUNT_OF(ops); i++) {
		op_init(&ops[i], i & 1 ? BDEV_READ : BDEV_WRITE, i * 11, 9, i, 0);
		ops[i].io.done = chain_done;
		op_submit(disk, &ops[i], i % OPS_CORES);
	}
	fake_settle();
	assert_int_equal(chain_left, -(int)COUNT_OF(ops));
	for (unsigned i = 0; i < COUNT_OF(ops); i++)
		op_free(&ops[i]);
	ops_stop(disk);
}

/* ---- A size that changes in the middle ---- */

static uint64_t new_size;

static int resize_at_step(struct disk *disk, struct bdev_io *io)
{
	if (++steps == fail_step)
		atomic_store(&disk->bdev.size_bytes, new_size);
	/* a driver refuses what lies beyond: a resize waits for what is under way, not for us */
	return io->offset + io->length > atomic_load(&disk->bdev.size_bytes) ? -ENOSPC : 0;
}

static void test_a_bdev_that_shrinks_meanwhile(void **state)
{
	for (fail_step = 1; fail_step <= 7; fail_step++) {
		struct disk *disk = ops_start(ALIGN, SIZE);
		disk->on_submit = resize_at_step;
		steps = 0;
		new_size = ALIGN + 100;
		/* three pieces from block 0 on: the size falls into the first */
		int status = ops_do(disk, 1, BDEV_WRITE, 1, SIZE - 2, 0x11);
		assert_true(status == -ENOSPC || (!status && steps < fail_step));
		steps = fail_step;
		assert_int_equal(ops_do(disk, 1, BDEV_READ, 1, 98, 0), 0);
		ops_stop(disk);
	}
}

static int grow_at_step(struct disk *disk, struct bdev_io *io)
{
	if (steps++ == 0) /* the tail was read; the write is to come */
		atomic_store(&disk->bdev.size_bytes, new_size);
	return 0;
}

static void grow_at_first_read(struct disk *disk, unsigned core)
{
	atomic_store(&disk->bdev.size_bytes, 2 * ALIGN + 10);
	memset(disk->data, 0x44, SIZE);
	steps = 0;
	new_size = 3 * ALIGN;
	disk->on_submit = grow_at_step;
	/* inside the old tail, and from a block before it: the driver checks what it gets */
	assert_int_equal(ops_do(disk, core, BDEV_WRITE, 2 * ALIGN + 3, 4, 0x99), 0);
	for (unsigned at = 2 * ALIGN; at < 3 * ALIGN; at++) {
		bool written = at >= 2 * ALIGN + 3 && at < 2 * ALIGN + 7;
		assert_int_equal(disk->data[at], written ? 0x99 : 0x44);
	}
	disk->on_submit = NULL;
}

static void test_a_bdev_that_grows_meanwhile(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	disk->timing = DISK_AT_ONCE;
	for (unsigned core = 0; core < OPS_CORES; core++)
		grow_at_first_read(disk, core);
	ops_stop(disk);
}

/* ---- Aborts ---- */

static void abort_on(struct disk *disk, struct op *op, unsigned core)
{
	fake_become(core);
	bdev_abort(bdev_channel_here(&disk->bdev), &op->io);
	fake_become(0);
}

static void test_aborts_reach_the_driver(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	unsigned owner = disk->bdev.align->owner, other = (owner + 1) % OPS_CORES;
	struct op op;
	disk->hold = true;
	/* a bounced READ, on its own core */
	op_init(&op, BDEV_READ, 1, 1, 0, 0);
	op_submit(disk, &op, other);
	abort_on(disk, &op, other);
	assert_int_equal(op.ended, 1);
	assert_int_equal(op.status, -ETIMEDOUT);
	op_free(&op);
	/* an aligned write in free mode */
	op_init(&op, BDEV_WRITE, 0, ALIGN, 0, 0);
	op_submit(disk, &op, other);
	abort_on(disk, &op, other);
	assert_int_equal(op.status, -ETIMEDOUT);
	op_free(&op);
	/* one that runs on another core ends in its own time */
	op_init(&op, BDEV_WRITE, 1, 1, 0, 0);
	op_submit(disk, &op, other);
	fake_settle();
	abort_on(disk, &op, other);
	assert_int_equal(op.ended, 0);
	disk->hold = false;
	fake_settle();
	assert_int_equal(op.ended, 1);
	assert_int_equal(op.status, 0);
	op_free(&op);
	/* in serial mode an aligned write of the owner's is the driver's own */
	disk->hold = true;
	op_init(&op, BDEV_WRITE, 0, ALIGN, 0, 0);
	op_submit(disk, &op, owner);
	abort_on(disk, &op, owner);
	assert_int_equal(op.status, -ETIMEDOUT);
	op_free(&op);
	disk->hold = false;
	ops_stop(disk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_errors_reach_the_submitter),
		cmocka_unit_test(test_errors_of_aligned_writes_through_the_owner),
		cmocka_unit_test(test_durability_goes_down),
		cmocka_unit_test(test_more_requests_than_jobs),
		cmocka_unit_test(test_ends_do_not_nest),
		cmocka_unit_test(test_done_submits_again),
		cmocka_unit_test(test_a_bdev_that_shrinks_meanwhile),
		cmocka_unit_test(test_a_bdev_that_grows_meanwhile),
		cmocka_unit_test(test_aborts_reach_the_driver),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
