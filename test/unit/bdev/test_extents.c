/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * extents: EXTENTS and READs of zeroes of malloc, null and the layers above them; contexts beyond
 * the first, which a bdev of the test's own offers through a layer.
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

enum {
	BLOCK = 4096,
	BLOCKS = 700,
	BYTES = BLOCKS * BLOCK,
	ROOM = 512,
	HOLE = BDEV_EXTENT_HOLE | BDEV_EXTENT_ZERO,
};

struct answer {
	struct request request;
	struct bdev_extent extents[ROOM];
};

static int start(void **state)
{
	fake_start(2);
	return 0;
}

static int stop(void **state)
{
	fake_stop();
	return 0;
}

static void prepare(struct answer *answer, uint64_t offset, uint64_t length, unsigned room)
{
	request_init(&answer->request, BDEV_EXTENTS, offset, length, answer->extents);
	answer->request.iov[0].iov_len = room * sizeof(struct bdev_extent);
	memset(answer->extents, 0xee, sizeof(answer->extents));
}

/* Asks, and checks what is true of every answer. Returns where it ends. */
static uint64_t ask(struct bdev *bdev, struct answer *answer, uint64_t offset, uint64_t length,
		    unsigned room)
{
	prepare(answer, offset, length, room);
	assert_int_equal(request_run(bdev, &answer->request), 0);
	uint64_t at = offset;
	assert_in_range(answer->request.io.extents, 1, room);
	for (unsigned i = 0; i < answer->request.io.extents; i++) {
		assert_true(answer->extents[i].length > 0);
		assert_true(!i || answer->extents[i].flags != answer->extents[i - 1].flags);
		at += answer->extents[i].length;
	}
	assert_true(at <= offset + length);
	return at;
}

/* ---- malloc ---- */

static bool used[BLOCKS];

static void change(struct bdev *bdev, uint64_t *seed)
{
	static uint8_t memory[64 * BLOCK];
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	unsigned first = (*seed >> 33) % BLOCKS, what = (*seed >> 20) % 4;
	unsigned count = 1 + (*seed >> 45) % 63;
	count = MIN_OF(count, BLOCKS - first);
	uint64_t offset = (uint64_t)first * BLOCK, length = (uint64_t)count * BLOCK;
	bool writes = what < 2, keeps = what == 3;
	enum bdev_op op = writes ? BDEV_WRITE : BDEV_WRITE_ZEROES;
	assert_int_equal(
		do_io(bdev, op, offset, length, writes ? memory : NULL, keeps ? BDEV_NO_HOLE : 0),
		0);
	for (unsigned b = first; b < first + count; b++)
		used[b] = writes || keeps;
}

static void check_against_model(struct bdev *bdev, uint64_t *seed)
{
	static struct answer answer;
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	uint64_t offset = (*seed >> 33) % BYTES, length = 1 + (*seed >> 20) % (BYTES - offset);
	unsigned room = (*seed >> 45) % 2 ? ROOM : 1 + (*seed >> 46) % 4;
	uint64_t at = offset, end = ask(bdev, &answer, offset, length, room);
	for (unsigned i = 0; i < answer.request.io.extents; i++) {
		uint64_t to = at + answer.extents[i].length;
		for (; at < to; at = MIN_OF(to, (at / BLOCK + 1) * BLOCK))
			assert_int_equal(answer.extents[i].flags, used[at / BLOCK] ? 0 : HOLE);
	}
	/* it goes as far as there is room */
	assert_true(end == offset + length || answer.request.io.extents == room);
}

/* Zeroes are told as such exactly where no block of the range is in use. */
static void check_sparse_read(struct bdev *bdev, uint64_t *seed)
{
	static uint8_t memory[32 * BLOCK];
	struct request request;
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	uint64_t length = 1 + (*seed >> 20) % sizeof(memory);
	uint64_t offset = (*seed >> 33) % (BYTES - length);
	bool lend = (*seed >> 50) % 2, any = false;
	for (uint64_t b = offset / BLOCK; b <= (offset + length - 1) / BLOCK; b++)
		any |= used[b];
	memset(memory, 0xdd, length);
	request_init(&request, BDEV_READ, offset, length, lend ? NULL : memory);
	request.io.flags |= BDEV_SPARSE;
	assert_int_equal(request_run(bdev, &request), 0);
	assert_int_equal(!!(request.io.flags & BDEV_ZEROES), !any);
	assert_int_equal(bdev_io_is_lent(&request.io), lend && any);
	if (bdev_io_is_lent(&request.io))
		bdev_io_release(request.io.ch, &request.io);
	else if (!any)
		assert_int_equal(memory[0] & memory[length - 1], 0xdd);
}

static void test_malloc_model(void **state)
{
	struct bdev *bdev = make_malloc("m", BYTES);
	uint64_t seed = 42;
	assert_true(bdev->caps & BDEV_CAP_EXTENTS);
	memset(used, 0, sizeof(used));
	open_channels(bdev);
	for (unsigned round = 0; round < 2000; round++) {
		fake_become(round % 2);
		change(bdev, &seed);
		check_against_model(bdev, &seed);
		check_sparse_read(bdev, &seed);
	}
	fake_become(0);
	assert_int_equal(bdev_channel_here(bdev)->inflight, 0);
	close_channels(bdev);
	remove_bdev(bdev);
}

/* A map of terabytes is not read at once. */
static void test_malloc_is_bounded(void **state)
{
	struct bdev *bdev = make_malloc("m", 1ull << 40);
	static struct answer answer;
	uint64_t at = 0;
	unsigned rounds = 0;
	open_channels(bdev);
	uint8_t byte = 1;
	assert_int_equal(do_io(bdev, BDEV_WRITE, (1ull << 40) - 1, 1, &byte, 0), 0);
	for (; at < 1ull << 40; rounds++) {
		uint64_t end = ask(bdev, &answer, at, (1ull << 40) - at, ROOM);
		assert_int_equal(answer.extents[0].flags, HOLE);
		at = end;
	}
	assert_in_range(rounds, 2, 1000);
	assert_int_equal(answer.request.io.extents, 2);
	assert_int_equal(answer.extents[1].length, BLOCK);
	assert_int_equal(answer.extents[1].flags, 0);
	close_channels(bdev);
	remove_bdev(bdev);
}

/* ---- null ---- */

static void test_null(void **state)
{
	struct bdev *bdev = make_null("n", 1ull << 50);
	static struct answer answer;
	struct request request;
	open_channels(bdev);
	assert_int_equal(ask(bdev, &answer, 0, 1ull << 50, 1), 1ull << 50);
	assert_int_equal(answer.extents[0].flags, HOLE);
	assert_int_equal(ask(bdev, &answer, 4711, 3, ROOM), 4714);
	assert_int_equal(answer.request.io.extents, 1);
	for (unsigned lend = 0; lend < 2; lend++) {
		uint8_t memory[16] = {1};
		request_init(&request, BDEV_READ, 5, 16, lend ? NULL : memory);
		request.io.flags |= BDEV_SPARSE;
		assert_int_equal(request_run(bdev, &request), 0);
		assert_true(request.io.flags & BDEV_ZEROES);
		assert_false(bdev_io_is_lent(&request.io));
		assert_int_equal(memory[0], 1);
	}
	close_channels(bdev);
	remove_bdev(bdev);
}

/* ---- Contexts ---- */

static void test_no_such_context(void **state)
{
	struct bdev *bdevs[] = {make_null("n", BYTES), make_malloc("m", BYTES)};
	for (unsigned i = 0; i < COUNT_OF(bdevs); i++) {
		static struct answer answer;
		open_channels(bdevs[i]);
		prepare(&answer, 0, BLOCK, ROOM);
		answer.request.io.context = 1;
		assert_int_equal(request_run(bdevs[i], &answer.request), -EINVAL);
		assert_string_equal(bdev_context_name(bdevs[i], 0), "base:allocation");
		assert_null(bdev_context_name(bdevs[i], 1));
		close_channels(bdevs[i]);
		remove_bdev(bdevs[i]);
	}
}

/* A bdev with two contexts of its own; an extent's flags are the context's number. */
static const char *own_context(const struct bdev *bdev, unsigned index)
{
	static const char *const names[] = {NULL, "x-test:one", "x-test:two"};
	return index < COUNT_OF(names) ? names[index] : NULL;
}

static void own_submit(struct bdev_channel *ch, struct bdev_io **ios, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		ios[i]->extents = 0;
		if (ios[i]->op == BDEV_EXTENTS)
			bdev_extents_add(ios[i], ios[i]->length, ios[i]->context);
		bdev_io_complete(ios[i], 0);
	}
}

static void own_destroy(struct bdev *bdev)
{
	bdev_destroyed(bdev);
	free(bdev);
}

static const struct bdev_type own_type = {
	.name = "own",
	.product_name = "own",
	.submit = own_submit,
	.destroy = own_destroy,
	.context = own_context,
};

static void test_contexts_of_the_base(void **state)
{
	struct bdev *own = calloc(1, sizeof(*own)), *delay, *error;
	static struct answer answer;
	char why[256];
	*own = (struct bdev){.type = &own_type,
			     .name = "own",
			     .size_bytes = BYTES,
			     .block_size = 512,
			     .align_bytes = 512, /* which EXTENTS need not keep to */
			     .mem_align_bytes = 1,
			     .caps = BDEV_CAP_WRITE | BDEV_CAP_EXTENTS};
	assert_int_equal(bdev_register(own), 0);
	assert_int_equal(bdev_error_create("own", NULL, &error, why, sizeof(why)), 0);
	const struct bdev_delay_options options = {
		.base_name = "EE_own", .name = "slow", .latency_us = {100, 100, 900, 900}};
	assert_int_equal(bdev_delay_create(&options, &delay, why, sizeof(why)), 0);
	open_channels(delay);
	assert_string_equal(bdev_context_name(delay, 0), "base:allocation");
	assert_string_equal(bdev_context_name(delay, 1), "x-test:one");
	assert_string_equal(bdev_context_name(delay, 2), "x-test:two");
	assert_null(bdev_context_name(delay, 3));
	for (unsigned context = 0; context < 3; context++) {
		prepare(&answer, 4711, 815, 2);
		answer.request.io.context = context;
		request_submit(delay, &answer.request);
		fake_advance_us(99);
		assert_int_equal(answer.request.ended, 0); /* takes what a READ takes */
		fake_advance_us(2);
		assert_int_equal(answer.request.ended, 1);
		assert_int_equal(answer.request.status, 0);
		assert_int_equal(answer.request.io.extents, 1);
		assert_int_equal(answer.extents[0].length, 815);
		assert_int_equal(answer.extents[0].flags, context);
	}
	/* without the capability there is none */
	own->caps &= ~(uint32_t)BDEV_CAP_EXTENTS;
	assert_null(bdev_context_name(own, 0));
	close_channels(delay);
	remove_bdev(delay);
	remove_bdev(error);
	remove_bdev(own);
}

/* ---- error ---- */

static void test_errors(void **state)
{
	struct bdev *base = make_malloc("base", BYTES), *error;
	static struct answer answer;
	char why[256];
	assert_int_equal(bdev_error_create("base", NULL, &error, why, sizeof(why)), 0);
	open_channels(error);
	struct bdev_error_rule rule = {.kind = BDEV_ERROR_FAILURE, .count = 1};
	bdev_error_set_rule(error, BDEV_EXTENTS, &rule);
	prepare(&answer, 0, BYTES, ROOM);
	assert_int_equal(request_run(error, &answer.request), -EIO);
	assert_int_equal(ask(error, &answer, 0, BYTES, ROOM), BYTES);
	/* zeroes are told through the layer, but not where they are to be corrupted */
	rule = (struct bdev_error_rule){
		.kind = BDEV_ERROR_CORRUPT, .count = 2, .corrupt_offset = 7, .corrupt_value = 9};
	bdev_error_set_rule(error, BDEV_READ, &rule);
	for (unsigned round = 0; round < 4; round++) {
		uint8_t memory[BLOCK];
		struct request request;
		bool lend = round % 2, corrupted = round < 2;
		memset(memory, 0xdd, sizeof(memory));
		request_init(&request, BDEV_READ, 0, BLOCK, lend ? NULL : memory);
		request.io.flags |= BDEV_SPARSE;
		assert_int_equal(request_run(error, &request), 0);
		assert_int_equal(!!(request.io.flags & BDEV_ZEROES), !corrupted);
		assert_int_equal(bdev_io_is_lent(&request.io), lend && corrupted);
		if (corrupted) {
			const uint8_t *bytes = request.io.iov[0].iov_base;
			assert_int_equal(bytes[7], 9);
			assert_int_equal(bytes[8], 0);
		}
		if (bdev_io_is_lent(&request.io))
			bdev_io_release(request.io.ch, &request.io);
	}
	assert_int_equal(bdev_channel_here(error)->inflight, 0);
	close_channels(error);
	remove_bdev(error);
	remove_bdev(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_malloc_model, start, stop),
		cmocka_unit_test_setup_teardown(test_malloc_is_bounded, start, stop),
		cmocka_unit_test_setup_teardown(test_null, start, stop),
		cmocka_unit_test_setup_teardown(test_no_such_context, start, stop),
		cmocka_unit_test_setup_teardown(test_contexts_of_the_base, start, stop),
		cmocka_unit_test_setup_teardown(test_errors, start, stop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
