/* SPDX-License-Identifier: BSD-3-Clause */
/* message: control messages of many senders to real reactors; full rings; senders that wait for
 * each other. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "lib/base/counter.h"
#include "support.h"

enum {
	REACTORS = 3,
	THREADS = 4,
	SENDERS = THREADS + REACTORS,
	MESSAGES = 20000, /* of one sender to one reactor */
	RING_CAPACITY = REACTOR_CONTROL_MESSAGES - 1,
};

/* ---- Order for each sender; none lost, none twice ---- */

struct note {
	unsigned from, to;
	uint32_t number;
};

static struct note (*notes)[REACTORS][MESSAGES]; /* [SENDERS] */
static uint32_t expected[REACTORS][SENDERS];	 /* the receiver's */
static _Atomic uint64_t taken;

static void take(void *arg)
{
	struct note *note = arg;
	uint32_t *next = &expected[reactor_self->index][note->from];
	check(note->to == reactor_self->index);
	check(note->number == *next);
	++*next;
	note->number = UINT32_MAX;
	atomic_fetch_add(&taken, 1);
}

static void send_note(unsigned from, unsigned to, uint32_t number)
{
	struct note *note = &notes[from][to][number];
	*note = (struct note){from, to, number};
	reactor_send(reactors[to], take, note);
}

static void *send_from_thread(void *arg)
{
	unsigned from = (uintptr_t)arg;
	for (uint32_t number = 0; number < MESSAGES; number++) {
		for (unsigned to = 0; to < REACTORS; to++)
			send_note(from, to, number);
	}
	return NULL;
}

/* A reactor sends to all, itself too, in portions larger than a ring. */
static void send_from_reactor(void *arg)
{
	static uint32_t sent[REACTORS];
	unsigned self = reactor_self->index;
	for (unsigned n = 0; n < MESSAGES / 2; n++, sent[self]++) {
		for (unsigned to = 0; to < REACTORS; to++)
			send_note(THREADS + self, to, sent[self]);
	}
	if (sent[self] < MESSAGES)
		reactor_send(reactor_self, send_from_reactor, NULL);
}

static void test_order_for_each_sender(void **state)
{
	pthread_t threads[THREADS];
	notes = calloc(SENDERS, sizeof(*notes));
	assert_non_null(notes);
	for (unsigned i = 0; i < REACTORS; i++)
		reactor_send(reactors[i], send_from_reactor, NULL);
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, send_from_thread, (void *)i), 0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	wait_for_count(&taken, (uint64_t)SENDERS * REACTORS * MESSAGES);
	sleep_us(10000);
	assert_int_equal(atomic_load(&taken), SENDERS * REACTORS * MESSAGES);
	free(notes);
}

/* ---- A full ring ---- */

static _Atomic bool blocked, release;
static _Atomic uint64_t sent, ran;

static void block(void *arg)
{
	atomic_store(&blocked, true);
	while (!atomic_load(&release))
		sleep_us(100);
	atomic_store(&blocked, false);
}

static void count(void *arg)
{
	check((uintptr_t)arg == atomic_fetch_add(&ran, 1));
}

static void *send_many(void *arg)
{
	for (uintptr_t i = 0; i < 2 * REACTOR_CONTROL_MESSAGES; i++) {
		reactor_send(reactors[1], count, (void *)i);
		atomic_fetch_add(&sent, 1);
	}
	return NULL;
}

static void test_a_full_ring_makes_the_sender_wait(void **state)
{
	pthread_t thread;
	atomic_store(&release, false);
	reactor_send(reactors[1], block, NULL);
	wait_for(&blocked);
	uint64_t before = counter_read(&reactors[1]->stats.messages);
	assert_int_equal(pthread_create(&thread, NULL, send_many, NULL), 0);
	wait_for_count(&sent, RING_CAPACITY);
	sleep_us(20000);
	assert_int_equal(atomic_load(&sent), RING_CAPACITY);
	assert_int_equal(atomic_load(&ran), 0);
	atomic_store(&release, true);
	pthread_join(thread, NULL);
	wait_for_count(&ran, 2 * REACTOR_CONTROL_MESSAGES);
	/* block() and these; counted behind the pass that ran them */
	while (counter_read(&reactors[1]->stats.messages) - before <
	       1 + 2 * REACTOR_CONTROL_MESSAGES)
		sleep_us(100);
}

/* ---- From a reactor to itself ---- */

enum { TO_SELF = 3 * REACTOR_CONTROL_MESSAGES };

static uint64_t self_ran;
static _Atomic bool self_done;

static void self_count(void *arg)
{
	check((uintptr_t)arg == self_ran);
	if (++self_ran == TO_SELF)
		atomic_store(&self_done, true);
}

static void send_to_self(void *arg)
{
	for (uintptr_t i = 0; i < TO_SELF; i++)
		reactor_send(reactor_self, self_count, (void *)i);
	check(self_ran == 0); /* not before it returns */
}

static void test_a_reactor_sends_to_itself_beyond_the_ring(void **state)
{
	reactor_send(reactors[0], send_to_self, NULL);
	wait_for(&self_done);
}

/* What was taken aside stays behind what runs already, and before what came after it. */
static uint64_t mixed_ran;
static _Atomic bool mixed_done;

static void mixed_count(void *arg)
{
	check((uintptr_t)arg == mixed_ran++);
	if (mixed_ran == 2 * TO_SELF)
		atomic_store(&mixed_done, true);
	/* the first half: each asks for one more, so that what is aside is added to while it runs
	 */
	if (mixed_ran <= TO_SELF)
		reactor_send(reactor_self, mixed_count, (void *)(TO_SELF + mixed_ran - 1));
}

static void send_mixed(void *arg)
{
	for (uintptr_t i = 0; i < TO_SELF; i++)
		reactor_send(reactor_self, mixed_count, (void *)i);
}

static void test_order_with_messages_set_aside(void **state)
{
	reactor_send(reactors[0], send_mixed, NULL);
	wait_for(&mixed_done);
}

/* ---- Reactors that fill each other's rings ---- */

static _Atomic unsigned at_start;
static uint64_t mutual_expected[REACTORS][REACTORS];
static _Atomic uint64_t mutual_ran;

static void mutual_count(void *arg)
{
	unsigned from = (uintptr_t)arg % REACTORS;
	uint64_t *next = &mutual_expected[reactor_self->index][from];
	check((uintptr_t)arg / REACTORS == *next);
	++*next;
	atomic_fetch_add(&mutual_ran, 1);
}

static void fill_others(void *arg)
{
	unsigned self = reactor_self->index;
	atomic_fetch_add(&at_start, 1);
	while (atomic_load(&at_start) < REACTORS)
		sleep_us(10);
	for (uintptr_t i = 0; i < TO_SELF; i++) {
		for (unsigned to = 0; to < REACTORS; to++) {
			if (to != self)
				reactor_send(reactors[to], mutual_count,
					     (void *)(i * REACTORS + self));
		}
	}
}

static void test_reactors_that_wait_for_each_other_go_on(void **state)
{
	for (unsigned i = 0; i < REACTORS; i++)
		reactor_send(reactors[i], fill_others, NULL);
	wait_for_count(&mutual_ran, REACTORS * (REACTORS - 1) * (uint64_t)TO_SELF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order_for_each_sender),
		cmocka_unit_test(test_a_full_ring_makes_the_sender_wait),
		cmocka_unit_test(test_a_reactor_sends_to_itself_beyond_the_ring),
		cmocka_unit_test(test_order_with_messages_set_aside),
		cmocka_unit_test(test_reactors_that_wait_for_each_other_go_on),
	};
	support_start(REACTORS, 50);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	support_stop();
	return failed;
}
