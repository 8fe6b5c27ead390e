/* SPDX-License-Identifier: BSD-3-Clause */
/* channel: opening and closing on all cores, holders that come and go, errors of one core,
 * counters. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test/unit/align/ops.h"
#include "test/unit/fake/reactor.h"

enum { ALIGN = 512, SIZE = 64 * ALIGN };

struct outcome {
	unsigned done;
	int error;
};

static void on_outcome(void *arg, int error)
{
	struct outcome *outcome = arg;
	outcome->done++;
	outcome->error = error;
}

static int start(void **state)
{
	fake_start(OPS_CORES);
	*state = disk_create("disk", ALIGN, SIZE);
	return 0;
}

static int stop(void **state)
{
	struct disk *disk = *state;
	for (unsigned i = 0; i < OPS_CORES; i++)
		assert_null(atomic_load(&disk->bdev.channels[i]));
	assert_int_equal(bdev_remove(&disk->bdev, false, NULL, NULL), 0);
	fake_settle();
	disk_free(disk);
	fake_stop();
	return 0;
}

static void expect_open(struct disk *disk, int error)
{
	struct outcome outcome = {0};
	bdev_open_channels(&disk->bdev, on_outcome, &outcome);
	assert_int_equal(outcome.done, 0); /* later */
	fake_settle();
	assert_int_equal(outcome.done, 1);
	assert_int_equal(outcome.error, error);
}

static void expect_close(struct disk *disk)
{
	struct outcome outcome = {0};
	bdev_close_channels(&disk->bdev, on_outcome, &outcome);
	assert_int_equal(outcome.done, 0);
	fake_settle();
	assert_int_equal(outcome.done, 1);
	assert_int_equal(outcome.error, 0);
}

static struct bdev_channel *channel_on(struct disk *disk, unsigned core)
{
	return atomic_load(&disk->bdev.channels[core]);
}

static void test_rounds(void **state)
{
	struct disk *disk = *state;
	for (int round = 0; round < 5; round++) {
		expect_open(disk, 0);
		for (unsigned i = 0; i < OPS_CORES; i++) {
			assert_non_null(channel_on(disk, i));
			assert_ptr_equal(channel_on(disk, i)->reactor, reactors[i]);
			assert_int_equal(ops_do(disk, i, BDEV_WRITE, 3, 3, 1), 0);
		}
		expect_close(disk);
		for (unsigned i = 0; i < OPS_CORES; i++)
			assert_null(channel_on(disk, i));
	}
}

static void test_only_storage_cores(void **state)
{
	struct disk *disk = *state;
	reactors[1]->roles = REACTOR_NET;
	expect_open(disk, 0);
	assert_non_null(channel_on(disk, 0));
	assert_null(channel_on(disk, 1));
	assert_non_null(channel_on(disk, 2));
	expect_close(disk);
}

static void test_holders_are_counted(void **state)
{
	struct disk *disk = *state;
	expect_open(disk, 0);
	struct bdev_channel *ch = channel_on(disk, 1);
	expect_open(disk, 0);
	assert_ptr_equal(channel_on(disk, 1), ch);
	expect_close(disk);
	assert_ptr_equal(channel_on(disk, 1), ch);
	assert_int_equal(atomic_load(&disk->cancels), 0); /* another holder's requests go on */
	expect_close(disk);
	assert_int_equal(atomic_load(&disk->cancels), OPS_CORES);
}

static void test_an_error_of_one_core_undoes_the_others(void **state)
{
	struct disk *disk = *state;
	for (int core = 0; core < OPS_CORES; core++) {
		disk->open_fails_on = core;
		expect_open(disk, -EMFILE);
		for (unsigned i = 0; i < OPS_CORES; i++)
			assert_null(channel_on(disk, i));
	}
	disk->open_fails_on = -1;
	expect_open(disk, 0);
	/* with a holder there nothing opens, and so nothing fails */
	disk->open_fails_on = 1;
	expect_open(disk, 0);
	expect_close(disk);
	expect_close(disk);
}

/* ---- Requests in flight ---- */

static void test_closing_waits(void **state)
{
	struct disk *disk = *state;
	struct outcome outcome = {0};
	struct op op;
	expect_open(disk, 0);
	disk->hold = true;
	op_init(&op, BDEV_READ, 0, ALIGN, 0, 0);
	op_submit(disk, &op, 1);
	bdev_close_channels(&disk->bdev, on_outcome, &outcome);
	fake_settle();
	assert_int_equal(outcome.done, 0);
	for (unsigned i = 0; i < OPS_CORES; i++)
		assert_non_null(channel_on(disk, i)); /* all or none */
	disk->hold = false;
	fake_settle();
	assert_int_equal(op.ended, 1);
	assert_int_equal(outcome.done, 1);
	op_free(&op);
}

/* Whoever opens while the last holder's closing waits has the channels, and they stay. */
static void test_opened_anew_while_closing(void **state)
{
	struct disk *disk = *state;
	struct outcome closing = {0};
	struct op op;
	expect_open(disk, 0);
	struct bdev_channel *ch = channel_on(disk, 2);
	disk->hold = true;
	op_init(&op, BDEV_READ, 0, ALIGN, 0, 0);
	op_submit(disk, &op, 1);
	bdev_close_channels(&disk->bdev, on_outcome, &closing);
	fake_settle();
	expect_open(disk, 0);
	assert_int_equal(closing.done, 0);
	disk->hold = false;
	fake_settle();
	assert_int_equal(closing.done, 1);
	assert_ptr_equal(channel_on(disk, 2), ch);
	op_free(&op);
	assert_int_equal(ops_do(disk, 2, BDEV_READ, 5, 5, 0), 0);
	expect_close(disk);
}

/* The same, and that one closes too before the first is through: both wait, the last one closes. */
static void test_closed_again_while_closing(void **state)
{
	struct disk *disk = *state;
	struct outcome first = {0}, second = {0};
	struct op op;
	expect_open(disk, 0);
	disk->hold = true;
	op_init(&op, BDEV_READ, 0, ALIGN, 0, 0);
	op_submit(disk, &op, 1);
	bdev_close_channels(&disk->bdev, on_outcome, &first);
	fake_settle();
	expect_open(disk, 0);
	bdev_close_channels(&disk->bdev, on_outcome, &second);
	fake_settle();
	assert_int_equal(first.done + second.done, 0);
	disk->hold = false;
	fake_settle();
	assert_int_equal(first.done, 1);
	assert_int_equal(second.done, 1);
	op_free(&op);
}

/* An opening that fails on one core gives back what it took while a closing waits. */
static void test_an_opening_that_fails_while_closing(void **state)
{
	struct disk *disk = *state;
	struct outcome closing = {0};
	struct op op;
	fake_become(1);
	assert_non_null(bdev_channel_get(&disk->bdev));
	fake_become(2);
	assert_non_null(bdev_channel_get(&disk->bdev));
	disk->hold = true;
	op_init(&op, BDEV_READ, 0, ALIGN, 0, 0);
	op_submit(disk, &op, 1);
	bdev_close_channels(&disk->bdev, on_outcome, &closing);
	fake_settle();
	disk->open_fails_on = 0;
	expect_open(disk, -EMFILE);
	assert_non_null(channel_on(disk, 1));
	assert_int_equal(closing.done, 0);
	disk->hold = false;
	fake_settle();
	assert_int_equal(closing.done, 1);
	assert_int_equal(op.ended, 1);
	op_free(&op);
}

static void close_in_done(struct bdev_io *io)
{
	container_of(io, struct op, io)->ended++;
}

/* Two rounds sent at once, before any core has seen either. */
static void test_two_holders_close_at_once(void **state)
{
	struct disk *disk = *state;
	struct outcome first = {0}, second = {0};
	struct op op;
	expect_open(disk, 0);
	expect_open(disk, 0);
	disk->hold = true;
	op_init(&op, BDEV_READ, 0, ALIGN, 0, 0);
	op.io.done = close_in_done;
	op_submit(disk, &op, 2);
	bdev_close_channels(&disk->bdev, on_outcome, &first);
	bdev_close_channels(&disk->bdev, on_outcome, &second);
	fake_settle();
	/* the first has a successor, and so nothing to wait for */
	assert_int_equal(first.done, 1);
	assert_int_equal(second.done, 0);
	assert_non_null(channel_on(disk, 2));
	disk->hold = false;
	fake_settle();
	assert_int_equal(second.done, 1);
	assert_int_equal(op.ended, 1);
	op_free(&op);
}

/* ---- Counters ---- */

static void test_counters_outlive_channels(void **state)
{
	struct disk *disk = *state;
	struct bdev_stats stats;
	for (unsigned round = 1; round <= 2; round++) {
		expect_open(disk, 0);
		for (unsigned i = 0; i < OPS_CORES; i++)
			assert_int_equal(ops_do(disk, i, BDEV_WRITE, 0, 2 * ALIGN, 1), 0);
		assert_int_equal(ops_do(disk, 1, BDEV_FLUSH, 0, 0, 0), 0);
		bdev_get_stats(&disk->bdev, &stats);
		assert_int_equal(stats.op[BDEV_WRITE].ops, round * OPS_CORES);
		assert_int_equal(stats.op[BDEV_WRITE].bytes, round * OPS_CORES * 2 * ALIGN);
		expect_close(disk);
		bdev_get_stats(&disk->bdev, &stats);
		assert_int_equal(stats.op[BDEV_WRITE].ops, round * OPS_CORES);
		assert_int_equal(stats.op[BDEV_FLUSH].ops, round);
		assert_int_equal(stats.op[BDEV_READ].ops, 0);
	}
	expect_open(disk, 0);
	assert_int_equal(ops_do(disk, 2, BDEV_READ, 0, ALIGN, 0), 0);
	bdev_reset_stats(&disk->bdev);
	fake_settle();
	bdev_get_stats(&disk->bdev, &stats);
	for (unsigned op = 0; op < BDEV_OPS; op++) {
		assert_int_equal(stats.op[op].ops, 0);
		assert_int_equal(stats.op[op].bytes, 0);
	}
	expect_close(disk);
}

static int fail_all(struct disk *disk, struct bdev_io *io)
{
	return -EIO;
}

static void test_errors_and_latency_are_counted(void **state)
{
	struct disk *disk = *state;
	struct bdev_stats stats;
	struct op op;
	expect_open(disk, 0);
	disk->on_submit = fail_all;
	assert_int_equal(ops_do(disk, 0, BDEV_READ, 0, ALIGN, 0), -EIO);
	disk->on_submit = NULL;
	disk->hold = true;
	op_init(&op, BDEV_READ, 0, ALIGN, 0, 0);
	op_submit(disk, &op, 1);
	fake_advance_us(7);
	disk->hold = false;
	fake_settle();
	bdev_get_stats(&disk->bdev, &stats);
	assert_int_equal(stats.op[BDEV_READ].ops, 2);
	assert_int_equal(stats.op[BDEV_READ].errors, 1);
	assert_int_equal(stats.op[BDEV_READ].latency_ticks, 7000);
	assert_int_equal(stats.op[BDEV_READ].latency_max_ticks, 7000);
	op_free(&op);
	expect_close(disk);
}

#define test(name) cmocka_unit_test_setup_teardown(name, start, stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(test_rounds),
		test(test_only_storage_cores),
		test(test_holders_are_counted),
		test(test_an_error_of_one_core_undoes_the_others),
		test(test_closing_waits),
		test(test_opened_anew_while_closing),
		test(test_closed_again_while_closing),
		test(test_an_opening_that_fails_while_closing),
		test(test_two_holders_close_at_once),
		test(test_counters_outlive_channels),
		test(test_errors_and_latency_are_counted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
