/* SPDX-License-Identifier: BSD-3-Clause */
/* error: failures by operation and count, corruption, requests that hang and all ways out of that.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/delay/delay.h"
#include "bdev/error/error.h"
#include "bdev/support.h"
#include "fake/reactor.h"

struct stack {
	struct bdev *base, *error;
};

static int start(void **state)
{
	static struct stack stack;
	char why[256];
	fake_start(2);
	stack.base = make_malloc("base", 1 << 20);
	assert_int_equal(bdev_error_create("base", NULL, &stack.error, why, sizeof(why)), 0);
	assert_string_equal(stack.error->name, "EE_base");
	open_channels(stack.error);
	*state = &stack;
	return 0;
}

static int stop(void **state)
{
	struct stack *stack = *state;
	assert_int_equal(bdev_channel_here(stack->error)->inflight, 0);
	assert_int_equal(bdev_channel_here(stack->base)->inflight, 0);
	close_channels(stack->error);
	remove_bdev(stack->error);
	remove_bdev(stack->base);
	fake_stop();
	return 0;
}

static void inject(struct bdev *bdev, enum bdev_op op, enum bdev_error_kind kind, uint32_t count)
{
	const struct bdev_error_rule rule = {
		.kind = kind, .count = count, .corrupt_offset = 1000, .corrupt_value = 0x10};
	bdev_error_set_rule(bdev, op, &rule);
}

static void note_resumed(void *arg)
{
	*(bool *)arg = true;
}

static void resume(struct bdev *bdev)
{
	bool done = false;
	bdev_error_resume(bdev, note_resumed, &done);
	fake_settle();
	assert_true(done);
}

static void test_failures(void **state)
{
	struct stack *stack = *state;
	struct bdev *bdev = stack->error;
	uint8_t memory[4096] = {7};
	void *const payload[BDEV_OPS] = {[BDEV_READ] = memory, [BDEV_WRITE] = memory};
	assert_int_equal(bdev->caps & BDEV_CAP_SYNC, 0);
	for (enum bdev_op op = BDEV_READ; op <= BDEV_WRITE_ZEROES; op++) {
		inject(bdev, op, BDEV_ERROR_FAILURE, 2);
		for (enum bdev_op other = BDEV_READ; other <= BDEV_WRITE_ZEROES; other++) {
			if (other != op)
				assert_int_equal(do_io(bdev, other, 0, 4096, payload[other], 0), 0);
		}
		assert_int_equal(do_io(bdev, op, 0, 4096, payload[op], 0), -EIO);
		assert_int_equal(do_io(bdev, op, 0, 4096, payload[op], 0), -EIO);
		assert_int_equal(do_io(bdev, op, 0, 4096, payload[op], 0), 0);
		inject(bdev, op, BDEV_ERROR_NOMEM, 1);
		assert_int_equal(do_io(bdev, op, 0, 4096, payload[op], 0), -ENOMEM);
		assert_int_equal(do_io(bdev, op, 0, 4096, payload[op], 0), 0);
		inject(bdev, op, BDEV_ERROR_FAILURE, 5);
		inject(bdev, op, BDEV_ERROR_FAILURE, 0);
		assert_int_equal(do_io(bdev, op, 0, 4096, payload[op], 0), 0);
	}
	struct bdev_stats stats;
	bdev_get_stats(bdev, &stats);
	assert_int_equal(stats.op[BDEV_WRITE].errors, 3);
	bdev_get_stats(stack->base, &stats);
	assert_int_equal(stats.op[BDEV_WRITE].errors, 0);
}

/* A failed WRITE has not happened; the count is one for all cores. */
static void test_failed_write(void **state)
{
	struct stack *stack = *state;
	static const uint8_t zeros[4096];
	uint8_t memory[4096];
	memset(memory, 0x66, sizeof(memory));
	inject(stack->error, BDEV_WRITE, BDEV_ERROR_FAILURE, 2);
	assert_int_equal(do_io(stack->error, BDEV_WRITE, 0, 4096, memory, 0), -EIO);
	fake_become(1);
	assert_int_equal(do_io(stack->error, BDEV_WRITE, 0, 4096, memory, 0), -EIO);
	check_lent(stack->error, 0, 4096, zeros);
	assert_int_equal(do_io(stack->error, BDEV_WRITE, 0, 4096, memory, 0), 0);
	check_lent(stack->error, 0, 4096, memory);
	fake_become(0);
}

static void test_corrupt_write(void **state)
{
	struct stack *stack = *state;
	uint8_t memory[4096], same[4096], expected[4096];
	struct request request;
	for (unsigned i = 0; i < sizeof(memory); i++)
		memory[i] = same[i] = expected[i] = (uint8_t)(i * 31);
	expected[1000] ^= 0x10;
	inject(stack->error, BDEV_WRITE, BDEV_ERROR_CORRUPT, 1);
	request_init(&request, BDEV_WRITE, 512, 4096, memory);
	request.iov[0].iov_len = 700;
	request.iov[1] = (struct iovec){memory + 700, 4096 - 700};
	request.io.iovcnt = 2;
	assert_int_equal(request_run(stack->error, &request), 0);
	assert_memory_equal(memory, same, sizeof(memory)); /* the client's is not touched */
	assert_ptr_equal(request.io.iov, request.iov);
	assert_int_equal(request.io.iovcnt, 2);
	check_lent(stack->error, 512, 4096, expected);
	assert_int_equal(do_io(stack->error, BDEV_WRITE, 512, 4096, memory, 0), 0);
	check_lent(stack->error, 512, 4096, memory);
	/* too short for the byte: neither corrupted nor counted */
	inject(stack->error, BDEV_WRITE, BDEV_ERROR_CORRUPT, 1);
	assert_int_equal(do_io(stack->error, BDEV_WRITE, 0, 512, memory, 0), 0);
	check_lent(stack->error, 0, 512, memory);
	assert_int_equal(do_io(stack->error, BDEV_WRITE, 512, 4096, memory, 0), 0);
	check_lent(stack->error, 512, 4096, expected);
}

static void test_corrupt_read(void **state)
{
	struct stack *stack = *state;
	uint8_t memory[4096], expected[4096], back[4096];
	struct request request;
	for (unsigned i = 0; i < sizeof(memory); i++)
		memory[i] = expected[i] = (uint8_t)(i * 31);
	expected[1000] ^= 0x10;
	assert_int_equal(do_io(stack->error, BDEV_WRITE, 512, 4096, memory, 0), 0);
	inject(stack->error, BDEV_READ, BDEV_ERROR_CORRUPT, 2);
	request_init(&request, BDEV_READ, 512, 4096, back);
	request.iov[0].iov_len = 1000;
	request.iov[1] = (struct iovec){back + 1000, 3096};
	request.io.iovcnt = 2;
	assert_int_equal(request_run(stack->error, &request), 0);
	assert_memory_equal(back, expected, sizeof(back));
	/* lent memory is a changed copy: the base keeps what it has */
	check_lent(stack->error, 512, 4096, expected);
	check_lent(stack->error, 512, 4096, memory);
	/* zeros that everybody shares, too */
	inject(stack->error, BDEV_READ, BDEV_ERROR_CORRUPT, 1);
	memset(memory, 0, sizeof(memory));
	memset(expected, 0, sizeof(expected));
	expected[1000] = 0x10;
	check_lent(stack->error, 65536, 4096, expected);
	check_lent(stack->error, 65536, 4096, memory);
	/* no memory for the copy */
	struct buffers *buffers = &reactor_self->buffers;
	void *held[FAKE_BUFFER_BYTES / BUFFER_MAX_BYTES];
	for (unsigned i = 0; i < COUNT_OF(held); i++)
		held[i] = buffers_get(buffers, BUFFER_MAX_BYTES);
	inject(stack->error, BDEV_READ, BDEV_ERROR_CORRUPT, 1);
	assert_int_equal(do_io(stack->error, BDEV_READ, 0, 4096, NULL, 0), -ENOMEM);
	for (unsigned i = 0; i < COUNT_OF(held); i++)
		buffers_put(buffers, held[i]);
}

static void submit_stuck(struct bdev *bdev, struct request *request, uint64_t offset, void *memory)
{
	request_init(request, BDEV_WRITE, offset, 4096, memory);
	request_submit(bdev, request);
	fake_advance_us(1000000);
	assert_int_equal(request->ended, 0);
}

static void test_pending(void **state)
{
	struct stack *stack = *state;
	static const uint8_t zeros[4096];
	struct bdev *bdev = stack->error;
	struct request stuck[3];
	uint8_t memory[4096];
	memset(memory, 0x2f, sizeof(memory));
	inject(bdev, BDEV_WRITE, BDEV_ERROR_PENDING, 3);
	submit_stuck(bdev, &stuck[0], 0, memory);
	submit_stuck(bdev, &stuck[1], 4096, memory);
	fake_become(1);
	submit_stuck(bdev, &stuck[2], 8192, memory);
	fake_become(0);
	assert_int_equal(do_io(bdev, BDEV_WRITE, 12288, 4096, memory, 0), 0);
	check_lent(bdev, 0, 4096, zeros);
	/* a time-out ends it, and it has not happened */
	struct bdev_channel *ch = bdev_channel_here(bdev);
	ch->type->abort(ch, &stuck[1].io);
	assert_int_equal(stuck[1].ended, 1);
	assert_int_equal(stuck[1].status, -ETIMEDOUT);
	/* the others go on, on both cores */
	resume(bdev);
	assert_int_equal(stuck[0].ended, 1);
	assert_int_equal(stuck[0].status, 0);
	assert_int_equal(stuck[2].ended, 1);
	assert_int_equal(stuck[1].ended, 1);
	check_lent(bdev, 0, 4096, memory);
	check_lent(bdev, 4096, 4096, zeros);
	check_lent(bdev, 8192, 4096, memory);
	resume(bdev); /* nothing is held */
}

/* A request that hangs does not keep its bdev, nor the one below, from going. */
static void test_close_with_pending(void **state)
{
	struct stack *stack = *state;
	struct request stuck[2];
	uint8_t memory[4096] = {0};
	inject(stack->error, BDEV_WRITE, BDEV_ERROR_PENDING, 2);
	submit_stuck(stack->error, &stuck[0], 0, memory);
	fake_become(1);
	submit_stuck(stack->error, &stuck[1], 0, memory);
	fake_become(0);
	close_channels(stack->error);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(stuck[i].ended, 1);
		assert_int_equal(stuck[i].status, -ECANCELED);
	}
	open_channels(stack->error);
}

/* Removing while cores are being asked to resume waits for these. */
static void test_remove_while_resuming(void **state)
{
	struct bdev *bdev, *base = make_malloc("other", 1 << 20);
	bool resumed = false, removed = false;
	char why[256];
	assert_int_equal(bdev_error_create("other", NULL, &bdev, why, sizeof(why)), 0);
	bdev_error_resume(bdev, note_resumed, &resumed);
	assert_int_equal(bdev_remove(bdev, false, set_true, &removed), 0);
	fake_settle();
	assert_true(resumed);
	assert_true(removed);
	remove_bdev(base);
}

static void test_queue_depth(void **state)
{
	struct stack *stack = *state;
	struct bdev *delay, *bdev;
	struct request first, second;
	uint8_t memory[512];
	char why[256];
	const struct bdev_delay_options options = {
		.base_name = "slow0", .name = "slow1", .latency_us = {100, 100, 100, 100}};
	const struct bdev_error_rule rule = {
		.kind = BDEV_ERROR_FAILURE, .count = 1, .queue_depth = 1};
	struct bdev *base = make_null("slow0", 1 << 20);
	assert_int_equal(bdev_delay_create(&options, &delay, why, sizeof(why)), 0);
	assert_int_equal(bdev_error_create("slow1", NULL, &bdev, why, sizeof(why)), 0);
	open_channels(bdev);
	bdev_error_set_rule(bdev, BDEV_READ, &rule);
	request_init(&first, BDEV_READ, 0, 512, memory);
	request_init(&second, BDEV_READ, 0, 512, memory);
	request_submit(bdev, &first);
	request_submit(bdev, &second);
	assert_int_equal(first.ended, 0);
	assert_int_equal(second.status, -EIO);
	fake_advance_us(101);
	assert_int_equal(first.status, 0);
	assert_int_equal(first.ended, 1);
	close_channels(bdev);
	remove_bdev(bdev);
	remove_bdev(delay);
	remove_bdev(base);
	assert_non_null(stack);
}

/* delay on error on malloc: what hangs below is ended through the layer above. */
static void test_below_a_layer(void **state)
{
	struct stack *stack = *state;
	struct bdev *delay;
	struct request stuck;
	uint8_t memory[4096] = {0};
	char why[256];
	const struct bdev_delay_options options = {
		.base_name = "EE_base", .name = "slow", .latency_us = {10, 10, 10, 10}};
	close_channels(stack->error);
	assert_int_equal(bdev_delay_create(&options, &delay, why, sizeof(why)), 0);
	open_channels(delay);
	struct bdev_channel *ch = bdev_channel_here(delay);
	inject(stack->error, BDEV_WRITE, BDEV_ERROR_PENDING, 2);
	submit_stuck(delay, &stuck, 0, memory);
	ch->type->abort(ch, &stuck.io);
	fake_advance_us(20);
	assert_int_equal(stuck.ended, 1);
	assert_int_equal(stuck.status, -ETIMEDOUT);
	submit_stuck(delay, &stuck, 0, memory);
	close_channels(delay);
	assert_int_equal(stuck.ended, 1);
	assert_int_equal(stuck.status, -ECANCELED);
	remove_bdev(delay);
	open_channels(stack->error);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_failures, start, stop),
		cmocka_unit_test_setup_teardown(test_failed_write, start, stop),
		cmocka_unit_test_setup_teardown(test_corrupt_write, start, stop),
		cmocka_unit_test_setup_teardown(test_corrupt_read, start, stop),
		cmocka_unit_test_setup_teardown(test_pending, start, stop),
		cmocka_unit_test_setup_teardown(test_close_with_pending, start, stop),
		cmocka_unit_test_setup_teardown(test_remove_while_resuming, start, stop),
		cmocka_unit_test_setup_teardown(test_queue_depth, start, stop),
		cmocka_unit_test_setup_teardown(test_below_a_layer, start, stop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
