/* SPDX-License-Identifier: BSD-3-Clause */
/* delay: on a clock that the test moves: times, order, loans, aborting, closing, its base's events.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/delay/delay.h"
#include "bdev/support.h"
#include "fake/reactor.h"

enum { READ_US = 100, READ_P99_US = 100, WRITE_US = 300, WRITE_P99_US = 300 };

struct stack {
	struct bdev *base, *delay;
};

static int make_delay(const char *base, const char *name, uint64_t read, uint64_t read_p99,
		      uint64_t write, uint64_t write_p99, struct bdev **bdev)
{
	const struct bdev_delay_options options = {
		.base_name = base,
		.name = name,
		.latency_us = {read, read_p99, write, write_p99},
	};
	char why[256] = "";
	int error = bdev_delay_create(&options, bdev, why, sizeof(why));
	assert_int_equal(error != 0, why[0] != 0);
	return error;
}

static int start(void **state)
{
	static struct stack stack;
	fake_start(2);
	stack.base = make_malloc("base", 1 << 20);
	assert_int_equal(make_delay("base", "slow", READ_US, READ_P99_US, WRITE_US, WRITE_P99_US,
				    &stack.delay),
			 0);
	open_channels(stack.delay);
	*state = &stack;
	return 0;
}

static int stop(void **state)
{
	struct stack *stack = *state;
	assert_int_equal(bdev_channel_here(stack->base)->inflight, 0);
	close_channels(stack->delay);
	assert_null(bdev_channel_here(stack->base));
	remove_bdev(stack->delay);
	remove_bdev(stack->base);
	fake_stop();
	return 0;
}

static void test_looks_like_base(void **state)
{
	struct stack *stack = *state;
	struct bdev *delay = stack->delay;
	assert_int_equal(delay->size_bytes, 1 << 20);
	assert_int_equal(delay->block_size, stack->base->block_size);
	assert_int_equal(delay->caps, stack->base->caps & ~(uint32_t)BDEV_CAP_SYNC);
	assert_string_equal(bdev_holder(stack->base), "bdev slow");
	/* one writer a bdev */
	struct bdev *other;
	assert_int_equal(make_delay("base", "slow2", 1, 1, 1, 1, &other), -EBUSY);
	assert_int_equal(make_delay("none", "slow2", 1, 1, 1, 1, &other), -ENODEV);
	assert_int_equal(make_delay("slow", "base", 1, 1, 1, 1, &other), -EEXIST);
	assert_int_equal(bdev_remove(stack->base, false, NULL, NULL), -EBUSY);
}

static void test_latency(void **state)
{
	struct stack *stack = *state;
	uint8_t memory[4096], back[4096];
	struct request write, read, flush;
	memset(memory, 0x5c, sizeof(memory));
	request_init(&write, BDEV_WRITE, 4096, 4096, memory);
	request_init(&flush, BDEV_FLUSH, 0, 0, NULL);
	request_init(&read, BDEV_READ, 4096, 4096, back);
	request_submit(stack->delay, &write);
	fake_advance_us(50);
	request_submit(stack->delay, &read);
	request_submit(stack->delay, &flush);
	fake_advance_us(READ_US - 1);
	assert_int_equal(read.ended, 0);
	fake_advance_us(2);
	assert_int_equal(read.ended, 1);
	assert_int_equal(write.ended, 0);
	fake_advance_us(WRITE_US - 50 - READ_US - 2);
	assert_int_equal(write.ended, 0);
	fake_advance_us(2);
	assert_int_equal(write.ended, 1);
	assert_int_equal(flush.ended, 0);
	fake_advance_us(50);
	assert_int_equal(flush.ended, 1);
	assert_int_equal(write.status | read.status | flush.status, 0);
	assert_memory_equal(back, memory, sizeof(memory)); /* the base had it at once */

	struct bdev_stats stats;
	bdev_get_stats(stack->delay, &stats);
	assert_int_equal(stats.op[BDEV_WRITE].ops, 1);
	/* the statistics see the whole time: 1 tick is 1 ns */
	assert_in_range(stats.op[BDEV_WRITE].latency_ticks, WRITE_US * 1000,
			WRITE_US * 1000 + 2000);
}

static void test_no_latency(void **state)
{
	struct stack *stack = *state;
	struct request read;
	uint8_t memory[512];
	bdev_delay_set_latency(stack->delay, BDEV_DELAY_AVG_READ, 0);
	bdev_delay_set_latency(stack->delay, BDEV_DELAY_P99_READ, 0);
	request_init(&read, BDEV_READ, 0, 512, memory);
	request_submit(stack->delay, &read);
	assert_int_equal(read.ended, 1);
}

/* Many at once end in order, each after its own time. */
static void test_many(void **state)
{
	enum { COUNT = 200 };
	struct stack *stack = *state;
	struct request *reads = calloc(COUNT, sizeof(*reads));
	assert_non_null(reads);
	for (unsigned i = 0; i < COUNT; i++) {
		request_init(&reads[i], BDEV_READ, i * 512, 512, NULL);
		request_submit(stack->delay, &reads[i]);
		fake_advance_us(1);
		for (unsigned k = 0; k <= i; k++)
			assert_int_equal(reads[k].ended, i + 1 - k >= READ_US);
	}
	fake_advance_us(READ_US + 2);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(reads[i].ended, 1);
		bdev_io_release(reads[i].io.ch, &reads[i].io);
	}
	free(reads);
}

static void test_p99(void **state)
{
	enum { COUNT = 20000 };
	struct stack *stack = *state;
	struct request read;
	unsigned slow = 0;
	uint8_t memory[512];
	bdev_delay_set_latency(stack->delay, BDEV_DELAY_P99_READ, 5000);
	for (unsigned i = 0; i < COUNT; i++) {
		request_init(&read, BDEV_READ, 0, 512, memory);
		request_submit(stack->delay, &read);
		fake_advance_us(READ_US + 1);
		if (!read.ended) {
			slow++;
			fake_advance_us(5000 - READ_US);
		}
		assert_int_equal(read.ended, 1);
	}
	assert_in_range(slow, COUNT / 100 / 2, COUNT / 100 * 2);
}

/* Those that wait keep their time; later ones do not overtake them. */
static void test_update(void **state)
{
	/* one in a hundred is of the other class, which has a queue of its own: not all of these */
	enum { BEFORE = 8 };
	struct stack *stack = *state;
	struct request before[BEFORE], second, third;
	uint8_t memory[512];
	unsigned ended = 0;
	bdev_delay_set_latency(stack->delay, BDEV_DELAY_P99_READ, READ_US);
	for (unsigned i = 0; i < BEFORE; i++) {
		request_init(&before[i], BDEV_READ, 0, 512, memory);
		request_submit(stack->delay, &before[i]);
	}
	bdev_delay_set_latency(stack->delay, BDEV_DELAY_AVG_READ, 10);
	request_init(&second, BDEV_READ, 0, 512, memory);
	request_submit(stack->delay, &second);
	fake_advance_us(READ_US - 1);
	for (unsigned i = 0; i < BEFORE; i++)
		ended += before[i].ended;
	assert_int_equal(ended + second.ended, 0);
	fake_advance_us(2);
	for (unsigned i = 0; i < BEFORE; i++)
		assert_int_equal(before[i].ended, 1);
	assert_int_equal(second.ended, 1);
	bdev_delay_set_latency(stack->delay, BDEV_DELAY_P99_READ, 10);
	request_init(&third, BDEV_READ, 0, 512, memory);
	request_submit(stack->delay, &third);
	fake_advance_us(11);
	assert_int_equal(third.ended, 1);
}

static void test_abort(void **state)
{
	struct stack *stack = *state;
	struct request read, write;
	uint8_t memory[512] = {1};
	assert_int_equal(stack->delay->type->abort != NULL, 1);
	request_init(&write, BDEV_WRITE, 0, 512, memory);
	request_submit(stack->delay, &write);
	struct bdev_channel *ch = bdev_channel_here(stack->delay);
	ch->type->abort(ch, &write.io);
	assert_int_equal(write.ended, 1);
	assert_int_equal(write.status, -ETIMEDOUT);
	/* what the base lent goes back to it */
	request_init(&read, BDEV_READ, 0, 512, NULL);
	request_submit(stack->delay, &read);
	assert_int_equal(bdev_channel_here(stack->base)->inflight, 0); /* it has done its part */
	ch->type->abort(ch, &read.io);
	assert_int_equal(read.status, -ETIMEDOUT);
	assert_int_equal(read.io.iovcnt, 0);
	assert_false(bdev_io_is_lent(&read.io));
	assert_int_equal(ch->inflight, 0);
	fake_advance_us(1000);
	assert_int_equal(read.ended + write.ended, 2);
}

static void test_loan(void **state)
{
	struct stack *stack = *state;
	struct request read;
	request_init(&read, BDEV_READ, 0, 512, NULL);
	request_submit(stack->delay, &read);
	fake_advance_us(READ_US + 1);
	assert_int_equal(read.ended, 1);
	assert_true(bdev_io_is_lent(&read.io));
	assert_int_equal(bdev_channel_here(stack->delay)->inflight, 1);
	assert_int_equal(bdev_channel_here(stack->base)->inflight,
			 0); /* malloc asks for nothing back */
	bdev_io_release(read.io.ch, &read.io);
	assert_int_equal(bdev_channel_here(stack->delay)->inflight, 0);
	assert_int_equal(bdev_channel_here(stack->base)->inflight, 0);
}

/* Closing does not wait for the delay. */
static void test_close(void **state)
{
	struct stack *stack = *state;
	struct request reads[3];
	uint8_t memory[512];
	for (unsigned i = 0; i < 3; i++) {
		fake_become(i % 2);
		request_init(&reads[i], BDEV_READ, 0, 512, memory);
		request_submit(stack->delay, &reads[i]);
	}
	fake_become(0);
	close_channels(stack->delay);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(reads[i].ended, 1);
		assert_int_equal(reads[i].status, 0);
	}
	open_channels(stack->delay);
}

static uint64_t seen_size;

static void on_event(struct bdev_claim *claim, enum bdev_event event)
{
	if (event == BDEV_EVENT_RESIZE)
		seen_size = claim->bdev->size_bytes;
	else
		bdev_release(claim); /* no channels of its own */
}

static void note_error(void *arg, int error)
{
	*(int *)arg = error;
}

/* The base's size is the layer's, and the base takes the layer with it when it goes. */
static void test_base_events(void **state)
{
	struct bdev *delay, *top, *base = make_malloc("b", 1 << 20);
	struct bdev_claim claim = {.holder = "test", .write = true, .event = on_event};
	bool removed = false;
	int error = 1;
	assert_int_equal(make_delay("b", "d", 1, 1, 1, 1, &delay), 0);
	assert_int_equal(make_delay("d", "dd", 1, 1, 1, 1, &top), 0);
	assert_int_equal(bdev_claim(top, &claim), 0);
	base->type->resize(base, 2 << 20, note_error, &error);
	fake_settle();
	assert_int_equal(error, 0);
	assert_int_equal(delay->size_bytes, 2 << 20);
	assert_int_equal(top->size_bytes, 2 << 20);
	assert_int_equal(seen_size, 2 << 20);
	assert_int_equal(bdev_remove(base, true, set_true, &removed), 0);
	fake_settle();
	assert_true(removed);
	assert_null(bdev_find("b"));
	assert_null(bdev_find("d"));
	assert_null(bdev_find("dd"));
}

/* Requests of a stack have each layer's context to themselves. */
static void test_deep(void **state)
{
	struct bdev *layers[4];
	char names[5][8] = {"x0", "x1", "x2", "x3", "x4"};
	struct bdev *base = make_malloc(names[0], 1 << 20);
	uint8_t memory[4096], back[4096];
	struct request write, read;
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(make_delay(names[i], names[i + 1], 10, 10, 10, 10, &layers[i]), 0);
	open_channels(layers[3]);
	memset(memory, 0x1d, sizeof(memory));
	request_init(&write, BDEV_WRITE, 100, 4096, memory);
	request_submit(layers[3], &write);
	fake_advance_us(39);
	assert_int_equal(write.ended, 0);
	fake_advance_us(10);
	assert_int_equal(write.ended, 1);
	request_init(&read, BDEV_READ, 100, 4096, back);
	request_submit(layers[3], &read);
	fake_advance_us(50);
	assert_int_equal(read.ended, 1);
	assert_memory_equal(memory, back, sizeof(back));
	/* aborting reaches the layer that holds it */
	request_init(&read, BDEV_READ, 100, 4096, back);
	request_submit(layers[3], &read);
	struct bdev_channel *ch = bdev_channel_here(layers[3]);
	ch->type->abort(ch, &read.io);
	fake_advance_us(50);
	assert_int_equal(read.ended, 1);
	assert_int_equal(read.status, -ETIMEDOUT);
	close_channels(layers[3]);
	for (unsigned i = 4; i > 0; i--)
		remove_bdev(layers[i - 1]);
	remove_bdev(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_looks_like_base, start, stop),
		cmocka_unit_test_setup_teardown(test_latency, start, stop),
		cmocka_unit_test_setup_teardown(test_no_latency, start, stop),
		cmocka_unit_test_setup_teardown(test_many, start, stop),
		cmocka_unit_test_setup_teardown(test_p99, start, stop),
		cmocka_unit_test_setup_teardown(test_update, start, stop),
		cmocka_unit_test_setup_teardown(test_abort, start, stop),
		cmocka_unit_test_setup_teardown(test_loan, start, stop),
		cmocka_unit_test_setup_teardown(test_close, start, stop),
		cmocka_unit_test_setup_teardown(test_base_events, start, stop),
		cmocka_unit_test_setup_teardown(test_deep, start, stop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
