/* SPDX-License-Identifier: BSD-3-Clause */
/* fake reactor: reactors and control thread of a unit test, on its one thread. */
#include "fake/reactor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/clock.h"
#include "lib/base/counter.h"

struct call {
	void (*fn)(void *arg);
	void *arg;
	struct hop *hop;
	STAILQ_ENTRY(call) link;
};
STAILQ_HEAD(call_list, call);

struct fake {
	struct reactor reactor;
	struct call_list calls;
};

unsigned reactor_count;
struct reactor *reactors[REACTOR_MAX];
__thread struct reactor *reactor_self;

static struct call_list control_calls = STAILQ_HEAD_INITIALIZER(control_calls);
static uint64_t now;

void fake_start(unsigned count)
{
	clock_hz = 1000000000;
	now = 1000000;
	reactor_count = count;
	for (unsigned i = 0; i < count; i++) {
		struct fake *fake = aligned_alloc(_Alignof(struct fake), sizeof(*fake));
		assert_non_null(fake);
		memset(fake, 0, sizeof(*fake));
		STAILQ_INIT(&fake->calls);
		TAILQ_INIT(&fake->reactor.pollers);
		TAILQ_INIT(&fake->reactor.timers);
		fake->reactor.deferred_last = &fake->reactor.deferred_first;
		fake->reactor.index = i;
		fake->reactor.roles = REACTOR_NET | REACTOR_STORAGE;
		fake->reactor.now = now;
		fake->reactor.node = REGION_ANY_NODE;
		assert_int_equal(
			buffers_init(&fake->reactor.buffers, FAKE_BUFFER_BYTES, REGION_ANY_NODE),
			0);
		reactors[i] = &fake->reactor;
	}
	fake_become(0);
}

void fake_stop(void)
{
	fake_settle();
	for (unsigned i = 0; i < reactor_count; i++) {
		struct buffers *buffers = &reactors[i]->buffers;
		assert_true(TAILQ_EMPTY(&reactors[i]->timers));
		assert_true(TAILQ_EMPTY(&reactors[i]->pollers));
		assert_int_equal(buffers->free_bytes, buffers->total_bytes);
		buffers_fini(buffers);
		free(reactors[i]);
		reactors[i] = NULL;
	}
	reactor_count = 0;
	reactor_self = NULL;
}

void fake_become(unsigned index)
{
	reactor_self = reactors[index];
}

/* ---- What the code under test calls ---- */

static void push(struct call_list *list, struct call what)
{
	struct call *call = malloc(sizeof(*call));
	assert_non_null(call);
	*call = what;
	STAILQ_INSERT_TAIL(list, call, link);
}

void reactor_send(struct reactor *reactor, void (*fn)(void *arg), void *arg)
{
	push(&container_of(reactor, struct fake, reactor)->calls, (struct call){fn, arg});
}

void reactor_hop(unsigned destination, struct hop *hop)
{
	push(&container_of(reactors[destination], struct fake, reactor)->calls,
	     (struct call){.hop = hop});
}

void reactor_add_poller(struct poller *poller)
{
	TAILQ_INSERT_TAIL(&reactor_self->pollers, poller, link);
}

void reactor_remove_poller(struct poller *poller)
{
	TAILQ_REMOVE(&reactor_self->pollers, poller, link);
}

void reactor_arm_timer(struct timer *timer, uint64_t after_us)
{
	struct timer *at;
	reactor_disarm_timer(timer);
	timer->due = now + clock_us_to_ticks(after_us);
	timer->armed = true;
	TAILQ_FOREACH (at, &reactor_self->timers, link) {
		if (at->due > timer->due) {
			TAILQ_INSERT_BEFORE(at, timer, link);
			return;
		}
	}
	TAILQ_INSERT_TAIL(&reactor_self->timers, timer, link);
}

void reactor_disarm_timer(struct timer *timer)
{
	if (timer->armed)
		TAILQ_REMOVE(&reactor_self->timers, timer, link);
	timer->armed = false;
}

bool control_is_self(void)
{
	return true;
}

void control_send(void (*fn)(void *arg), void *arg)
{
	push(&control_calls, (struct call){fn, arg});
}

void control_work(void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
	work(arg);
	control_send(done, arg);
}

struct round {
	void (*fn)(void *arg);
	void (*done)(void *arg);
	void *arg;
	unsigned left;
};

static void round_leave(struct round *round)
{
	if (--round->left)
		return;
	control_send(round->done, round->arg);
	free(round);
}

static void round_on_core(void *arg)
{
	struct round *round = arg;
	round->fn(round->arg);
	round_leave(round);
}

void control_for_each_reactor(unsigned roles, void (*fn)(void *arg), void (*done)(void *arg),
			      void *arg)
{
	struct round *round = malloc(sizeof(*round));
	assert_non_null(round);
	*round = (struct round){fn, done, arg, 1};
	for (unsigned i = 0; i < reactor_count; i++) {
		if (roles && !(reactors[i]->roles & roles))
			continue;
		round->left++;
		reactor_send(reactors[i], round_on_core, round);
	}
	round_leave(round);
}

/* ---- Passes ---- */

static bool run_calls(struct call_list *list)
{
	struct call_list taken = STAILQ_HEAD_INITIALIZER(taken);
	struct call *call;
	STAILQ_CONCAT(&taken, list);
	bool any = !STAILQ_EMPTY(&taken);
	while ((call = STAILQ_FIRST(&taken))) {
		STAILQ_REMOVE_HEAD(&taken, link);
		if (call->hop)
			call->hop->arrive(call->hop);
		else
			call->fn(call->arg);
		free(call);
	}
	return any;
}

static bool run_timers(struct reactor *reactor)
{
	struct timer *timer;
	bool any = false;
	while ((timer = TAILQ_FIRST(&reactor->timers)) && timer->due <= now) {
		TAILQ_REMOVE(&reactor->timers, timer, link);
		timer->armed = false;
		timer->fire(timer);
		any = true;
	}
	return any;
}

static bool run_deferred(struct reactor *reactor)
{
	struct deferred *deferred = reactor->deferred_first, *next;
	reactor->deferred_first = NULL;
	reactor->deferred_last = &reactor->deferred_first;
	for (struct deferred *at = deferred; at; at = next) {
		next = at->next;
		at->queued = false;
		at->run(at);
	}
	return deferred != NULL;
}

bool fake_pass(void)
{
	struct reactor *caller = reactor_self;
	bool any = false;
	for (unsigned i = 0; i < reactor_count; i++) {
		struct reactor *reactor = reactors[i];
		struct poller *poller, *next;
		reactor_self = reactor;
		reactor->now = now;
		counter_add(&reactor->stats.loops, 1);
		any |= run_calls(&container_of(reactor, struct fake, reactor)->calls);
		for (poller = TAILQ_FIRST(&reactor->pollers); poller; poller = next) {
			next = TAILQ_NEXT(poller, link);
			any |= poller->poll(poller) > 0;
		}
		any |= run_timers(reactor);
		any |= run_deferred(reactor);
	}
	reactor_self = NULL; /* the control thread is no reactor */
	any |= run_calls(&control_calls);
	reactor_self = caller;
	return any;
}

void fake_settle(void)
{
	while (fake_pass())
		;
}

void fake_tick_us(uint64_t us)
{
	now += us * 1000;
}

void fake_advance_us(uint64_t us)
{
	uint64_t until = now + us * 1000;
	fake_settle();
	while (now < until) {
		uint64_t next = until;
		for (unsigned i = 0; i < reactor_count; i++) {
			struct timer *timer = TAILQ_FIRST(&reactors[i]->timers);
			if (timer && timer->due < next)
				next = timer->due > now ? timer->due : now;
		}
		now = next;
		fake_settle();
	}
}
