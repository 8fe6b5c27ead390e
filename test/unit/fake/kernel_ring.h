/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * kernel_ring: the kernel's side of io_uring in plain memory, for tests that want lib/uring and
 * what stands on it as they are. It takes liburing's place where that would enter the kernel: what
 * is submitted waits until kernel_take() fetches it, and ends when the test says so, never by
 * itself.
 */
#ifndef POLLUX_TEST_FAKE_KERNEL_RING_H
#define POLLUX_TEST_FAKE_KERNEL_RING_H

#include <liburing.h>
#include <stdint.h>

enum { KERNEL_OPS_MAX = 2048, KERNEL_SQE_BYTES = 128 };

/* An operation that was taken and has not ended. */
struct kernel_op {
	_Alignas(struct io_uring_sqe) uint8_t bytes[KERNEL_SQE_BYTES]; /* the SQE */
	struct io_uring *ring;
};

extern struct kernel_op kernel_ops[KERNEL_OPS_MAX];
extern unsigned kernel_op_count;
extern unsigned kernel_ring_count;    /* rings that there are */
extern unsigned kernel_refused_flags; /* IORING_SETUP_*: rings with one of them are -EINVAL */

static inline const struct io_uring_sqe *kernel_sqe(unsigned index)
{
	return (const struct io_uring_sqe *)kernel_ops[index].bytes;
}

/* Fetches what was submitted to any ring, behind what was fetched before. */
void kernel_take(void);
/* Ends kernel_ops[index], which leaves the list. */
void kernel_end(unsigned index, int result);
/* All, in the order in which they came. */
void kernel_end_all(int result);

#endif
