/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_extents: EXTENTS of a file, and the READs that its maps spare. The ring is the tests' own
 * and the file is a real one: what the driver asks of the ring is carried out when the test wants
 * it, and completed when it wants that; workers and messages run step by step. So a map can be made
 * before, during and after any part of a write.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "bdev/file/map.h"
#include "test/unit/file/fake_ring.h"

enum {
	BLOCK = 4096,
	SHIFT = 16, /* of a window's bytes here */
	WINDOW = 1 << SHIFT,
	FILE_BYTES = 20 * WINDOW,
	ROOM = 512, /* extents */
	HOLE = BDEV_EXTENT_HOLE | BDEV_EXTENT_ZERO,
	UNWRITTEN = BDEV_EXTENT_ZERO,
};

static struct {
	struct file *file;
	struct bdev_channel *ch[WORLD_CORES];
	char path[64];
	bool fiemap;
} on;

/* An EXTENTS and its array. */
struct question {
	struct request request;
	struct bdev_extent extents[ROOM];
};

static _Alignas(BLOCK) uint8_t bytes[FILE_BYTES];

/* ---- The world around ---- */

static void set_up(const char *directory)
{
	world_reset();
	fake_reset();
	snprintf(on.path, sizeof(on.path), "%s/extents-XXXXXX", directory);
	int fd = mkstemp(on.path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, FILE_BYTES), 0);
	struct statfs fs;
	assert_int_equal(fstatfs(fd, &fs), 0);
	on.fiemap = fs.f_type != TMPFS_MAGIC;
	on.file = world_make_file(FILE_BYTES, false);
	on.file->fd = fd;
	on.file->window_shift = SHIFT;
	for (unsigned i = 0; i < WORLD_CORES; i++)
		on.ch[i] = world_open_channel(on.file, i);
}

static void close_channels(void)
{
	for (unsigned i = 0; i < WORLD_CORES; i++) {
		if (on.ch[i])
			world_close_channel(on.ch[i]);
		on.ch[i] = NULL;
	}
}

static int tear_down(void **state)
{
	close_channels();
	world_run();
	assert_int_equal(on.file->map_jobs, 0);
	close(on.file->fd);
	unlink(on.path);
	world_free_file(on.file);
	return 0;
}

static int set_up_memory(void **state)
{
	set_up(access("/dev/shm", W_OK) ? "." : "/dev/shm");
	return 0;
}

static int set_up_here(void **state)
{
	set_up(".");
	return 0;
}

/* ---- Questions ---- */

static void ask(struct question *q, unsigned core, uint64_t offset, uint64_t length, unsigned room)
{
	memset(q->extents, 0xee, sizeof(q->extents));
	q->request.io.context = 0;
	q->request.io.iovcnt = 1;
	q->request.iov[0] = (struct iovec){q->extents, room * sizeof(struct bdev_extent)};
	request_submit(&q->request, on.ch[core], BDEV_EXTENTS, 0, offset, length);
}

/* What every answer must be: from the offset on, not beyond the end, coalesced. Returns its end. */
static uint64_t check_form(const struct question *q)
{
	const struct bdev_io *io = &q->request.io;
	uint64_t at = io->offset, end = io->offset + io->length;
	unsigned room = io->iov[0].iov_len / sizeof(struct bdev_extent);
	assert_int_equal(q->request.status, 0);
	assert_in_range(io->extents, 1, room);
	for (unsigned i = 0; i < io->extents; i++) {
		assert_true(q->extents[i].length > 0);
		assert_true(!i || q->extents[i].flags != q->extents[i - 1].flags);
		at += q->extents[i].length;
	}
	assert_true(at <= end);
	assert_true(at == end || io->extents == room);
	return at;
}

/* Asks for all of it and compares: {length, flags} … ; the lengths in blocks. */
static void expect(unsigned core, const struct bdev_extent *wanted, unsigned count)
{
	struct question q;
	ask(&q, core, 0, FILE_BYTES, ROOM);
	world_run();
	assert_int_equal(q.request.done, 1);
	assert_int_equal(check_form(&q), FILE_BYTES);
	assert_int_equal(q.request.io.extents, count);
	for (unsigned i = 0; i < count; i++) {
		assert_int_equal(q.extents[i].length, wanted[i].length * BLOCK);
		assert_int_equal(q.extents[i].flags, wanted[i].flags);
	}
}

#define EXPECT(core, ...)                                                                          \
	do {                                                                                       \
		static const struct bdev_extent wanted_[] = {__VA_ARGS__};                         \
		expect(core, wanted_, COUNT_OF(wanted_));                                          \
	} while (0)

enum { ALL = FILE_BYTES / BLOCK };

static uint64_t maps_made(void)
{
	return atomic_load(&on.file->maps_made);
}

/* ---- The kernel's part ---- */

/* Carries an operation out on the file; returns its result. */
static int carry_out(unsigned n)
{
	const struct io_uring_sqe *sqe = fake_sqe(n);
	int result;
	assert_int_equal(fake_fd(sqe), on.file->fd);
	switch (sqe->opcode) {
	case IORING_OP_READ:
		result = pread(on.file->fd, (void *)sqe->addr, sqe->len, sqe->off);
		break;
	case IORING_OP_WRITE:
		result = pwrite(on.file->fd, (void *)sqe->addr, sqe->len, sqe->off);
		break;
	case IORING_OP_FALLOCATE:
		result = fallocate(on.file->fd, sqe->len, sqe->off, sqe->addr);
		break;
	default:
		fail_msg("opcode %u", sqe->opcode);
		return 0;
	}
	return result < 0 ? -errno : result;
}

static void finish_all(void)
{
	while (fake_pending()) {
		unsigned n = fake_nth_pending(0);
		fake_complete(n, carry_out(n));
	}
	world_run();
}

static void change(unsigned core, enum bdev_op op, unsigned flags, uint64_t offset, uint64_t length)
{
	struct request r = {.done = 0};
	if (op == BDEV_WRITE) {
		memset(bytes, 0xd1, length);
		request_submit_buffer(&r, on.ch[core], op, flags, offset, bytes, length);
	} else {
		request_submit(&r, on.ch[core], op, flags, offset, length);
	}
	finish_all();
	assert_done(&r, 0);
}

/* ---- What is told ---- */

static void known_changes_are_told(void **state)
{
	EXPECT(0, {ALL, HOLE});
	change(0, BDEV_WRITE, 0, 2 * BLOCK, 3 * BLOCK);
	EXPECT(0, {2, HOLE}, {3, 0}, {ALL - 5, HOLE});
	EXPECT(1, {2, HOLE}, {3, 0}, {ALL - 5, HOLE});
	change(1, BDEV_WRITE, 0, 40 * BLOCK, 10 * BLOCK);
	EXPECT(0, {2, HOLE}, {3, 0}, {35, HOLE}, {10, 0}, {ALL - 50, HOLE});
	change(1, BDEV_TRIM, 0, 3 * BLOCK, BLOCK);
	change(0, BDEV_WRITE_ZEROES, 0, 44 * BLOCK, 2 * BLOCK);
	EXPECT(1, {2, HOLE}, {1, 0}, {1, HOLE}, {1, 0}, {35, HOLE}, {4, 0}, {2, HOLE}, {4, 0},
	       {ALL - 50, HOLE});
	/* over a window's end */
	change(0, BDEV_WRITE, 0, WINDOW - BLOCK, WINDOW + 2 * BLOCK);
	EXPECT(1, {2, HOLE}, {1, 0}, {1, HOLE}, {1, 0}, {10, HOLE}, {18, 0}, {7, HOLE}, {4, 0},
	       {2, HOLE}, {4, 0}, {ALL - 50, HOLE});
}

static void unwritten_is_zero_but_no_hole(void **state)
{
	if (!on.fiemap)
		skip();
	assert_int_equal(fallocate(on.file->fd, 0, 64 * BLOCK, 64 * BLOCK), 0);
	EXPECT(0, {64, HOLE}, {64, UNWRITTEN}, {ALL - 128, HOLE});
	/* written into the cache and not yet to the disk: data all the same */
	change(0, BDEV_WRITE, 0, 80 * BLOCK, 16 * BLOCK);
	struct question q;
	ask(&q, 0, 80 * BLOCK, 16 * BLOCK, ROOM);
	world_run();
	assert_done(&q.request, 0);
	assert_int_equal(q.request.io.extents, 1);
	assert_int_equal(q.extents[0].flags, 0);
	change(0, BDEV_WRITE_ZEROES, BDEV_NO_HOLE, 0, 64 * BLOCK);
	ask(&q, 0, 0, 64 * BLOCK, ROOM);
	world_run();
	assert_int_equal(check_form(&q), 64 * BLOCK);
	assert_int_equal(q.extents[0].flags & BDEV_EXTENT_HOLE, 0);
	/* and what is read from there needs no I/O */
	memset(bytes, 1, sizeof(bytes));
	struct request r = {.done = 0};
	ask(&q, 0, 100 * BLOCK, BLOCK, ROOM);
	world_run();
	request_submit_buffer(&r, on.ch[0], BDEV_READ, 0, 100 * BLOCK, bytes, BLOCK);
	assert_done(&r, 0);
	assert_int_equal(bytes[0] | bytes[BLOCK - 1], 0);
}

static void any_range_and_room(void **state)
{
	uint64_t seed = 12345;
	for (unsigned i = 0; i < ALL; i += 3)
		assert_int_equal(pwrite(on.file->fd, "x", 1, i * BLOCK + i), 1);
	for (unsigned round = 0; round < 3000; round++) {
		struct question q;
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		uint64_t offset = (seed >> 33) % FILE_BYTES;
		uint64_t length = 1 + (seed >> 20) % (FILE_BYTES - offset);
		unsigned room = 1 + (seed >> 40) % (round % 2 ? 4 : ROOM);
		ask(&q, round % 2, offset, length, room);
		world_run();
		uint64_t at = offset, end = check_form(&q);
		for (unsigned e = 0; e < q.request.io.extents; e++) {
			for (uint64_t to = at + q.extents[e].length; at < to;
			     at = MIN_OF(to, (at / BLOCK + 1) * BLOCK))
				assert_int_equal(q.extents[e].flags, at / BLOCK % 3 ? HOLE : 0);
		}
		assert_int_equal(at, end);
	}
	/* a map a window and core would do; they are shared, and kept */
	assert_in_range(maps_made(), 20, 40);
}

static void more_runs_than_a_map_has(void **state)
{
	close_channels();
	on.file->window_shift = 26;
	uint64_t size = (uint64_t)(2 * FILE_MAP_RUNS_MAX + 100) * BLOCK;
	assert_int_equal(ftruncate(on.file->fd, size), 0);
	on.file->bdev.size_bytes = size;
	on.ch[0] = world_open_channel(on.file, 0);
	for (uint64_t at = 0; at < size; at += 2 * BLOCK)
		assert_int_equal(pwrite(on.file->fd, "x", 1, at), 1);
	struct question *q = test_malloc(sizeof(*q));
	uint64_t at = 0;
	for (unsigned rounds = 0; at < size; rounds++) {
		assert_true(rounds < 100);
		ask(q, 0, at, size - at, ROOM);
		world_run();
		uint64_t end = check_form(q);
		for (unsigned e = 0; e < q->request.io.extents; e++) {
			assert_int_equal(q->extents[e].length, BLOCK);
			assert_int_equal(q->extents[e].flags, (at / BLOCK + e) % 2 ? HOLE : 0);
		}
		at = end;
	}
	assert_int_equal(maps_made(), 3);
	test_free(q);
}

static void what_is_no_file_is_data(void **state)
{
	struct question q;
	/* a block device */
	on.file->block_device = true;
	ask(&q, 0, 4711, 815, ROOM);
	assert_done(&q.request, 0);
	assert_int_equal(check_form(&q), 4711 + 815);
	assert_int_equal(q.extents[0].flags, 0);
	on.file->block_device = false;
	/* behind the end of a file that somebody has cut */
	assert_int_equal(ftruncate(on.file->fd, 3 * BLOCK), 0);
	EXPECT(0, {3, HOLE}, {ALL - 3, 0});
	assert_int_equal(ftruncate(on.file->fd, FILE_BYTES), 0);
	/* a context that is not there, ranges that are not */
	q.request.io.context = 1;
	q.request.iov[0] = (struct iovec){q.extents, sizeof(q.extents)};
	request_submit(&q.request, on.ch[0], BDEV_EXTENTS, 0, 0, BLOCK);
	assert_done(&q.request, -EINVAL);
	ask(&q, 0, FILE_BYTES, 1, ROOM);
	assert_done(&q.request, -EINVAL);
	ask(&q, 0, FILE_BYTES - 1, 2, ROOM);
	assert_done(&q.request, -EINVAL);
	assert_null(on.file->bdev.type->context);
}

static void without_fiemap_it_is_sought(void **state)
{
	on.file->no_fiemap = true;
	change(0, BDEV_WRITE, 0, 7 * BLOCK, 20 * BLOCK);
	EXPECT(0, {7, HOLE}, {20, 0}, {ALL - 27, HOLE});
}

/* ---- READs ---- */

static void read_of_a_hole_costs_nothing(void **state)
{
	struct request r = {.done = 0};
	change(0, BDEV_WRITE, 0, 8 * BLOCK, BLOCK);
	/* no map: the ring */
	request_submit_buffer(&r, on.ch[0], BDEV_READ, BDEV_SPARSE, 0, bytes, BLOCK);
	assert_pending(&r);
	finish_all();
	assert_done(&r, 0);
	assert_int_equal(r.io.flags & BDEV_ZEROES, 0);
	struct question q;
	ask(&q, 1, 0, FILE_BYTES, ROOM);
	world_run();
	uint64_t made = maps_made();
	for (unsigned core = 0; core < WORLD_CORES; core++) {
		bytes[0] = 77;
		request_submit_buffer(&r, on.ch[core], BDEV_READ, BDEV_SPARSE, 100, bytes, BLOCK);
		assert_done(&r, 0);
		assert_true(r.io.flags & BDEV_ZEROES);
		assert_int_equal(bytes[0], 77);
		memset(bytes, 77, 3 * BLOCK);
		request_submit_buffer(&r, on.ch[core], BDEV_READ, 0, BLOCK, bytes, 2 * BLOCK);
		assert_done(&r, 0);
		assert_int_equal(r.io.flags & BDEV_ZEROES, 0);
		assert_int_equal(bytes[0] | bytes[2 * BLOCK - 1], 0);
		assert_int_equal(bytes[2 * BLOCK], 77);
		/* some of it data; over a window's end */
		request_submit_buffer(&r, on.ch[core], BDEV_READ, BDEV_SPARSE, 0, bytes, 9 * BLOCK);
		assert_pending(&r);
		finish_all();
		request_submit_buffer(&r, on.ch[core], BDEV_READ, BDEV_SPARSE, WINDOW - BLOCK,
				      bytes, 2 * BLOCK);
		assert_pending(&r);
		finish_all();
	}
	assert_int_equal(maps_made(), made);
}

/* ---- Writes beside maps ---- */

/* A write whose beginning, effect and end the test chooses. */
static struct request late;
static uint8_t late_bytes[BLOCK];
static unsigned late_sqe;

static void late_begin(unsigned core, uint64_t offset)
{
	memset(late_bytes, 0x11, BLOCK);
	memset(&late, 0, sizeof(late));
	request_submit_buffer(&late, on.ch[core], BDEV_WRITE, 0, offset, late_bytes, BLOCK);
	late_sqe = fake_nth_pending(fake_pending() - 1);
	assert_pending(&late);
}

static void late_end(void)
{
	fake_complete(late_sqe, carry_out(late_sqe));
	assert_done(&late, 0);
}

/* Steps until the file's map has been made (1), or its result has come to the control thread (2).
 */
static void step_to_map(unsigned made)
{
	while (maps_made() < made)
		assert_true(world_step());
}

static void map_made_while_a_write_is_in_flight(void **state)
{
	struct question q;
	/* the write begins before the map is, and ends after it has come */
	late_begin(1, 4 * BLOCK);
	ask(&q, 0, 0, WINDOW, ROOM);
	world_run();
	assert_int_equal(check_form(&q), WINDOW);
	assert_int_equal(file_channel(on.ch[0])->mapping.count, 0);
	late_end();
	EXPECT(0, {4, HOLE}, {1, 0}, {ALL - 5, HOLE});

	/* it begins while the worker is at it, or thereafter, and ends when all is done */
	for (unsigned steps = 1; steps < 6; steps++) {
		uint64_t at = (steps * 3 + 20) * BLOCK;
		change(0, BDEV_TRIM, 0, 0, FILE_BYTES);
		ask(&q, 0, at, BLOCK, ROOM);
		for (unsigned i = 0; i < steps; i++)
			world_step();
		late_begin(1, at);
		world_run();
		assert_done(&q.request, 0);
		late_end();
		ask(&q, 0, at, BLOCK, ROOM);
		world_run();
		assert_int_equal(check_form(&q), at + BLOCK);
		assert_int_equal(q.extents[0].flags, 0);
		struct request r = {.done = 0};
		request_submit_buffer(&r, on.ch[0], BDEV_READ, BDEV_SPARSE, at, bytes, BLOCK);
		assert_pending(&r);
		finish_all();
		assert_memory_equal(bytes, late_bytes, BLOCK);
	}
	/* it ends while the worker is at it */
	change(0, BDEV_TRIM, 0, 0, FILE_BYTES);
	late_begin(1, 0);
	ask(&q, 0, 0, BLOCK, ROOM);
	step_to_map(maps_made() + 1);
	late_end();
	world_run();
	EXPECT(0, {1, 0}, {ALL - 1, HOLE});
}

static void write_makes_the_maps_of_all_cores_untrue(void **state)
{
	static const enum bdev_op ops[] = {BDEV_WRITE, BDEV_TRIM, BDEV_WRITE_ZEROES};
	for (unsigned i = 0; i < 2 * COUNT_OF(ops); i++) {
		unsigned writer = i % 2;
		struct request r = {.done = 0};
		change(0, BDEV_TRIM, 0, 0, FILE_BYTES);
		EXPECT(0, {ALL, HOLE});
		uint64_t made = maps_made();
		request_submit_buffer(&r, on.ch[writer], ops[i / 2], 0, WINDOW, bytes, BLOCK);
		for (unsigned core = 0; core < WORLD_CORES; core++) {
			/* in flight: nobody says zeroes any more */
			struct request read = {.done = 0};
			request_submit_buffer(&read, on.ch[core], BDEV_READ, BDEV_SPARSE, WINDOW,
					      bytes, BLOCK);
			assert_pending(&read);
			fake_complete(fake_nth_pending(1), BLOCK);
			assert_done(&read, 0);
			/* another window is not concerned */
			request_submit_buffer(&read, on.ch[core], BDEV_READ, BDEV_SPARSE,
					      WINDOW - BLOCK, bytes, BLOCK);
			assert_done(&read, 0);
			assert_true(read.io.flags & BDEV_ZEROES);
		}
		finish_all();
		assert_done(&r, 0);
		struct question q;
		ask(&q, !writer, 0, FILE_BYTES, ROOM);
		world_run();
		assert_int_equal(maps_made(), made + 1);
	}
}

static void failed_write_counts_too(void **state)
{
	struct question q;
	for (unsigned i = 0; i < 3; i++) {
		late_begin(0, 0);
		fake_complete(late_sqe, -EIO);
		assert_done(&late, -EIO);
		uint64_t made = maps_made();
		ask(&q, 0, 0, BLOCK, ROOM);
		world_run();
		ask(&q, 0, 0, BLOCK, ROOM);
		assert_done(&q.request, 0);
		assert_int_equal(maps_made(), made + 1);
	}
}

/* ---- Many at once, and ends ---- */

static void many_share_a_map(void **state)
{
	struct question q[16];
	for (unsigned i = 0; i < COUNT_OF(q); i++)
		ask(&q[i], 0, (COUNT_OF(q) - i) * 64, 3 * WINDOW, ROOM);
	for (unsigned i = 0; i < COUNT_OF(q); i++)
		assert_pending(&q[i].request);
	world_run();
	for (unsigned i = 0; i < COUNT_OF(q); i++)
		assert_int_equal(check_form(&q[i]), (COUNT_OF(q) - i) * 64 + 3 * WINDOW);
	assert_in_range(maps_made(), 4, 8);
}

static void aborted_and_cancelled(void **state)
{
	struct question q[6];
	for (unsigned i = 0; i < COUNT_OF(q); i++) {
		if (i == 3)
			world_step(); /* the worker has it: the rest waits for another */
		ask(&q[i], 0, i * WINDOW, WINDOW, ROOM);
	}
	world_on_core(0);
	bdev_file_type.abort(on.ch[0], &q[0].request.io);
	assert_done(&q[0].request, -ETIMEDOUT);
	bdev_file_type.abort(on.ch[0], &q[4].request.io);
	assert_done(&q[4].request, -ETIMEDOUT);
	world_run();
	for (unsigned i = 0; i < COUNT_OF(q); i++) {
		if (i != 0 && i != 4)
			assert_int_equal(check_form(&q[i]), (i + 1) * WINDOW);
	}
	change(0, BDEV_TRIM, 0, 0, FILE_BYTES);
	for (unsigned i = 0; i < COUNT_OF(q); i++) {
		if (i == 3)
			world_step();
		ask(&q[i], 0, i * WINDOW, WINDOW, ROOM);
	}
	world_on_core(0);
	bdev_file_type.cancel(on.ch[0]);
	for (unsigned i = 0; i < COUNT_OF(q); i++)
		assert_done(&q[i].request, -ECANCELED);
}

static void channel_and_file_go_while_a_map_is_made(void **state)
{
	struct question q;
	for (unsigned steps = 0; steps < 7; steps++) {
		ask(&q, 0, 0, FILE_BYTES, ROOM);
		for (unsigned i = 0; i < steps; i++)
			world_step();
		world_on_core(0);
		if (!q.request.done)
			bdev_file_type.abort(on.ch[0], &q.request.io);
		world_close_channel(on.ch[0]);
		on.ch[0] = world_open_channel(on.file, 0);
		ask(&q, 0, 0, FILE_BYTES, ROOM);
		world_run();
		assert_int_equal(check_form(&q), FILE_BYTES);
		change(0, BDEV_TRIM, 0, 0, FILE_BYTES);
	}
	/* destroyed: waits for the worker */
	ask(&q, 0, 0, FILE_BYTES, ROOM);
	world_step();
	world_on_core(0);
	bdev_file_type.abort(on.ch[0], &q.request.io);
	close_channels();
	int fd = dup(on.file->fd);
	on.file->cores[0].sync_fd = on.file->cores[1].sync_fd = -1;
	bdev_file_type.destroy(&on.file->bdev);
	assert_int_equal(world.destroyed, 0);
	assert_true(fcntl(on.file->fd, F_GETFD) >= 0);
	world_run();
	assert_int_equal(world.destroyed, 1);
	on.file = world_make_file(FILE_BYTES, false);
	on.file->fd = fd;
}

static void on_resized(void *arg, int error)
{
	*(int *)arg = error;
}

static void resizing_forgets_the_maps(void **state)
{
	struct question q;
	int error = 1;
	EXPECT(0, {ALL, HOLE});
	uint64_t made = maps_made();
	bdev_file_type.resize(&on.file->bdev, FILE_BYTES / 2, on_resized, &error);
	ask(&q, 0, 0, BLOCK, ROOM); /* held meanwhile */
	assert_pending(&q.request);
	world_run();
	assert_int_equal(error, 0);
	assert_done(&q.request, 0);
	assert_int_equal(maps_made(), made + 1);
	ask(&q, 0, FILE_BYTES / 2 - BLOCK, 2 * BLOCK, ROOM);
	assert_done(&q.request, -EINVAL);
	/* one that is waited for is over before the size changes */
	ask(&q, 0, 0, FILE_BYTES / 2, ROOM);
	bdev_file_type.resize(&on.file->bdev, FILE_BYTES, on_resized, &error);
	world_run();
	assert_int_equal(check_form(&q), FILE_BYTES / 2);
	EXPECT(1, {ALL, HOLE});
}

int main(void)
{
#define BOTH(test)                                                                                 \
	{#test " (memory)", test, set_up_memory, tear_down, NULL},                                 \
	{                                                                                          \
#test " (here)", test, set_up_here, tear_down, NULL                                \
	}
	const struct CMUnitTest tests[] = {
		BOTH(known_changes_are_told),
		BOTH(unwritten_is_zero_but_no_hole),
		BOTH(any_range_and_room),
		BOTH(more_runs_than_a_map_has),
		BOTH(what_is_no_file_is_data),
		BOTH(without_fiemap_it_is_sought),
		BOTH(read_of_a_hole_costs_nothing),
		BOTH(map_made_while_a_write_is_in_flight),
		BOTH(write_makes_the_maps_of_all_cores_untrue),
		BOTH(failed_write_counts_too),
		BOTH(many_share_a_map),
		BOTH(aborted_and_cancelled),
		BOTH(channel_and_file_go_while_a_map_is_made),
		BOTH(resizing_forgets_the_maps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
