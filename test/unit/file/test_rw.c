/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_rw: READ, WRITE and CACHE of the file bdev on a ring of the test's own: which operation is
 * asked for on which descriptor, what follows a short or failed one, and when done() is called.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>

#include "test/unit/file/fake_ring.h"

enum { PAGE = FILE_PAGE_BYTES, BUFFERED_FD = 1000, DIRECT_FD = 1001, REGION_BYTES = 1 << 20 };

static _Alignas(PAGE) uint8_t memory[1 << 20];
static _Alignas(PAGE) uint8_t region[REGION_BYTES];
static struct file *file;
static struct bdev_channel *ch;

static void begin(uint64_t size, bool direct)
{
	file = world_make_file(size, direct);
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

static void assert_sqe(unsigned n, unsigned opcode, int fd, const void *address, uint64_t length,
		       uint64_t offset)
{
	const struct io_uring_sqe *sqe = fake_sqe(n);
	assert_int_equal(sqe->opcode, opcode);
	assert_int_equal(fake_fd(sqe), fd);
	assert_ptr_equal((void *)(uintptr_t)sqe->addr, address);
	assert_int_equal(sqe->len, length);
	assert_int_equal(sqe->off, offset);
}

static void read_is_one_operation(void **state)
{
	struct request r;
	begin(1 << 20, true);
	request_submit_buffer(&r, ch, BDEV_READ, 0, 8192, memory, 4096);
	assert_int_equal(fake_count, 1);
	assert_sqe(0, IORING_OP_READ, DIRECT_FD, memory, 4096, 8192);
	assert_true(fake_sqe(0)->flags & IOSQE_FIXED_FILE);
	assert_pending(&r);
	fake_complete(0, 4096);
	assert_done(&r, 0);
	assert_int_equal(ch->inflight, 0);
}

static void vector_is_one_operation(void **state)
{
	struct request w = {.io.iovcnt = 3};
	begin(1 << 20, true);
	for (int i = 0; i < 3; i++)
		w.iov[i] = (struct iovec){memory + 2 * i * PAGE, PAGE};
	request_submit(&w, ch, BDEV_WRITE, 0, PAGE, 3 * PAGE);
	assert_sqe(0, IORING_OP_WRITEV, DIRECT_FD, w.iov, 3, PAGE);
	assert_int_equal(fake_sqe(0)->rw_flags, 0);
	fake_complete(0, 3 * PAGE);
	assert_done(&w, 0);
}

static void registered_memory_is_used_as_such(void **state)
{
	struct request r;
	begin(1 << 20, true);
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, region + PAGE, PAGE);
	assert_sqe(0, IORING_OP_READ_FIXED, DIRECT_FD, region + PAGE, PAGE, 0);
	assert_int_equal(fake_sqe(0)->buf_index, 7);
	fake_complete(0, PAGE);
	request_submit_buffer(&r, ch, BDEV_WRITE, BDEV_FUA, 0, region + REGION_BYTES - PAGE, PAGE);
	assert_int_equal(fake_sqe(1)->opcode, IORING_OP_WRITE_FIXED);
	assert_int_equal(fake_sqe(1)->rw_flags, RWF_DSYNC);
	fake_complete(1, PAGE);
	/* one byte too far, and one too early */
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, region + REGION_BYTES - PAGE + 1, PAGE);
	assert_int_equal(fake_sqe(2)->opcode, IORING_OP_READ);
	fake_complete(2, PAGE);
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, (void *)((uintptr_t)region - 1), PAGE);
	assert_int_equal(fake_sqe(3)->opcode, IORING_OP_READ);
	fake_complete(3, PAGE);
	assert_done(&r, 0);
}

static void plain_descriptor_without_registration(void **state)
{
	struct request r;
	fake_registers = false;
	begin(1 << 20, false);
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, memory, PAGE);
	assert_int_equal(fake_sqe(0)->flags, 0);
	assert_int_equal(fake_sqe(0)->fd, BUFFERED_FD);
	fake_complete(0, PAGE);
	assert_done(&r, 0);
}

static void short_buffered_io_is_continued(void **state)
{
	struct request w = {.io.iovcnt = 2};
	begin(1 << 20, false);
	w.iov[0] = (struct iovec){memory, 1000};
	w.iov[1] = (struct iovec){memory + PAGE, 3000};
	request_submit(&w, ch, BDEV_WRITE, BDEV_FUA, 77, 4000);
	fake_complete(0, 300);
	assert_sqe(1, IORING_OP_WRITE, BUFFERED_FD, memory + 300, 700, 377);
	assert_int_equal(fake_sqe(1)->rw_flags, RWF_DSYNC);
	fake_complete(1, 700);
	assert_sqe(2, IORING_OP_WRITE, BUFFERED_FD, memory + PAGE, 3000, 1077);
	fake_complete(2, 1);
	assert_sqe(3, IORING_OP_WRITE, BUFFERED_FD, memory + PAGE + 1, 2999, 1078);
	assert_int_equal(fake_sqe(3)->rw_flags, RWF_DSYNC);
	assert_pending(&w);
	assert_int_equal(file->cores[0].durable_writes, 0);
	fake_complete(3, 2999);
	assert_done(&w, 0);
	assert_int_equal(file->cores[0].durable_writes, 1);
}

static void short_direct_io_is_continued_at_a_block(void **state)
{
	struct request r;
	begin(1 << 20, true);
	request_submit_buffer(&r, ch, BDEV_READ, 0, PAGE, memory, 2 * PAGE);
	fake_complete(0, PAGE + 700);
	assert_sqe(1, IORING_OP_READ, DIRECT_FD, memory + PAGE + 512, PAGE - 512, 2 * PAGE + 512);
	fake_complete(1, PAGE - 512);
	assert_done(&r, 0);
}

static void end_of_file_is_an_error(void **state)
{
	struct request r;
	begin(1 << 20, true);
	request_submit_buffer(&r, ch, BDEV_READ, 0, PAGE, memory, PAGE);
	fake_complete(0, 0);
	assert_done(&r, -EIO);
	/* cut inside a block: its bytes come, but never all of them */
	request_submit_buffer(&r, ch, BDEV_READ, 0, PAGE, memory, PAGE);
	fake_complete(1, 700);
	fake_complete(2, 188);
	assert_done(&r, -EIO);
	request_submit_buffer(&r, ch, BDEV_WRITE, 0, PAGE, memory, PAGE);
	fake_complete(3, 0);
	assert_done(&r, -EIO);
	assert_int_equal(fake_count, 4);
}

static void errors_are_passed_on(void **state)
{
	struct request r;
	begin(1 << 20, true);
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, memory, PAGE);
	fake_complete(0, -ENODATA);
	assert_done(&r, -ENODATA);
	request_submit_buffer(&r, ch, BDEV_WRITE, 0, 0, memory, PAGE);
	fake_complete(1, 512);
	fake_complete(2, -ENOSPC);
	assert_done(&r, -ENOSPC);
	assert_int_equal(ch->stats.op[BDEV_READ].errors, 1);
	assert_int_equal(file->sync_error, 0);
}

static void interrupted_io_is_tried_again(void **state)
{
	struct request w;
	begin(1 << 20, true);
	request_submit_buffer(&w, ch, BDEV_WRITE, BDEV_FUA, 512, memory, PAGE);
	fake_complete(0, -EAGAIN);
	assert_sqe(1, IORING_OP_WRITE, DIRECT_FD, memory, PAGE, 512);
	assert_true(fake_sqe(1)->flags & IOSQE_ASYNC);
	assert_int_equal(fake_sqe(1)->rw_flags, RWF_DSYNC);
	fake_complete(1, -EINTR);
	fake_complete(2, PAGE);
	assert_done(&w, 0);
	/* but not for ever */
	request_submit_buffer(&w, ch, BDEV_WRITE, 0, 0, memory, PAGE);
	unsigned tries = 0;
	for (; !w.done; tries++)
		fake_complete(fake_count - 1, -EAGAIN);
	assert_int_equal(tries, FILE_RETRIES_MAX + 1);
	assert_int_equal(w.status, -EAGAIN);
}

static void crossing_request_is_split(void **state)
{
	struct request w = {.io.iovcnt = 2};
	begin(3 * PAGE + 1001, true);
	w.iov[0] = (struct iovec){memory, PAGE + 512};
	w.iov[1] = (struct iovec){memory + 4 * PAGE, PAGE - 512 + 1001};
	request_submit(&w, ch, BDEV_WRITE, BDEV_FUA, PAGE, 2 * PAGE + 1001);
	assert_sqe(0, IORING_OP_WRITE, DIRECT_FD, memory, PAGE + 512, PAGE);
	fake_complete(0, PAGE + 512);
	assert_sqe(1, IORING_OP_WRITE, DIRECT_FD, memory + 4 * PAGE, PAGE - 512, 2 * PAGE + 512);
	fake_complete(1, PAGE - 512);
	assert_sqe(2, IORING_OP_WRITE, BUFFERED_FD, memory + 5 * PAGE - 512, 1001, 3 * PAGE);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(fake_sqe(i)->rw_flags, RWF_DSYNC);
	assert_pending(&w);
	fake_complete(2, 1000);
	assert_sqe(3, IORING_OP_WRITE, BUFFERED_FD, memory + 5 * PAGE + 488, 1, 3 * PAGE + 1000);
	assert_pending(&w);
	fake_complete(3, 1);
	assert_done(&w, 0);
	assert_int_equal(file->cores[0].durable_writes, 1);
}

static void error_in_the_tail_ends_it(void **state)
{
	struct request w;
	begin(3 * PAGE + 1, true);
	request_submit_buffer(&w, ch, BDEV_WRITE, BDEV_FUA, 2 * PAGE, memory, PAGE + 1);
	fake_complete(0, PAGE);
	fake_complete(1, -EIO);
	assert_done(&w, -EIO);
	assert_int_equal(file->cores[0].durable_writes, 0);
	assert_int_equal(file->cores[0].errors, 1);
}

static void tail_and_small_files_are_buffered(void **state)
{
	struct request r;
	begin(3 * PAGE + 700, true);
	request_submit_buffer(&r, ch, BDEV_READ, 0, 3 * PAGE + 512, memory, 188);
	assert_sqe(0, IORING_OP_READ, BUFFERED_FD, memory, 188, 3 * PAGE + 512);
	fake_complete(0, 188);
	assert_done(&r, 0);
	request_submit_buffer(&r, ch, BDEV_READ, 0, 2 * PAGE, memory, PAGE);
	assert_sqe(1, IORING_OP_READ, DIRECT_FD, memory, PAGE, 2 * PAGE);
	fake_complete(1, PAGE);
	world_close_channel(ch);
	world_free_file(file);

	begin(PAGE - 1, true);
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, memory, PAGE - 1);
	assert_sqe(2, IORING_OP_READ, BUFFERED_FD, memory, PAGE - 1, 0);
	fake_complete(2, PAGE - 1);
	assert_done(&r, 0);
}

static void nothing_beyond_the_size(void **state)
{
	struct request r;
	begin(2 * PAGE, false);
	request_submit_buffer(&r, ch, BDEV_WRITE, 0, PAGE, memory, PAGE + 1);
	assert_done(&r, -ENOSPC);
	request_submit_buffer(&r, ch, BDEV_READ, 0, 2 * PAGE, memory, 1);
	assert_done(&r, -EINVAL);
	request_submit_buffer(&r, ch, BDEV_WRITE, 0, UINT64_MAX, memory, 2);
	assert_done(&r, -ENOSPC);
	request_submit(&r, ch, BDEV_WRITE_ZEROES, 0, PAGE, PAGE + 1);
	assert_done(&r, -ENOSPC);
	request_submit(&r, ch, BDEV_TRIM, 0, 0, 2 * PAGE + 1);
	assert_done(&r, -EINVAL);
	request_submit(&r, ch, BDEV_TRIM, 0, 0, 0);
	assert_done(&r, 0);
	assert_int_equal(fake_count, 0);
}

static void abort_cancels(void **state)
{
	struct request r;
	begin(1 << 20, true);
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, memory, PAGE);
	bdev_file_type.abort(ch, &r.io);
	assert_int_equal(fake_sqe(1)->opcode, IORING_OP_ASYNC_CANCEL);
	assert_int_equal(fake_sqe(1)->addr, fake_sqe(0)->user_data);
	assert_int_equal(fake_sqe(1)->user_data, 0);
	assert_pending(&r);
	fake_complete(0, -EINTR);
	assert_done(&r, -ETIMEDOUT);
	/* too late: it has succeeded */
	request_submit_buffer(&r, ch, BDEV_READ, 0, 0, memory, PAGE);
	bdev_file_type.abort(ch, &r.io);
	fake_complete(2, PAGE);
	assert_done(&r, 0);
}

static void cache_reads_ahead_in_pieces(void **state)
{
	const uint64_t gib = 1 << 30;
	struct request r;
	begin(4 * gib, false);
	request_submit(&r, ch, BDEV_CACHE, 0, 100, 2 * gib + 5);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(fake_sqe(i)->opcode, IORING_OP_FADVISE);
		assert_int_equal(fake_sqe(i)->fadvise_advice, POSIX_FADV_WILLNEED);
		assert_int_equal(fake_sqe(i)->off, 100 + i * gib);
		assert_int_equal(fake_sqe(i)->len, i < 2 ? gib : 5);
		assert_pending(&r);
		fake_complete(i, 0);
	}
	assert_done(&r, 0);
	request_submit(&r, ch, BDEV_CACHE, 0, 0, gib);
	fake_complete(3, -EIO);
	assert_done(&r, -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		/* first: the region is registered once in the life of a core */
		cmocka_unit_test_setup_teardown(registered_memory_is_used_as_such, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(read_is_one_operation, set_up, tear_down),
		cmocka_unit_test_setup_teardown(vector_is_one_operation, set_up, tear_down),
		cmocka_unit_test_setup_teardown(plain_descriptor_without_registration, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(short_buffered_io_is_continued, set_up, tear_down),
		cmocka_unit_test_setup_teardown(short_direct_io_is_continued_at_a_block, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(end_of_file_is_an_error, set_up, tear_down),
		cmocka_unit_test_setup_teardown(errors_are_passed_on, set_up, tear_down),
		cmocka_unit_test_setup_teardown(interrupted_io_is_tried_again, set_up, tear_down),
		cmocka_unit_test_setup_teardown(crossing_request_is_split, set_up, tear_down),
		cmocka_unit_test_setup_teardown(error_in_the_tail_ends_it, set_up, tear_down),
		cmocka_unit_test_setup_teardown(tail_and_small_files_are_buffered, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(nothing_beyond_the_size, set_up, tear_down),
		cmocka_unit_test_setup_teardown(abort_cancels, set_up, tear_down),
		cmocka_unit_test_setup_teardown(cache_reads_ahead_in_pieces, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
