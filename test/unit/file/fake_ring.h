/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fake_ring: stands in for lib/uring, and for the side rings. Keeps every operation that is asked
 * for, and completes the one that the test names with the result that the test wants; never by
 * itself.
 */
#ifndef POLLUX_TEST_FILE_FAKE_RING_H
#define POLLUX_TEST_FILE_FAKE_RING_H

#include "test/unit/file/world.h"

enum {
	FAKE_SQES_MAX = 512,
	/* registered files: a descriptor's slot on core c is fd + c * FAKE_SLOTS_A_CORE */
	FAKE_SLOTS_A_CORE = 10000,
};

struct fake_sqe {
	struct io_uring_sqe sqe;
	struct uring *uring;
	struct side_ring *side; /* NULL: the core's main ring */
	bool completed;
};

extern struct fake_sqe fake_sqes[FAKE_SQES_MAX];
extern unsigned fake_count; /* of them */
extern bool fake_registers; /* files and buffers can be registered */
extern unsigned fake_files; /* registered now */
extern bool fake_polls;	    /* there can be side rings */

void fake_reset(void);
/* The nth operation asked for, from 0; fails if there were fewer. */
const struct io_uring_sqe *fake_sqe(unsigned n);
void fake_complete(unsigned n, int result);
/* Operations in flight, without those that cancel others. */
unsigned fake_pending(void);
/* The number of the nth operation in flight. */
unsigned fake_nth_pending(unsigned n);
/* The descriptor behind the operation's slot. */
int fake_fd(const struct io_uring_sqe *sqe);

#endif
