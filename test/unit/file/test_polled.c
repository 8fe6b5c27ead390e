/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_polled: a block device with queues to be polled: what goes to the side ring, what stays on
 * the main one, and what is done where polling does not work after all.
 */
#include <errno.h>
#include <sys/uio.h>

#include "test/unit/file/fake_ring.h"

enum { PAGE = FILE_PAGE_BYTES, DIRECT_FD = 1001, REGION_BYTES = 1 << 20, POLLED_BYTES = 64 << 10 };

static _Alignas(PAGE) uint8_t memory[1 << 20];
static _Alignas(PAGE) uint8_t region[REGION_BYTES];
static struct file *file;
static struct bdev_channel *ch;

static void begin(void)
{
	file = world_make_file(1 << 20, true);
	file->block_device = true;
	file->polled_bytes_max = POLLED_BYTES;
	file->direct_end = UINT64_MAX;
	ch = world_open_channel(file, 0);
}

static int set_up(void **state)
{
	world_reset();
	fake_reset();
	world_reactors[0].buffers.region.base = region;
	world_reactors[0].buffers.total_bytes = REGION_BYTES;
	return 0;
}

static int tear_down(void **state)
{
	assert_int_equal(fake_pending(), 0);
	world_close_channel(ch);
	assert_int_equal(fake_files, 0);
	world_free_file(file);
	return 0;
}

static void assert_polled(unsigned n, unsigned opcode)
{
	assert_int_equal(fake_sqe(n)->opcode, opcode);
	assert_non_null(fake_sqes[n].side);
	assert_int_equal(fake_fd(fake_sqe(n)), DIRECT_FD);
}

static void assert_main(unsigned n, unsigned opcode)
{
	assert_int_equal(fake_sqe(n)->opcode, opcode);
	assert_null(fake_sqes[n].side);
}

static void reads_and_writes_are_polled(void **state)
{
	struct request r, w;
	begin();
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, memory, PAGE);
	assert_polled(0, IORING_OP_READ);
	request_submit_buffer(&w, ch, BDEV_WRITE, 0, PAGE, region, PAGE);
	assert_polled(1, IORING_OP_WRITE_FIXED);
	assert_int_equal(fake_sqe(1)->buf_index, 7);
	fake_complete(0, PAGE);
	fake_complete(1, PAGE);
	assert_done(&r, 0);
	assert_done(&w, 0);
}

/* The kernel would try for ever. */
static void what_may_be_split_is_not_polled(void **state)
{
	struct request r, w;
	begin();
	w.io.iovcnt = 2;
	w.iov[0] = (struct iovec){memory, PAGE};
	w.iov[1] = (struct iovec){memory + 2 * PAGE, PAGE};
	request_submit(&w, ch, BDEV_WRITE, 0, 0, 2 * PAGE);
	assert_main(0, IORING_OP_WRITEV);
	fake_complete(0, 2 * PAGE);
	assert_done(&w, 0);
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, memory, POLLED_BYTES);
	assert_polled(1, IORING_OP_READ);
	fake_complete(1, POLLED_BYTES);
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, memory, POLLED_BYTES + PAGE);
	assert_main(2, IORING_OP_READ);
	fake_complete(2, POLLED_BYTES + PAGE);
	assert_done(&r, 0);
}

static void what_must_last_is_not_polled(void **state)
{
	struct request w, f;
	begin();
	request_submit_buffer(&w, ch, BDEV_WRITE, BDEV_FUA, 0, memory, PAGE);
	assert_main(0, IORING_OP_WRITE);
	assert_int_equal(fake_sqe(0)->rw_flags, RWF_DSYNC);
	request_submit(&f, ch, BDEV_FLUSH, 0, 0, 0);
	assert_main(1, IORING_OP_FSYNC);
	fake_complete(0, PAGE);
	fake_complete(1, 0);
	assert_done(&w, 0);
	assert_done(&f, 0);
}

static void what_can_not_be_polled_is_done_otherwise(void **state)
{
	static const int refusals[] = {-EAGAIN, -EOPNOTSUPP, -EINTR};
	begin();
	for (unsigned i = 0; i < COUNT_OF(refusals); i++) {
		struct request r;
		request_submit_buffer(&r, ch, BDEV_READ, 0, 0, memory, PAGE);
		assert_polled(2 * i, IORING_OP_READ);
		fake_complete(2 * i, refusals[i]);
		assert_pending(&r);
		assert_main(2 * i + 1, IORING_OP_READ);
		fake_complete(2 * i + 1, PAGE);
		assert_done(&r, 0);
	}
}

static void errors_are_errors(void **state)
{
	struct request r;
	begin();
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, memory, PAGE);
	fake_complete(0, -EIO);
	assert_done(&r, -EIO);
	/* refused on the main ring, too */
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, memory, PAGE);
	fake_complete(1, -EOPNOTSUPP);
	fake_complete(2, -EOPNOTSUPP);
	assert_done(&r, -EOPNOTSUPP);
}

static void short_reads_are_continued(void **state)
{
	struct request r;
	begin();
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, memory, 2 * PAGE);
	fake_complete(0, PAGE);
	assert_polled(1, IORING_OP_READ);
	assert_int_equal(fake_sqe(1)->off, PAGE);
	fake_complete(1, PAGE);
	assert_done(&r, 0);
}

/* More than the device's part of the ring: they wait. */
static void the_ring_is_shared(void **state)
{
	static struct request requests[FILE_POLLED_INFLIGHT_MAX + 1];
	begin();
	for (unsigned i = 0; i <= FILE_POLLED_INFLIGHT_MAX; i++)
		request_submit_buffer(&requests[i], ch, BDEV_READ, 0, 0, memory, PAGE);
	assert_int_equal(fake_pending(), FILE_POLLED_INFLIGHT_MAX);
	fake_complete(fake_nth_pending(0), PAGE);
	assert_done(&requests[0], 0);
	assert_int_equal(fake_pending(), FILE_POLLED_INFLIGHT_MAX);
	while (fake_pending())
		fake_complete(fake_nth_pending(0), PAGE);
	assert_done(&requests[FILE_POLLED_INFLIGHT_MAX], 0);
}

static void without_a_side_ring_the_main_one_serves(void **state)
{
	struct request r;
	fake_polls = false;
	begin();
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, memory, PAGE);
	assert_main(0, IORING_OP_READ);
	fake_complete(0, PAGE);
	assert_done(&r, 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest cases[] = {
		CASE(reads_and_writes_are_polled),
		CASE(what_may_be_split_is_not_polled),
		CASE(what_must_last_is_not_polled),
		CASE(what_can_not_be_polled_is_done_otherwise),
		CASE(errors_are_errors),
		CASE(short_reads_are_continued),
		CASE(the_ring_is_shared),
		CASE(without_a_side_ring_the_main_one_serves),
	};
	return cmocka_run_group_tests(cases, NULL, NULL);
}
