/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bench_hop: what a hop between two reactors costs, at several depths. So many hops go round trips
 * between them; both cores poll. Prints a line a depth; judges nothing.
 */
#include <stdatomic.h>

#include "lib/base/clock.h"
#include "lib/base/counter.h"
#include "support.h"

enum { DEPTH_MAX = 512, HOPS = 4000000 };

static struct hop hops[DEPTH_MAX];
static unsigned depth;
static uint64_t left; /* reactor 0's */
static _Atomic uint64_t home;
static _Atomic bool over;

static void arrive_there(struct hop *hop);

static void arrive_home(struct hop *hop)
{
	if (left) {
		left--;
		hop->arrive = arrive_there;
		reactor_hop(1, hop);
	} else if (atomic_fetch_add(&home, 1) + 1 == depth) {
		atomic_store(&over, true);
	}
}

static void arrive_there(struct hop *hop)
{
	hop->arrive = arrive_home;
	reactor_hop(0, hop);
}

static void begin(void *arg)
{
	left = HOPS / 2 - depth;
	for (unsigned i = 0; i < depth; i++) {
		hops[i].arrive = arrive_there;
		reactor_hop(1, &hops[i]);
	}
}

static void run(void)
{
	const struct hop_lane *lane = &reactors[0]->lanes[1];
	uint64_t bursts = counter_read(&lane->bursts), sent = counter_read(&lane->sent);
	uint64_t arrivals = counter_read(&lane->arrivals),
		 on_way = counter_read(&lane->latency_ticks);
	atomic_store(&home, 0);
	atomic_store(&over, false);
	uint64_t began = monotonic_us();
	on_reactor(0, begin, NULL);
	wait_for(&over);
	double ns = (double)(monotonic_us() - began) * 1000;
	bursts = counter_read(&lane->bursts) - bursts;
	sent = counter_read(&lane->sent) - sent;
	arrivals = counter_read(&lane->arrivals) - arrivals;
	on_way = clock_ticks_to_ns(counter_read(&lane->latency_ticks) - on_way);
	printf("depth %3u: %6.1f ns a hop, %5.1f hops a burst, %7.0f ns from end to end of the "
	       "ring\n",
	       depth, ns / HOPS, bursts ? (double)sent / bursts : 0.0,
	       arrivals ? (double)on_way / arrivals : 0.0);
}

int main(void)
{
	static const unsigned depths[] = {1, 8, 16, 32, 64, 128, 512};
	support_start(2, 1000);
	for (unsigned i = 0; i < COUNT_OF(depths); i++) {
		depth = depths[i];
		run();
	}
	support_stop();
	return 0;
}
