/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_zero: TRIM and WRITE_ZEROES: the order in which ways are tried, what is remembered of those
 * that the kernel does not know, and the writing of zeroes where no other way is left.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/ioctl.h>

#include "test/unit/file/fake_ring.h"

enum {
	PAGE = FILE_PAGE_BYTES,
	MIB = 1 << 20,
	BUFFERED_FD = 1000,
	DIRECT_FD = 1001,
	PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	ZERO_RANGE = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
	DISCARD_STALE = PUNCH | FALLOC_FL_NO_HIDE_STALE,
};

static struct file *file;
static struct bdev_channel *ch;

static int set_up(void **state)
{
	world_reset();
	fake_reset();
	return 0;
}

static void begin(uint64_t size, bool direct, bool block_device)
{
	file = world_make_file(size, direct);
	file->block_device = block_device;
	file->direct_end = file_direct_end(file, size);
	ch = world_open_channel(file, 0);
}

static int tear_down(void **state)
{
	assert_int_equal(fake_pending(), 0);
	world_close_channel(ch);
	world_free_file(file);
	return 0;
}

static void assert_fallocate(unsigned n, int mode, uint64_t offset, uint64_t length)
{
	const struct io_uring_sqe *sqe = fake_sqe(n);
	assert_int_equal(sqe->opcode, IORING_OP_FALLOCATE);
	assert_int_equal(sqe->len, mode);
	assert_int_equal(sqe->off, offset);
	assert_int_equal(sqe->addr, length);
}

static void assert_written(unsigned n, uint64_t offset, uint32_t length)
{
	const struct io_uring_sqe *sqe = fake_sqe(n);
	assert_int_equal(sqe->opcode, IORING_OP_WRITE);
	assert_int_equal(sqe->off, offset);
	assert_int_equal(sqe->len, length);
}

static void trim_punches_a_hole(void **state)
{
	struct request t;
	uint64_t size = 1ull << 42;
	begin(size, true, false);
	request_submit(&t, ch, BDEV_TRIM, 0, 0, size);
	assert_fallocate(0, PUNCH, 0, size);
	assert_pending(&t);
	fake_complete(0, 0);
	assert_done(&t, 0);
	request_submit(&t, ch, BDEV_TRIM, 0, PAGE, PAGE);
	fake_complete(1, -EIO);
	assert_done(&t, -EIO);
}

/* A part of a page would be zeroed in the page cache, in the way of direct I/O. */
static void trim_takes_whole_pages(void **state)
{
	struct request t;
	begin(MIB + 1536, true, false);
	request_submit(&t, ch, BDEV_TRIM, 0, 512, 3 * PAGE);
	assert_fallocate(0, PUNCH, PAGE, 2 * PAGE);
	fake_complete(0, 0);
	assert_done(&t, 0);
	request_submit(&t, ch, BDEV_TRIM, 0, 512, PAGE);
	assert_done(&t, 0);
	assert_int_equal(fake_count, 1);
	/* what lies behind the last whole page goes through the page cache anyway */
	request_submit(&t, ch, BDEV_TRIM, 0, MIB - 512, 512 + 1536);
	assert_fallocate(1, PUNCH, MIB, 1536);
	fake_complete(1, 0);
	assert_done(&t, 0);
}

static void zeroes_around_whole_pages_are_written(void **state)
{
	struct request z;
	begin(MIB, true, false);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, BDEV_FUA, 3 * 512, 4 * PAGE);
	assert_written(0, 3 * 512, PAGE - 3 * 512);
	assert_written(1, 4 * PAGE, 3 * 512);
	assert_int_equal(fake_count, 2);
	fake_complete(1, 3 * 512);
	fake_complete(0, PAGE - 3 * 512);
	assert_fallocate(2, PUNCH, PAGE, 3 * PAGE);
	fake_complete(2, 0);
	assert_int_equal(fake_sqe(3)->opcode, IORING_OP_FSYNC);
	assert_pending(&z);
	fake_complete(3, 0);
	assert_done(&z, 0);
	/* one edge; an error there is the request's */
	request_submit(&z, ch, BDEV_WRITE_ZEROES, BDEV_NO_HOLE, PAGE, PAGE + 512);
	assert_written(4, 2 * PAGE, 512);
	fake_complete(4, 512);
	assert_fallocate(5, ZERO_RANGE, PAGE, PAGE);
	fake_complete(5, 0);
	assert_done(&z, 0);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, 0, 512, PAGE);
	assert_written(6, 512, PAGE);
	fake_complete(6, PAGE);
	assert_done(&z, 0);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, 0, 512, 2 * PAGE);
	fake_complete(7, -EIO);
	fake_complete(8, 512);
	assert_done(&z, -EIO);
	assert_int_equal(fake_count, 9);
}

static void abort_at_the_edges(void **state)
{
	struct request z;
	begin(MIB, true, false);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, 0, 512, 2 * PAGE);
	bdev_file_type.abort(ch, &z.io);
	assert_int_equal(fake_sqe(2)->opcode, IORING_OP_ASYNC_CANCEL);
	assert_int_equal(fake_sqe(3)->opcode, IORING_OP_ASYNC_CANCEL);
	/* both had been done already */
	fake_complete(0, PAGE - 512);
	fake_complete(1, 512);
	assert_done(&z, -ETIMEDOUT);
	assert_int_equal(fake_count, 5);
}

static void trim_that_is_unknown_has_succeeded(void **state)
{
	struct request t;
	begin(MIB, true, false);
	request_submit(&t, ch, BDEV_TRIM, 0, 0, MIB);
	fake_complete(0, -EOPNOTSUPP);
	assert_done(&t, 0);
	request_submit(&t, ch, BDEV_TRIM, 0, 0, MIB);
	assert_done(&t, 0);
	assert_int_equal(fake_count, 1);
}

static void device_is_discarded(void **state)
{
	struct request t;
	begin(1ull << 40, true, true);
	request_submit(&t, ch, BDEV_TRIM, 0, PAGE, 1ull << 39);
	assert_int_equal(fake_sqe(0)->opcode, IORING_OP_URING_CMD);
	assert_int_equal(fake_sqe(0)->cmd_op, _IO(0x12, 0));
	assert_int_equal(fake_sqe(0)->addr, PAGE);
	assert_int_equal(fake_sqe(0)->addr3, 1ull << 39);
	fake_complete(0, 0);
	assert_done(&t, 0);
	/* an older kernel: its own way; a still stranger one: zeroing that gives back */
	request_submit(&t, ch, BDEV_TRIM, 0, 0, PAGE);
	fake_complete(1, -EINVAL);
	assert_fallocate(2, DISCARD_STALE, 0, PAGE);
	fake_complete(2, -EOPNOTSUPP);
	assert_fallocate(3, PUNCH, 0, PAGE);
	fake_complete(3, 0);
	assert_done(&t, 0);
	request_submit(&t, ch, BDEV_TRIM, 0, 0, PAGE);
	assert_fallocate(4, PUNCH, 0, PAGE);
	fake_complete(4, 0);
}

static void zeroes_may_be_a_hole(void **state)
{
	struct request z;
	begin(MIB, true, false);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, 0, PAGE, PAGE);
	assert_fallocate(0, PUNCH, PAGE, PAGE);
	fake_complete(0, 0);
	assert_done(&z, 0);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, BDEV_NO_HOLE, PAGE, PAGE);
	assert_fallocate(1, ZERO_RANGE, PAGE, PAGE);
	fake_complete(1, 0);
	assert_done(&z, 0);
	/* no holes here: then zero range, and it is remembered */
	request_submit(&z, ch, BDEV_WRITE_ZEROES, 0, PAGE, PAGE);
	fake_complete(2, -EOPNOTSUPP);
	assert_fallocate(3, ZERO_RANGE, PAGE, PAGE);
	fake_complete(3, 0);
	assert_done(&z, 0);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, 0, PAGE, PAGE);
	assert_fallocate(4, ZERO_RANGE, PAGE, PAGE);
	fake_complete(4, -ENOSPC);
	assert_done(&z, -ENOSPC);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, 0, PAGE, PAGE);
	fake_complete(5, -EINTR);
	fake_complete(6, 0);
	assert_done(&z, 0);
}

/* Completes all writes in flight, oldest last, as whole; notes the bytes that were zeroed. */
static void write_all(uint8_t *zeroed, uint64_t boundary)
{
	while (fake_pending()) {
		unsigned n = fake_nth_pending(fake_pending() - 1);
		const struct io_uring_sqe *sqe = fake_sqe(n);
		if (sqe->opcode != IORING_OP_WRITE)
			return;
		assert_true(fake_pending() <= FILE_ZERO_PIECES);
		assert_true(sqe->len > 0 && sqe->len <= MIB);
		assert_ptr_equal((void *)(uintptr_t)sqe->addr, file_zeroes);
		assert_int_equal(sqe->rw_flags, 0);
		bool direct = fake_fd(sqe) == DIRECT_FD;
		assert_true(direct ? sqe->off + sqe->len <= boundary : sqe->off >= boundary);
		for (uint64_t at = sqe->off; at < sqe->off + sqe->len; at++)
			assert_int_equal(zeroed[at]++, 0);
		fake_complete(n, sqe->len);
	}
}

static void zeroes_are_written_where_nothing_else_works(void **state)
{
	enum { SIZE = 7 * MIB + 3 * PAGE + 77, FROM = 5 * 512 };
	static uint8_t zeroed[SIZE];
	struct request z;
	begin(SIZE, true, false);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, BDEV_FUA, FROM, SIZE - FROM);
	/* the part of a page at its start, once */
	assert_written(0, FROM, PAGE - FROM);
	fake_complete(0, PAGE - FROM);
	assert_fallocate(1, PUNCH, PAGE, SIZE - PAGE);
	fake_complete(1, -EOPNOTSUPP);
	assert_fallocate(2, ZERO_RANGE, PAGE, SIZE - PAGE);
	fake_complete(2, -EOPNOTSUPP);
	assert_int_equal(fake_pending(), FILE_ZERO_PIECES);
	assert_pending(&z);
	write_all(zeroed, SIZE / PAGE * PAGE);
	for (uint64_t at = 0; at < SIZE; at++)
		assert_int_equal(zeroed[at], at >= FROM);
	for (unsigned i = 0; i < FILE_ZERO_PIECE_BYTES; i++)
		assert_int_equal(file_zeroes[i], 0);
	/* FUA: durable when all of them are */
	assert_pending(&z);
	assert_int_equal(fake_sqe(fake_count - 1)->opcode, IORING_OP_FSYNC);
	fake_complete(fake_count - 1, 0);
	assert_done(&z, 0);

	/* the next one does not ask again */
	memset(zeroed, 0, sizeof(zeroed));
	unsigned before = fake_count;
	request_submit(&z, ch, BDEV_WRITE_ZEROES, BDEV_NO_HOLE, 0, PAGE);
	assert_int_equal(fake_sqe(before)->opcode, IORING_OP_WRITE);
	write_all(zeroed, SIZE / PAGE * PAGE);
	assert_done(&z, 0);
	assert_int_equal(fake_count, before + 1);
}

static void fast_zero_never_writes(void **state)
{
	struct request z;
	begin(MIB, true, false);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, BDEV_FAST_ZERO, 0, MIB);
	fake_complete(0, -EOPNOTSUPP);
	fake_complete(1, -EOPNOTSUPP);
	assert_done(&z, -ENOTSUP);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, BDEV_FAST_ZERO | BDEV_NO_HOLE, 0, MIB);
	assert_done(&z, -ENOTSUP);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, BDEV_FAST_ZERO, 0, MIB);
	assert_done(&z, -ENOTSUP);
	assert_int_equal(fake_count, 2);
}

static void device_that_writes_is_not_fast(void **state)
{
	struct request z;
	begin(MIB, true, true);
	file->zero_range_slow = true;
	request_submit(&z, ch, BDEV_WRITE_ZEROES, BDEV_FAST_ZERO | BDEV_NO_HOLE, 0, MIB);
	assert_done(&z, -ENOTSUP);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, BDEV_FAST_ZERO, 0, MIB);
	assert_fallocate(0, PUNCH, 0, MIB);
	fake_complete(0, -EOPNOTSUPP);
	assert_done(&z, -ENOTSUP);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, 0, 0, MIB);
	assert_fallocate(1, ZERO_RANGE, 0, MIB);
	fake_complete(1, 0);
	assert_done(&z, 0);
}

static void begin_writing(struct request *z, uint64_t size)
{
	begin(size, true, false);
	file_forget_method(file, FILE_PUNCH);
	file_forget_method(file, FILE_ZERO_RANGE);
	request_submit(z, ch, BDEV_WRITE_ZEROES, BDEV_FUA, 0, size);
	assert_int_equal(fake_pending(), FILE_ZERO_PIECES);
}

static void error_while_writing_stops_it(void **state)
{
	struct request z;
	begin_writing(&z, 64 * MIB);
	fake_complete(1, MIB);
	assert_int_equal(fake_count, 5);
	fake_complete(2, -ENOSPC);
	fake_complete(0, MIB);
	fake_complete(3, -EIO);
	assert_pending(&z);
	assert_int_equal(fake_count, 5);
	fake_complete(4, MIB);
	assert_done(&z, -ENOSPC);
	assert_int_equal(fake_count, 5);
}

static void short_write_of_zeroes_is_continued(void **state)
{
	struct request z;
	begin_writing(&z, 4 * MIB);
	fake_complete(2, 5 * 512 + 100);
	assert_int_equal(fake_sqe(4)->off, 2 * MIB + 5 * 512);
	assert_int_equal(fake_sqe(4)->len, MIB - 5 * 512);
	fake_complete(4, -EAGAIN);
	assert_int_equal(fake_sqe(5)->off, 2 * MIB + 5 * 512);
	assert_true(fake_sqe(5)->flags & IOSQE_ASYNC);
	fake_complete(5, MIB - 5 * 512);
	fake_complete(0, MIB);
	fake_complete(1, MIB);
	fake_complete(3, 0); /* no headway */
	assert_done(&z, -EIO);
}

static void abort_cancels_every_write(void **state)
{
	struct request z;
	begin_writing(&z, 64 * MIB);
	fake_complete(0, MIB);
	bdev_file_type.abort(ch, &z.io);
	unsigned cancels = 0;
	for (unsigned i = 5; i < fake_count; i++) {
		assert_int_equal(fake_sqe(i)->opcode, IORING_OP_ASYNC_CANCEL);
		for (unsigned n = 1; n < 5; n++)
			cancels += fake_sqe(i)->addr == fake_sqe(n)->user_data;
	}
	assert_int_equal(cancels, FILE_ZERO_PIECES);
	fake_complete(1, MIB);
	fake_complete(2, -ECANCELED);
	fake_complete(3, -ECANCELED);
	assert_pending(&z);
	fake_complete(4, -EINTR);
	assert_done(&z, -ETIMEDOUT);
}

static void draining_channel_stops_writing(void **state)
{
	struct request z;
	begin_writing(&z, 64 * MIB);
	bdev_file_type.cancel(ch);
	for (unsigned i = 0; i < FILE_ZERO_PIECES; i++) {
		assert_pending(&z);
		fake_complete(i, MIB);
	}
	assert_done(&z, -ECANCELED);
	/* if the channel stays, the next one is whole again */
	request_submit(&z, ch, BDEV_WRITE_ZEROES, 0, 0, PAGE);
	fake_complete(4, PAGE);
	assert_done(&z, 0);
}

/* Where nothing may be begun any more there is no completion to wait for. */
static void stopped_before_the_first_write(void **state)
{
	struct request z, y;
	begin(64 * MIB, true, false);
	request_submit(&z, ch, BDEV_WRITE_ZEROES, 0, 0, 64 * MIB);
	bdev_file_type.abort(ch, &z.io);
	fake_complete(0, -EOPNOTSUPP);
	assert_fallocate(2, ZERO_RANGE, 0, 64 * MIB);
	assert_pending(&z);
	fake_complete(2, -EOPNOTSUPP);
	assert_done(&z, -ETIMEDOUT);
	assert_int_equal(fake_count, 3);
	/* from another core, while this one is drained; with edges as without */
	request_submit(&z, ch, BDEV_FLUSH, 0, 0, 0);
	bdev_file_type.cancel(ch);
	file->unsupported &= ~(1u << FILE_ZERO_RANGE);
	request_submit(&y, ch, BDEV_WRITE_ZEROES, BDEV_NO_HOLE, 512, 4 * PAGE);
	assert_done(&y, -ECANCELED);
	request_submit(&y, ch, BDEV_WRITE_ZEROES, 0, 0, 4 * PAGE + 512);
	assert_done(&y, -ECANCELED);
	request_submit(&y, ch, BDEV_WRITE_ZEROES, BDEV_FUA, 512, 512);
	assert_done(&y, -ECANCELED);
	assert_int_equal(fake_count, 4);
	fake_complete(3, 0);
	assert_done(&z, 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(trim_punches_a_hole),
		TEST(trim_takes_whole_pages),
		TEST(zeroes_around_whole_pages_are_written),
		TEST(abort_at_the_edges),
		TEST(trim_that_is_unknown_has_succeeded),
		TEST(device_is_discarded),
		TEST(zeroes_may_be_a_hole),
		TEST(zeroes_are_written_where_nothing_else_works),
		TEST(fast_zero_never_writes),
		TEST(device_that_writes_is_not_fast),
		TEST(error_while_writing_stops_it),
		TEST(short_write_of_zeroes_is_continued),
		TEST(abort_cancels_every_write),
		TEST(draining_channel_stops_writing),
		TEST(stopped_before_the_first_write),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
