/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * timer: a reactor's one-shot timers, in a list by due time. Most are armed with the same few
 * periods, so that the search from the end finds the place at once. Called by the owner.
 */
#include "lib/base/clock.h"
#include "reactor/internal.h"

void reactor_arm_timer(struct timer *timer, uint64_t after_us)
{
	struct reactor *reactor = reactor_self;
	if (timer->armed)
		TAILQ_REMOVE(&reactor->timers, timer, link);
	timer->due = clock_ticks() + clock_us_to_ticks(after_us);
	timer->armed = true;
	struct timer *before = TAILQ_LAST(&reactor->timers, timer_list);
	while (before && before->due > timer->due)
		before = TAILQ_PREV(before, timer_list, link);
	if (before)
		TAILQ_INSERT_AFTER(&reactor->timers, before, timer, link);
	else
		TAILQ_INSERT_HEAD(&reactor->timers, timer, link);
}

void reactor_disarm_timer(struct timer *timer)
{
	if (!timer->armed)
		return;
	TAILQ_REMOVE(&reactor_self->timers, timer, link);
	timer->armed = false;
}

unsigned timers_run(struct reactor *reactor)
{
	unsigned fired = 0;
	struct timer *timer;
	while ((timer = TAILQ_FIRST(&reactor->timers)) && timer->due <= reactor->now) {
		TAILQ_REMOVE(&reactor->timers, timer, link);
		timer->armed = false;
		timer->fire(timer);
		fired++;
	}
	return fired;
}

uint64_t timers_next_ns(const struct reactor *reactor)
{
	const struct timer *timer = TAILQ_FIRST(&reactor->timers);
	if (!timer)
		return UINT64_MAX;
	uint64_t now = clock_ticks();
	return timer->due > now ? clock_ticks_to_ns(timer->due - now) : 0;
}
