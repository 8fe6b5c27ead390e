/* SPDX-License-Identifier: BSD-3-Clause */
/* fake_ring: the ring that does nothing by itself. */
#include "test/unit/file/fake_ring.h"

#include <errno.h>
#include <string.h>

struct fake_sqe fake_sqes[FAKE_SQES_MAX];
unsigned fake_count, fake_files;
bool fake_registers, fake_polls;

static struct side_ring side_rings[WORLD_CORES];

void fake_reset(void)
{
	memset(fake_sqes, 0, sizeof(fake_sqes));
	fake_count = fake_files = 0;
	fake_registers = fake_polls = true;
}

static bool is_pending(const struct fake_sqe *fake)
{
	return !fake->completed && fake->sqe.user_data;
}

/* So that long tests fit: they count on no numbers. */
static void forget_completed(void)
{
	unsigned kept = 0;
	for (unsigned i = 0; i < fake_count; i++) {
		if (is_pending(&fake_sqes[i]))
			fake_sqes[kept++] = fake_sqes[i];
	}
	fake_count = kept;
}

static struct fake_sqe *new_sqe(struct uring *uring)
{
	if (fake_count == FAKE_SQES_MAX)
		forget_completed();
	assert_true(fake_count < FAKE_SQES_MAX);
	struct fake_sqe *fake = &fake_sqes[fake_count++];
	memset(fake, 0, sizeof(*fake));
	fake->uring = uring;
	return fake;
}

struct io_uring_sqe *uring_get_sqe(struct uring *uring)
{
	assert_ptr_equal(uring, &reactor_self->uring);
	return &new_sqe(uring)->sqe;
}

struct io_uring_sqe *side_ring_sqe(struct side_ring *ring)
{
	assert_ptr_equal(ring, &side_rings[reactor_self->index]);
	assert_true(ring->users > 0);
	struct fake_sqe *fake = new_sqe(&ring->uring);
	fake->side = ring;
	return &fake->sqe;
}

struct side_ring *side_ring_get(enum side_ring_kind kind, unsigned depth,
				void (*completed)(const struct io_uring_cqe *cqe))
{
	struct side_ring *ring = &side_rings[reactor_self->index];
	assert_int_equal(kind, SIDE_RING_POLLED);
	errno = ENOSPC;
	if (!fake_polls)
		return NULL;
	if (!ring->users++) {
		*ring = (struct side_ring){.reactor = reactor_self, .users = 1};
		ring->completed = completed;
		side_region_register(&ring->region, &ring->uring, &reactor_self->buffers);
	}
	return ring;
}

void side_ring_put(struct side_ring *ring, unsigned depth)
{
	assert_true(ring->users-- > 0);
}

int uring_file_add(struct uring *uring, int fd)
{
	assert_true(fd >= 0);
	if (!fake_registers)
		return -ENFILE;
	fake_files++;
	return fd + (int)reactor_self->index * FAKE_SLOTS_A_CORE;
}

void uring_file_remove(struct uring *uring, int slot)
{
	assert_true(slot >= 0 && fake_files > 0);
	fake_files--;
}

int uring_buffer_add(struct uring *uring, void *base, size_t bytes)
{
	return fake_registers ? 7 + (int)reactor_self->index : -ENOMEM;
}

const struct io_uring_sqe *fake_sqe(unsigned n)
{
	assert_true(n < fake_count);
	return &fake_sqes[n].sqe;
}

void fake_complete(unsigned n, int result)
{
	assert_true(n < fake_count);
	struct fake_sqe *fake = &fake_sqes[n];
	struct uring_op *op = (struct uring_op *)(uintptr_t)fake->sqe.user_data;
	assert_false(fake->completed);
	assert_non_null(op);
	fake->completed = true;
	if (fake->side) {
		const struct io_uring_cqe cqe = {.user_data = fake->sqe.user_data, .res = result};
		reactor_self = fake->side->reactor;
		fake->side->completed(&cqe);
		return;
	}
	reactor_self = container_of(fake->uring, struct reactor, uring);
	op->done(op, result, 0);
}

unsigned fake_pending(void)
{
	unsigned count = 0;
	for (unsigned i = 0; i < fake_count; i++)
		count += is_pending(&fake_sqes[i]);
	return count;
}

unsigned fake_nth_pending(unsigned n)
{
	for (unsigned i = 0; i < fake_count; i++) {
		if (is_pending(&fake_sqes[i]) && !n--)
			return i;
	}
	fail_msg("fewer operations are in flight");
	return 0;
}

int fake_fd(const struct io_uring_sqe *sqe)
{
	if (!(sqe->flags & IOSQE_FIXED_FILE))
		return sqe->fd;
	return sqe->fd % FAKE_SLOTS_A_CORE;
}
