/* SPDX-License-Identifier: BSD-3-Clause */
/* clock: measures the tick counter's rate once, at start. */
#include "lib/base/clock.h"

#include <time.h>

#define MEASURE_NS 2000000

uint64_t clock_hz;

static uint64_t monotonic_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

void clock_init(uint64_t hz)
{
	if (hz) {
		clock_hz = hz;
		return;
	}
	uint64_t ns = monotonic_ns(), ticks = clock_ticks(), elapsed;
	while ((elapsed = monotonic_ns() - ns) < MEASURE_NS)
		;
	clock_hz = (clock_ticks() - ticks) * 1000000000ull / elapsed;
}
