/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pass: what a reactor does in a pass, on its own: timers, deferred calls, pollers that come and
 * go, and the account of busy and idle time. Timers on a clock that the test moves, the rest on a
 * real reactor.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "lib/base/clock.h"
#include "lib/base/counter.h"
#include "reactor/internal.h"
#include "support.h"

/* ---- Timers, on a reactor that is a struct and no thread ---- */

enum { TIMERS = 200 };

static struct reactor still;
static struct marked {
	struct timer timer;
	unsigned fired;
	uint64_t position; /* among all */
	struct timer *disarms, *arms;
} marked[TIMERS];
static uint64_t fired_so_far;

static void mark(struct timer *timer)
{
	struct marked *m = container_of(timer, struct marked, timer);
	assert_false(timer->armed);
	assert_true(timer->due <= still.now);
	m->fired++;
	m->position = fired_so_far++;
	if (m->disarms)
		reactor_disarm_timer(m->disarms);
	if (m->arms)
		reactor_arm_timer(m->arms, 0);
}

static int still_start(void **state)
{
	memset(&still, 0, sizeof(still));
	memset(marked, 0, sizeof(marked));
	TAILQ_INIT(&still.timers);
	for (unsigned i = 0; i < TIMERS; i++)
		marked[i].timer.fire = mark;
	fired_so_far = 0;
	reactor_self = &still;
	return 0;
}

static int still_stop(void **state)
{
	reactor_self = NULL;
	return 0;
}

/* The clock of the pass stands long after, or long before, what was armed. */
static unsigned run_at(uint64_t us)
{
	still.now = clock_ticks() + clock_us_to_ticks(us);
	return timers_run(&still);
}

static void test_timers_fire_in_order(void **state)
{
	unsigned random = 5;
	assert_int_equal(timers_next_ns(&still), UINT64_MAX);
	for (unsigned i = 0; i < TIMERS; i++) {
		random = random * 1103515245 + 12345;
		reactor_arm_timer(&marked[i].timer, 1000000ull * (random >> 16));
	}
	still.now = clock_ticks();
	assert_int_equal(timers_run(&still), 0);
	assert_int_equal(run_at(1000000ull << 16), TIMERS);
	for (unsigned i = 0; i < TIMERS; i++) {
		assert_int_equal(marked[i].fired, 1);
		for (unsigned k = 0; k < i; k++)
			assert_true((marked[i].timer.due < marked[k].timer.due) ==
				    (marked[i].position < marked[k].position));
	}
	assert_int_equal(timers_next_ns(&still), UINT64_MAX);
}

static void test_timers_only_when_due(void **state)
{
	for (unsigned i = 0; i < 10; i++)
		reactor_arm_timer(&marked[i].timer, (i + 1) * 1000000000ull);
	uint64_t next = timers_next_ns(&still);
	assert_true(next <= 1000000000000ull && next > 900000000000ull);
	assert_int_equal(run_at(3500000000ull), 3);
	assert_int_equal(run_at(3500000000ull), 0);
	assert_int_equal(run_at(20000000000ull), 7);
	assert_int_equal(timers_next_ns(&still), UINT64_MAX);
}

static void test_timers_armed_anew(void **state)
{
	reactor_arm_timer(&marked[0].timer, 5000000000ull);
	reactor_arm_timer(&marked[1].timer, 6000000000ull);
	reactor_arm_timer(&marked[0].timer, 9000000000ull); /* later */
	assert_int_equal(run_at(7000000000ull), 1);
	assert_int_equal(marked[1].fired, 1);
	reactor_arm_timer(&marked[0].timer, 1000000); /* sooner */
	assert_int_equal(run_at(2000000), 1);
	assert_int_equal(marked[0].fired, 1);
	assert_int_equal(run_at(10000000000ull), 0); /* once */
}

static void test_timers_disarmed(void **state)
{
	for (unsigned i = 0; i < 5; i++)
		reactor_arm_timer(&marked[i].timer, 1000);
	reactor_disarm_timer(&marked[0].timer);
	reactor_disarm_timer(&marked[2].timer);
	reactor_disarm_timer(&marked[2].timer); /* nothing */
	reactor_disarm_timer(&marked[4].timer);
	assert_int_equal(run_at(1000000), 2);
	assert_int_equal(marked[1].fired + marked[3].fired, 2);
	reactor_arm_timer(&marked[2].timer, 0);
	assert_int_equal(run_at(1), 1);
}

static void test_timers_change_while_they_fire(void **state)
{
	for (unsigned i = 0; i < 6; i++)
		reactor_arm_timer(&marked[i].timer, 1000 + i);
	marked[0].disarms = &marked[1].timer; /* the next one */
	marked[2].disarms = &marked[5].timer; /* the last one */
	marked[3].disarms = &marked[0].timer; /* one that has fired */
	marked[4].arms = &marked[4].timer;    /* itself */
	still.now = clock_ticks() + clock_us_to_ticks(1000000);
	/* its new time has come too: the pass's clock stands ahead */
	marked[4].disarms = NULL;
	while (timers_run(&still) && marked[4].fired < 3)
		;
	assert_int_equal(marked[0].fired, 1);
	assert_int_equal(marked[1].fired, 0);
	assert_int_equal(marked[2].fired, 1);
	assert_int_equal(marked[3].fired, 1);
	assert_int_equal(marked[5].fired, 0);
	assert_true(marked[4].fired >= 3);
}

/* A pass whose clock is true is not held up by a timer that is armed for now again and again. */
static void test_a_timer_for_now_waits_for_the_next_pass(void **state)
{
	marked[0].arms = &marked[0].timer;
	reactor_arm_timer(&marked[0].timer, 0);
	for (unsigned pass = 1; pass < 100; pass++) {
		still.now = clock_ticks();
		assert_int_equal(timers_run(&still), 1);
		assert_int_equal(marked[0].fired, pass);
	}
}

/* ---- Deferred calls ---- */

static struct chain {
	struct deferred deferred;
	unsigned runs, asks;
	uint64_t pass; /* of the last run */
} chain[4];
static _Atomic bool chain_done;
static uint64_t chain_pass;

static void chain_run(struct deferred *deferred)
{
	struct chain *link = container_of(deferred, struct chain, deferred);
	link->runs++;
	link->pass = counter_read(&reactor_self->stats.loops);
	if (link->asks) {
		link->asks--;
		for (int i = 0; i < 5; i++)
			reactor_defer(reactor_self, deferred);
	} else if (link == &chain[3]) {
		atomic_store(&chain_done, true);
	}
}

static void chain_begin(void *arg)
{
	chain_pass = counter_read(&reactor_self->stats.loops);
	for (unsigned i = 0; i < COUNT_OF(chain); i++) {
		chain[i].deferred.run = chain_run;
		chain[i].asks = i;
		for (int k = 0; k < 3; k++)
			reactor_defer(reactor_self, &chain[i].deferred);
		check(chain[i].runs == 0);
	}
}

static void test_deferred_calls(void **state)
{
	reactor_send(reactors[0], chain_begin, NULL);
	wait_for(&chain_done);
	for (unsigned i = 0; i < COUNT_OF(chain); i++)
		assert_int_equal(chain[i].runs, i + 1); /* once, however often it was asked for */
	/* in the pass that asked, and in a second round of it; the rest in later passes */
	assert_int_equal(chain[0].pass, chain_pass);
	assert_int_equal(chain[1].pass, chain_pass);
	assert_int_equal(chain[3].pass, chain_pass + 1);
}

/* ---- Pollers that come and go ---- */

static struct guest {
	struct poller poller;
	unsigned polls;
	struct guest *removes, *adds;
	bool there;
} guests[4];
static _Atomic uint64_t guest_polls;

static void guest_add(struct guest *guest)
{
	guest->there = true;
	reactor_add_poller(&guest->poller);
}

static void guest_remove(struct guest *guest)
{
	guest->there = false;
	reactor_remove_poller(&guest->poller);
	memset(&guest->poller.link, 0x5a, sizeof(guest->poller.link)); /* it is its owner's again */
}

static unsigned guest_poll(struct poller *poller)
{
	struct guest *guest = container_of(poller, struct guest, poller);
	check(guest->there);
	guest->polls++;
	if (guest->removes && guest->removes->there)
		guest_remove(guest->removes);
	if (guest->adds && !guest->adds->there)
		guest_add(guest->adds);
	atomic_fetch_add(&guest_polls, 1);
	return 1;
}

static void guests_arrive(void *arg)
{
	for (unsigned i = 0; i < COUNT_OF(guests); i++) {
		guests[i].poller.poll = guest_poll;
		guest_add(&guests[i]);
	}
	guests[0].removes = &guests[1]; /* the next one in the list */
	guests[2].removes = &guests[2]; /* itself */
	guests[3].adds = &guests[2];	/* again, at the end */
}

static void guests_leave(void *arg)
{
	for (unsigned i = 0; i < COUNT_OF(guests); i++) {
		if (guests[i].there)
			guest_remove(&guests[i]);
	}
}

static void test_pollers_come_and_go(void **state)
{
	on_reactor(0, guests_arrive, NULL);
	wait_for_count(&guest_polls, 1000);
	on_reactor(0, guests_leave, NULL);
	uint64_t polls = atomic_load(&guest_polls);
	assert_int_equal(guests[1].polls, 0);
	assert_true(guests[0].polls > 100);
	assert_true(guests[2].polls > 100);
	assert_true(guests[3].polls >= guests[2].polls - 1);
	sleep_us(20000);
	assert_int_equal(atomic_load(&guest_polls), polls);
}

/* ---- Busy and idle time ---- */

struct account {
	uint64_t now, busy, idle;
};

static void take_account(void *arg)
{
	struct account *account = arg;
	account->now = reactor_self->now;
	account->busy = counter_read(&reactor_self->stats.busy_ticks);
	account->idle = counter_read(&reactor_self->stats.idle_ticks);
}

static _Atomic bool worked;

static unsigned work_poll(struct poller *poller)
{
	static unsigned left = 20;
	uint64_t until = clock_ticks() + clock_us_to_ticks(1000);
	if (!left)
		return 0;
	while (clock_ticks() < until)
		;
	if (!--left)
		atomic_store(&worked, true);
	return 1;
}

static struct poller worker = {.poll = work_poll};

static void add_worker(void *arg)
{
	reactor_add_poller(&worker);
}

static void remove_worker(void *arg)
{
	reactor_remove_poller(&worker);
}

static void test_all_time_is_accounted_for(void **state)
{
	struct account before, busy, after;
	on_reactor(0, take_account, &before);
	on_reactor(0, add_worker, NULL);
	wait_for(&worked);
	on_reactor(0, remove_worker, NULL);
	on_reactor(0, take_account, &busy);
	sleep_us(50000);
	on_reactor(0, take_account, &after);
	/* to the tick: each pass is one or the other, sleeping is idle */
	assert_int_equal(busy.busy - before.busy + busy.idle - before.idle, busy.now - before.now);
	assert_int_equal(after.busy - busy.busy + after.idle - busy.idle, after.now - busy.now);
	assert_true(busy.busy - before.busy >= clock_us_to_ticks(20 * 1000));
	assert_true(after.idle - busy.idle >= clock_us_to_ticks(40000));
}

#define still(name) cmocka_unit_test_setup_teardown(name, still_start, still_stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		still(test_timers_fire_in_order),
		still(test_timers_only_when_due),
		still(test_timers_armed_anew),
		still(test_timers_disarmed),
		still(test_timers_change_while_they_fire),
		still(test_a_timer_for_now_waits_for_the_next_pass),
		cmocka_unit_test(test_deferred_calls),
		cmocka_unit_test(test_pollers_come_and_go),
		cmocka_unit_test(test_all_time_is_accounted_for),
	};
	support_start(1, 50);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	support_stop();
	return failed;
}
