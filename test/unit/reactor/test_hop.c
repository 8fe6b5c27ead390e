/* SPDX-License-Identifier: BSD-3-Clause */
/* hop: the I/O rings between real reactors: order, bursts, a full ring, nothing lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/counter.h"
#include "support.h"

enum {
	REACTORS = 3,
	RING_CAPACITY = REACTOR_HOP_ENTRIES - 1,
	STREAM_HOPS = 30000,
	FLOOD_HOPS = 5 * REACTOR_HOP_ENTRIES,
};

struct numbered {
	struct hop hop;
	unsigned from, to;
	uint32_t number;
	uint32_t payload;
};

/* ---- Streams between all pairs at once ---- */

static struct stream {
	struct poller poller;
	struct numbered *hops[REACTORS]; /* by destination */
	unsigned left[REACTORS];	 /* to send */
	uint32_t expected[REACTORS];	 /* by sender: the receiver's */
	uint64_t pass, in_pass[REACTORS];
	unsigned random;
} streams[REACTORS];
static _Atomic uint64_t arrived;

static unsigned next_random(unsigned *state)
{
	*state = *state * 1103515245 + 12345;
	return *state >> 16;
}

static void stream_arrive(struct hop *hop)
{
	struct numbered *numbered = container_of(hop, struct numbered, hop);
	struct stream *stream = &streams[reactor_self->index];
	check(numbered->to == reactor_self->index);
	check(numbered->number == stream->expected[numbered->from]);
	check(numbered->payload == numbered->number * 2654435761u);
	stream->expected[numbered->from]++;
	if (stream->pass != reactor_self->stats.loops) {
		stream->pass = reactor_self->stats.loops;
		memset(stream->in_pass, 0, sizeof(stream->in_pass));
	}
	/* a pass takes one burst of each peer, so that timers and sockets keep their turn */
	check(++stream->in_pass[numbered->from] <= REACTOR_HOP_BURST);
	numbered->payload = 0; /* the receiver owns it */
	atomic_fetch_add(&arrived, 1);
}

static unsigned stream_poll(struct poller *poller)
{
	struct stream *stream = container_of(poller, struct stream, poller);
	unsigned self = reactor_self->index, sent = 0;
	for (unsigned to = 0; to < REACTORS; to++) {
		unsigned n = next_random(&stream->random) % 90;
		for (; to != self && n && stream->left[to]; n--, sent++) {
			struct numbered *numbered =
				&stream->hops[to][STREAM_HOPS - stream->left[to]--];
			numbered->number = numbered - stream->hops[to];
			numbered->payload = numbered->number * 2654435761u;
			numbered->from = self;
			numbered->to = to;
			numbered->hop.arrive = stream_arrive;
			reactor_hop(to, &numbered->hop);
		}
	}
	return sent;
}

static void stream_begin(void *arg)
{
	streams[reactor_self->index].poller.poll = stream_poll;
	reactor_add_poller(&streams[reactor_self->index].poller);
}

static void stream_end(void *arg)
{
	reactor_remove_poller(&streams[reactor_self->index].poller);
}

static void test_order_for_each_pair(void **state)
{
	unsigned rounds = support_effort();
	uint64_t sent = 0, bursts = 0;
	for (unsigned i = 0; i < REACTORS; i++) {
		for (unsigned to = 0; to < REACTORS; to++)
			streams[i].hops[to] = calloc(STREAM_HOPS, sizeof(struct numbered));
	}
	for (unsigned round = 0; round < rounds; round++) {
		atomic_store(&arrived, 0);
		for (unsigned i = 0; i < REACTORS; i++) {
			streams[i].random = 7 * i + round;
			for (unsigned to = 0; to < REACTORS; to++) {
				streams[i].left[to] = STREAM_HOPS;
				streams[i].expected[to] = 0;
			}
		}
		for (unsigned i = 0; i < REACTORS; i++)
			on_reactor(i, stream_begin, NULL);
		wait_for_count(&arrived, REACTORS * (REACTORS - 1) * (uint64_t)STREAM_HOPS);
		for (unsigned i = 0; i < REACTORS; i++)
			on_reactor(i, stream_end, NULL);
	}
	for (unsigned i = 0; i < REACTORS; i++) {
		for (unsigned to = 0; to < REACTORS; to++) {
			free(streams[i].hops[to]);
			if (i == to)
				continue;
			assert_int_equal(streams[i].expected[to], STREAM_HOPS);
			assert_int_equal(reactor_ring_depth(i, to), 0);
			sent += counter_read(&reactors[i]->lanes[to].sent);
			bursts += counter_read(&reactors[i]->lanes[to].bursts);
		}
	}
	assert_int_equal(sent, rounds * REACTORS * (REACTORS - 1) * STREAM_HOPS);
	/* what a pass sends travels together */
	assert_true(sent > 4 * bursts);
}

/* ---- Bursts ---- */

static struct numbered flood[FLOOD_HOPS];
static uint32_t flood_expected;
static _Atomic uint64_t flood_arrived;

static void flood_arrive(struct hop *hop)
{
	struct numbered *numbered = container_of(hop, struct numbered, hop);
	check(numbered == &flood[flood_expected]);
	flood_expected++;
	atomic_fetch_add(&flood_arrived, 1);
}

static void send_flood(void *arg)
{
	unsigned *count = arg;
	for (unsigned i = 0; i < *count; i++) {
		flood[i].hop.arrive = flood_arrive;
		reactor_hop(1, &flood[i].hop);
	}
	/* full bursts travel, the rest at the end of the pass */
	if (*count <= REACTOR_HOP_BURST)
		check(reactor_ring_depth(0, 1) == 0);
}

static void begin_flood(unsigned count)
{
	flood_expected = 0;
	atomic_store(&flood_arrived, 0);
	on_reactor(0, send_flood, &count);
}

static void test_a_pass_sends_in_bursts(void **state)
{
	const struct hop_lane *lane = &reactors[0]->lanes[1];
	uint64_t bursts = counter_read(&lane->bursts), sent = counter_read(&lane->sent);
	begin_flood(10 * REACTOR_HOP_BURST + 1);
	wait_for_count(&flood_arrived, 10 * REACTOR_HOP_BURST + 1);
	assert_int_equal(counter_read(&lane->bursts) - bursts, 11);
	assert_int_equal(counter_read(&lane->sent) - sent, 10 * REACTOR_HOP_BURST + 1);
	begin_flood(REACTOR_HOP_BURST);
	wait_for_count(&flood_arrived, REACTOR_HOP_BURST);
	assert_int_equal(counter_read(&lane->bursts) - bursts, 12);
	/* each burst is measured once */
	assert_int_equal(counter_read(&lane->arrivals), counter_read(&lane->bursts));
	assert_true(counter_read(&lane->latency_ticks) >= counter_read(&lane->latency_max_ticks));
	assert_true(counter_read(&lane->latency_max_ticks) > 0);
}

/* ---- A full ring ---- */

static _Atomic bool blocked, release;

static void block(void *arg)
{
	atomic_store(&blocked, true);
	while (!atomic_load(&release))
		sleep_us(100);
	atomic_store(&blocked, false);
}

static void nothing(void *arg)
{
}

static void test_a_full_ring_stalls_and_loses_nothing(void **state)
{
	const struct hop_lane *lane = &reactors[0]->lanes[1];
	uint64_t stalls = counter_read(&lane->stalls), until = monotonic_us() + 30000000;
	atomic_store(&release, false);
	reactor_send(reactors[1], block, NULL);
	wait_for(&blocked);
	begin_flood(FLOOD_HOPS);
	while (reactor_ring_depth(0, 1) < RING_CAPACITY || counter_read(&lane->stalls) == stalls) {
		assert_true(monotonic_us() < until);
		sleep_us(100);
	}
	uint64_t passes = counter_read(&reactors[0]->stats.loops);
	stalls = counter_read(&lane->stalls);
	/* the sender goes on with other work, and the receiver's other lanes are free */
	for (int i = 0; i < 20; i++)
		on_reactor(0, nothing, NULL);
	assert_int_equal(reactor_ring_depth(0, 1), RING_CAPACITY);
	assert_int_equal(reactor_ring_depth(2, 1), 0);
	assert_int_equal(atomic_load(&flood_arrived), 0);
	/* one a pass, and that under way */
	stalls = counter_read(&lane->stalls) - stalls;
	passes = counter_read(&reactors[0]->stats.loops) - passes;
	assert_in_range(stalls, 1, passes + 1);
	atomic_store(&release, true);
	wait_for_count(&flood_arrived, FLOOD_HOPS);
	on_reactor(1, nothing, NULL);
	assert_int_equal(flood_expected, FLOOD_HOPS);
	assert_int_equal(reactor_ring_depth(0, 1), 0);
}

/* What is staged keeps its order with what is sent while the ring is full. */
static struct numbered late[100];

static void late_arrive(struct hop *hop)
{
	check(flood_expected == FLOOD_HOPS + (container_of(hop, struct numbered, hop) - late));
	flood_expected++;
	atomic_fetch_add(&flood_arrived, 1);
}

static void send_late(void *arg)
{
	unsigned *i = arg;
	late[*i].hop.arrive = late_arrive;
	reactor_hop(1, &late[*i].hop);
}

static void test_what_comes_later_arrives_later(void **state)
{
	atomic_store(&release, false);
	reactor_send(reactors[1], block, NULL);
	wait_for(&blocked);
	begin_flood(FLOOD_HOPS);
	for (unsigned i = 0; i < COUNT_OF(late); i++)
		on_reactor(0, send_late, &i);
	atomic_store(&release, true);
	wait_for_count(&flood_arrived, FLOOD_HOPS + COUNT_OF(late));
	on_reactor(1, nothing, NULL);
	assert_int_equal(flood_expected, FLOOD_HOPS + COUNT_OF(late));
}

/* ---- Ownership: a hop that comes back may be sent again at once ---- */

enum { TURNS = 20000, BALLS = 40 };

static struct ball {
	struct hop hop;
	uint64_t turns;
} balls[BALLS];
static _Atomic uint64_t balls_done;

static void ball_arrive(struct hop *hop)
{
	struct ball *ball = container_of(hop, struct ball, hop);
	if (++ball->turns == TURNS)
		atomic_fetch_add(&balls_done, 1);
	else
		reactor_hop((reactor_self->index + 1) % REACTORS, hop);
}

static void throw_balls(void *arg)
{
	for (unsigned i = 0; i < BALLS; i++) {
		balls[i].hop.arrive = ball_arrive;
		reactor_hop(1, &balls[i].hop);
	}
}

static void test_hops_go_round(void **state)
{
	on_reactor(0, throw_balls, NULL);
	wait_for_count(&balls_done, BALLS);
	for (unsigned i = 0; i < REACTORS; i++)
		on_reactor(i, nothing, NULL);
	for (unsigned i = 0; i < BALLS; i++)
		assert_int_equal(balls[i].turns, TURNS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order_for_each_pair),
		cmocka_unit_test(test_a_pass_sends_in_bursts),
		cmocka_unit_test(test_a_full_ring_stalls_and_loses_nothing),
		cmocka_unit_test(test_what_comes_later_arrives_later),
		cmocka_unit_test(test_hops_go_round),
	};
	support_start(REACTORS, 50);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	support_stop();
	return failed;
}
