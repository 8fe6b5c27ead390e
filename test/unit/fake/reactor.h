/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fake reactor: what reactor.h and control.h promise, on one thread, by a clock that only the test
 * moves: 1 tick is 1 ns. Messages, hops, timers and control calls run inside fake_settle() and
 * fake_advance_us(), in a fixed order.
 */
#ifndef POLLUX_TEST_FAKE_REACTOR_H
#define POLLUX_TEST_FAKE_REACTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "reactor/control.h"
#include "reactor/reactor.h"

enum { FAKE_BUFFER_BYTES = 8 << 20 };

/* `count` reactors with both roles; the caller's thread is reactor 0. */
void fake_start(unsigned count);
/* Fails the test where a timer or poller was left behind. */
void fake_stop(void);

/* The calling thread goes on as reactor `index`. */
void fake_become(unsigned index);

/* One pass of every reactor and of the control thread. True if anything was done. */
bool fake_pass(void);
/* Passes until nothing is done any more. The clock stands still. */
void fake_settle(void);
/* Moves the clock, and nothing else. */
void fake_tick_us(uint64_t us);
/* Moves the clock, with passes at every timer on the way. */
void fake_advance_us(uint64_t us);

#endif
