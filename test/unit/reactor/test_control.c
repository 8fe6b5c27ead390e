/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * control: the control thread's loop: calls from other threads, workers of which some hang, timers,
 * descriptors, rounds over the reactors.
 */
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "support.h"

enum { REACTORS = 2, THREADS = 4, CALLS = 20000, WORKERS = 8 };

/* ---- Calls ---- */

static struct sender {
	unsigned index;
	uintptr_t expected;
} senders[THREADS + REACTORS];
static unsigned senders_left;
static bool all_sent;
static uintptr_t (*call_args)[CALLS]; /* [THREADS + REACTORS] */

static void take_call(void *arg)
{
	uintptr_t *number = arg;
	unsigned from = (number - &call_args[0][0]) / CALLS;
	assert_true(control_is_self());
	assert_int_equal(*number, senders[from].expected);
	senders[from].expected++;
	if (senders[from].expected == CALLS && --senders_left == 0)
		all_sent = true;
}

static void send_calls(void *arg)
{
	struct sender *sender = arg;
	check(!control_is_self());
	for (uintptr_t i = 0; i < CALLS; i++) {
		call_args[sender->index][i] = i;
		control_send(take_call, &call_args[sender->index][i]);
	}
}

static void *send_from_thread(void *arg)
{
	send_calls(arg);
	return NULL;
}

static void test_calls_keep_their_order(void **state)
{
	pthread_t threads[THREADS];
	call_args = calloc(THREADS + REACTORS, sizeof(*call_args));
	assert_non_null(call_args);
	senders_left = THREADS + REACTORS;
	for (unsigned i = 0; i < THREADS + REACTORS; i++)
		senders[i].index = i;
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, send_from_thread, &senders[i]),
				 0);
	for (unsigned i = 0; i < REACTORS; i++)
		reactor_send(reactors[i], send_calls, &senders[THREADS + i]);
	control_until(&all_sent);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	free(call_args);
}

static unsigned nested;
static bool nested_done;

static void call_again(void *arg)
{
	if (++nested == 1000)
		nested_done = true;
	else
		control_send(call_again, NULL);
	assert_true(nested <= 1000);
}

static void test_a_call_makes_calls(void **state)
{
	control_send(call_again, NULL);
	assert_int_equal(nested, 0); /* not at once, on the control thread either */
	control_until(&nested_done);
	assert_int_equal(nested, 1000);
}

/* ---- Workers ---- */

static struct job {
	sem_t gate; /* a mount that hangs */
	bool hangs, done;
	_Atomic bool began;
	pthread_t thread;
} jobs[3 * WORKERS];
static unsigned jobs_done;
static bool enough_done;
static unsigned enough;

static void job_work(void *arg)
{
	struct job *job = arg;
	sigset_t blocked;
	check(!control_is_self());
	check(!reactor_self);
	check(!pthread_sigmask(SIG_BLOCK, NULL, &blocked));
	check(sigismember(&blocked, SIGTERM) == 1);
	job->thread = pthread_self();
	atomic_store(&job->began, true);
	if (job->hangs)
		while (sem_wait(&job->gate))
			;
}

static void job_done(void *arg)
{
	struct job *job = arg;
	assert_true(control_is_self());
	assert_false(job->done);
	job->done = true;
	if (++jobs_done == enough)
		enough_done = true;
}

static void reset_jobs(unsigned hang)
{
	memset(jobs, 0, sizeof(jobs));
	jobs_done = 0;
	for (unsigned i = 0; i < COUNT_OF(jobs); i++) {
		sem_init(&jobs[i].gate, 0, 0);
		jobs[i].hangs = i < hang;
	}
}

static void start_jobs(unsigned from, unsigned count)
{
	for (unsigned i = from; i < from + count; i++)
		control_work(job_work, job_done, &jobs[i]);
}

static void wait_jobs(unsigned count)
{
	enough = count;
	enough_done = jobs_done >= count;
	control_until(&enough_done);
}

static void let_go(unsigned from, unsigned count)
{
	for (unsigned i = from; i < from + count; i++)
		sem_post(&jobs[i].gate);
}

static void test_work_runs_elsewhere(void **state)
{
	reset_jobs(0);
	start_jobs(0, COUNT_OF(jobs));
	wait_jobs(COUNT_OF(jobs));
	for (unsigned i = 0; i < COUNT_OF(jobs); i++)
		assert_true(jobs[i].done);
}

/*
 * A thread is idle when two jobs come, before it can wake: the first hangs. The second must not
 * wait behind it, for there may be more threads.
 */
static void test_one_that_hangs_holds_nobody_up(void **state)
{
	for (unsigned hang = 1; hang < WORKERS; hang++) {
		reset_jobs(hang);
		start_jobs(COUNT_OF(jobs) - 1, 1); /* somebody is there, and idle again */
		wait_jobs(1);
		start_jobs(0, hang + 1);
		wait_jobs(2);
		assert_true(jobs[hang].done);
		for (unsigned i = 0; i < hang; i++)
			assert_false(jobs[i].done);
		let_go(0, hang);
		wait_jobs(2 + hang);
	}
}

static void test_as_many_hang_as_there_are(void **state)
{
	reset_jobs(WORKERS);
	start_jobs(0, WORKERS);
	for (unsigned i = 0; i < WORKERS; i++)
		wait_for(&jobs[i].began); /* all at once */
	start_jobs(WORKERS, 4);
	sleep_us(20000);
	for (unsigned i = WORKERS; i < WORKERS + 4; i++)
		assert_false(atomic_load(&jobs[i].began));
	/* the loop goes on meanwhile */
	nested = 0;
	nested_done = false;
	control_send(call_again, NULL);
	control_until(&nested_done);
	/* one comes back, and the rest gets done */
	let_go(3, 1);
	wait_jobs(5);
	for (unsigned i = WORKERS; i < WORKERS + 4; i++)
		assert_true(jobs[i].done);
	let_go(0, 3);
	let_go(4, WORKERS - 4);
	wait_jobs(WORKERS + 4);
}

/* ---- Timers ---- */

static struct alarm {
	struct control_timer timer;
	unsigned fired, position;
	struct control_timer *disarms, *arms;
	uint64_t arms_us, due_us;
} alarms[6];
static unsigned alarms_fired;
static bool last_fired;

static void alarm_fire(struct control_timer *timer)
{
	struct alarm *alarm_of = container_of(timer, struct alarm, timer);
	assert_false(timer->armed);
	assert_true(monotonic_us() >= alarm_of->due_us);
	alarm_of->fired++;
	alarm_of->position = alarms_fired++;
	if (alarm_of->disarms)
		control_disarm_timer(alarm_of->disarms);
	if (alarm_of->arms)
		control_arm_timer(alarm_of->arms, alarm_of->arms_us);
	if (alarm_of == &alarms[5])
		last_fired = true;
}

static void arm(unsigned i, uint64_t after_us)
{
	alarms[i].timer.fire = alarm_fire;
	alarms[i].due_us = monotonic_us() + after_us;
	control_arm_timer(&alarms[i].timer, after_us);
}

static void reset_alarms(void)
{
	memset(alarms, 0, sizeof(alarms));
	alarms_fired = 0;
	last_fired = false;
}

static void test_timers_fire_in_order(void **state)
{
	reset_alarms();
	arm(5, 30000);
	arm(0, 20000);
	arm(1, 0);
	arm(2, 10000);
	arm(3, 20000);
	arm(4, 5000);
	control_until(&last_fired);
	static const unsigned order[] = {1, 4, 2, 0, 3, 5};
	for (unsigned i = 0; i < COUNT_OF(order); i++) {
		assert_int_equal(alarms[order[i]].position, i);
		assert_int_equal(alarms[order[i]].fired, 1);
	}
}

static void test_timers_armed_anew_and_disarmed(void **state)
{
	reset_alarms();
	arm(0, 1000);
	arm(0, 15000); /* later */
	arm(1, 3600ull * 1000000);
	arm(1, 2000); /* sooner */
	arm(2, 1000);
	arm(3, 1000000000ull * 3600 * 24); /* beyond what epoll_wait(2) can be told */
	arm(4, 1000);
	control_disarm_timer(&alarms[2].timer);
	control_disarm_timer(&alarms[2].timer);
	alarms[1].disarms = &alarms[4].timer; /* it has fired by then */
	alarms[0].disarms = &alarms[0].timer; /* itself: it is not armed */
	arm(5, 25000);
	control_until(&last_fired);
	control_disarm_timer(&alarms[3].timer);
	assert_int_equal(alarms[0].fired, 1);
	assert_int_equal(alarms[1].fired, 1);
	assert_int_equal(alarms[2].fired, 0);
	assert_int_equal(alarms[3].fired, 0);
	assert_int_equal(alarms[4].fired, 1);
	assert_true(alarms[1].position < alarms[0].position);
}

static void test_timers_change_while_they_fire(void **state)
{
	reset_alarms();
	arm(0, 1000);
	arm(1, 1000);
	alarms[0].disarms = &alarms[1].timer; /* due, and next */
	arm(2, 1000);
	alarms[2].arms = &alarms[2].timer; /* for now, again and again */
	arm(5, 20000);
	control_until(&last_fired);
	control_disarm_timer(&alarms[2].timer);
	assert_int_equal(alarms[0].fired, 1);
	assert_int_equal(alarms[1].fired, 0);
	assert_true(alarms[2].fired > 1);
}

static bool called_later;

static void end_wait(void *arg)
{
	called_later = true;
	control_stop();
}

static void *call_later(void *arg)
{
	sleep_us(150000);
	control_send(end_wait, NULL);
	return NULL;
}

static uint64_t thread_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return now.tv_sec * 1000000ull + now.tv_nsec / 1000;
}

/* More milliseconds than epoll_wait(2) can be told: the loop sleeps, and wakes for a call. */
static void test_a_timer_far_away(void **state)
{
	pthread_t thread;
	reset_alarms();
	arm(0, (1ull << 32) * 1000);
	uint64_t begin = thread_us();
	assert_int_equal(pthread_create(&thread, NULL, call_later, NULL), 0);
	control_run();
	assert_true(thread_us() - begin < 40000);
	pthread_join(thread, NULL);
	control_disarm_timer(&alarms[0].timer);
	assert_true(called_later);
	assert_int_equal(alarms[0].fired, 0);
}

/* ---- Descriptors ---- */

static struct watched {
	struct control_watch watch;
	unsigned events;
	struct watched *removes;
} watched[2];
static bool watched_once;

static void watched_ready(struct control_watch *watch, uint32_t events)
{
	struct watched *w = container_of(watch, struct watched, watch);
	uint64_t count;
	assert_true(events & EPOLLIN);
	assert_int_equal(read(watch->fd, &count, sizeof(count)), sizeof(count));
	w->events++;
	if (w->removes)
		control_watch_remove(&w->removes->watch);
	watched_once = true;
}

static void ring_bell(int fd)
{
	uint64_t one = 1;
	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

/* Both are ready in one batch: whichever comes first takes the other away. */
static void test_a_watch_removed_within_its_batch(void **state)
{
	memset(watched, 0, sizeof(watched));
	watched_once = false;
	for (unsigned i = 0; i < 2; i++) {
		watched[i].watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		watched[i].watch.ready = watched_ready;
		watched[i].removes = &watched[!i];
		assert_int_equal(control_watch_add(&watched[i].watch, EPOLLIN), 0);
		ring_bell(watched[i].watch.fd);
	}
	control_until(&watched_once);
	sleep_us(1000);
	assert_int_equal(watched[0].events + watched[1].events, 1);
	for (unsigned i = 0; i < 2; i++) {
		control_watch_remove(&watched[i].watch); /* one of them for the second time */
		close(watched[i].watch.fd);
	}
}

static void test_a_watch_modified(void **state)
{
	struct watched *w = &watched[0];
	memset(watched, 0, sizeof(watched));
	w->watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	w->watch.ready = watched_ready;
	assert_int_equal(control_watch_add(&w->watch, 0), 0);
	assert_true(control_watch_add(&w->watch, 0) < 0); /* twice */
	ring_bell(w->watch.fd);
	nested = 0;
	nested_done = false;
	control_send(call_again, NULL);
	control_until(&nested_done);
	assert_int_equal(w->events, 0);
	watched_once = false;
	assert_int_equal(control_watch_modify(&w->watch, EPOLLIN), 0);
	control_until(&watched_once);
	assert_int_equal(w->events, 1);
	control_watch_remove(&w->watch);
	close(w->watch.fd);
}

/* ---- Rounds over the reactors ---- */

static _Atomic unsigned round_ran[REACTORS];
static bool round_done;
static unsigned round_expected;

static void round_fn(void *arg)
{
	check(arg == &round_done);
	atomic_fetch_add(&round_ran[reactor_self->index], 1);
}

static void on_round_done(void *arg)
{
	unsigned sum = 0;
	assert_true(control_is_self());
	for (unsigned i = 0; i < REACTORS; i++)
		sum += atomic_load(&round_ran[i]);
	assert_int_equal(sum, round_expected);
	*(bool *)arg = true;
}

static void run_round(unsigned roles, unsigned expected)
{
	for (unsigned i = 0; i < REACTORS; i++)
		atomic_store(&round_ran[i], 0);
	round_done = false;
	round_expected = expected;
	control_for_each_reactor(roles, round_fn, on_round_done, &round_done);
	assert_false(round_done);
	control_until(&round_done);
}

static void test_rounds_go_by_roles(void **state)
{
	run_round(0, 2);
	run_round(REACTOR_NET, 2);
	run_round(REACTOR_STORAGE, 2);
	reactors[0]->roles = REACTOR_NET;
	run_round(REACTOR_STORAGE, 1);
	assert_int_equal(atomic_load(&round_ran[1]), 1);
	run_round(REACTOR_NET | REACTOR_STORAGE, 2);
	reactors[1]->roles = REACTOR_NET;
	run_round(REACTOR_STORAGE, 0); /* nobody: it ends all the same */
	reactors[0]->roles = reactors[1]->roles = REACTOR_NET | REACTOR_STORAGE;
}

static unsigned many_left = 500;
static bool many_done;

static void many_fn(void *arg)
{
}

static void on_many_done(void *arg)
{
	if (--many_left == 0)
		many_done = true;
}

static void test_many_rounds_at_once(void **state)
{
	unsigned count = many_left;
	for (unsigned i = 0; i < count; i++)
		control_for_each_reactor(0, many_fn, on_many_done, NULL);
	control_until(&many_done);
	assert_int_equal(many_left, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_calls_keep_their_order),
		cmocka_unit_test(test_a_call_makes_calls),
		cmocka_unit_test(
			test_one_that_hangs_holds_nobody_up), /* while there are few threads */
		cmocka_unit_test(test_work_runs_elsewhere),
		cmocka_unit_test(test_as_many_hang_as_there_are),
		cmocka_unit_test(test_timers_fire_in_order),
		cmocka_unit_test(test_timers_armed_anew_and_disarmed),
		cmocka_unit_test(test_timers_change_while_they_fire),
		cmocka_unit_test(test_a_timer_far_away),
		cmocka_unit_test(test_a_watch_removed_within_its_batch),
		cmocka_unit_test(test_a_watch_modified),
		cmocka_unit_test(test_rounds_go_by_roles),
		cmocka_unit_test(test_many_rounds_at_once),
	};
	support_start(REACTORS, 50);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	support_stop();
	return failed;
}
