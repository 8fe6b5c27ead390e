/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_model: random requests on a ring that plays a file in memory and completes operations in any
 * order, short, interrupted or unsupported. In the end the bytes are what a plain array says they
 * are. On the way the model refuses what a real file would suffer from: direct I/O that is not
 * aligned or reaches into the tail, buffered I/O in the body, anything beyond the size.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "test/unit/file/fake_ring.h"

enum {
	PAGE = FILE_PAGE_BYTES,
	BLOCK = 512,
	DIRECT_FD = 1001,
	SYNC_FD = 1002,
	MAX_BYTES = 40 * PAGE,
	SLOTS = 16, /* requests at once, each on its own part of the file */
	ROUNDS = 20000,
};

static uint64_t seed = 12345;

static uint64_t roll(uint64_t below)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (seed >> 33) % below;
}

static struct {
	struct file *file;
	struct bdev_channel *ch;
	uint64_t size;
	uint8_t disk[MAX_BYTES]; /* what the ring's operations make of it */
	uint8_t expected[MAX_BYTES];
	bool busy[MAX_BYTES / BLOCK + 1];
} m;

struct slot {
	struct request request;
	bool active;
	uint8_t *payload;
	uint64_t begin, end; /* blocks */
};

static struct slot slots[SLOTS];
static _Alignas(PAGE) uint8_t payloads[SLOTS][8 * PAGE];

static void check_rw(const struct io_uring_sqe *sqe, const struct iovec *iov, unsigned iovcnt,
		     uint64_t length)
{
	uint64_t boundary = m.file->direct_fd >= 0 ? m.size / PAGE * PAGE : 0;
	assert_true(length > 0 && sqe->off + length <= m.size);
	if (m.file->direct_fd < 0)
		return;
	if (fake_fd(sqe) != DIRECT_FD) {
		assert_int_equal(fake_fd(sqe), m.file->fd);
		assert_true(sqe->off >= boundary);
		return;
	}
	assert_true(sqe->off + length <= boundary);
	assert_int_equal(sqe->off % BLOCK, 0);
	for (unsigned i = 0; i < iovcnt; i++)
		assert_int_equal(((uintptr_t)iov[i].iov_base | iov[i].iov_len) % BLOCK, 0);
}

/* Moves up to `most` bytes between the disk and the operation's memory. */
static int move(const struct io_uring_sqe *sqe, bool write)
{
	struct iovec one = {(void *)(uintptr_t)sqe->addr, sqe->len};
	bool vector = sqe->opcode == IORING_OP_READV || sqe->opcode == IORING_OP_WRITEV;
	const struct iovec *iov = vector ? one.iov_base : &one;
	unsigned iovcnt = vector ? sqe->len : 1;
	uint64_t length = 0, moved = 0;
	for (unsigned i = 0; i < iovcnt; i++)
		length += iov[i].iov_len;
	check_rw(sqe, iov, iovcnt, length);
	uint64_t most = roll(4) ? length : 1 + roll(length);
	/* direct I/O stops inside a block at the end of a file only, which is not here */
	if (m.file->direct_fd >= 0 && fake_fd(sqe) == DIRECT_FD)
		most = most < BLOCK ? BLOCK : most / BLOCK * BLOCK;
	for (unsigned i = 0; moved < most; i++) {
		uint64_t n = MIN_OF((uint64_t)iov[i].iov_len, most - moved);
		if (write)
			memcpy(m.disk + sqe->off + moved, iov[i].iov_base, n);
		else
			memcpy(iov[i].iov_base, m.disk + sqe->off + moved, n);
		moved += n;
	}
	return moved;
}

static int allocate(const struct io_uring_sqe *sqe)
{
	assert_true(sqe->len & FALLOC_FL_KEEP_SIZE);
	assert_true(sqe->off + sqe->addr <= m.size);
	if (m.file->direct_fd >= 0) {
		uint64_t end = sqe->off + sqe->addr;
		assert_int_equal(sqe->off % PAGE, 0);
		assert_true(end % PAGE == 0 || end > m.size / PAGE * PAGE);
	}
	if (!roll(3000))
		return -EOPNOTSUPP;
	memset(m.disk + sqe->off, 0, sqe->addr);
	return 0;
}

static void complete_one(void)
{
	unsigned n = fake_nth_pending(roll(fake_pending()));
	const struct io_uring_sqe *sqe = fake_sqe(n);
	int result = 0;
	if (!roll(12)) {
		fake_complete(n, roll(2) ? -EAGAIN : -EINTR);
		return;
	}
	switch (sqe->opcode) {
	case IORING_OP_READ:
	case IORING_OP_READV:
		result = move(sqe, false);
		break;
	case IORING_OP_WRITE:
	case IORING_OP_WRITEV:
		result = move(sqe, true);
		break;
	case IORING_OP_FALLOCATE:
		result = allocate(sqe);
		break;
	case IORING_OP_FSYNC:
		assert_int_equal(fake_fd(sqe), SYNC_FD);
		break;
	default:
		fail_msg("operation %u", sqe->opcode);
	}
	fake_complete(n, result);
}

static bool range_is_free(uint64_t begin, uint64_t end)
{
	for (uint64_t block = begin; block < end; block++) {
		if (m.busy[block])
			return false;
	}
	return true;
}

static void mark(const struct slot *slot, bool busy)
{
	for (uint64_t block = slot->begin; block < slot->end; block++)
		m.busy[block] = busy;
}

/* Some bytes of payload, in a few whole blocks' segments but for the last. */
static void lay_out(struct slot *slot, uint64_t length)
{
	struct request *request = &slot->request;
	uint64_t used = 0;
	unsigned i = 0;
	for (; used < length; i++) {
		uint64_t left = length - used;
		uint64_t part = i + 1 == REQUEST_IOVS ? left : (1 + roll(4)) * BLOCK;
		part = MIN_OF(part, left);
		request->iov[i] = (struct iovec){slot->payload + used, part};
		used += part;
	}
	request->io.iovcnt = i;
}

/* Where I/O is direct, the whole pages of it. */
static void trim_expected(uint64_t begin, uint64_t end)
{
	if (m.file->direct_fd >= 0) {
		begin = (begin + PAGE - 1) / PAGE * PAGE;
		end = end < m.size / PAGE * PAGE ? end / PAGE * PAGE : end;
	}
	if (begin < end)
		memset(m.expected + begin, 0, end - begin);
}

static void submit(struct slot *slot)
{
	static const enum bdev_op ops[] = {BDEV_READ,	      BDEV_READ,	BDEV_WRITE,
					   BDEV_WRITE,	      BDEV_FLUSH,	BDEV_TRIM,
					   BDEV_WRITE_ZEROES, BDEV_WRITE_ZEROES};
	static const unsigned flags[] = {0, BDEV_FUA, BDEV_NO_HOLE, BDEV_NO_HOLE | BDEV_FUA};
	uint64_t blocks = (m.size + BLOCK - 1) / BLOCK;
	enum bdev_op op = ops[roll(COUNT_OF(ops))];
	slot->begin = op == BDEV_FLUSH ? 0
		      : roll(2)	       ? roll(blocks)
				       : blocks - 1 - roll(MIN_OF(blocks, (uint64_t)9));
	slot->end = op == BDEV_FLUSH ? 0 : MIN_OF(blocks, slot->begin + 1 + roll(40));
	if (!range_is_free(slot->begin, slot->end))
		return;
	uint64_t offset = slot->begin * BLOCK;
	uint64_t length = MIN_OF(slot->end * BLOCK, m.size) - MIN_OF(offset, m.size);
	slot->active = true;
	mark(slot, true);
	lay_out(slot, length);
	if (op == BDEV_WRITE) {
		for (uint64_t i = 0; i < length; i++)
			slot->payload[i] = roll(256);
		memcpy(m.expected + offset, slot->payload, length);
	} else if (op == BDEV_WRITE_ZEROES) {
		memset(m.expected + offset, 0, length);
		slot->request.io.iovcnt = 0;
	} else if (op == BDEV_TRIM) {
		trim_expected(offset, offset + length);
		slot->request.io.iovcnt = 0;
	}
	request_submit(&slot->request, m.ch, op, flags[roll(COUNT_OF(flags))], offset, length);
}

static void finish(struct slot *slot)
{
	const struct bdev_io *io = &slot->request.io;
	assert_done(&slot->request, 0);
	if (io->op == BDEV_READ)
		assert_memory_equal(slot->payload, m.expected + io->offset, io->length);
	/* a TRIM that no way is left for changes nothing */
	if (io->op == BDEV_TRIM && m.file->unsupported)
		memcpy(m.expected + io->offset, m.disk + io->offset, io->length);
	slot->active = false;
	mark(slot, false);
}

static void play(uint64_t size, bool direct)
{
	world_reset();
	fake_reset();
	memset(&m, 0, sizeof(m));
	memset(slots, 0, sizeof(slots));
	m.size = size;
	m.file = world_make_file(size, direct);
	m.ch = world_open_channel(m.file, 0);
	for (unsigned round = 0; round < ROUNDS || fake_pending(); round++) {
		struct slot *slot = &slots[roll(SLOTS)];
		slot->payload = payloads[slot - slots];
		if (!slot->active && round < ROUNDS)
			submit(slot);
		else if (fake_pending())
			complete_one();
		for (unsigned i = 0; i < SLOTS; i++) {
			if (slots[i].active && slots[i].request.done)
				finish(&slots[i]);
		}
	}
	for (unsigned i = 0; i < SLOTS; i++)
		assert_false(slots[i].active);
	assert_memory_equal(m.disk, m.expected, size);
	assert_int_equal(m.ch->inflight, 0);
	world_close_channel(m.ch);
	world_free_file(m.file);
}

static void direct_with_a_tail(void **state)
{
	play(37 * PAGE + 1234, true);
}

static void direct_of_whole_pages(void **state)
{
	play(MAX_BYTES, true);
}

static void smaller_than_a_page(void **state)
{
	play(1777, true);
}

static void buffered(void **state)
{
	play(21 * PAGE + 1, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(direct_with_a_tail),
		cmocka_unit_test(direct_of_whole_pages),
		cmocka_unit_test(smaller_than_a_page),
		cmocka_unit_test(buffered),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
