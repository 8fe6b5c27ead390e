/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * probe: asks the kernel once what its io_uring can do, and says in words why it can not be used.
 * Called before any ring is made; any thread.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/uring/uring.h"

static void explain(int error, char *why, size_t why_bytes)
{
	switch (error) {
	case -EPERM:
	case -EACCES:
		snprintf(
			why, why_bytes,
			"io_uring is forbidden here: see sysctl kernel.io_uring_disabled (0 allows "
			"it), and the seccomp profile of the container or service");
		break;
	case -ENOSYS:
		snprintf(why, why_bytes,
			 "this kernel has no io_uring, or a seccomp profile hides it");
		break;
	case -EINVAL:
		snprintf(why, why_bytes,
			 "this kernel's io_uring is too old: Linux 6.1 or newer is needed");
		break;
	case -ENOMEM:
		snprintf(
			why, why_bytes,
			"no memory for an io_uring: raise RLIMIT_MEMLOCK (ulimit -l) or the memory "
			"cgroup's limit");
		break;
	case -EMFILE:
	case -ENFILE:
		snprintf(why, why_bytes, "no file descriptor is left for an io_uring (ulimit -n)");
		break;
	default:
		snprintf(why, why_bytes, "io_uring can not be set up: %s", strerror(-error));
	}
}

/* A send that tells whether the kernel has copied after all: a flag that it may not know. */
static bool reports_use(struct io_uring *ring)
{
	enum { REPORT_USAGE = 1 << 3 }; /* IORING_SEND_ZC_REPORT_USAGE, younger than liburing 2.3 */
	struct msghdr message = {0};
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	io_uring_prep_sendmsg_zc(sqe, -1, &message, 0);
	sqe->ioprio |= REPORT_USAGE;
	if (io_uring_submit(ring) != 1 || io_uring_wait_cqe(ring, &cqe))
		return false;
	bool known = cqe->res != -EINVAL; /* -EBADF */
	io_uring_cqe_seen(ring, cqe);
	return known;
}

/*
 * Before 6.5 the kernel polls for a command by a pointer that its completion overwrites. A flag of
 * the same release tells: known, it wants memory that we do not give (-EFAULT).
 */
static bool polls_commands_safely(void)
{
	enum { NO_MMAP = 1 << 14 }; /* IORING_SETUP_NO_MMAP, younger than liburing 2.3 */
	struct io_uring_params params = {.flags = NO_MMAP};
	long fd = syscall(SYS_io_uring_setup, 4, &params);
	bool known = fd >= 0 || errno != EINVAL;
	if (fd >= 0)
		close((int)fd);
	return known;
}

int uring_probe(struct uring_caps *caps, char *why, size_t why_bytes)
{
	memset(caps, 0, sizeof(*caps));
	struct io_uring ring;
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
	};
	int error = io_uring_queue_init_params(8, &ring, &params);
	if (error) {
		explain(error, why, why_bytes);
		return error;
	}
	struct io_uring_probe *probe = io_uring_get_probe_ring(&ring);
	if (probe) {
		caps->send_zc = io_uring_opcode_supported(probe, IORING_OP_SENDMSG_ZC);
		caps->send_zc_report = caps->send_zc && reports_use(&ring);
		caps->uring_cmd = io_uring_opcode_supported(probe, IORING_OP_URING_CMD);
		io_uring_free_probe(probe);
	}
	caps->uring_cmd_polled = caps->uring_cmd && polls_commands_safely();
	/* DEFER_TASKRUN (6.1) is younger than all of these */
	caps->buf_ring = caps->multishot_recv = caps->multishot_accept = true;
	caps->sparse_files = io_uring_register_files_sparse(&ring, 1) == 0;
	caps->sparse_buffers = io_uring_register_buffers_sparse(&ring, 1) == 0;
	caps->fixed_buffers = caps->sparse_buffers;
	io_uring_queue_exit(&ring);
	return 0;
}
