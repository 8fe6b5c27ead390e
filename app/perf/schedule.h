/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * schedule: when the next request of an open loop is due. Times are in ns on any clock; the
 * interval is kept in 4096ths of one, so that odd rates do not drift. Pure.
 */
#ifndef POLLUX_APP_PERF_SCHEDULE_H
#define POLLUX_APP_PERF_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

enum { SCHEDULE_SHIFT = 12 };

struct schedule {
	uint64_t base_ns;
	uint64_t next, step; /* since base_ns, in 4096ths of a ns: enough for 52 days */
};

/*
 * One of several schedules that together make `rate` requests a second: this one has `share` of
 * `parts` of them, parts >= share >= 1. It begins `number` intervals of the whole rate late, so
 * that schedules with equal shares, numbered from 0, interleave evenly.
 */
static inline void schedule_init(struct schedule *schedule, uint64_t start_ns, uint64_t rate,
				 unsigned number, unsigned share, unsigned parts)
{
	const unsigned __int128 second = (unsigned __int128)1000000000 << SCHEDULE_SHIFT;

	schedule->base_ns = start_ns;
	schedule->step = (uint64_t)(second * parts / ((unsigned __int128)rate * share));
	schedule->next = (uint64_t)(second * number / rate);
	if (!schedule->step)
		schedule->step = 1;
}

/* When the next one is due. */
static inline uint64_t schedule_due(const struct schedule *schedule)
{
	return schedule->base_ns + (schedule->next >> SCHEDULE_SHIFT);
}

/* The next one was sent. */
static inline void schedule_advance(struct schedule *schedule)
{
	schedule->next += schedule->step;
}

/* How many are due by `now_ns` and were not sent. */
static inline uint64_t schedule_backlog(const struct schedule *schedule, uint64_t now_ns)
{
	uint64_t now = (now_ns - schedule->base_ns) << SCHEDULE_SHIFT;

	if (now_ns < schedule_due(schedule))
		return 0;
	return now < schedule->next ? 1 : (now - schedule->next) / schedule->step + 1;
}

#endif
