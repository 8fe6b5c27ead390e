/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mode: when writes run free and when through the owner core: entering, leaving, channels that open
 * and close meanwhile, closing under load, a layer above.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/align_internal.h"
#include "test/unit/align/ops.h"
#include "test/unit/fake/reactor.h"

enum { ALIGN = 512, SIZE = 64 * ALIGN };

static unsigned owner_of(const struct disk *disk)
{
	return disk->bdev.align->owner;
}

/* Another core than the owner: 1 or 2. */
static unsigned other(const struct disk *disk, unsigned which)
{
	return (owner_of(disk) + which) % OPS_CORES;
}

static bool serial_on(struct disk *disk, unsigned core)
{
	return align_on(disk, core)->serial;
}

static void set_true(void *arg, int error)
{
	assert_int_equal(error, 0);
	*(bool *)arg = true;
}

/* ---- Entering and leaving ---- */

static void test_aligned_writes_run_on_their_core(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	for (unsigned core = 0; core < OPS_CORES; core++) {
		assert_int_equal(ops_do(disk, core, BDEV_WRITE, 0, ALIGN, 1), 0);
		assert_int_equal(ops_do(disk, core, BDEV_TRIM, 0, ALIGN, 1), 0);
		assert_int_equal(ops_do(disk, core, BDEV_TRIM, 1, 3 * ALIGN, 1), 0);
		assert_int_equal(ops_do(disk, core, BDEV_WRITE_ZEROES, 0, SIZE, 1), 0);
		assert_int_equal(atomic_load(&disk->taken[core]), 4);
	}
	assert_false(atomic_load(&disk->bdev.align->serial));
	ops_stop(disk);
}

static void test_a_misaligned_read_changes_nothing(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	assert_int_equal(ops_do(disk, other(disk, 1), BDEV_READ, 1, 1, 0), 0);
	assert_false(atomic_load(&disk->bdev.align->serial));
	ops_stop(disk);
}

static void test_a_misaligned_write_brings_all_writes_to_the_owner(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	unsigned owner = owner_of(disk), core = other(disk, 1);
	assert_int_equal(ops_do(disk, core, BDEV_WRITE, 1, 1, 1), 0);
	assert_int_equal(atomic_load(&disk->taken[owner]), 1);
	for (unsigned i = 0; i < OPS_CORES; i++) {
		assert_true(serial_on(disk, i));
		assert_int_equal(ops_do(disk, i, BDEV_WRITE, 0, ALIGN, 1), 0);
	}
	assert_int_equal(atomic_load(&disk->taken[owner]), 1 + OPS_CORES);
	assert_int_equal(atomic_load(&disk->taken[core]), 0);
	/* a second without a misaligned write, not less */
	fake_advance_us(ALIGN_LEAVE_AFTER_US - 1);
	assert_int_equal(ops_do(disk, core, BDEV_WRITE, 0, ALIGN, 1), 0);
	assert_int_equal(atomic_load(&disk->taken[core]), 0);
	fake_advance_us(2);
	for (unsigned i = 0; i < OPS_CORES; i++)
		assert_false(serial_on(disk, i));
	assert_int_equal(ops_do(disk, core, BDEV_WRITE, 0, ALIGN, 1), 0);
	assert_int_equal(atomic_load(&disk->taken[core]), 1);
	ops_stop(disk);
}

static void test_every_misaligned_write_keeps_it(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	unsigned core = other(disk, 2);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(ops_do(disk, core, BDEV_WRITE_ZEROES, 5, 6, 0), 0);
		fake_advance_us(ALIGN_LEAVE_AFTER_US * 9 / 10);
		assert_true(serial_on(disk, core));
	}
	/* asked once a period: it may last for two */
	fake_advance_us(2 * ALIGN_LEAVE_AFTER_US);
	assert_false(serial_on(disk, core));
	ops_stop(disk);
}

/* Aligned writes that never pause, and are on their way to the owner when it ends, must neither
 * keep it nor begin it again. */
static void write_all_the_time(unsigned owner, unsigned core)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	struct op ops[8];
	unsigned passes = 0, begins = 1;
	bool serial = true;
	disk->bdev.align->owner = owner;
	disk->bdev.align->leave_after_us = 100;
	assert_int_equal(ops_do(disk, core, BDEV_WRITE, 1, 1, 1), 0);
	for (unsigned i = 0; i < COUNT_OF(ops); i++) {
		op_init(&ops[i], BDEV_WRITE, i * ALIGN, ALIGN, i, 0);
		op_submit(disk, &ops[i], core);
	}
	while (atomic_load(&disk->taken[core]) < 100) {
		assert_true(++passes < 10000);
		fake_pass();
		/* time passes meanwhile */
		if (passes % 5 == 0)
			fake_tick_us(10);
		for (unsigned i = 0; i < COUNT_OF(ops); i++) {
			if (!ops[i].ended)
				continue;
			op_free(&ops[i]);
			op_init(&ops[i], BDEV_WRITE, i * ALIGN, ALIGN, i, 0);
			op_submit(disk, &ops[i], core);
		}
		bool now = atomic_load(&disk->bdev.align->serial);
		begins += now && !serial;
		serial = now;
	}
	assert_false(serial);
	assert_int_equal(begins, 1);
	fake_settle();
	for (unsigned i = 0; i < COUNT_OF(ops); i++) {
		assert_int_equal(ops[i].ended, 1);
		op_free(&ops[i]);
	}
	ops_stop(disk);
}

static void test_it_ends_under_load(void **state)
{
	for (unsigned owner = 0; owner < OPS_CORES; owner++) {
		for (unsigned core = 0; core < OPS_CORES; core++)
			write_all_the_time(owner, core);
	}
}

/* ---- Those in flight when it begins ---- */

static void test_it_waits_for_the_writes_in_flight(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	unsigned first = other(disk, 1), second = other(disk, 2);
	struct op free_write, rmw, late;
	disk->hold = true;
	op_init(&free_write, BDEV_WRITE, 0, ALIGN, 0xaa, 0);
	op_submit(disk, &free_write, first);
	op_init(&rmw, BDEV_WRITE, 5, 1, 0xbb, 0);
	op_submit(disk, &rmw, second);
	fake_settle();
	assert_int_equal(atomic_load(&disk->reads), 0); /* not begun: block 0 is being written */
	/* nor may others begin writes of their own now */
	op_init(&late, BDEV_WRITE, 10 * ALIGN, ALIGN, 0xcc, 0);
	op_submit(disk, &late, first);
	fake_settle();
	assert_int_equal(atomic_load(&disk->taken[first]), 1);
	disk->hold = false;
	fake_settle();
	assert_int_equal(free_write.ended + rmw.ended + late.ended, 3);
	for (unsigned at = 0; at < ALIGN; at++)
		assert_int_equal(disk->data[at], at == 5 ? 0xbb : 0xaa);
	op_free(&free_write);
	op_free(&rmw);
	op_free(&late);
	ops_stop(disk);
}

static void test_what_overlaps_keeps_its_order_at_the_owner(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	unsigned core = other(disk, 1);
	struct op ops[6];
	assert_int_equal(ops_do(disk, core, BDEV_WRITE, 1, 1, 0), 0);
	disk->timing = DISK_LATER;
	for (unsigned i = 0; i < COUNT_OF(ops); i++) {
		/* 0, 2, 4: the whole of block 3 and 4; 1, 3, 5: a byte of block 4 */
		op_init(&ops[i], BDEV_WRITE, i & 1 ? 4 * ALIGN + 1 : 3 * ALIGN,
			i & 1 ? 1 : 2 * ALIGN, 0x10 + i, 0);
		op_submit(disk, &ops[i], core);
	}
	fake_settle();
	for (unsigned i = 0; i < COUNT_OF(ops); i++) {
		assert_int_equal(ops[i].ended, 1);
		if (i)
			assert_true(ops[i].order > ops[i - 1].order);
		op_free(&ops[i]);
	}
	assert_int_equal(disk->data[4 * ALIGN], 0x14);
	assert_int_equal(disk->data[4 * ALIGN + 1], 0x15);
	ops_stop(disk);
}

/* A wide one is not overtaken for ever by narrow ones that touch what it waits to write. */
static void test_nobody_is_overtaken_at_the_owner(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	static const uint64_t begin[] = {3, 3, 4}, blocks[] = {1, 2, 1};
	unsigned core = other(disk, 1);
	struct op ops[3], apart;
	assert_int_equal(ops_do(disk, core, BDEV_WRITE, 1, 1, 0), 0);
	disk->hold = true;
	for (unsigned i = 0; i < COUNT_OF(ops); i++) {
		op_init(&ops[i], BDEV_WRITE, begin[i] * ALIGN, blocks[i] * ALIGN, i, 0);
		op_submit(disk, &ops[i], core);
	}
	uint64_t taken = atomic_load(&disk->taken[owner_of(disk)]);
	op_init(&apart, BDEV_WRITE, 9 * ALIGN, ALIGN, 9, 0);
	op_submit(disk, &apart, core);
	fake_settle();
	/* the first, and the one that touches nothing of theirs */
	assert_int_equal(atomic_load(&disk->taken[owner_of(disk)]) - taken, 2);
	disk->hold = false;
	fake_settle();
	assert_true(ops[0].order < ops[1].order && ops[1].order < ops[2].order);
	assert_int_equal(disk->data[4 * ALIGN], 2);
	for (unsigned i = 0; i < COUNT_OF(ops); i++)
		op_free(&ops[i]);
	op_free(&apart);
	ops_stop(disk);
}

/* A write of whole blocks that was let run at the owner as serial mode ended, and the next mode. */
static void test_a_write_left_over_from_the_last_time(void **state)
{
	struct disk *disk = ops_start(ALIGN, SIZE);
	unsigned owner = owner_of(disk), core = other(disk, 1);
	struct op aligned, rmw;
	assert_int_equal(ops_do(disk, core, BDEV_WRITE, 1, 1, 0), 0);
	fake_advance_us(ALIGN_LEAVE_AFTER_US - 1);
	disk->hold = true;
	op_init(&aligned, BDEV_WRITE, 0, ALIGN, 0xaa, 0);
	op_submit(disk, &aligned, core);
	fake_settle(); /* it is with the driver, of the owner */
	assert_int_equal(atomic_load(&disk->taken[core]), 0);
	fake_advance_us(ALIGN_LEAVE_AFTER_US);
	assert_false(serial_on(disk, owner));
	op_init(&rmw, BDEV_WRITE, 2, 1, 0xbb, 0);
	op_submit(disk, &rmw, other(disk, 2));
	uint64_t reads = atomic_load(&disk->reads);
	fake_settle();
	assert_int_equal(atomic_load(&disk->reads), reads);
	disk->hold = false;
	fake_settle();
	assert_int_equal(aligned.ended + rmw.ended, 2);
	assert_int_equal(disk->data[1], 0xaa);
	assert_int_equal(disk->data[2], 0xbb);
	op_free(&aligned);
	op_free(&rmw);
	ops_stop(disk);
}

/* ---- Channels that open and close meanwhile ---- */

static void open_on(struct disk *disk, unsigned core)
{
	fake_become(core);
	assert_non_null(bdev_channel_get(&disk->bdev));
	fake_become(0);
}

static void close_on(struct disk *disk, unsigned core)
{
	fake_become(core);
	bdev_channel_put(bdev_channel_here(&disk->bdev));
	fake_become(0);
}

/* At each pass of the change in turn, a core that has no channel opens one, or one closes. */
static void change_at_pass(unsigned at, bool opens)
{
	bool removed = false;
	fake_start(OPS_CORES);
	struct disk *disk = disk_create("disk", ALIGN, SIZE);
	unsigned owner = owner_of(disk), core = other(disk, 1), guest = other(disk, 2);
	struct op rmw;
	open_on(disk, owner);
	open_on(disk, core);
	if (!opens)
		open_on(disk, guest);
	op_init(&rmw, BDEV_WRITE, 1, 1, 0x66, 0);
	op_submit(disk, &rmw, core);
	for (unsigned pass = 0; pass < at; pass++)
		fake_pass();
	if (opens)
		open_on(disk, guest);
	else
		close_on(disk, guest);
	fake_settle();
	assert_int_equal(rmw.ended, 1);
	assert_int_equal(align_on(disk, owner)->acks_left, 0);
	op_free(&rmw);
	if (!opens)
		open_on(disk, guest);
	assert_true(serial_on(disk, guest));
	assert_int_equal(ops_do(disk, guest, BDEV_WRITE, 0, ALIGN, 1), 0);
	assert_int_equal(atomic_load(&disk->taken[guest]), 0);
	fake_advance_us(2 * ALIGN_LEAVE_AFTER_US);
	assert_false(serial_on(disk, guest));
	assert_int_equal(ops_do(disk, guest, BDEV_WRITE, 0, ALIGN, 1), 0);
	assert_int_equal(atomic_load(&disk->taken[guest]), 1);
	for (unsigned i = 0; i < OPS_CORES; i++)
		close_on(disk, i);
	assert_int_equal(bdev_remove(&disk->bdev, false, set_true, &removed), 0);
	fake_settle();
	assert_true(removed);
	disk_free(disk);
	fake_stop();
}

static void test_channels_open_and_close_meanwhile(void **state)
{
	for (unsigned at = 0; at < 12; at++) {
		change_at_pass(at, true);
		change_at_pass(at, false);
	}
}

/* ---- Closing under load ---- */

struct closing {
	struct disk *disk;
	struct op *ops;
	unsigned count;
	bool done;
};

static void closed(void *arg, int error)
{
	struct closing *closing = arg;
	assert_int_equal(error, 0);
	for (unsigned i = 0; i < closing->count; i++)
		assert_int_equal(closing->ops[i].ended, 1);
	for (unsigned i = 0; i < OPS_CORES; i++)
		assert_null(atomic_load(&closing->disk->bdev.channels[i]));
	closing->done = true;
}

/* Requests of one core are at each step of their way through another when all is closed. */
static void close_at_pass(unsigned at, unsigned submitter)
{
	struct op ops[30];
	struct disk *disk = ops_start(ALIGN, SIZE);
	struct closing closing = {disk, ops, COUNT_OF(ops)};
	bool opened = false;
	disk->timing = DISK_LATER;
	for (unsigned i = 0; i < COUNT_OF(ops); i++) {
		op_init(&ops[i], BDEV_WRITE, i * 9, i % 3 ? 9 : ALIGN, i, 0);
		op_submit(disk, &ops[i], submitter);
	}
	for (unsigned pass = 0; pass < at; pass++)
		fake_pass();
	bdev_close_channels(&disk->bdev, closed, &closing);
	fake_settle();
	assert_true(closing.done);
	assert_int_equal(atomic_load(&disk->cancels), OPS_CORES);
	for (unsigned i = 0; i < COUNT_OF(ops); i++)
		op_free(&ops[i]);
	/* opened anew it begins in free mode, whatever it was */
	bdev_open_channels(&disk->bdev, set_true, &opened);
	fake_settle();
	assert_true(opened);
	uint64_t taken = atomic_load(&disk->taken[other(disk, 1)]);
	assert_int_equal(ops_do(disk, other(disk, 1), BDEV_WRITE, 0, ALIGN, 1), 0);
	assert_int_equal(atomic_load(&disk->taken[other(disk, 1)]), taken + 1);
	ops_stop(disk);
}

static void test_closing_waits_for_all_cores(void **state)
{
	for (unsigned at = 0; at < 20; at++) {
		for (unsigned submitter = 0; submitter < OPS_CORES; submitter++)
			close_at_pass(at, submitter);
	}
}

/* ---- A layer above: its channels hold the disk's ---- */

struct layer {
	struct bdev bdev;
	struct bdev_claim claim;
};

static int layer_open(struct bdev_channel *ch)
{
	ch->base = bdev_channel_get(ch->bdev->base);
	return ch->base ? 0 : -errno;
}

static void layer_close(struct bdev_channel *ch)
{
	bdev_channel_put(ch->base);
}

static void layer_done(struct bdev_io *io)
{
	bdev_io_pop(io);
	bdev_io_complete(io, io->status);
}

static void layer_submit(struct bdev_channel *ch, struct bdev_io **ios, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		bdev_io_push(ch, ios[i], layer_done);
}

static void layer_destroy(struct bdev *bdev)
{
	struct layer *layer = container_of(bdev, struct layer, bdev);
	bdev_release(&layer->claim);
	bdev_destroyed(bdev);
}

static const struct bdev_type layer_type = {
	.name = "layer",
	.channel_open = layer_open,
	.channel_close = layer_close,
	.submit = layer_submit,
	.destroy = layer_destroy,
};

static void layer_register(struct layer *layer, struct disk *disk)
{
	memset(layer, 0, sizeof(*layer));
	layer->claim.holder = "layer";
	layer->claim.write = true;
	assert_int_equal(bdev_claim(&disk->bdev, &layer->claim), 0);
	layer->bdev.type = &layer_type;
	strcpy(layer->bdev.name, "layer");
	layer->bdev.base = &disk->bdev;
	layer->bdev.size_bytes = SIZE;
	layer->bdev.block_size = 512;
	layer->bdev.align_bytes = ALIGN; /* the registry knows better */
	layer->bdev.mem_align_bytes = 1;
	layer->bdev.caps = disk->bdev.caps;
	layer->bdev.io_ctx_bytes = sizeof(struct bdev_io_frame);
	assert_int_equal(bdev_register(&layer->bdev), 0);
	assert_int_equal(layer->bdev.align_bytes, 1);
}

static void layer_close_at_pass(unsigned at, unsigned submitter)
{
	static struct layer layer; /* too large for the stack of a test under sanitizers */
	bool opened = false, is_closed = false, removed = false;
	struct op ops[20];
	fake_start(OPS_CORES);
	struct disk *disk = disk_create("disk", ALIGN, SIZE);
	layer_register(&layer, disk);
	bdev_open_channels(&layer.bdev, set_true, &opened);
	fake_settle();
	assert_true(opened);
	for (unsigned i = 0; i < COUNT_OF(ops); i++) {
		op_init(&ops[i], BDEV_WRITE, i * 9, i % 3 ? 9 : ALIGN, i, 0);
		fake_become(submitter);
		bdev_submit(bdev_channel_here(&layer.bdev), &ops[i].io);
		fake_become(0);
	}
	for (unsigned pass = 0; pass < at; pass++)
		fake_pass();
	bdev_close_channels(&layer.bdev, set_true, &is_closed);
	fake_settle();
	assert_true(is_closed);
	for (unsigned i = 0; i < COUNT_OF(ops); i++) {
		assert_int_equal(ops[i].ended, 1);
		assert_int_equal(ops[i].status, 0);
		op_free(&ops[i]);
	}
	for (unsigned i = 0; i < OPS_CORES; i++)
		assert_null(atomic_load(&disk->bdev.channels[i]));
	assert_int_equal(bdev_remove(&layer.bdev, false, NULL, NULL), 0);
	fake_settle();
	assert_int_equal(bdev_remove(&disk->bdev, false, set_true, &removed), 0);
	fake_settle();
	assert_true(removed);
	disk_free(disk);
	fake_stop();
}

static void test_a_layer_closes_over_its_base(void **state)
{
	for (unsigned at = 0; at < 20; at++) {
		for (unsigned submitter = 0; submitter < OPS_CORES; submitter++)
			layer_close_at_pass(at, submitter);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_aligned_writes_run_on_their_core),
		cmocka_unit_test(test_a_misaligned_read_changes_nothing),
		cmocka_unit_test(test_a_misaligned_write_brings_all_writes_to_the_owner),
		cmocka_unit_test(test_every_misaligned_write_keeps_it),
		cmocka_unit_test(test_it_ends_under_load),
		cmocka_unit_test(test_it_waits_for_the_writes_in_flight),
		cmocka_unit_test(test_what_overlaps_keeps_its_order_at_the_owner),
		cmocka_unit_test(test_nobody_is_overtaken_at_the_owner),
		cmocka_unit_test(test_a_write_left_over_from_the_last_time),
		cmocka_unit_test(test_channels_open_and_close_meanwhile),
		cmocka_unit_test(test_closing_waits_for_all_cores),
		cmocka_unit_test(test_a_layer_closes_over_its_base),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
