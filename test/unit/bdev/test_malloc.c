/* SPDX-License-Identifier: BSD-3-Clause */
/* malloc: contents, holes and loans against a model; threads side by side; big zeroing; sizes. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "bdev/malloc/malloc.h"
#include "bdev/support.h"
#include "fake/reactor.h"

enum { BLOCK = 4096, MODEL_BYTES = (3 << 20) + 3 * 512 };

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

/* xorshift64: the threads need one each */
static uint64_t draw(uint64_t *seed, uint64_t below)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed % below;
}

static bool is_hole(const struct bdev *bdev, uint64_t offset)
{
	uint64_t length = 1;
	bool hole;
	assert_int_equal(bdev_malloc_extent(bdev, offset, &length, &hole), 0);
	return hole;
}

/* ---- Against a model ---- */

static uint8_t content[MODEL_BYTES];
static bool used[MODEL_BYTES / BLOCK + 1];

static void check_map(const struct bdev *bdev)
{
	uint64_t at = 0;
	bool before = false;
	while (at < MODEL_BYTES) {
		uint64_t length = 0;
		bool hole;
		assert_int_equal(bdev_malloc_extent(bdev, at, &length, &hole), 0);
		assert_int_not_equal(length, 0);
		assert_true(at == 0 || hole != before); /* runs are as long as they can be */
		for (uint64_t b = at / BLOCK; b * BLOCK < at + length; b++)
			assert_int_equal(used[b], !hole);
		before = hole;
		at += length;
	}
	assert_int_equal(at, MODEL_BYTES);
}

static void mark(uint64_t offset, uint64_t length, bool whole_only, bool value)
{
	uint64_t first = offset / BLOCK, last = (offset + length - 1) / BLOCK;
	for (uint64_t b = first; b <= last; b++) {
		bool whole = b * BLOCK >= offset && (b + 1) * BLOCK <= offset + length;
		if (whole || !whole_only)
			used[b] = value;
	}
}

static void model_read(struct bdev *bdev, uint64_t *seed, uint64_t offset, uint64_t length)
{
	static uint8_t memory[MODEL_BYTES];
	struct request request;
	uint64_t cut = draw(seed, length + 1);
	memset(memory, 0xdd, length);
	request_init(&request, BDEV_READ, offset, length, memory);
	request.iov[0].iov_len = cut;
	request.iov[1] = (struct iovec){memory + cut, length - cut};
	request.io.iovcnt = 2;
	request.io.flags = draw(seed, 2) ? BDEV_LEND : 0; /* memory was brought: it must be used */
	assert_int_equal(request_run(bdev, &request), 0);
	assert_ptr_equal(request.io.iov, request.iov);
	assert_memory_equal(memory, content + offset, length);
}

static void model_write(struct bdev *bdev, uint64_t *seed, uint64_t offset, uint64_t length)
{
	struct request request;
	uint8_t *memory = malloc(length);
	uint64_t cut = draw(seed, length + 1);
	for (uint64_t i = 0; i < length; i++)
		memory[i] = (uint8_t)(*seed + i * 7) | 1;
	request_init(&request, BDEV_WRITE, offset, length, memory);
	request.iov[0].iov_len = cut;
	request.iov[1] = (struct iovec){memory + cut, length - cut};
	request.io.iovcnt = 2;
	request_submit(bdev, &request);
	assert_int_equal(request.ended, 1); /* BDEV_CAP_SYNC */
	assert_int_equal(request.status, 0);
	memcpy(content + offset, memory, length);
	mark(offset, length, false, true);
	free(memory);
}

static void test_model(void **state)
{
	struct bdev *bdev = make_malloc("m", MODEL_BYTES);
	uint64_t seed = 4711;
	open_channels(bdev);
	for (unsigned round = 0; round < 6000; round++) {
		uint64_t most = draw(&seed, 8) ? 20000 : 600000;
		uint64_t offset = draw(&seed, MODEL_BYTES);
		uint64_t length = 1 + draw(&seed, most);
		unsigned what = (unsigned)draw(&seed, 10);
		if (draw(&seed, 3) == 0) { /* the aligned case */
			offset &= ~(uint64_t)(BLOCK - 1);
			length = (length + BLOCK - 1) & ~(uint64_t)(BLOCK - 1);
		}
		if (length > MODEL_BYTES - offset)
			length = MODEL_BYTES - offset;
		fake_become(round % 2);
		if (what < 2) {
			model_read(bdev, &seed, offset, length);
		} else if (what < 4) {
			check_lent(bdev, offset, length, content + offset);
		} else if (what < 7) {
			model_write(bdev, &seed, offset, length);
		} else if (what < 9) {
			enum bdev_op op = what == 7 ? BDEV_TRIM : BDEV_WRITE_ZEROES;
			assert_int_equal(do_io(bdev, op, offset, length, NULL, 0), 0);
			memset(content + offset, 0, length);
			mark(offset, length, true, false);
		} else {
			assert_int_equal(
				do_io(bdev, BDEV_WRITE_ZEROES, offset, length, NULL, BDEV_NO_HOLE),
				0);
			memset(content + offset, 0, length);
			mark(offset, length, false, true);
		}
		if (round % 50 == 0) {
			check_map(bdev);
			check_lent(bdev, 0, MODEL_BYTES, content);
		}
	}
	fake_become(0);
	assert_int_equal(do_io(bdev, BDEV_FLUSH, 0, 0, NULL, 0), 0);
	assert_int_equal(do_io(bdev, BDEV_READ, 5, 0, NULL, 0), 0);
	close_channels(bdev);
	remove_bdev(bdev);
}

/* ---- Memory ---- */

static unsigned resident(struct bdev *bdev, uint64_t offset, uint64_t length)
{
	static unsigned char pages[16384];
	struct request request;
	unsigned count = 0;
	request_init(&request, BDEV_READ, offset, length, NULL);
	assert_int_equal(request_run(bdev, &request), 0);
	assert_int_equal(mincore(request.io.iov[0].iov_base, length, pages), 0);
	for (uint64_t i = 0; i < length / BLOCK; i++)
		count += pages[i] & 1;
	bdev_io_release(request.io.ch, &request.io);
	return count;
}

static bool has_huge_pages(const struct bdev *bdev)
{
	json_t *info = json_object();
	bdev->type->dump_info(bdev, info);
	json_t *hugetlb = json_object_get(json_object_get(info, "malloc"), "hugetlb");
	assert_true(json_is_boolean(hugetlb));
	bool has = json_is_true(hugetlb);
	json_decref(info);
	return has;
}

/* Memory comes with the first write and goes with TRIM; reads of nothing share their zeros. */
static void test_memory(void **state)
{
	enum { SIZE = 64 << 20, PART = 8 << 20 };
	struct bdev *bdev = make_malloc(NULL, SIZE);
	uint8_t *memory = malloc(PART);
	struct request a, b;
	assert_string_equal(bdev->name, "Malloc0");
	open_channels(bdev);
	request_init(&a, BDEV_READ, 0, 65536, NULL);
	request_init(&b, BDEV_READ, 1 << 20, 65536, NULL);
	assert_int_equal(request_run(bdev, &a), 0);
	assert_int_equal(request_run(bdev, &b), 0);
	assert_ptr_equal(a.io.iov[0].iov_base, b.io.iov[0].iov_base);
	bdev_io_release(a.io.ch, &a.io);
	bdev_io_release(b.io.ch, &b.io);

	memset(memory, 0x77, PART);
	assert_int_equal(do_io(bdev, BDEV_WRITE, PART, PART, memory, 0), 0);
	assert_int_equal(resident(bdev, PART, PART), PART / BLOCK);
	/* lent from the map itself, without a copy */
	request_init(&a, BDEV_READ, PART, 4096, NULL);
	request_init(&b, BDEV_READ, PART + 8192, 4096, NULL);
	assert_int_equal(request_run(bdev, &a), 0);
	assert_int_equal(request_run(bdev, &b), 0);
	assert_ptr_equal((uint8_t *)a.io.iov[0].iov_base + 8192, b.io.iov[0].iov_base);
	bdev_io_release(a.io.ch, &a.io);
	bdev_io_release(b.io.ch, &b.io);

	/* one block of the map is enough to look at the whole range in it */
	assert_int_equal(do_io(bdev, BDEV_TRIM, PART, PART - BLOCK, NULL, 0), 0);
	assert_true(is_hole(bdev, PART));
	assert_false(is_hole(bdev, 2 * PART - 1));
	if (!has_huge_pages(bdev)) /* these are kept, being reserved */
		assert_true(resident(bdev, PART, PART) <= REGION_HUGE_BYTES / BLOCK);
	memset(memory, 0, PART - BLOCK);
	check_lent(bdev, PART, PART, memory);
	close_channels(bdev);
	remove_bdev(bdev);
	free(memory);
}

/* What is lent stays as long as the bdev itself: nothing need come back before a channel closes. */
static void test_loan_stays(void **state)
{
	struct bdev *bdev = make_malloc("m", 1 << 20);
	struct request request;
	uint8_t memory[4096];
	bool closed = false;
	open_channels(bdev);
	memset(memory, 0x11, sizeof(memory));
	assert_int_equal(do_io(bdev, BDEV_WRITE, 0, 4096, memory, 0), 0);
	request_init(&request, BDEV_READ, 0, 4096, NULL);
	assert_int_equal(request_run(bdev, &request), 0);
	assert_true(bdev_io_is_lent(&request.io));
	struct bdev_channel *ch = request.io.ch;
	assert_int_equal(ch->inflight, 0);
	bdev_io_release(ch, &request.io);
	assert_int_equal(ch->inflight, 0);
	bdev_close_channels(bdev, set_true, &closed);
	fake_settle();
	assert_true(closed);
	assert_memory_equal(request.io.iov[0].iov_base, memory, 4096);
	remove_bdev(bdev);
}

/* ---- Two cores side by side ---- */

enum { SHARED_BYTES = 1 << 20, ROUNDS = 15000 };

/* Every other slice of uneven size is a thread's own; its neighbours lie in the same blocks. */
struct side {
	struct bdev *bdev;
	unsigned index;
	struct slice {
		uint64_t offset, length;
	} slices[512];
	unsigned count;
	uint8_t *expected; /* [SHARED_BYTES], its own slices are valid */
	unsigned wrong;
};

static void side_check(struct side *side, uint64_t offset, uint64_t length)
{
	struct request request;
	request_init(&request, BDEV_READ, offset, length, NULL);
	request_submit(side->bdev, &request);
	side->wrong += request.ended != 1 || request.status != 0;
	side->wrong += memcmp(request.io.iov[0].iov_base, side->expected + offset, length) != 0;
	bdev_io_release(request.io.ch, &request.io);
}

static void side_change(struct side *side, uint64_t *seed, uint64_t offset, uint64_t length)
{
	static const uint8_t ops[] = {BDEV_WRITE, BDEV_WRITE, BDEV_TRIM, BDEV_WRITE_ZEROES,
				      BDEV_WRITE_ZEROES};
	uint8_t memory[12000];
	unsigned what = (unsigned)draw(seed, sizeof(ops));
	struct request request;
	memset(memory, (int)draw(seed, 255) + 1, length);
	request_init(&request, ops[what], offset, length, ops[what] == BDEV_WRITE ? memory : NULL);
	if (what == 4)
		request.io.flags = BDEV_NO_HOLE;
	request_submit(side->bdev, &request);
	side->wrong += request.ended != 1 || request.status != 0;
	if (ops[what] != BDEV_WRITE)
		memset(memory, 0, length);
	memcpy(side->expected + offset, memory, length);
}

static void *side_run(void *arg)
{
	struct side *side = arg;
	uint64_t seed = 99 + side->index;
	fake_become(side->index);
	for (unsigned round = 0; round < ROUNDS; round++) {
		const struct slice *slice = &side->slices[draw(&seed, side->count)];
		uint64_t from = draw(&seed, slice->length);
		uint64_t length = 1 + draw(&seed, slice->length - from);
		if (draw(&seed, 2)) {
			from = 0;
			length = slice->length;
		}
		reactor_self->now++; /* each round is a pass */
		side_change(side, &seed, slice->offset + from, length);
		slice = &side->slices[draw(&seed, side->count)];
		side_check(side, slice->offset, slice->length);
	}
	return NULL;
}

static void test_neighbours(void **state)
{
	static struct side sides[2];
	struct bdev *bdev = make_malloc("m", SHARED_BYTES);
	pthread_t threads[2];
	uint64_t seed = 5, at = 0;
	open_channels(bdev);
	for (unsigned i = 0; i < 2; i++) {
		sides[i] = (struct side){.bdev = bdev, .index = i};
		sides[i].expected = calloc(1, SHARED_BYTES);
	}
	for (unsigned i = 0; at < SHARED_BYTES && sides[1].count < 512; i++) {
		struct side *side = &sides[i % 2];
		uint64_t length =
			MIN_OF(1 + draw(&seed, draw(&seed, 3) ? 900 : 12000), SHARED_BYTES - at);
		side->slices[side->count++] = (struct slice){at, length};
		at += length;
	}
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, side_run, &sides[i]), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(sides[i].wrong, 0);
		for (unsigned k = 0; k < sides[i].count; k++)
			check_lent(bdev, sides[i].slices[k].offset, sides[i].slices[k].length,
				   sides[i].expected + sides[i].slices[k].offset);
		free(sides[i].expected);
	}
	close_channels(bdev);
	remove_bdev(bdev);
}

/* ---- Big zeroing ---- */

/* Terabytes take many passes, and everybody else is served meanwhile. */
static void test_big_zeroing(void **state)
{
	const uint64_t size = 1ull << 40, filled = 64 << 20;
	struct bdev *bdev = make_malloc("m", size);
	struct request fill, trim, other;
	uint8_t memory[4096];
	unsigned passes = 0;
	open_channels(bdev);
	request_init(&fill, BDEV_WRITE_ZEROES, 4096, filled, NULL);
	fill.io.flags = BDEV_NO_HOLE;
	request_submit(bdev, &fill);
	assert_int_equal(fill.ended, 0);
	memset(memory, 0x42, sizeof(memory));
	for (; !fill.ended; passes++) {
		uint64_t offset = filled + 4096 * (2 + passes);
		request_init(&other, BDEV_WRITE, offset, 4096, memory);
		request_submit(bdev, &other);
		assert_int_equal(other.ended, 1);
		check_lent(bdev, offset, 4096, memory);
		fake_pass();
	}
	assert_in_range(passes, 5, 1000);
	assert_int_equal(fill.status, 0);
	assert_true(is_hole(bdev, 0));
	for (uint64_t at = 4096; at < 4096 + filled; at += 4096)
		assert_false(is_hole(bdev, at));

	request_init(&trim, BDEV_TRIM, 0, size, NULL);
	request_init(&other, BDEV_TRIM, size / 2, 4096, NULL);
	request_submit(bdev, &trim);
	request_submit(bdev, &other);
	assert_int_equal(trim.ended, 0);
	for (passes = 0; !other.ended; passes++)
		fake_pass();
	assert_in_range(passes, 0, 2); /* a short one does not wait for a long one */
	for (passes = 0; !trim.ended; passes++)
		fake_pass();
	assert_in_range(passes, 5, 1000);
	uint64_t length = 0;
	bool hole;
	assert_int_equal(bdev_malloc_extent(bdev, 0, &length, &hole), 0);
	assert_true(hole);
	assert_int_equal(length, size);
	close_channels(bdev);
	remove_bdev(bdev);
}

/* Closing waits for zeroing that is under way. */
static void test_close_while_zeroing(void **state)
{
	struct bdev *bdev = make_malloc("m", 64 << 20);
	struct request fill;
	bool closed = false;
	open_channels(bdev);
	request_init(&fill, BDEV_WRITE_ZEROES, 0, 64 << 20, NULL);
	fill.io.flags = BDEV_NO_HOLE;
	request_submit(bdev, &fill);
	bdev_close_channels(bdev, set_true, &closed);
	for (unsigned i = 0; i < 3; i++) {
		fake_pass();
		assert_false(closed);
	}
	fake_settle();
	assert_int_equal(fill.ended, 1);
	assert_true(closed);
	remove_bdev(bdev);
}

/* ---- Size ---- */

struct holder {
	struct bdev_claim claim;
	unsigned resizes;
	uint64_t size;
};

static void on_event(struct bdev_claim *claim, enum bdev_event event)
{
	struct holder *holder = container_of(claim, struct holder, claim);
	assert_int_equal(event, BDEV_EVENT_RESIZE);
	holder->resizes++;
	holder->size = claim->bdev->size_bytes;
}

static void note_error(void *arg, int error)
{
	*(int *)arg = error;
}

static int resize(struct bdev *bdev, uint64_t size)
{
	int error = 1;
	bdev->type->resize(bdev, size, note_error, &error);
	fake_settle();
	return error;
}

static void test_resize(void **state)
{
	enum { SMALL = 512 * 9, BIG = 8 << 20 };
	struct bdev *bdev = make_malloc("m", SMALL);
	struct holder holder = {.claim = {.holder = "test", .write = true, .event = on_event}};
	static uint8_t memory[BIG], zeros[BIG];
	assert_int_equal(bdev_claim(bdev, &holder.claim), 0);
	open_channels(bdev);
	memset(memory, 0x33, sizeof(memory));
	assert_int_equal(do_io(bdev, BDEV_WRITE, 0, SMALL, memory, 0), 0);

	assert_int_equal(resize(bdev, BIG), 0);
	assert_int_equal(holder.resizes, 1);
	assert_int_equal(holder.size, BIG);
	check_lent(bdev, 0, SMALL, memory);
	check_lent(bdev, SMALL, BIG - SMALL, zeros);
	assert_int_equal(do_io(bdev, BDEV_WRITE, 0, BIG, memory, 0), 0);

	/* a loan of what is cut off stays readable */
	struct request loan;
	request_init(&loan, BDEV_READ, BIG - 4096, 4096, NULL);
	assert_int_equal(request_run(bdev, &loan), 0);
	assert_int_equal(resize(bdev, SMALL), 0);
	assert_int_equal(holder.resizes, 2);
	assert_int_equal(holder.size, SMALL);
	assert_true(((uint8_t *)loan.io.iov[0].iov_base)[17] == 0x33 ||
		    ((uint8_t *)loan.io.iov[0].iov_base)[17] == 0);
	bdev_io_release(loan.io.ch, &loan.io);

	/* what was cut off does not come back, not even what a late request left there */
	struct request late;
	request_init(&late, BDEV_WRITE, BIG - 8192, 4096, memory);
	assert_int_equal(request_run(bdev, &late), 0);
	assert_int_equal(resize(bdev, BIG), 0);
	check_lent(bdev, 0, SMALL, memory);
	check_lent(bdev, SMALL, BIG - SMALL, zeros);

	assert_int_equal(resize(bdev, 0), -EINVAL);
	assert_int_equal(resize(bdev, 1000), -EINVAL);
	assert_int_equal(resize(bdev, 1ull << 50), -EFBIG);
	assert_int_equal(bdev->size_bytes, BIG);

	int first = 1, second = 1;
	bdev->type->resize(bdev, SMALL, note_error, &first);
	bdev->type->resize(bdev, BIG, note_error, &second);
	assert_int_equal(second, -EBUSY);
	fake_settle();
	assert_int_equal(first, 0);
	close_channels(bdev);
	bdev_release(&holder.claim);

	bool removed = false;
	first = 1;
	bdev->type->resize(bdev, BIG, note_error, &first);
	assert_int_equal(bdev_remove(bdev, false, set_true, &removed), 0);
	fake_settle();
	assert_int_equal(first, 0);
	assert_true(removed);
}

/* ---- Creating ---- */

static int create(const char *name, uint64_t size, uint32_t block, uint32_t physical, int node)
{
	const struct bdev_malloc_options options = {.name = name,
						    .size_bytes = size,
						    .block_size = block,
						    .physical_block_size = physical,
						    .numa_id = node};
	struct bdev *bdev;
	char why[256] = "";
	int error = bdev_malloc_create(&options, &bdev, why, sizeof(why));
	assert_int_equal(error != 0, why[0] != 0);
	if (!error)
		remove_bdev(bdev);
	return error;
}

static void test_create(void **state)
{
	assert_int_equal(create("a", 512, 0, 0, REGION_ANY_NODE), 0);
	assert_int_equal(create("a", 1 << 20, 4096, 65536, REGION_ANY_NODE), 0);
	assert_int_equal(create(NULL, 1 << 20, 512, 4096, 0), 0);
	assert_int_equal(create("a", 0, 512, 0, REGION_ANY_NODE), -EINVAL);
	assert_int_equal(create("a", 1000, 512, 0, REGION_ANY_NODE), -EINVAL);
	assert_int_equal(create("a", 4096, 1000, 0, REGION_ANY_NODE), -EINVAL);
	assert_int_equal(create("a", 4096, 256, 0, REGION_ANY_NODE), -EINVAL);
	assert_int_equal(create("a", 1 << 20, 1 << 17, 0, REGION_ANY_NODE), -EINVAL);
	assert_int_equal(create("a", 1 << 20, 4096, 512, REGION_ANY_NODE), -EINVAL);
	assert_int_equal(create("a", 1ull << 63, 512, 0, REGION_ANY_NODE), -EINVAL);
	assert_int_equal(create("a", 1ull << 60, 512, 0, REGION_ANY_NODE), -ENOMEM);
	assert_int_equal(create("a", 4096, 512, 0, 4711), -EINVAL);
	assert_int_equal(create("", 4096, 512, 0, REGION_ANY_NODE), -EINVAL);
	struct bdev *taken = make_malloc("a", 4096);
	assert_int_equal(create("a", 4096, 512, 0, REGION_ANY_NODE), -EEXIST);
	remove_bdev(taken);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_model, start, stop),
		cmocka_unit_test_setup_teardown(test_memory, start, stop),
		cmocka_unit_test_setup_teardown(test_loan_stays, start, stop),
		cmocka_unit_test_setup_teardown(test_neighbours, start, stop),
		cmocka_unit_test_setup_teardown(test_big_zeroing, start, stop),
		cmocka_unit_test_setup_teardown(test_close_while_zeroing, start, stop),
		cmocka_unit_test_setup_teardown(test_resize, start, stop),
		cmocka_unit_test_setup_teardown(test_create, start, stop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
