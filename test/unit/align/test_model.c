/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * model: reads, writes, zeroes and trims of any alignment, in flight together on three cores,
 * against a model that knows bytes only. Requests in flight share blocks but no bytes (readers may
 * share).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/align_internal.h"
#include "test/unit/align/ops.h"
#include "test/unit/fake/reactor.h"
#include "test/unit/reactor/support.h"

enum { SLOTS = 40, LEAVE_AFTER_US = 50 };

static struct model {
	struct disk *disk;
	uint8_t *bytes;
	uint64_t size, align;
	unsigned random;
	struct op slots[SLOTS];
	bool used[SLOTS];
	uint64_t done[BDEV_OPS], serial_begins;
} model;

static unsigned next_random(void)
{
	model.random = model.random * 1103515245 + 12345;
	return model.random >> 8;
}

static bool changes(const struct op *op)
{
	return op->io.op == BDEV_WRITE || op->io.op == BDEV_WRITE_ZEROES || op->io.op == BDEV_TRIM;
}

static bool conflicts(enum bdev_op kind, uint64_t offset, uint64_t length)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		const struct op *other = &model.slots[i];
		if (!model.used[i] || (!changes(other) && kind == BDEV_READ))
			continue;
		if (offset < other->offset + other->length && other->offset < offset + length)
			return true;
	}
	return false;
}

static enum bdev_op random_kind(void)
{
	static const enum bdev_op kinds[] = {
		BDEV_READ,	   BDEV_READ,	      BDEV_READ,  BDEV_WRITE,
		BDEV_WRITE,	   BDEV_WRITE,	      BDEV_WRITE, BDEV_WRITE,
		BDEV_WRITE_ZEROES, BDEV_WRITE_ZEROES, BDEV_TRIM,  BDEV_CACHE,
	};
	return kinds[next_random() % COUNT_OF(kinds)];
}

/* Most within a few blocks, so that requests share them; some over several bounce buffers. */
static void random_range(uint64_t *offset, uint64_t *length)
{
	unsigned kind = next_random() % 16;
	uint64_t hot = 6 * model.align;
	if (kind < 10) {
		*offset = next_random() % hot;
		*length = 1 + next_random() % (model.align / 2);
	} else if (kind < 13) {
		*offset = model.size - hot + next_random() % hot;
		*length = 1 + next_random() % (3 * model.align);
	} else if (kind < 15) {
		*offset = next_random() % model.size;
		*length = 1 + next_random() % (5 * model.align);
	} else {
		*offset = next_random() % model.size;
		*length = 1 + next_random() % (3 * ALIGN_JOB_BYTES);
	}
	if (next_random() % 4 == 0) {
		*offset &= ~(model.align - 1);
		*length = (*length + model.align - 1) & ~(model.align - 1);
	}
	if (*offset + *length > model.size || next_random() % 24 == 0)
		*length = model.size - *offset;
}

static void start_one(unsigned slot)
{
	struct op *op = &model.slots[slot];
	enum bdev_op kind = random_kind();
	uint64_t offset, length;
	random_range(&offset, &length);
	if (conflicts(kind, offset, length))
		return;
	op_init(op, kind, offset, length, 0, next_random());
	for (uint64_t i = 0; kind == BDEV_WRITE && i < length; i++)
		op->memory[i] = next_random();
	model.used[slot] = true;
	op_submit(model.disk, op, next_random() % OPS_CORES);
}

static void end_one(unsigned slot)
{
	struct op *op = &model.slots[slot];
	uint64_t mask = model.align - 1, begin = op->offset, end = op->offset + op->length;
	assert_int_equal(op->status, 0);
	switch (op->io.op) {
	case BDEV_READ:
		assert_memory_equal(op->memory, model.bytes + begin, op->length);
		break;
	case BDEV_WRITE:
		memcpy(model.bytes + begin, op->memory, op->length);
		break;
	case BDEV_TRIM:
		begin = (begin + mask) & ~mask;
		end = end == model.size ? end : end & ~mask;
		/* fall through */
	case BDEV_WRITE_ZEROES:
		if (end > begin)
			memset(model.bytes + begin, 0, end - begin);
		break;
	default:
		break;
	}
	model.done[op->io.op]++;
	op_free(op);
	model.used[slot] = false;
}

static void reap(void)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		if (model.used[i] && model.slots[i].ended)
			end_one(i);
	}
}

static void run_model(uint32_t align, uint64_t size, enum disk_timing timing, unsigned steps)
{
	bool serial = false;
	memset(&model, 0, sizeof(model));
	model.align = align;
	model.size = size;
	model.random = align + timing + size;
	model.disk = ops_start(align, size);
	model.disk->timing = timing;
	model.disk->bdev.align->leave_after_us = LEAVE_AFTER_US;
	model.bytes = calloc(1, size);
	assert_non_null(model.bytes);
	for (unsigned step = 0; step < steps; step++) {
		unsigned slot = next_random() % SLOTS;
		if (!model.used[slot])
			start_one(slot);
		if (next_random() % 3 == 0)
			fake_pass();
		if (next_random() % 400 == 0)
			fake_advance_us(next_random() % (3 * LEAVE_AFTER_US));
		reap();
		bool now = atomic_load(&model.disk->bdev.align->serial);
		model.serial_begins += now && !serial;
		serial = now;
	}
	fake_settle();
	reap();
	for (unsigned i = 0; i < SLOTS; i++)
		assert_false(model.used[i]);
	assert_memory_equal(model.disk->data, model.bytes, size);
	assert_true(model.done[BDEV_READ] > steps / 50);
	assert_true(model.done[BDEV_WRITE] > steps / 50);
	assert_true(model.done[BDEV_WRITE_ZEROES] > steps / 100);
	assert_true(model.done[BDEV_TRIM] > steps / 200);
	assert_true(model.serial_begins > steps / 2000);
	free(model.bytes);
	ops_stop(model.disk);
}

static void test_model_512(void **state)
{
	run_model(512, 1 << 20, DISK_LATER, 12000 * support_effort());
	run_model(512, (1 << 20) + 300, DISK_MIXED, 12000 * support_effort());
}

static void test_model_4096(void **state)
{
	run_model(4096, (1 << 20) + 4096 + 77, DISK_LATER, 8000 * support_effort());
	run_model(4096, 1 << 20, DISK_AT_ONCE, 8000 * support_effort());
	run_model(4096, 6 * 4096 + 1, DISK_MIXED, 8000 * support_effort());
}

/* ---- Every edge, one request at a time ---- */

static uint8_t pattern(uint64_t at)
{
	return at * 131 + (at >> 9) * 7 + 1;
}

/* What the disk must hold after `kind` wrote 0xf1 (or zeros) to [offset, offset + length). */
static void check_disk(enum bdev_op kind, uint64_t offset, uint64_t length)
{
	uint64_t mask = model.align - 1, begin = offset, end = offset + length;
	uint64_t from = (offset & ~mask) > model.align ? (offset & ~mask) - model.align : 0;
	uint64_t to = MIN_OF(((end + mask) & ~mask) + model.align, model.size);
	if (kind == BDEV_TRIM) {
		begin = (begin + mask) & ~mask;
		end = end == model.size ? end : end & ~mask;
	}
	for (uint64_t at = from; at < to; at++) {
		uint8_t expected = pattern(at);
		if (at >= begin && at < end)
			expected = kind == BDEV_WRITE ? 0xf1 : 0;
		if (model.disk->data[at] != expected)
			fail_msg("op %d at %lu+%lu: byte %lu is %#x, not %#x", kind,
				 (unsigned long)offset, (unsigned long)length, (unsigned long)at,
				 model.disk->data[at], expected);
	}
	for (uint64_t at = from; at < to; at++)
		model.disk->data[at] = pattern(at);
}

static void try_range(uint64_t offset, uint64_t length, unsigned core)
{
	static const enum bdev_op kinds[] = {BDEV_WRITE, BDEV_WRITE_ZEROES, BDEV_TRIM};
	struct op op;
	if (offset >= model.size || length > model.size - offset)
		return;
	op_init(&op, BDEV_READ, offset, length, 0, offset);
	assert_int_equal(op_run(model.disk, &op, core), 0);
	for (uint64_t i = 0; i < length; i++)
		assert_int_equal(op.memory[i], pattern(offset + i));
	op_free(&op);
	for (unsigned i = 0; i < COUNT_OF(kinds); i++) {
		assert_int_equal(ops_do(model.disk, core, kinds[i], offset, length, 0xf1), 0);
		check_disk(kinds[i], offset, length);
	}
	assert_int_equal(ops_do(model.disk, core, BDEV_CACHE, offset, length, 0), 0);
}

static void try_edges(uint64_t align, uint64_t size)
{
	const uint64_t offsets[] = {0,
				    1,
				    align - 1,
				    align,
				    align + 1,
				    2 * align - 1,
				    size - 1,
				    size - align,
				    size - align - 1,
				    (size & ~(align - 1)) - 1,
				    size & ~(align - 1),
				    (size & ~(align - 1)) + 1};
	const uint64_t lengths[] = {1,
				    2,
				    align - 2,
				    align - 1,
				    align,
				    align + 1,
				    2 * align - 2,
				    2 * align,
				    2 * align + 1,
				    3 * align - 1,
				    ALIGN_JOB_BYTES - align + 1,
				    ALIGN_JOB_BYTES - 1,
				    ALIGN_JOB_BYTES,
				    ALIGN_JOB_BYTES + 1,
				    ALIGN_JOB_BYTES + align,
				    2 * ALIGN_JOB_BYTES + align + 1};
	unsigned core = 0;
	memset(&model, 0, sizeof(model));
	model.align = align;
	model.size = size;
	model.disk = ops_start(align, size);
	model.disk->timing = DISK_AT_ONCE;
	for (uint64_t at = 0; at < size; at++)
		model.disk->data[at] = pattern(at);
	for (unsigned i = 0; i < COUNT_OF(offsets); i++) {
		for (unsigned k = 0; k < COUNT_OF(lengths); k++)
			try_range(offsets[i], lengths[k], core++ % OPS_CORES);
		/* to the very end */
		try_range(offsets[i], size - offsets[i], core++ % OPS_CORES);
	}
	for (uint64_t at = 0; at < size; at++)
		assert_int_equal(model.disk->data[at], pattern(at));
	fake_advance_us(2 * ALIGN_LEAVE_AFTER_US);
	ops_stop(model.disk);
}

static void test_edges_512(void **state)
{
	try_edges(512, 3 * ALIGN_JOB_BYTES);
	try_edges(512, 3 * ALIGN_JOB_BYTES + 511);
}

static void test_edges_4096(void **state)
{
	try_edges(4096, 3 * ALIGN_JOB_BYTES);
	try_edges(4096, 3 * ALIGN_JOB_BYTES + 1);
}

static void test_edges_of_the_largest_block(void **state)
{
	try_edges(BDEV_MAX_ALIGN_BYTES, 4 * ALIGN_JOB_BYTES + 5);
}

/* A bdev smaller than a block is all tail. */
static void test_a_bdev_of_one_byte(void **state)
{
	struct disk *disk = ops_start(4096, 1);
	assert_int_equal(ops_do(disk, 1, BDEV_WRITE, 0, 1, 0x77), 0);
	assert_int_equal(disk->data[0], 0x77);
	assert_int_equal(ops_do(disk, 2, BDEV_TRIM, 0, 1, 0), 0);
	assert_int_equal(disk->data[0], 0);
	ops_stop(disk);
}

static void test_nothing_to_do(void **state)
{
	struct disk *disk = ops_start(4096, 3 * 4096);
	memset(disk->data, 0x55, 3 * 4096);
	assert_int_equal(ops_do(disk, 1, BDEV_TRIM, 1, 4095, 0), 0); /* no whole block */
	assert_int_equal(ops_do(disk, 1, BDEV_TRIM, 4000, 4096, 0), 0);
	assert_int_equal(ops_do(disk, 1, BDEV_FLUSH, 0, 0, 0), 0);
	assert_int_equal(atomic_load(&disk->taken[1]), 0);
	for (unsigned i = 0; i < 3 * 4096; i++)
		assert_int_equal(disk->data[i], 0x55);
	ops_stop(disk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model_512),
		cmocka_unit_test(test_model_4096),
		cmocka_unit_test(test_edges_512),
		cmocka_unit_test(test_edges_4096),
		cmocka_unit_test(test_edges_of_the_largest_block),
		cmocka_unit_test(test_a_bdev_of_one_byte),
		cmocka_unit_test(test_nothing_to_do),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
