/* SPDX-License-Identifier: BSD-3-Clause */
/* null: zeros for everybody, at any alignment; resizing; what cannot be created. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/null/null.h"
#include "bdev/support.h"
#include "fake/reactor.h"

static int start(void **state)
{
	fake_start(1);
	return 0;
}

static int stop(void **state)
{
	fake_stop();
	return 0;
}

static void test_io(void **state)
{
	static uint8_t memory[1 << 20];
	static const uint8_t zeros[1 << 20];
	struct bdev *bdev = make_null(NULL, 1ull << 50);
	assert_string_equal(bdev->name, "Null0");
	open_channels(bdev);
	memset(memory, 0xff, sizeof(memory));
	assert_int_equal(do_io(bdev, BDEV_WRITE, 7, 4096, memory, BDEV_FUA), 0);
	assert_int_equal(memory[100], 0xff);
	assert_int_equal(do_io(bdev, BDEV_READ, 3, 5001, memory + 1, 0), 0);
	assert_memory_equal(memory + 1, zeros, 5001);
	assert_int_equal(memory[0], 0xff);
	assert_int_equal(memory[5002], 0xff);
	check_lent(bdev, 12345, sizeof(zeros), zeros);
	assert_int_equal(do_io(bdev, BDEV_TRIM, 0, 1ull << 50, NULL, 0), 0);
	assert_int_equal(do_io(bdev, BDEV_WRITE_ZEROES, 0, 1ull << 50, NULL, BDEV_NO_HOLE), 0);
	assert_int_equal(do_io(bdev, BDEV_FLUSH, 0, 0, NULL, 0), 0);
	assert_int_equal(do_io(bdev, BDEV_CACHE, 0, 4096, NULL, 0), -EOPNOTSUPP);
	assert_int_equal(bdev_channel_here(bdev)->inflight, 0);
	close_channels(bdev);
	remove_bdev(bdev);
}

static unsigned resizes;

static void on_event(struct bdev_claim *claim, enum bdev_event event)
{
	assert_int_equal(event, BDEV_EVENT_RESIZE);
	resizes++;
}

static void note_error(void *arg, int error)
{
	*(int *)arg = error;
}

static void test_resize(void **state)
{
	struct bdev *bdev = make_null("n", 1 << 20);
	struct bdev_claim claim = {.holder = "test", .event = on_event};
	int error = 1;
	resizes = 0;
	assert_int_equal(bdev_claim(bdev, &claim), 0);
	bdev->type->resize(bdev, 4096, note_error, &error);
	assert_int_equal(error, 0);
	assert_int_equal(bdev->size_bytes, 4096);
	bdev->type->resize(bdev, 4097, note_error, &error);
	assert_int_equal(error, -EINVAL);
	bdev->type->resize(bdev, 0, note_error, &error);
	assert_int_equal(error, -EINVAL);
	assert_int_equal(bdev->size_bytes, 4096);
	assert_int_equal(resizes, 1);
	bdev_release(&claim);
	remove_bdev(bdev);
}

static void test_create(void **state)
{
	const struct {
		struct bdev_null_options options;
		int error;
	} bad[] = {
		{{.name = "n", .size_bytes = 0}, -EINVAL},
		{{.name = "n", .size_bytes = 513}, -EINVAL},
		{{.name = "n", .size_bytes = 4096, .block_size = 3}, -EINVAL},
		{{.name = "n", .size_bytes = 1ull << 63}, -EINVAL},
		{{.name = "n", .size_bytes = 4096, .physical_block_size = 100}, -EINVAL},
		{{.name = "n\n", .size_bytes = 4096}, -EINVAL},
		{{.name = "taken", .size_bytes = 4096}, -EEXIST},
	};
	struct bdev *taken = make_null("taken", 4096);
	for (size_t i = 0; i < COUNT_OF(bad); i++) {
		struct bdev *bdev;
		char why[256] = "";
		assert_int_equal(bdev_null_create(&bad[i].options, &bdev, why, sizeof(why)),
				 bad[i].error);
		assert_int_not_equal(why[0], 0);
	}
	remove_bdev(taken);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_io, start, stop),
		cmocka_unit_test_setup_teardown(test_resize, start, stop),
		cmocka_unit_test_setup_teardown(test_create, start, stop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
