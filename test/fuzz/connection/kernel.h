/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * kernel: stands in for lib/uring under fake reactors. It does what connections ask io_uring for -
 * receive, send, read, write, cancel, provided buffers - by plain calls on their descriptors, which
 * do not block; an operation that would is tried again in each pass. So partial transfers, full
 * sockets and ends of file are real ones, and a run is the same every time. One thread.
 */
#ifndef POLLUX_TEST_FUZZ_KERNEL_H
#define POLLUX_TEST_FUZZ_KERNEL_H

#include <stdbool.h>

enum { KERNEL_RINGS = 2 };

/* Behind fake_start(KERNEL_RINGS). */
void kernel_start(void);
/* The next operation that could be done ends with this instead, once. */
void kernel_fail_next(int error);
/* Sends end early, as a signal may make them do. */
void kernel_send_short(bool yes);
/* True where nothing is in flight and every provided buffer is in the ring. */
bool kernel_is_idle(unsigned ring, unsigned provided);

#endif
