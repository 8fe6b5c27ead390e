/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uring: a reactor's io_uring. Completion work is run by the owner only, when it asks for it
 * (DEFER_TASKRUN), and the owner enters the kernel only when there is something to hand over or the
 * kernel has raised a flag. Called by the ring's owner thread only.
 */
#include "lib/uring/uring.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/base/compiler.h"
#include "lib/base/counter.h"
#include "lib/base/log.h"

static void init_files(struct uring *uring)
{
	if (io_uring_register_files_sparse(&uring->ring, URING_FILE_SLOTS))
		return;
	uring->registered_files = true;
	/* popped from the end: low slots first */
	for (unsigned i = 0; i < URING_FILE_SLOTS; i++)
		uring->free_files[i] = URING_FILE_SLOTS - 1 - i;
	uring->free_file_count = URING_FILE_SLOTS;
}

int uring_init(struct uring *uring, const struct uring_caps *caps, unsigned sq_entries,
	       unsigned cq_entries)
{
	return uring_init_with(uring, caps, sq_entries, cq_entries, 0);
}

int uring_init_with(struct uring *uring, const struct uring_caps *caps, unsigned sq_entries,
		    unsigned cq_entries, unsigned flags)
{
	struct io_uring_params params = {
		.flags = flags | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE |
			 IORING_SETUP_CLAMP,
		.cq_entries = cq_entries,
	};
	memset(uring, 0, sizeof(*uring));
	int error = io_uring_queue_init_params(sq_entries, &uring->ring, &params);
	if (error)
		return error;
	unsigned workers[2] = {URING_WORKERS, 0}; /* 0: those for sockets and the like stay */
	io_uring_register_iowq_max_workers(&uring->ring, workers);
	if (caps->sparse_files)
		init_files(uring);
	if (caps->sparse_buffers &&
	    !io_uring_register_buffers_sparse(&uring->ring, URING_BUFFER_SLOTS))
		uring->registered_buffers = true;
	return 0;
}

void uring_fini(struct uring *uring)
{
	io_uring_queue_exit(&uring->ring);
}

struct io_uring_sqe *uring_get_sqe(struct uring *uring)
{
	struct io_uring_sqe *sqe;
	while (unlikely(!(sqe = io_uring_get_sqe(&uring->ring)))) {
		counter_add(&uring->enters, 1);
		int error = io_uring_submit(&uring->ring);
		/* -EBUSY, -EAGAIN: the kernel wants its completions taken first */
		if (error < 0)
			io_uring_get_events(&uring->ring);
	}
	memset(sqe, 0, sizeof(*sqe));
	return sqe;
}

static inline bool kernel_asks(const struct io_uring *ring)
{
	return IO_URING_READ_ONCE(*ring->sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

bool uring_submit(struct uring *uring)
{
	if (!io_uring_sq_ready(&uring->ring) && !kernel_asks(&uring->ring))
		return false;
	counter_add(&uring->enters, 1);
	io_uring_submit_and_get_events(&uring->ring);
	return true;
}

/* liburing 2.3 is older than this: linux/io_uring.h, IORING_REGISTER_NAPI and struct io_uring_napi. */
int uring_busy_poll(struct uring *uring, unsigned us)
{
	enum { REGISTER_NAPI = 27 };
	struct {
		uint32_t busy_poll_to; /* microseconds */
		uint8_t prefer_busy_poll;
		uint8_t pad[3];
		uint64_t reserved;
	} napi = {.busy_poll_to = us, .prefer_busy_poll = 1};
	return syscall(__NR_io_uring_register, uring->ring.ring_fd, REGISTER_NAPI, &napi, 1) < 0
		       ? -errno
		       : 0;
}

void uring_wait(struct uring *uring, uint64_t timeout_ns)
{
	struct io_uring_cqe *cqe;
	counter_add(&uring->enters, 1);
	if (timeout_ns == UINT64_MAX) {
		io_uring_submit_and_wait(&uring->ring, 1);
		return;
	}
	struct __kernel_timespec timeout = {
		.tv_sec = timeout_ns / 1000000000,
		.tv_nsec = timeout_ns % 1000000000,
	};
	io_uring_submit_and_wait_timeout(&uring->ring, &cqe, 1, &timeout, NULL);
}

unsigned uring_reap(struct uring *uring, unsigned most)
{
	struct io_uring_cqe *cqe;
	unsigned head, count = 0;
	io_uring_for_each_cqe(&uring->ring, head, cqe)
	{
		struct uring_op *op = io_uring_cqe_get_data(cqe);
		if (op)
			op->done(op, cqe->res, cqe->flags);
		if (++count == most)
			break;
	}
	io_uring_cq_advance(&uring->ring, count);
	return count;
}

int uring_file_add(struct uring *uring, int fd)
{
	if (!uring->registered_files)
		return -EOPNOTSUPP;
	if (!uring->free_file_count)
		return -ENFILE;
	int slot = uring->free_files[uring->free_file_count - 1];
	int done = io_uring_register_files_update(&uring->ring, slot, &fd, 1);
	if (done < 0)
		return done;
	uring->free_file_count--;
	return slot;
}

void uring_file_remove(struct uring *uring, int slot)
{
	int none = -1;
	io_uring_register_files_update(&uring->ring, slot, &none, 1);
	uring->free_files[uring->free_file_count++] = slot;
}

int uring_buffer_add(struct uring *uring, void *base, size_t bytes)
{
	if (!uring->registered_buffers)
		return -EOPNOTSUPP;
	if (uring->buffer_count == URING_BUFFER_SLOTS)
		return -ENOSPC;
	struct iovec region = {base, bytes};
	__u64 tag = 0;
	int done = io_uring_register_buffers_update_tag(&uring->ring, uring->buffer_count, &region,
							&tag, 1);
	if (done < 0)
		return done;
	counter_add(&uring->buffer_count, 1);
	return uring->buffer_count - 1;
}
