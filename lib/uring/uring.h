/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uring: one io_uring, set up the way a reactor needs it, and what the kernel offers, probed once.
 *
 * A ring belongs to the thread that called uring_init() (IORING_SETUP_SINGLE_ISSUER); every function
 * here but uring_probe() is called from that thread only. Source: io_uring_setup(2),
 * io_uring_enter(2), io_uring_register(2).
 */
#ifndef POLLUX_LIB_URING_URING_H
#define POLLUX_LIB_URING_URING_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * What a completion calls. `done` may run many times for a multishot operation (IORING_CQE_F_MORE
 * in cqe_flags says that more follow). The operation belongs to its submitter again once a
 * completion without F_MORE was delivered. `done` never runs inside uring_get_sqe() or
 * uring_submit(): only from uring_reap().
 */
struct uring_op {
	void (*done)(struct uring_op *op, int result, uint32_t cqe_flags);
};

/* What this kernel and this process may use; filled once by uring_probe(). */
struct uring_caps {
	bool buf_ring;		/* IORING_REGISTER_PBUF_RING, 5.19 */
	bool multishot_recv;	/* 6.0 */
	bool multishot_accept;	/* 5.19 */
	bool sparse_files;	/* IORING_REGISTER_FILES2 with IORING_RSRC_REGISTER_SPARSE, 5.19 */
	bool sparse_buffers;	/* IORING_REGISTER_BUFFERS2, the same */
	bool fixed_buffers;	/* RLIMIT_MEMLOCK lets buffers be registered */
	bool send_zc;		/* IORING_OP_SENDMSG_ZC, 6.1 */
	bool send_zc_report;	/* IORING_SEND_ZC_REPORT_USAGE, 6.2 */
	bool uring_cmd;		/* IORING_OP_URING_CMD, 5.19 */
	bool uring_cmd_polled;	/* it is safe to poll for one, 6.5 */
};

enum {
	URING_FILE_SLOTS = 1024,    /* registered files a ring has room for */
	URING_BUFFER_SLOTS = 16,    /* registered buffer regions a ring has room for */
	/*
	 * Kernel threads for a ring's operations on files that have to wait. The kernel's own limit
	 * is four a processor, which a hung file system uses up at once: no other file would be
	 * synced any more.
	 */
	URING_WORKERS = 256,
};

struct uring {
	struct io_uring ring;
	unsigned pending;      /* SQEs taken since the last submit */
	uint64_t enters;       /* io_uring_enter(2) calls so far: counter_add() */
	bool registered_files; /* the sparse file table is there */
	bool registered_buffers;
	uint16_t free_files[URING_FILE_SLOTS];
	unsigned free_file_count;
	unsigned buffer_count; /* counter_add() */
};

/*
 * Tells what io_uring can do here. Returns 0, or -errno with a sentence in `why` that an operator can
 * act on (forbidden by sysctl kernel.io_uring_disabled, by seccomp, RLIMIT_MEMLOCK, too old).
 */
int uring_probe(struct uring_caps *caps, char *why, size_t why_bytes);

/* sq_entries: SQEs a pass; cq_entries: completions that can wait. Returns 0 or -errno. */
int uring_init(struct uring *uring, const struct uring_caps *caps, unsigned sq_entries,
	       unsigned cq_entries);
/*
 * The same with more IORING_SETUP_* flags: SQE128, CQE32, IOPOLL. Where entries are bigger, the caller
 * clears what uring_get_sqe() did not, and takes completions by liburing's means.
 */
int uring_init_with(struct uring *uring, const struct uring_caps *caps, unsigned sq_entries,
		    unsigned cq_entries, unsigned flags);
void uring_fini(struct uring *uring);

/*
 * An SQE, cleared, whose completion will call op->done. Never NULL: where the queue is full, what it
 * holds is submitted first. Call an io_uring_prep_*() on it, then uring_set_op().
 */
struct io_uring_sqe *uring_get_sqe(struct uring *uring);

static inline void uring_set_op(struct io_uring_sqe *sqe, struct uring_op *op)
{
	io_uring_sqe_set_data(sqe, op);
}

/*
 * Hands all pending SQEs to the kernel and lets it run what is due; enters the kernel only if there
 * is either. Returns true if it did.
 */
bool uring_submit(struct uring *uring);

/*
 * From now on uring_wait() polls the network cards of the ring's sockets for up to `us` microseconds
 * (NAPI) before it sleeps. Returns 0, or -EINVAL where the kernel does not know it (before 6.9), or
 * another -errno. Source: io_uring_register_napi(3).
 */
int uring_busy_poll(struct uring *uring, unsigned us);

/* Submits, then sleeps until a completion or `timeout_ns` (UINT64_MAX: none). */
void uring_wait(struct uring *uring, uint64_t timeout_ns);

/* Runs the callbacks of up to `most` completions. Returns how many. */
unsigned uring_reap(struct uring *uring, unsigned most);

/*
 * Registers a descriptor. Returns its slot (use with IOSQE_FIXED_FILE), or -errno: then use the
 * plain descriptor. uring_file_remove() frees the slot.
 */
int uring_file_add(struct uring *uring, int fd);
void uring_file_remove(struct uring *uring, int slot);

/* Registers a region (page aligned). Returns its buffer index, or -errno: then use plain I/O. */
int uring_buffer_add(struct uring *uring, void *base, size_t bytes);

#endif
