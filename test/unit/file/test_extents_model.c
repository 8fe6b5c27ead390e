/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_extents_model: random WRITEs, TRIMs, READs and EXTENTS of two cores on a real file, against
 * a model. What the driver asks of its ring is carried out and completed later, each at a random
 * moment; workers and messages run one step at a time in between. Nothing that was data from before
 * a request until after it may be told, or read, as zeroes; when all is quiet the map is exact.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bdev/file/map.h"
#include "test/unit/file/fake_ring.h"

enum {
	BLOCK = 4096,
	BLOCKS = 128,
	SHIFT = 17, /* four windows */
	OPS = 24,
	ROOM = 64,
	STEPS_MEMORY = 60000,
	STEPS_HERE = 6000, /* each map writes the cache back */
};

/* A block of the file. */
struct block {
	bool data;	  /* written, and not trimmed since */
	bool busy;	  /* a write of it is in flight: no other is begun */
	uint64_t settled; /* when the last write of it was over */
	uint8_t value;	  /* its bytes */
	uint64_t changed; /* when it was carried out */
};

struct op {
	struct request request;
	bool used, carried_out;
	int result;
	uint64_t began;
	unsigned first, count; /* blocks */
	uint8_t value;
	struct bdev_extent extents[ROOM];
	uint8_t *payload;
};

static struct block blocks[BLOCKS];
static struct op ops[OPS];
static struct file *file;
static struct bdev_channel *channels[WORLD_CORES];
static uint64_t now, seed;
static unsigned spared, kept_maps;

static unsigned draw(unsigned below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % below;
}

static bool is_write(const struct op *op)
{
	return op->request.io.op == BDEV_WRITE || op->request.io.op == BDEV_TRIM;
}

/* ---- The kernel's part ---- */

static struct op *op_of(unsigned n)
{
	struct uring_op *ring_op = (struct uring_op *)(uintptr_t)fake_sqe(n)->user_data;
	struct file_io *fio = container_of(ring_op, struct file_io, op);
	return container_of(container_of(fio->io, struct request, io), struct op, request);
}

static int on_the_file(const struct io_uring_sqe *sqe)
{
	int result = -EINVAL;
	if (sqe->opcode == IORING_OP_READ)
		result = pread(file->fd, (void *)sqe->addr, sqe->len, sqe->off);
	else if (sqe->opcode == IORING_OP_WRITE)
		result = pwrite(file->fd, (void *)sqe->addr, sqe->len, sqe->off);
	else if (sqe->opcode == IORING_OP_FALLOCATE)
		result = fallocate(file->fd, sqe->len, sqe->off, sqe->addr);
	else
		fail_msg("opcode %u", sqe->opcode);
	assert_true(result >= 0);
	return result;
}

static void carry_out(struct op *op, unsigned n)
{
	op->result = on_the_file(fake_sqe(n));
	op->carried_out = true;
	for (unsigned b = op->first; is_write(op) && b < op->first + op->count; b++) {
		blocks[b].data = op->request.io.op == BDEV_WRITE;
		blocks[b].value = blocks[b].data ? op->value : 0;
		blocks[b].changed = now;
	}
}

/* ---- What may come back ---- */

/* The block has held data from before the request until now. */
static bool was_data(const struct op *op, unsigned b)
{
	return blocks[b].data && blocks[b].settled < op->began && blocks[b].changed < op->began;
}

static void check_extents(const struct op *op)
{
	uint64_t at = op->request.io.offset;
	assert_true(op->request.io.extents > 0);
	for (unsigned i = 0; i < op->request.io.extents; i++) {
		uint64_t end = at + op->extents[i].length;
		if (op->extents[i].flags & BDEV_EXTENT_ZERO) {
			for (unsigned b = at / BLOCK; b <= (end - 1) / BLOCK; b++)
				assert_false(was_data(op, b));
		}
		at = end;
	}
	assert_true(at <= op->request.io.offset + op->request.io.length);
}

static void check_read(const struct op *op)
{
	bool zeroes = op->request.io.flags & BDEV_ZEROES;
	for (unsigned i = 0; i < op->count; i++) {
		const struct block *block = &blocks[op->first + i];
		uint8_t byte = zeroes ? 0 : op->payload[(size_t)i * BLOCK];
		if (block->settled < op->began && block->changed < op->began && !block->busy)
			assert_int_equal(byte, block->value);
	}
}

static void finish(struct op *op)
{
	assert_int_equal(op->request.status, 0);
	if (op->request.io.op == BDEV_EXTENTS) {
		check_extents(op);
	} else if (op->request.io.op == BDEV_READ) {
		check_read(op);
	} else {
		for (unsigned b = op->first; b < op->first + op->count; b++) {
			blocks[b].busy = false;
			blocks[b].settled = now;
		}
	}
	free(op->payload);
	op->payload = NULL;
	op->used = false;
}

static void finish_done(void)
{
	for (unsigned i = 0; i < OPS; i++) {
		if (ops[i].used && ops[i].request.done)
			finish(&ops[i]);
	}
}

/* ---- Requests ---- */

static bool any_busy(unsigned first, unsigned count)
{
	for (unsigned b = first; b < first + count; b++) {
		if (blocks[b].busy)
			return true;
	}
	return false;
}

static void begin_write(struct op *op, struct bdev_channel *ch)
{
	if (any_busy(op->first, op->count))
		return;
	op->used = true;
	for (unsigned b = op->first; b < op->first + op->count; b++)
		blocks[b].busy = true;
	if (draw(2)) {
		op->payload = malloc((size_t)op->count * BLOCK);
		op->value = 1 + draw(255);
		memset(op->payload, op->value, (size_t)op->count * BLOCK);
		request_submit_buffer(&op->request, ch, BDEV_WRITE, 0, (uint64_t)op->first * BLOCK,
				      op->payload, (uint64_t)op->count * BLOCK);
	} else {
		request_submit(&op->request, ch, BDEV_TRIM, 0, (uint64_t)op->first * BLOCK,
			       (uint64_t)op->count * BLOCK);
	}
}

static void begin(struct op *op)
{
	struct bdev_channel *ch = channels[draw(WORLD_CORES)];
	unsigned what = draw(8);
	op->began = now;
	op->carried_out = false;
	op->first = draw(BLOCKS);
	op->count = 1 + draw(MIN_OF(BLOCKS - op->first, what < 2 ? 40u : 6u));
	if (what < 3) {
		begin_write(op, ch);
		return;
	}
	op->used = true;
	if (what < 6) {
		op->payload = malloc((size_t)op->count * BLOCK);
		memset(op->payload, 0xcc, (size_t)op->count * BLOCK);
		request_submit_buffer(&op->request, ch, BDEV_READ, draw(2) ? BDEV_SPARSE : 0,
				      (uint64_t)op->first * BLOCK, op->payload,
				      (uint64_t)op->count * BLOCK);
		spared += op->request.done;
		return;
	}
	uint64_t offset = (uint64_t)draw(BLOCKS) * BLOCK + draw(BLOCK);
	op->request.io.context = 0;
	op->request.io.iovcnt = 1;
	op->request.iov[0] = (struct iovec){op->extents, (1 + draw(draw(2) ? 3 : ROOM)) *
								 sizeof(struct bdev_extent)};
	request_submit(&op->request, ch, BDEV_EXTENTS, 0, offset,
		       1 + draw(BLOCKS * BLOCK - offset));
	kept_maps += op->request.done;
}

/* One random event. */
static void step(bool begins)
{
	unsigned what = draw(10);
	now++;
	if (what < 3 && begins) {
		struct op *op = &ops[draw(OPS)];
		if (!op->used)
			begin(op);
	} else if (what < 6) {
		if (fake_pending()) {
			unsigned n = fake_nth_pending(draw(fake_pending()));
			struct op *op = op_of(n);
			if (!op->carried_out)
				carry_out(op, n);
			else
				fake_complete(n, op->result);
		}
	} else {
		world_step();
	}
	finish_done();
}

static bool any_used(void)
{
	for (unsigned i = 0; i < OPS; i++) {
		if (ops[i].used)
			return true;
	}
	return false;
}

/* All of it is told exactly, by a map that is made and by one that is kept. */
static void check_quiet(void)
{
	struct op op = {.used = true};
	for (unsigned round = 0; round < 4; round++) {
		uint64_t at = 0;
		op.request.io.context = 0;
		op.request.io.iovcnt = 1;
		struct bdev_extent extents[BLOCKS];
		op.request.iov[0] = (struct iovec){extents, sizeof(extents)};
		request_submit(&op.request, channels[round % 2], BDEV_EXTENTS, 0, 0,
			       BLOCKS * BLOCK);
		world_run();
		assert_done(&op.request, 0);
		for (unsigned i = 0; i < op.request.io.extents; i++) {
			uint64_t end = at + extents[i].length;
			for (; at < end; at += BLOCK)
				assert_int_equal(extents[i].flags,
						 blocks[at / BLOCK].data
							 ? 0
							 : BDEV_EXTENT_HOLE | BDEV_EXTENT_ZERO);
		}
		assert_int_equal(at, BLOCKS * BLOCK);
	}
}

static void run_in(const char *directory, unsigned steps)
{
	char path[64];
	world_reset();
	fake_reset();
	snprintf(path, sizeof(path), "%s/model-XXXXXX", directory);
	memset(blocks, 0, sizeof(blocks));
	memset(ops, 0, sizeof(ops)); /* of a test that failed */
	now = 1;
	seed = 20231;
	spared = kept_maps = 0;
	file = world_make_file(BLOCKS * BLOCK, false);
	file->fd = mkstemp(path);
	assert_true(file->fd >= 0);
	assert_int_equal(ftruncate(file->fd, BLOCKS * BLOCK), 0);
	file->window_shift = SHIFT;
	for (unsigned i = 0; i < WORLD_CORES; i++)
		channels[i] = world_open_channel(file, i);
	for (unsigned i = 0; i < steps; i++) {
		step(true);
		if (i % 1000 == 999) {
			while (any_used())
				step(false);
			check_quiet();
		}
	}
	/* or it would have shown nothing */
	assert_true(spared > steps / 1000);
	assert_true(kept_maps > steps / 1000);
	for (unsigned i = 0; i < WORLD_CORES; i++)
		world_close_channel(channels[i]);
	world_run();
	close(file->fd);
	unlink(path);
	world_free_file(file);
}

static void in_memory(void **state)
{
	if (access("/dev/shm", W_OK))
		skip();
	run_in("/dev/shm", STEPS_MEMORY);
}

static void here(void **state)
{
	run_in(".", STEPS_HERE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_memory),
		cmocka_unit_test(here),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
