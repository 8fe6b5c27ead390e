/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_real: the file bdev on real files through a real io_uring: in the working directory (on a
 * disk, if that is where it is built), in /dev/shm, and on a loop device where the machine lets us
 * have one. What was written is compared with what a plain read of the file says.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "test/unit/file/world.h"

enum { PAGE = FILE_PAGE_BYTES, MIB = 1 << 20, SIZE_MAX_BYTES = 3 * MIB };

static char here[] = "file-test-XXXXXX", shm[] = "/dev/shm/file-test-XXXXXX";
static _Alignas(PAGE) uint8_t payload[SIZE_MAX_BYTES], expected[SIZE_MAX_BYTES];
static struct uring_caps caps;

/* ---- Creating ---- */

static struct {
	struct bdev *bdev;
	int error;
	unsigned calls;
	char why[FILE_WHY_BYTES];
} created;

static void on_created(void *arg, struct bdev *bdev, int error, const char *why)
{
	created.bdev = bdev;
	created.error = error;
	created.calls++;
	snprintf(created.why, sizeof(created.why), "%s", why ? why : "");
}

static struct bdev *create(const struct bdev_file_options *options)
{
	memset(&created, 0, sizeof(created));
	bdev_file_create(options, on_created, NULL);
	assert_int_equal(created.calls, 0);
	world_run();
	assert_int_equal(created.calls, 1);
	assert_int_equal(created.bdev == NULL, created.error != 0);
	assert_int_equal(created.why[0] == 0, created.error == 0);
	return created.bdev;
}

static void destroy(struct bdev *bdev)
{
	unsigned before = world.destroyed;
	bdev_file_type.destroy(bdev);
	world_run();
	assert_int_equal(world.destroyed, before + 1);
}

static void assert_refused(const struct bdev_file_options *options, int error, const char *words)
{
	create(options);
	assert_int_equal(created.error, error);
	if (!strstr(created.why, words))
		fail_msg("'%s' is not in '%s'", words, created.why);
	if (options->path && options->path[0] && !strstr(created.why, options->path))
		fail_msg("the path is not in '%s'", created.why);
}

static void make_file(const char *path, uint64_t size)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0600);
	assert_true(fd >= 0);
	for (uint64_t at = 0; at < size; at += MIN_OF((uint64_t)sizeof(expected), size - at))
		assert_true(pwrite(fd, expected, MIN_OF((uint64_t)sizeof(expected), size - at),
				   at) > 0);
	close(fd);
}

static void fill(uint8_t *bytes, size_t count, unsigned salt)
{
	for (size_t i = 0; i < count; i++)
		bytes[i] = (i * 2654435761u >> 13) + salt;
}

/* ---- Running the ring ---- */

static void wait_for(struct request *request)
{
	while (!request->done) {
		uring_wait(&reactor_self->uring, 1000000000);
		uring_reap(&reactor_self->uring, 64);
	}
}

static int run_request(struct bdev_channel *ch, enum bdev_op op, unsigned flags, uint64_t offset,
		       uint64_t length)
{
	struct request request = {.io.iovcnt = 1};
	request.iov[0] = (struct iovec){payload, length};
	request_submit(&request, ch, op, flags, offset, length);
	if (ch->bdev->caps & BDEV_CAP_SYNC && (op == BDEV_READ || op == BDEV_WRITE))
		assert_int_equal(request.done, 1);
	wait_for(&request);
	return request.status;
}

static void assert_file_is(const char *path, uint64_t size)
{
	static uint8_t actual[SIZE_MAX_BYTES + 1];
	int fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, actual, sizeof(actual), 0), size);
	assert_memory_equal(actual, expected, size);
	close(fd);
}

/* Writes, zeroes, trims and reads all over it, at the block and at the end. */
static void exercise(struct bdev *bdev, const char *path)
{
	struct file *file = file_of(bdev);
	uint64_t size = bdev->size_bytes;
	uint64_t cut = size > 4 * PAGE ? (size - 2 * PAGE) / PAGE * PAGE : 0;
	struct bdev_channel *ch = world_open_channel(file, 0);

	fill(payload, size, 1);
	memcpy(expected, payload, size);
	for (uint64_t at = 0; at < size; at += MIB) {
		uint64_t length = MIN_OF(size - at, (uint64_t)MIB);
		memcpy(payload, expected + at, length);
		assert_int_equal(run_request(ch, BDEV_WRITE, at ? 0 : BDEV_FUA, at, length), 0);
	}
	assert_int_equal(run_request(ch, BDEV_FLUSH, 0, 0, 0), 0);
	assert_file_is(path, size);

	/* over the boundary, durable */
	fill(payload, size - cut, 2);
	memcpy(expected + cut, payload, size - cut);
	assert_int_equal(run_request(ch, BDEV_WRITE, BDEV_FUA, cut, size - cut), 0);
	assert_file_is(path, size);
	memset(payload, 0, size - cut);
	assert_int_equal(run_request(ch, BDEV_READ, 0, cut, size - cut), 0);
	assert_memory_equal(payload, expected + cut, size - cut);

	memset(expected + cut, 0, size - cut);
	assert_int_equal(
		run_request(ch, BDEV_WRITE_ZEROES, BDEV_NO_HOLE | BDEV_FUA, cut, size - cut), 0);
	assert_file_is(path, size);
	if (cut) {
		memset(expected + PAGE, 0, PAGE);
		assert_int_equal(run_request(ch, BDEV_WRITE_ZEROES, 0, PAGE, PAGE), 0);
		assert_file_is(path, size);
		/* the slow way too, whatever else there is */
		file_forget_method(file, FILE_PUNCH);
		file_forget_method(file, FILE_ZERO_RANGE);
		memset(expected + 2 * PAGE, 0, size - 2 * PAGE);
		assert_int_equal(
			run_request(ch, BDEV_WRITE_ZEROES, BDEV_FUA, 2 * PAGE, size - 2 * PAGE), 0);
		assert_file_is(path, size);
		file->unsupported = 0;
	}
	assert_int_equal(run_request(ch, BDEV_TRIM, BDEV_FUA, 0, size), 0);
	assert_int_equal(run_request(ch, BDEV_FLUSH, 0, 0, 0), 0);
	if (!file->block_device) {
		memset(expected, 0, size);
		assert_file_is(path, size);
	}
	if (bdev->caps & BDEV_CAP_CACHE)
		assert_int_equal(run_request(ch, BDEV_CACHE, 0, 0, size), 0);
	assert_true(file->cores[0].fsyncs >= 3);
	assert_true(file->cores[0].durable_writes >= 2);
	assert_int_equal(file->cores[0].errors, 0);
	world_close_channel(ch);
}

static bool is_in_memory(const char *path)
{
	struct statfs fs;
	assert_int_equal(statfs(path, &fs), 0);
	return fs.f_type == TMPFS_MAGIC;
}

static void serve(const char *directory, uint64_t size, enum bdev_file_direct direct)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/disk", directory);
	make_file(path, size);
	struct bdev *bdev =
		create(&(struct bdev_file_options){.name = "d", .path = path, .direct = direct});
	if (!bdev)
		fail_msg("%s", created.why);
	assert_int_equal(bdev->size_bytes, size);
	bool memory = is_in_memory(directory);
	assert_int_equal(!!(bdev->caps & BDEV_CAP_SYNC), memory);
	assert_int_equal(!!(bdev->caps & BDEV_CAP_CACHE), !memory && file_of(bdev)->direct_fd < 0);
	exercise(bdev, path);
	destroy(bdev);
	unlink(path);
}

static void files_of_any_length(void **state)
{
	static const uint64_t sizes[] = {1,	     511,	  PAGE,	  PAGE + 1, 5 * PAGE + 512,
					 MIB + 1777, 3 * MIB - 3, 2 * MIB};
	for (unsigned i = 0; i < COUNT_OF(sizes); i++) {
		serve(here, sizes[i], BDEV_FILE_DIRECT_AUTO);
		serve(here, sizes[i], BDEV_FILE_DIRECT_OFF);
		if (access("/dev/shm", W_OK) == 0)
			serve(shm, sizes[i], BDEV_FILE_DIRECT_AUTO);
	}
}

static void direct_is_really_direct(void **state)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/disk", here);
	make_file(path, MIB);
	struct bdev_file_options options = {.path = path, .direct = BDEV_FILE_DIRECT_ON};
	struct bdev *bdev = create(&options);
	if (!bdev) {
		unlink(path);
		assert_non_null(strstr(created.why, "direct=on is impossible"));
		skip();
	}
	struct file *file = file_of(bdev);
	assert_true(fcntl(file->direct_fd, F_GETFL) & O_DIRECT);
	assert_false(fcntl(file->fd, F_GETFL) & O_DIRECT);
	assert_true(bdev->align_bytes >= 512);
	assert_string_equal(bdev->name, "File0");
	destroy(bdev);
	options.direct = BDEV_FILE_DIRECT_OFF;
	bdev = create(&options);
	assert_int_equal(file_of(bdev)->direct_fd, -1);
	assert_int_equal(bdev->align_bytes, 1);
	destroy(bdev);
	options.block_size = 4096;
	bdev = create(&options);
	assert_int_equal(bdev->block_size, 4096);
	destroy(bdev);
	options.block_size = 1000;
	assert_refused(&options, -EINVAL, "power of two");
	unlink(path);
}

static void direct_in_memory_is_refused(void **state)
{
	char path[256];
	if (access("/dev/shm", W_OK) || !is_in_memory("/dev/shm"))
		skip();
	snprintf(path, sizeof(path), "%s/disk", shm);
	make_file(path, MIB);
	assert_refused(&(struct bdev_file_options){.path = path, .direct = BDEV_FILE_DIRECT_ON},
		       -EINVAL, "direct=on is impossible");
	unlink(path);
}

static void bad_files_are_refused(void **state)
{
	char path[256], fifo[256];
	snprintf(path, sizeof(path), "%s/disk", here);
	snprintf(fifo, sizeof(fifo), "%s/fifo", here);
	struct bdev_file_options options = {.path = path};
	assert_refused(&options, -ENOENT, "no such file");
	make_file(path, 0);
	assert_refused(&options, -EINVAL, "is empty");
	make_file(path, 100);
	if (geteuid()) {
		assert_int_equal(chmod(path, 0), 0);
		assert_refused(&options, -EACCES, "permission denied");
		assert_int_equal(chmod(path, 0600), 0);
	}
	options.path = here;
	assert_refused(&options, -EISDIR, "is a directory");
	options.path = "/dev/null";
	assert_refused(&options, -EINVAL, "is a character device");
	assert_int_equal(mkfifo(fifo, 0600), 0);
	options.path = fifo;
	assert_refused(&options, -EINVAL, "is a named pipe");
	options.path = "";
	assert_refused(&options, -EINVAL, "is empty");
	unlink(fifo);
	unlink(path);
}

static void names_are_taken_once(void **state)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/disk", here);
	make_file(path, 100);
	struct bdev_file_options options = {.path = path, .name = "twice", .read_only = true};
	struct bdev *bdev = create(&options);
	assert_non_null(bdev);
	create(&options);
	assert_int_equal(created.error, -EEXIST);
	assert_non_null(strstr(created.why, "twice exists already"));
	destroy(bdev);
	/* the name is taken while the file is being opened */
	struct bdev_file_options other = {.path = path, .name = "late", .read_only = true};
	bdev_file_create(&other, on_created, NULL);
	bdev_file_create(&other, on_created, NULL);
	world_run();
	assert_int_equal(created.error, -EEXIST);
	destroy(bdev_find("late"));
	unlink(path);
}

static void image_has_one_writer(void **state)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/disk", here);
	make_file(path, 100);
	struct bdev_file_options reader = {.path = path, .name = "r", .read_only = true};
	struct bdev_file_options writer = {.path = path, .name = "w"};
	struct bdev *bdev = create(&writer);
	assert_non_null(bdev);
	assert_refused(&reader, -EBUSY, "in use by another process");
	destroy(bdev);
	bdev = create(&reader);
	assert_non_null(bdev);
	assert_int_equal(bdev->caps & (BDEV_CAP_WRITE | BDEV_CAP_FLUSH | BDEV_CAP_TRIM), 0);
	assert_refused(&writer, -EBUSY, "in use by another process");
	destroy(bdev);
	/* nothing is left of a refused opening either */
	bdev = create(&writer);
	assert_non_null(bdev);
	destroy(bdev);
	unlink(path);
}

static void cut_and_read(const char *directory)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/disk", directory);
	make_file(path, MIB);
	struct bdev *bdev = create(&(struct bdev_file_options){.path = path});
	assert_non_null(bdev);
	struct bdev_channel *ch = world_open_channel(file_of(bdev), 0);
	assert_int_equal(truncate(path, 9 * PAGE + 700), 0);
	assert_int_equal(run_request(ch, BDEV_READ, 0, 0, 9 * PAGE), 0);
	assert_int_equal(run_request(ch, BDEV_READ, 0, 8 * PAGE, 4 * PAGE), -EIO);
	assert_int_equal(run_request(ch, BDEV_READ, 0, 20 * PAGE, PAGE), -EIO);
	world_close_channel(ch);
	destroy(bdev);
	unlink(path);
}

static void file_that_was_cut_fails_at_its_end(void **state)
{
	cut_and_read(here);
	if (access("/dev/shm", W_OK) == 0)
		cut_and_read(shm);
}

/* ---- A block device ---- */

static int loop_fd = -1, resize_error;

static void on_resized(void *arg, int error)
{
	resize_error = error;
}

/* False: this machine lets us have none. */
static bool loop_attach(const char *path, char device[64])
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
	if (control >= 0)
		close(control);
	if (number < 0)
		return false;
	snprintf(device, 64, "/dev/loop%d", number);
	loop_fd = open(device, O_RDWR | O_CLOEXEC);
	int backing = open(path, O_RDWR | O_CLOEXEC);
	bool attached = loop_fd >= 0 && !ioctl(loop_fd, LOOP_SET_FD, backing);
	close(backing);
	if (!attached && loop_fd >= 0)
		close(loop_fd);
	return attached;
}

static void block_device(void **state)
{
	char path[256], device[64];
	snprintf(path, sizeof(path), "%s/disk", here);
	make_file(path, 2 * MIB);
	if (!loop_attach(path, device)) {
		unlink(path);
		skip();
	}
	struct bdev_file_options options = {.path = device, .name = "loop"};
	for (int direct = BDEV_FILE_DIRECT_AUTO; direct <= BDEV_FILE_DIRECT_OFF; direct++) {
		options.direct = direct;
		struct bdev *bdev = create(&options);
		if (!bdev)
			fail_msg("%s", created.why);
		assert_true(bdev->caps & BDEV_CAP_TRIM);
		assert_int_equal(bdev->size_bytes, 2 * MIB);
		struct bdev_file_options again = {.path = device, .name = "again"};
		assert_refused(&again, -EBUSY, "in use");
		exercise(bdev, device);
		/* the way by which it was discarded is one that a block device has */
		assert_false(file_of(bdev)->unsupported & 1u << FILE_PUNCH);
		destroy(bdev);
	}
	/* it grows, and the bdev learns it */
	struct bdev *bdev = create(&options);
	assert_non_null(bdev);
	assert_int_equal(truncate(path, 3 * MIB), 0);
	assert_int_equal(ioctl(loop_fd, LOOP_SET_CAPACITY, 0), 0);
	unsigned before = world.resized;
	bdev_file_type.resize(bdev, 3 * MIB, on_resized, NULL);
	world_run();
	assert_int_equal(resize_error, 0);
	bdev_file_type.resize(bdev, 4 * MIB, on_resized, NULL);
	world_run();
	assert_int_equal(resize_error, -EINVAL);
	assert_int_equal(bdev->size_bytes, 3 * MIB);
	assert_int_equal(world.resized, before + 1);
	destroy(bdev);
	ioctl(loop_fd, LOOP_CLR_FD, 0);
	close(loop_fd);
	unlink(path);
}

/* ---- Set-up ---- */

static int group_set_up(void **state)
{
	char why[256];
	world_reset();
	if (uring_probe(&caps, why, sizeof(why))) {
		fprintf(stderr, "%s\n", why);
		exit(77);
	}
	for (unsigned i = 0; i < WORLD_CORES; i++)
		assert_int_equal(uring_init(&world_reactors[i].uring, &caps, 64, 256), 0);
	assert_non_null(mkdtemp(here));
	if (access("/dev/shm", W_OK) == 0)
		assert_non_null(mkdtemp(shm));
	return 0;
}

static int group_tear_down(void **state)
{
	for (unsigned i = 0; i < WORLD_CORES; i++)
		uring_fini(&world_reactors[i].uring);
	rmdir(shm);
	return rmdir(here);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files_of_any_length),
		cmocka_unit_test(direct_is_really_direct),
		cmocka_unit_test(direct_in_memory_is_refused),
		cmocka_unit_test(bad_files_are_refused),
		cmocka_unit_test(names_are_taken_once),
		cmocka_unit_test(image_has_one_writer),
		cmocka_unit_test(file_that_was_cut_fails_at_its_end),
		cmocka_unit_test(block_device),
	};
	return cmocka_run_group_tests(tests, group_set_up, group_tear_down);
}
