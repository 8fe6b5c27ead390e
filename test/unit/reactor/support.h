/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * support: real reactors for a test program. The test's main thread is the control thread. cmocka's
 * assertions are for that thread; what runs on a reactor uses check().
 */
#ifndef POLLUX_TEST_REACTOR_SUPPORT_H
#define POLLUX_TEST_REACTOR_SUPPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/control.h"
#include "reactor/reactor.h"

/* Any thread: ends the program where it does not hold. */
#define check(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__,          \
				#condition);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

enum { SUPPORT_PATIENCE_S = 30 };

/*
 * Starts the control loop and `count` reactors with both roles, once in a process. Reactors share
 * CPUs where there are more of them than the affinity mask has.
 */
void support_start(unsigned count, unsigned idle_poll_us);
void support_stop(void);
void support_config(struct reactor_config *config, unsigned count, unsigned idle_poll_us);

/* Runs fn(arg) on a reactor and waits for it. */
void on_reactor(unsigned index, void (*fn)(void *arg), void *arg);

/* Waits until *flag, for SUPPORT_PATIENCE_S at most; the control loop stands still. */
void wait_for(const _Atomic bool *flag);
/* The same, for a number. */
void wait_for_count(const _Atomic uint64_t *count, uint64_t least);
/* Runs the control loop until *flag. */
void control_until(const bool *flag);

uint64_t monotonic_us(void);
void sleep_us(uint64_t us);
/* 1 where nothing else is said, more with POLLUX_TEST_FULL. */
static inline unsigned support_effort(void)
{
	const char *full = getenv("POLLUX_TEST_FULL");
	return full && !strcmp(full, "1") ? 20 : 1;
}

#endif
