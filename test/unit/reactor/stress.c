/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stress: walkers that go from core to core at random, by every way there is - hops, messages,
 * timers, deferred calls, the control thread, workers - while the cores fall asleep and wake. Each
 * is at one place at a time, and at the end all are there again.
 *
 * usage: stress [SECONDS]
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/counter.h"
#include "support.h"

enum { REACTORS = 3, WALKERS = 60, LONGEST_TIMER_US = 300, SECONDS = 2 };

static struct walker {
	struct hop hop;
	struct timer timer;
	struct deferred deferred;
	unsigned random;
	unsigned destination; /* where it is to arrive */
	_Atomic bool walking; /* between two places */
	uint64_t steps;	      /* plain: what carries it orders it */
} walkers[WALKERS];
static _Atomic bool stopping;
static _Atomic uint64_t home;

static unsigned next_random(struct walker *walker)
{
	walker->random = walker->random * 1103515245 + 12345;
	return walker->random >> 16;
}

static void leave(struct walker *walker, unsigned destination)
{
	walker->destination = destination;
	check(!atomic_exchange(&walker->walking, true));
}

static void go_on(struct walker *walker);

static void arrive(struct walker *walker)
{
	check(reactor_self->index == walker->destination);
	check(atomic_exchange(&walker->walking, false));
	walker->steps++;
	if (atomic_load(&stopping))
		atomic_fetch_add(&home, 1);
	else
		go_on(walker);
}

static void arrive_by_hop(struct hop *hop)
{
	arrive(container_of(hop, struct walker, hop));
}

static void arrive_by_timer(struct timer *timer)
{
	arrive(container_of(timer, struct walker, timer));
}

static void arrive_deferred(struct deferred *deferred)
{
	arrive(container_of(deferred, struct walker, deferred));
}

static void arrive_by_message(void *arg)
{
	arrive(arg);
}

static void pass_by_control(void *arg)
{
	struct walker *walker = arg;
	check(control_is_self());
	reactor_send(reactors[walker->destination], arrive_by_message, walker);
}

static void pass_by_worker(void *arg)
{
	((struct walker *)arg)->steps++;
}

static void send_worker(void *arg)
{
	control_work(pass_by_worker, pass_by_control, arg);
}

static void go_on(struct walker *walker)
{
	unsigned way = next_random(walker) % 100, self = reactor_self->index;
	unsigned there = next_random(walker) % REACTORS;
	if (way < 45) {
		there = (self + 1 + there % (REACTORS - 1)) % REACTORS;
		leave(walker, there);
		reactor_hop(there, &walker->hop);
	} else if (way < 65) {
		leave(walker, there);
		reactor_send(reactors[there], arrive_by_message, walker);
	} else if (way < 80) {
		leave(walker, self);
		reactor_arm_timer(&walker->timer, next_random(walker) % LONGEST_TIMER_US);
	} else if (way < 93) {
		leave(walker, self);
		reactor_defer(reactor_self, &walker->deferred);
	} else {
		leave(walker, there);
		control_send(way < 98 ? pass_by_control : send_worker, walker);
	}
}

static void start_walker(void *arg)
{
	go_on(arg);
}

static void end_if_home(struct control_timer *timer);

static struct control_timer stop = {.fire = end_if_home};
static uint64_t patience_until;

static void end_if_home(struct control_timer *timer)
{
	atomic_store(&stopping, true);
	if (atomic_load(&home) == WALKERS)
		control_stop();
	check(monotonic_us() < patience_until);
	control_arm_timer(timer, 1000);
}

int main(int argc, char **argv)
{
	uint64_t seconds = argc > 1 ? strtoul(argv[1], NULL, 10) : SECONDS * support_effort();
	uint64_t steps = 0, sleeps = 0;
	if (!seconds) {
		fprintf(stderr, "usage: stress [SECONDS]\n");
		return 2;
	}
	support_start(REACTORS, 20);
	for (unsigned i = 0; i < WALKERS; i++) {
		walkers[i].random = 31 * i + 7;
		walkers[i].hop.arrive = arrive_by_hop;
		walkers[i].timer.fire = arrive_by_timer;
		walkers[i].deferred.run = arrive_deferred;
		reactor_send(reactors[i % REACTORS], start_walker, &walkers[i]);
	}
	patience_until = monotonic_us() + (seconds + SUPPORT_PATIENCE_S) * 1000000;
	control_arm_timer(&stop, seconds * 1000000);
	control_run();
	for (unsigned i = 0; i < REACTORS; i++)
		sleeps += counter_read(&reactors[i]->stats.sleeps);
	support_stop();
	for (unsigned i = 0; i < WALKERS; i++) {
		check(!atomic_load(&walkers[i].walking));
		check(walkers[i].steps > 0);
		steps += walkers[i].steps;
	}
	check(atomic_load(&home) == WALKERS);
	printf("%lu steps, %lu sleeps\n", (unsigned long)steps, (unsigned long)sleeps);
	return 0;
}
