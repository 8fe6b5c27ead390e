/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_sync: durability. done() of a FLUSH and of a FUA request comes after the fdatasync or the
 * durable write that it stands for, never before; an error in one reaches whom it concerns and is
 * never forgotten, on no core.
 */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "test/unit/file/fake_ring.h"

enum { SIZE = 1 << 20, PAGE = FILE_PAGE_BYTES, BODY_FD = 1001, SYNC_FD = 1002 };

static _Alignas(PAGE) uint8_t memory[PAGE];
static struct file *file;
static struct bdev_channel *channels[WORLD_CORES], *ch;

static int set_up(void **state)
{
	world_reset();
	fake_reset();
	file = world_make_file(SIZE, true);
	for (unsigned i = 0; i < WORLD_CORES; i++)
		channels[i] = world_open_channel(file, i);
	ch = channels[0];
	return 0;
}

static int tear_down(void **state)
{
	assert_int_equal(fake_pending(), 0);
	for (unsigned i = 0; i < WORLD_CORES; i++)
		world_close_channel(channels[i]);
	world_free_file(file);
	return 0;
}

static void flush(struct request *request, struct bdev_channel *channel)
{
	request_submit(request, channel, BDEV_FLUSH, 0, 0, 0);
}

static void fua_write(struct request *request, struct bdev_channel *channel)
{
	request_submit_buffer(request, channel, BDEV_WRITE, BDEV_FUA, 0, memory, PAGE);
}

static void assert_fsync(unsigned n, int fd)
{
	const struct io_uring_sqe *sqe = fake_sqe(n);
	assert_int_equal(sqe->opcode, IORING_OP_FSYNC);
	assert_int_equal(sqe->fsync_flags, IORING_FSYNC_DATASYNC);
	assert_int_equal(fake_fd(sqe), fd);
}

static json_int_t stat_of(const char *counter)
{
	json_t *object = json_object();
	bdev_file_type.dump_stat(&file->bdev, object);
	json_int_t value = -1;
	assert_int_equal(json_unpack(object, "{s:{s:I}}", "durability", counter, &value), 0);
	json_decref(object);
	return value;
}

static void flush_waits_for_fdatasync(void **state)
{
	struct request f;
	flush(&f, ch);
	assert_int_equal(fake_count, 1);
	assert_fsync(0, SYNC_FD);
	assert_pending(&f);
	assert_int_equal(stat_of("fsyncs"), 0);
	fake_complete(0, 0);
	assert_done(&f, 0);
	assert_int_equal(stat_of("fsyncs"), 1);
	assert_int_equal(stat_of("errors"), 0);
}

static void fua_write_waits_for_the_durable_write(void **state)
{
	struct request w;
	fua_write(&w, ch);
	assert_int_equal(fake_count, 1);
	assert_int_equal(fake_sqe(0)->opcode, IORING_OP_WRITE);
	assert_int_equal(fake_sqe(0)->rw_flags, RWF_DSYNC);
	assert_pending(&w);
	assert_int_equal(stat_of("durable_writes"), 0);
	fake_complete(0, PAGE);
	assert_done(&w, 0);
	assert_int_equal(stat_of("durable_writes"), 1);
	assert_int_equal(stat_of("fsyncs"), 0);
	assert_int_equal(fake_count, 1);
}

static void fua_trim_is_followed_by_fdatasync(void **state)
{
	struct request t;
	request_submit(&t, ch, BDEV_TRIM, BDEV_FUA, 0, PAGE);
	assert_int_equal(fake_sqe(0)->opcode, IORING_OP_FALLOCATE);
	assert_int_equal(fake_fd(fake_sqe(0)), BODY_FD);
	assert_int_equal(fake_count, 1);
	fake_complete(0, 0);
	assert_pending(&t);
	assert_fsync(1, SYNC_FD);
	fake_complete(1, 0);
	assert_done(&t, 0);

	request_submit(&t, ch, BDEV_WRITE_ZEROES, BDEV_FUA, 0, PAGE);
	fake_complete(2, 0);
	assert_pending(&t);
	assert_fsync(3, SYNC_FD);
	fake_complete(3, -EIO);
	assert_done(&t, -EIO);

	/* without FUA there is none, and a failed operation has nothing to make durable */
	request_submit(&t, ch, BDEV_TRIM, 0, 0, PAGE);
	fake_complete(4, 0);
	assert_done(&t, 0);
	assert_int_equal(fake_count, 5);
}

static void failed_zeroing_is_not_synced(void **state)
{
	struct request z;
	request_submit(&z, ch, BDEV_WRITE_ZEROES, BDEV_FUA, 0, PAGE);
	fake_complete(0, -EIO);
	assert_done(&z, -EIO);
	assert_int_equal(fake_count, 1);
}

static void flushes_share_the_next_fdatasync(void **state)
{
	struct request f[4];
	flush(&f[0], ch);
	flush(&f[1], ch);
	flush(&f[2], ch);
	assert_int_equal(fake_count, 1);
	fake_complete(0, 0);
	/* the running call began before these two: it says nothing about them */
	assert_done(&f[0], 0);
	assert_pending(&f[1]);
	assert_pending(&f[2]);
	assert_int_equal(fake_count, 2);
	flush(&f[3], ch);
	assert_int_equal(fake_count, 2);
	fake_complete(1, 0);
	assert_done(&f[1], 0);
	assert_done(&f[2], 0);
	assert_pending(&f[3]);
	fake_complete(2, 0);
	assert_done(&f[3], 0);
	assert_int_equal(stat_of("fsyncs"), 3);
}

static void cores_have_descriptors_of_their_own(void **state)
{
	struct request a, b;
	flush(&a, channels[0]);
	flush(&b, channels[1]);
	assert_fsync(0, SYNC_FD);
	assert_fsync(1, SYNC_FD + 1);
	fake_complete(1, 0);
	assert_done(&b, 0);
	assert_pending(&a);
	fake_complete(0, 0);
	assert_done(&a, 0);
	assert_int_equal(stat_of("fsyncs"), 2);
}

/* After the error, whatever it was that failed. */
static void assert_remembered(int error, const char *name)
{
	struct request r;
	unsigned before = fake_count;
	for (unsigned i = 0; i < WORLD_CORES; i++) {
		flush(&r, channels[i]);
		assert_done(&r, error);
		fua_write(&r, channels[i]);
		assert_done(&r, error);
		request_submit(&r, channels[i], BDEV_TRIM, BDEV_FUA, 0, PAGE);
		assert_done(&r, error);
		request_submit(&r, channels[i], BDEV_WRITE_ZEROES, BDEV_FUA, 0, PAGE);
		assert_done(&r, error);
	}
	assert_int_equal(fake_count, before);
	/* what promises no durability goes on, also a READ that carries the flag */
	request_submit_buffer(&r, ch, BDEV_READ, BDEV_FUA, 0, memory, PAGE);
	fake_complete(before, PAGE);
	assert_done(&r, 0);
	request_submit_buffer(&r, ch, BDEV_WRITE, 0, 0, memory, PAGE);
	fake_complete(before + 1, PAGE);
	assert_done(&r, 0);

	json_t *object = json_object();
	const char *shown = NULL;
	bdev_file_type.dump_info(&file->bdev, object);
	assert_int_equal(json_unpack(object, "{s:{s:s}}", "file", "sync_error", &shown), 0);
	assert_string_equal(shown, name);
	json_decref(object);
}

static void fdatasync_error_is_kept(void **state)
{
	struct request f, g;
	flush(&f, ch);
	flush(&g, ch); /* in the next round, whose call will find nothing wrong */
	fake_complete(0, -ENOSPC);
	assert_done(&f, -ENOSPC);
	assert_pending(&g);
	fake_complete(1, 0);
	assert_done(&g, -ENOSPC);
	assert_int_equal(stat_of("errors"), 1);
	/* not from the request path: from the control thread, once */
	assert_int_equal(world.log_lines, 0);
	world_run();
	assert_int_equal(world.log_lines, 1);
	assert_non_null(strstr(world.last_log, "No space left"));
	assert_remembered(-ENOSPC, "ENOSPC");
	world_run();
	assert_int_equal(world.log_lines, 1);
}

static void durable_write_error_is_kept(void **state)
{
	struct request w;
	fua_write(&w, ch);
	fake_complete(0, -EIO);
	assert_done(&w, -EIO);
	assert_int_equal(stat_of("errors"), 1);
	assert_int_equal(stat_of("durable_writes"), 0);
	assert_remembered(-EIO, "EIO");
	world_run();
	assert_int_equal(world.log_lines, 1);
}

static void first_error_stays(void **state)
{
	struct request a, b;
	flush(&a, channels[0]);
	flush(&b, channels[1]);
	fake_complete(0, -EIO);
	fake_complete(1, -EDQUOT);
	assert_done(&a, -EIO);
	assert_done(&b, -EDQUOT);
	assert_remembered(-EIO, "EIO");
	assert_int_equal(stat_of("errors"), 2);
}

static void other_core_learns_of_it(void **state)
{
	struct request a, b;
	flush(&a, channels[0]);
	flush(&b, channels[1]);
	fake_complete(0, -EIO);
	fake_complete(1, 0);
	assert_done(&a, -EIO);
	assert_done(&b, -EIO);
}

static void refused_write_loses_nothing(void **state)
{
	struct request w, f;
	fua_write(&w, ch);
	fake_complete(0, -ENOSPC);
	assert_done(&w, -ENOSPC);
	assert_int_equal(file->sync_error, 0);
	flush(&f, ch);
	fake_complete(1, 0);
	assert_done(&f, 0);
	assert_int_equal(world.log_lines, 0);
}

static void interrupted_fdatasync_is_tried_again(void **state)
{
	struct request f;
	flush(&f, ch);
	fake_complete(0, -EINTR);
	assert_pending(&f);
	assert_fsync(1, SYNC_FD);
	fake_complete(1, -EAGAIN);
	fake_complete(2, 0);
	assert_done(&f, 0);
	assert_int_equal(stat_of("fsyncs"), 1);
}

static void aborted_flush_leaves_the_others(void **state)
{
	struct request f[4];
	flush(&f[0], ch);
	flush(&f[1], ch);
	flush(&f[2], ch);
	flush(&f[3], ch);
	bdev_file_type.abort(ch, &f[1].io);
	assert_done(&f[1], -ETIMEDOUT);
	fake_complete(0, 0);
	assert_done(&f[0], 0);
	/* of a round of two, one goes at once; for the last one the call itself is cancelled */
	bdev_file_type.abort(ch, &f[2].io);
	assert_done(&f[2], -ETIMEDOUT);
	bdev_file_type.abort(ch, &f[3].io);
	bdev_file_type.abort(ch, &f[3].io);
	assert_pending(&f[3]);
	assert_int_equal(fake_sqe(2)->opcode, IORING_OP_ASYNC_CANCEL);
	assert_int_equal(fake_sqe(2)->addr, fake_sqe(1)->user_data);
	assert_int_equal(fake_count, 3);
	fake_complete(1, -EINTR);
	assert_done(&f[3], -ETIMEDOUT);
	assert_int_equal(file->sync_error, 0);
	flush(&f[0], ch);
	fake_complete(3, 0);
	assert_done(&f[0], 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(flush_waits_for_fdatasync),
		TEST(fua_write_waits_for_the_durable_write),
		TEST(fua_trim_is_followed_by_fdatasync),
		TEST(failed_zeroing_is_not_synced),
		TEST(flushes_share_the_next_fdatasync),
		TEST(cores_have_descriptors_of_their_own),
		TEST(fdatasync_error_is_kept),
		TEST(durable_write_error_is_kept),
		TEST(first_error_stays),
		TEST(other_core_learns_of_it),
		TEST(refused_write_loses_nothing),
		TEST(interrupted_fdatasync_is_tried_again),
		TEST(aborted_flush_leaves_the_others),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
