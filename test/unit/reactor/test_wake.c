/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * wake: reactors that sleep at once (--idle-poll 0) and are woken by messages, hops and timers: not
 * one wake-up is lost. A lost one shows as a turn that never ends.
 */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/clock.h"
#include "lib/base/counter.h"
#include "support.h"

enum {
	REACTORS = 2,
	TURNS = 100000,
	BUDGET_US = 4000000, /* a busy machine does fewer turns in it, an idle one all */
	TURNS_LEAST = 200,   /* however long they take */
	PATIENCE_MS = 20000,
};

static int answer_fd;

static int start(void **state)
{
	answer_fd = eventfd(0, EFD_CLOEXEC);
	assert_true(answer_fd >= 0);
	return 0;
}

static int stop(void **state)
{
	close(answer_fd);
	return 0;
}

static void answer(void)
{
	uint64_t one = 1;
	check(write(answer_fd, &one, sizeof(one)) == sizeof(one));
}

static bool answered(int patience_ms)
{
	struct pollfd wait = {answer_fd, POLLIN, 0};
	uint64_t count;
	if (poll(&wait, 1, patience_ms) != 1)
		return false;
	assert_int_equal(read(answer_fd, &count, sizeof(count)), sizeof(count));
	return true;
}

static bool goes_on(uint64_t turn, uint64_t until)
{
	return turn < TURNS_LEAST || (turn < TURNS * support_effort() && monotonic_us() < until);
}

/* ---- A message to a sleeping reactor ---- */

static void answer_message(void *arg)
{
	answer();
}

static void test_messages_wake(void **state)
{
	uint64_t until = monotonic_us() + BUDGET_US * support_effort();
	uint64_t sleeps = counter_read(&reactors[0]->stats.sleeps);
	unsigned turn;
	for (turn = 0; goes_on(turn, until); turn++) {
		reactor_send(reactors[0], answer_message, NULL);
		if (!answered(PATIENCE_MS))
			fail_msg("turn %u: the message was not taken", turn);
	}
	/* it did sleep between them, if not each time */
	assert_true(counter_read(&reactors[0]->stats.sleeps) - sleeps > turn / 10);
}

/* From two threads at once: a sender may find the flag cleared by the other. */
static _Atomic uint64_t counted;

static void count(void *arg)
{
	atomic_fetch_add(&counted, 1);
}

static void send_to_other(void *arg)
{
	reactor_send(reactors[1], count, NULL);
}

static void test_two_senders_at_once(void **state)
{
	uint64_t until = monotonic_us() + BUDGET_US / 4 * support_effort();
	uint64_t turn;
	for (turn = 0; goes_on(turn, until); turn++) {
		uint64_t patience = monotonic_us() + PATIENCE_MS * 1000;
		reactor_send(reactors[0], send_to_other, NULL);
		reactor_send(reactors[1], count, NULL);
		for (unsigned waits = 0; atomic_load(&counted) < 2 * (turn + 1); waits++) {
			sched_yield();
			if (waits > 1000)
				sleep_us(10);
			if (monotonic_us() > patience)
				fail_msg("turn %lu: a message was not taken", (unsigned long)turn);
		}
	}
}

/* ---- A hop to a sleeping reactor ---- */

static struct {
	struct hop hop;
	_Atomic uint64_t turns;
	_Atomic bool stop;
} ball;

static void ball_arrive(struct hop *hop)
{
	atomic_fetch_add_explicit(&ball.turns, 1, memory_order_relaxed);
	if (atomic_load(&ball.stop))
		answer();
	else
		reactor_hop(!reactor_self->index, hop);
}

static void ball_throw(void *arg)
{
	ball.hop.arrive = ball_arrive;
	reactor_hop(1, &ball.hop);
}

static void test_hops_wake(void **state)
{
	uint64_t until = monotonic_us() + BUDGET_US * support_effort(), seen = 0;
	uint64_t sleeps = counter_read(&reactors[0]->stats.sleeps);
	on_reactor(0, ball_throw, NULL);
	while (goes_on(seen, until)) {
		uint64_t patience = monotonic_us() + PATIENCE_MS * 1000;
		while (atomic_load(&ball.turns) == seen) {
			sleep_us(100);
			if (monotonic_us() > patience)
				fail_msg("turn %lu: the hop was not taken", (unsigned long)seen);
		}
		seen = atomic_load(&ball.turns);
	}
	atomic_store(&ball.stop, true);
	assert_true(answered(PATIENCE_MS));
	assert_true(counter_read(&reactors[0]->stats.sleeps) > sleeps);
}

/* ---- A timer of a sleeping reactor ---- */

static struct {
	struct timer timer;
	uint64_t armed_at;
} alarm_clock;

static void alarm_fire(struct timer *timer)
{
	check(clock_ticks() >= timer->due);
	answer();
}

static void alarm_arm(void *arg)
{
	alarm_clock.timer.fire = alarm_fire;
	reactor_arm_timer(&alarm_clock.timer, *(const uint64_t *)arg);
}

static void test_timers_wake(void **state)
{
	static const uint64_t after_us[] = {0, 1, 50, 999, 20000, 100000};
	for (unsigned i = 0; i < COUNT_OF(after_us); i++) {
		uint64_t begin = monotonic_us();
		uint64_t wait_us = after_us[i];
		on_reactor(0, alarm_arm, &wait_us);
		assert_true(answered(PATIENCE_MS));
		assert_true(monotonic_us() - begin >= after_us[i]);
	}
}

/* ---- Asleep, it costs nothing ---- */

static void thread_time(void *arg)
{
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	*(uint64_t *)arg = now.tv_sec * 1000000ull + now.tv_nsec / 1000;
}

static void test_a_sleeping_reactor_uses_no_time(void **state)
{
	enum { ASLEEP_US = 400000 };
	uint64_t before, after;
	on_reactor(0, thread_time, &before);
	uint64_t loops = counter_read(&reactors[0]->stats.loops);
	sleep_us(ASLEEP_US);
	assert_int_equal(atomic_load(&reactors[0]->sleeping), 1);
	assert_true(counter_read(&reactors[0]->stats.loops) - loops < 10);
	on_reactor(0, thread_time, &after);
	assert_true(after - before < ASLEEP_US / 100);
}

/* ---- A poller that may not sleep ---- */

static _Atomic bool restless;
static _Atomic uint64_t asked;

static unsigned idle_poll(struct poller *poller)
{
	return 0;
}

static bool may_sleep(struct poller *poller)
{
	atomic_fetch_add(&asked, 1);
	return !atomic_load(&restless);
}

static struct poller picky = {.poll = idle_poll, .may_sleep = may_sleep};
static struct poller easy = {.poll = idle_poll};

static void add_pollers(void *arg)
{
	reactor_add_poller(&easy);
	reactor_add_poller(&picky);
}

static void remove_pollers(void *arg)
{
	reactor_remove_poller(&picky);
	reactor_remove_poller(&easy);
}

static void wait_for_sleep(uint64_t sleeps)
{
	uint64_t until = monotonic_us() + PATIENCE_MS * 1000ull;
	while (counter_read(&reactors[0]->stats.sleeps) == sleeps) {
		assert_true(monotonic_us() < until);
		sleep_us(100);
	}
}

static void test_pollers_keep_it_awake(void **state)
{
	atomic_store(&restless, true);
	on_reactor(0, add_pollers, NULL);
	uint64_t sleeps = counter_read(&reactors[0]->stats.sleeps);
	uint64_t loops = counter_read(&reactors[0]->stats.loops);
	atomic_store(&asked, 0);
	wait_for_count(&asked, 100);
	assert_int_equal(counter_read(&reactors[0]->stats.sleeps), sleeps);
	assert_true(counter_read(&reactors[0]->stats.loops) - loops >= 50);
	atomic_store(&restless, false);
	wait_for_sleep(sleeps);
	on_reactor(0, remove_pollers, NULL);
}

#define test(name) cmocka_unit_test_setup_teardown(name, start, stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(test_messages_wake),
		test(test_two_senders_at_once),
		test(test_hops_wake),
		test(test_timers_wake),
		test(test_a_sleeping_reactor_uses_no_time),
		test(test_pollers_keep_it_awake),
	};
	support_start(REACTORS, 0);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	support_stop();
	return failed;
}
