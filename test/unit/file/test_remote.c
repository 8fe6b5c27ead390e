/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_remote: the file bdev on a file system that another process or machine answers for: its
 * operations are left to the kernel's threads, and only so many requests are begun at a time.
 */
#include <errno.h>
#include <string.h>

#include "test/unit/file/fake_ring.h"

enum { PAGE = FILE_PAGE_BYTES, MOST = FILE_REMOTE_INFLIGHT_MAX, MORE = 5, SIZE = 1 << 20 };

static _Alignas(PAGE) uint8_t memory[PAGE];
static struct file *file;
static struct bdev_channel *ch;
static struct request requests[MOST + MORE];

static int set_up(void **state)
{
	world_reset();
	fake_reset();
	memset(requests, 0, sizeof(requests));
	file = world_make_file(SIZE, true);
	file->remote = true;
	ch = world_open_channel(file, 0);
	return 0;
}

static int tear_down(void **state)
{
	assert_int_equal(fake_pending(), 0);
	assert_int_equal(ch->inflight, 0);
	world_close_channel(ch);
	world_free_file(file);
	return 0;
}

static void submit_all(void)
{
	for (unsigned i = 0; i < MOST + MORE; i++)
		request_submit_buffer(&requests[i], ch, BDEV_READ, 0, i * PAGE, memory, PAGE);
}

static void complete_all(void)
{
	while (fake_pending())
		fake_complete(fake_nth_pending(0), PAGE);
}

static void reactor_never_waits(void **state)
{
	struct request *r = requests;
	request_submit_buffer(&r[0], ch, BDEV_READ, 0, 0, memory, PAGE);
	assert_true(fake_sqe(0)->flags & IOSQE_ASYNC);
	request_submit_buffer(&r[1], ch, BDEV_WRITE, 0, 0, memory, PAGE);
	assert_true(fake_sqe(1)->flags & IOSQE_ASYNC);
	/* and what is continued */
	fake_complete(0, 512);
	assert_true(fake_sqe(2)->flags & IOSQE_ASYNC);
	fake_complete(1, PAGE);
	fake_complete(2, PAGE - 512);
	assert_done(&r[0], 0);
	assert_done(&r[1], 0);
	/* zeroes that are written */
	atomic_store(&file->unsupported, 1u << FILE_PUNCH | 1u << FILE_ZERO_RANGE);
	request_submit(&r[2], ch, BDEV_WRITE_ZEROES, 0, 0, PAGE);
	assert_int_equal(fake_sqe(3)->opcode, IORING_OP_WRITE);
	assert_true(fake_sqe(3)->flags & IOSQE_ASYNC);
	fake_complete(3, PAGE);
	assert_done(&r[2], 0);
}

static void local_files_are_not_bound(void **state)
{
	struct file *local = world_make_file(SIZE, true);
	struct bdev_channel *other = world_open_channel(local, 0);
	for (unsigned i = 0; i < MOST + MORE; i++)
		request_submit_buffer(&requests[i], other, BDEV_READ, 0, 0, memory, PAGE);
	assert_int_equal(fake_pending(), MOST + MORE);
	assert_false(fake_sqe(0)->flags & IOSQE_ASYNC);
	complete_all();
	world_close_channel(other);
	world_free_file(local);
}

static void others_wait_for_their_turn(void **state)
{
	submit_all();
	assert_int_equal(fake_pending(), MOST);
	fake_complete(3, PAGE);
	assert_done(&requests[3], 0);
	assert_int_equal(fake_pending(), MOST);
	assert_int_equal(fake_sqe(MOST)->off, MOST * PAGE);
	complete_all();
	for (unsigned i = 0; i < MOST + MORE; i++)
		assert_done(&requests[i], 0);
}

/* Each ends at once when its turn comes: they do so in a loop, not inside each other. */
static void those_that_end_at_once(void **state)
{
	submit_all();
	file_channel(ch)->size = PAGE; /* as if it had been cut meanwhile */
	fake_complete(0, PAGE);
	for (unsigned i = MOST; i < MOST + MORE; i++)
		assert_done(&requests[i], -EINVAL);
	assert_int_equal(fake_pending(), MOST - 1);
	complete_all();
}

static void aborted_while_waiting(void **state)
{
	submit_all();
	bdev_file_type.abort(ch, &requests[MOST + 1].io);
	assert_done(&requests[MOST + 1], -ETIMEDOUT);
	assert_int_equal(fake_pending(), MOST);
	complete_all();
	for (unsigned i = 0; i < MOST + MORE; i++)
		assert_int_equal(requests[i].done, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(reactor_never_waits, set_up, tear_down),
		cmocka_unit_test_setup_teardown(local_files_are_not_bound, set_up, tear_down),
		cmocka_unit_test_setup_teardown(others_wait_for_their_turn, set_up, tear_down),
		cmocka_unit_test_setup_teardown(those_that_end_at_once, set_up, tear_down),
		cmocka_unit_test_setup_teardown(aborted_while_waiting, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
