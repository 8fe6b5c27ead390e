/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_resize: a size that changes under load. Requests in flight end before the file is touched,
 * those that come meanwhile are held, nothing makes a shrunken file grow again, and the boundary
 * between direct and buffered I/O moves only while nothing is in flight. The file is a real one in
 * memory for ftruncate(), the I/O is a fake ring's.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test/unit/file/fake_ring.h"

enum { PAGE = FILE_PAGE_BYTES, SIZE = 8 * PAGE + 100, DIRECT_FD = 1001 };

static _Alignas(PAGE) uint8_t memory[8 * PAGE];
static struct file *file;
static struct bdev_channel *channels[WORLD_CORES];
static int buffered_fd;

static struct {
	unsigned calls;
	int error;
} resized;

static void on_resized(void *arg, int error)
{
	assert_ptr_equal(arg, &resized);
	resized.calls++;
	resized.error = error;
}

static int set_up(void **state)
{
	world_reset();
	fake_reset();
	memset(&resized, 0, sizeof(resized));
	file = world_make_file(SIZE, true);
	buffered_fd = memfd_create("resize", MFD_CLOEXEC);
	assert_true(buffered_fd >= 0);
	assert_int_equal(ftruncate(buffered_fd, SIZE), 0);
	file->fd = buffered_fd;
	for (unsigned i = 0; i < WORLD_CORES; i++)
		channels[i] = world_open_channel(file, i);
	return 0;
}

static int tear_down(void **state)
{
	assert_int_equal(fake_pending(), 0);
	for (unsigned i = 0; i < WORLD_CORES; i++)
		if (channels[i])
			world_close_channel(channels[i]);
	world_run();
	close(buffered_fd);
	world_free_file(file);
	return 0;
}

static uint64_t real_size(void)
{
	struct stat st;
	assert_int_equal(fstat(buffered_fd, &st), 0);
	return st.st_size;
}

static void resize(uint64_t size)
{
	bdev_file_type.resize(&file->bdev, size, on_resized, &resized);
}

static void assert_resized(int error, uint64_t size)
{
	assert_int_equal(resized.calls, 1);
	assert_int_equal(resized.error, error);
	assert_int_equal(file->bdev.size_bytes, size);
	assert_int_equal(real_size(), size);
	resized.calls = 0;
}

static void idle_file_is_resized(void **state)
{
	struct request r;
	resize(20 * PAGE + 1);
	world_run();
	assert_resized(0, 20 * PAGE + 1);
	assert_int_equal(world.resized, 1);
	request_submit_buffer(&r, channels[1], BDEV_READ, 0, 8 * PAGE, memory, PAGE);
	assert_int_equal(fake_fd(fake_sqe(0)), DIRECT_FD);
	fake_complete(0, PAGE);
	assert_done(&r, 0);
	resize(PAGE);
	world_run();
	assert_resized(0, PAGE);
	assert_int_equal(world.resized, 2);
}

static void requests_in_flight_end_first(void **state)
{
	struct request tail, body, flush, late;
	request_submit_buffer(&tail, channels[0], BDEV_WRITE, 0, 8 * PAGE, memory, 100);
	request_submit_buffer(&body, channels[1], BDEV_WRITE, 0, 0, memory, PAGE);
	request_submit(&flush, channels[1], BDEV_FLUSH, 0, 0, 0);
	resize(16 * PAGE);
	world_run();
	assert_int_equal(real_size(), SIZE);
	/* held: not in the ring, on either core */
	request_submit_buffer(&late, channels[0], BDEV_READ, 0, 7 * PAGE, memory, PAGE);
	assert_int_equal(fake_count, 3);
	fake_complete(0, 100);
	fake_complete(1, PAGE);
	world_run();
	assert_done(&tail, 0);
	assert_int_equal(real_size(), SIZE);
	assert_pending(&late);
	fake_complete(2, 0);
	assert_int_equal(resized.calls, 0);
	world_run();
	assert_resized(0, 16 * PAGE);
	assert_int_equal(fake_count, 4);
	fake_complete(3, PAGE);
	assert_done(&late, 0);
}

/* What waits for its turn at a remote file waits for the resize too. */
static void held_for_two_reasons(void **state)
{
	struct request r[3];
	file_channel(channels[0])->inflight_max = 1;
	for (unsigned i = 0; i < 2; i++)
		request_submit_buffer(&r[i], channels[0], BDEV_READ, 0, i * PAGE, memory, PAGE);
	resize(16 * PAGE);
	world_run();
	request_submit_buffer(&r[2], channels[0], BDEV_READ, 0, 5 * PAGE, memory, PAGE);
	assert_int_equal(fake_count, 1);
	fake_complete(0, PAGE);
	assert_done(&r[0], 0);
	assert_int_equal(fake_count, 1);
	world_run();
	assert_resized(0, 16 * PAGE);
	for (unsigned i = 1; i < 3; i++) {
		assert_int_equal(fake_count, i + 1);
		assert_pending(&r[i]);
		fake_complete(i, PAGE);
		assert_done(&r[i], 0);
	}
}

static void write_beyond_a_smaller_size_is_refused(void **state)
{
	struct request first, late, zero;
	request_submit_buffer(&first, channels[0], BDEV_WRITE, 0, 7 * PAGE, memory, PAGE);
	resize(2 * PAGE);
	request_submit_buffer(&late, channels[0], BDEV_WRITE, 0, PAGE, memory, 2 * PAGE);
	request_submit(&zero, channels[1], BDEV_WRITE_ZEROES, 0, 7 * PAGE, PAGE);
	fake_complete(0, PAGE);
	assert_done(&first, 0);
	world_run();
	assert_resized(0, 2 * PAGE);
	assert_done(&late, -ENOSPC);
	assert_done(&zero, -ENOSPC);
	assert_int_equal(fake_count, 1);
}

/* It ended with the file when it was made; now that is inside a block of the direct part. */
static void old_end_is_written_buffered(void **state)
{
	struct request first, late;
	request_submit_buffer(&first, channels[0], BDEV_READ, 0, 0, memory, PAGE);
	resize(16 * PAGE);
	request_submit_buffer(&late, channels[0], BDEV_WRITE, 0, 7 * PAGE, memory, PAGE + 100);
	fake_complete(0, PAGE);
	world_run();
	assert_resized(0, 16 * PAGE);
	assert_int_equal(fake_fd(fake_sqe(1)), DIRECT_FD);
	assert_int_equal(fake_sqe(1)->len, PAGE);
	fake_complete(1, PAGE);
	assert_int_equal(fake_fd(fake_sqe(2)), buffered_fd);
	assert_int_equal(fake_sqe(2)->off, 8 * PAGE);
	assert_int_equal(fake_sqe(2)->len, 100);
	fake_complete(2, 100);
	assert_done(&late, 0);
}

static void held_request_can_be_aborted(void **state)
{
	struct request first, held, other;
	request_submit_buffer(&first, channels[0], BDEV_READ, 0, 0, memory, PAGE);
	resize(16 * PAGE);
	request_submit_buffer(&held, channels[0], BDEV_READ, 0, 0, memory, PAGE);
	request_submit_buffer(&other, channels[0], BDEV_READ, 0, PAGE, memory, PAGE);
	bdev_file_type.abort(channels[0], &held.io);
	assert_done(&held, -ETIMEDOUT);
	fake_complete(0, PAGE);
	world_run();
	assert_resized(0, 16 * PAGE);
	fake_complete(1, PAGE);
	assert_done(&other, 0);
}

static void channel_that_opens_meanwhile_waits_too(void **state)
{
	struct request first, early;
	world_close_channel(channels[1]);
	request_submit_buffer(&first, channels[0], BDEV_READ, 0, 0, memory, PAGE);
	resize(3 * PAGE);
	channels[1] = world_open_channel(file, 1);
	request_submit_buffer(&early, channels[1], BDEV_WRITE, 0, 7 * PAGE, memory, PAGE);
	assert_pending(&early);
	world_on_core(0);
	fake_complete(0, PAGE);
	world_run();
	assert_resized(0, 3 * PAGE);
	assert_done(&early, -ENOSPC);
}

static void bad_sizes_are_refused(void **state)
{
	resize(0);
	assert_resized(-EINVAL, SIZE);
	resize(1ull << 63);
	assert_resized(-EINVAL, SIZE);
	file->read_only = true;
	resize(PAGE);
	assert_resized(-EPERM, SIZE);
	file->read_only = false;
	assert_false(world_step());
	/* one at a time */
	resize(2 * PAGE);
	resize(3 * PAGE);
	assert_int_equal(resized.error, -EBUSY);
	resized.calls = 0;
	world_run();
	assert_resized(0, 2 * PAGE);
}

static void failure_leaves_the_size(void **state)
{
	int sealed = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(sealed, SIZE), 0);
	assert_int_equal(fcntl(sealed, F_ADD_SEALS, F_SEAL_GROW), 0);
	close(buffered_fd);
	file->fd = buffered_fd = sealed;
	resize(16 * PAGE);
	world_run();
	assert_resized(-EPERM, SIZE);
	assert_int_equal(world.resized, 0);
}

static void rescan_takes_over_what_became_of_it(void **state)
{
	file_rescan(&file->bdev, on_resized, &resized);
	world_run();
	assert_resized(0, SIZE);
	assert_int_equal(world.resized, 0);
	assert_int_equal(ftruncate(buffered_fd, 3 * PAGE), 0);
	file_rescan(&file->bdev, on_resized, &resized);
	world_run();
	assert_resized(0, 3 * PAGE);
	assert_int_equal(world.resized, 1);
	assert_int_equal(ftruncate(buffered_fd, 0), 0);
	file_rescan(&file->bdev, on_resized, &resized);
	world_run();
	assert_int_equal(resized.error, -EINVAL);
	assert_int_equal(file->bdev.size_bytes, 3 * PAGE);
}

static void destruction_waits_for_the_resize(void **state)
{
	/* what destroy() frees and closes; tear_down() has another */
	struct file *gone = world_make_file(SIZE, false);
	gone->fd = dup(buffered_fd);
	gone->cores[0].sync_fd = gone->cores[1].sync_fd = -1;
	bdev_file_type.resize(&gone->bdev, 2 * PAGE, on_resized, &resized);
	gone->bdev.removing = true;
	bdev_file_type.destroy(&gone->bdev);
	assert_int_equal(world.destroyed, 0);
	world_run();
	assert_int_equal(resized.calls, 1);
	assert_int_equal(resized.error, 0);
	assert_int_equal(world.destroyed, 1);
	assert_int_equal(world.resized, 0);
	assert_int_equal(real_size(), 2 * PAGE);
}

static void file_in_memory_is_not_held(void **state)
{
	struct request w, zero;
	uint8_t text[3] = {1, 2, 3};
	struct file *other = world_make_file(64 << 20, false);
	other->memory = true;
	other->fd = dup(buffered_fd);
	assert_int_equal(ftruncate(other->fd, 64 << 20), 0);
	struct bdev_channel *ch = world_open_channel(other, 0);
	/* a large range is zeroed by the ring: it is what the resize has to wait for */
	request_submit(&zero, ch, BDEV_WRITE_ZEROES, 0, 0, 32 << 20);
	assert_pending(&zero);
	bdev_file_type.resize(&other->bdev, PAGE, on_resized, &resized);
	world_run();
	assert_int_equal(resized.calls, 0);
	request_submit_buffer(&w, ch, BDEV_WRITE, 0, 2 * PAGE, text, 3);
	assert_done(&w, -ENOSPC);
	request_submit_buffer(&w, ch, BDEV_WRITE, 0, 10, text, 3);
	assert_done(&w, 0);
	fake_complete(0, 0);
	assert_done(&zero, 0);
	world_run();
	assert_int_equal(resized.calls, 1);
	assert_int_equal(resized.error, 0);
	assert_int_equal(real_size(), PAGE);
	world_close_channel(ch);
	close(other->fd);
	world_free_file(other);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(idle_file_is_resized),
		TEST(requests_in_flight_end_first),
		TEST(held_for_two_reasons),
		TEST(write_beyond_a_smaller_size_is_refused),
		TEST(old_end_is_written_buffered),
		TEST(held_request_can_be_aborted),
		TEST(channel_that_opens_meanwhile_waits_too),
		TEST(bad_sizes_are_refused),
		TEST(failure_leaves_the_size),
		TEST(rescan_takes_over_what_became_of_it),
		TEST(destruction_waits_for_the_resize),
		TEST(file_in_memory_is_not_held),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
