/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * clock: the processor's tick counter, and its rate. Any thread.
 * clock_init() measures the rate (2 ms) unless a caller already knows it.
 */
#ifndef POLLUX_LIB_BASE_CLOCK_H
#define POLLUX_LIB_BASE_CLOCK_H

#include <stdint.h>

extern uint64_t clock_hz; /* ticks a second; valid after clock_init() */

/* hz: the known rate, or 0 to measure it against CLOCK_MONOTONIC. */
void clock_init(uint64_t hz);

static inline uint64_t clock_ticks(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
	uint64_t ticks;
	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
	return ticks;
#else
#error "no tick counter is known for this processor"
#endif
}

static inline uint64_t clock_us_to_ticks(uint64_t us)
{
	return (uint64_t)((unsigned __int128)us * clock_hz / 1000000);
}

static inline uint64_t clock_ticks_to_us(uint64_t ticks)
{
	return (uint64_t)((unsigned __int128)ticks * 1000000 / clock_hz);
}

static inline uint64_t clock_ticks_to_ns(uint64_t ticks)
{
	return (uint64_t)((unsigned __int128)ticks * 1000000000 / clock_hz);
}

#endif
