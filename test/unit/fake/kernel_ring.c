/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * kernel_ring: queues as io_uring_setup(2) would map them, and the calls of liburing's that enter
 * the kernel. One thread.
 */
#include "fake/kernel_ring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>

enum { RINGS_MAX = 16 };

/* What the two sides share of one ring. */
struct shared {
	unsigned sq_head, sq_tail, sq_flags, cq_head, cq_tail, cq_flags;
};

struct kernel_op kernel_ops[KERNEL_OPS_MAX];
unsigned kernel_op_count, kernel_ring_count, kernel_refused_flags;

static struct io_uring *rings[RINGS_MAX];

static unsigned power_of_two(unsigned least)
{
	unsigned value = 1;
	while (value < least)
		value *= 2;
	return value;
}

/* ---- Beginning and end ---- */

int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *p)
{
	if (p->flags & kernel_refused_flags)
		return -EINVAL;
	unsigned cq_entries =
		power_of_two(p->flags & IORING_SETUP_CQSIZE ? p->cq_entries : entries * 2);
	struct shared *shared = calloc(1, sizeof(*shared));
	assert_non_null(shared);
	assert_true(kernel_ring_count < RINGS_MAX);
	memset(ring, 0, sizeof(*ring));
	entries = power_of_two(entries);
	ring->flags = p->flags;
	ring->sq.sqes = calloc(entries, KERNEL_SQE_BYTES);
	ring->sq.khead = &shared->sq_head;
	ring->sq.ktail = &shared->sq_tail;
	ring->sq.kflags = &shared->sq_flags;
	ring->sq.ring_mask = entries - 1;
	ring->sq.ring_entries = entries;
	ring->cq.cqes = calloc(cq_entries, 2 * sizeof(struct io_uring_cqe));
	ring->cq.khead = &shared->cq_head;
	ring->cq.ktail = &shared->cq_tail;
	ring->cq.kflags = &shared->cq_flags;
	ring->cq.ring_mask = cq_entries - 1;
	ring->cq.ring_entries = cq_entries;
	assert_non_null(ring->sq.sqes);
	assert_non_null(ring->cq.cqes);
	rings[kernel_ring_count++] = ring;
	return 0;
}

void io_uring_queue_exit(struct io_uring *ring)
{
	for (unsigned i = 0; i < kernel_op_count; i++)
		assert_ptr_not_equal(kernel_ops[i].ring, ring);
	unsigned at = 0;
	while (at < kernel_ring_count && rings[at] != ring)
		at++;
	assert_true(at < kernel_ring_count);
	rings[at] = rings[--kernel_ring_count];
	free(ring->sq.sqes);
	free(ring->cq.cqes);
	free(ring->sq.khead); /* the whole of struct shared */
}

/* ---- Registering: each works, and nothing is kept ---- */

int io_uring_register_iowq_max_workers(struct io_uring *ring, unsigned *values)
{
	return 0;
}

int io_uring_register_files_sparse(struct io_uring *ring, unsigned count)
{
	return 0;
}

int io_uring_register_buffers_sparse(struct io_uring *ring, unsigned count)
{
	return 0;
}

int io_uring_register_files_update(struct io_uring *ring, unsigned offset, const int *files,
				   unsigned count)
{
	return (int)count;
}

int io_uring_register_buffers_update_tag(struct io_uring *ring, unsigned offset,
					 const struct iovec *buffers, const __u64 *tags,
					 unsigned count)
{
	return (int)count;
}

int io_uring_register_eventfd(struct io_uring *ring, int fd)
{
	return 0;
}

/* ---- Submitting ---- */

static void take(struct io_uring *ring)
{
	struct io_uring_sq *sq = &ring->sq;
	unsigned shift = ring->flags & IORING_SETUP_SQE128 ? 1 : 0;
	for (; *sq->khead != *sq->ktail; ++*sq->khead) {
		struct kernel_op *op = &kernel_ops[kernel_op_count++];
		assert_true(kernel_op_count <= KERNEL_OPS_MAX);
		memset(op, 0, sizeof(*op));
		memcpy(op->bytes, &sq->sqes[(*sq->khead & sq->ring_mask) << shift],
		       sizeof(struct io_uring_sqe) << shift);
		op->ring = ring;
	}
}

void kernel_take(void)
{
	for (unsigned i = 0; i < kernel_ring_count; i++)
		take(rings[i]);
}

/* Makes them visible to kernel_take(), as the library does to the kernel; one that is full is taken
 * at once. */
int io_uring_submit(struct io_uring *ring)
{
	struct io_uring_sq *sq = &ring->sq;
	unsigned count = sq->sqe_tail - *sq->ktail;
	sq->sqe_head = *sq->ktail = sq->sqe_tail;
	if (*sq->ktail - *sq->khead == sq->ring_entries)
		take(ring);
	return (int)count;
}

int io_uring_submit_and_get_events(struct io_uring *ring)
{
	return io_uring_submit(ring);
}

int io_uring_get_events(struct io_uring *ring)
{
	return 0;
}

/* ---- Completing ---- */

void kernel_end(unsigned index, int result)
{
	assert_true(index < kernel_op_count);
	struct io_uring *ring = kernel_ops[index].ring;
	struct io_uring_cq *cq = &ring->cq;
	unsigned shift = ring->flags & IORING_SETUP_CQE32 ? 1 : 0;
	assert_true(*cq->ktail - *cq->khead < cq->ring_entries);
	struct io_uring_cqe *cqe = &cq->cqes[(*cq->ktail & cq->ring_mask) << shift];
	memset(cqe, 0, sizeof(*cqe) << shift);
	cqe->user_data = kernel_sqe(index)->user_data;
	cqe->res = result;
	io_uring_smp_store_release(cq->ktail, *cq->ktail + 1);
	kernel_op_count--;
	memmove(&kernel_ops[index], &kernel_ops[index + 1],
		(kernel_op_count - index) * sizeof(kernel_ops[0]));
}

void kernel_end_all(int result)
{
	while (kernel_op_count)
		kernel_end(0, result);
}
