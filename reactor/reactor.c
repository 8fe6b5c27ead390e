/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * reactor: the loop of one core. Everything in here runs on the reactor's own thread, but
 * reactor_wake().
 */
#include "reactor/reactor.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/counter.h"
#include "reactor/internal.h"

enum {
	REAP_MOST = 512,     /* completions a pass, so that timers and rings keep their turn */
	DEFERRED_ROUNDS = 2, /* deferred calls that were asked for by deferred calls */
};

unsigned reactor_count;
struct reactor *reactors[REACTOR_MAX];
struct uring_caps reactor_caps;
__thread struct reactor *reactor_self;
bool reactor_never_sleeps;
uint64_t reactor_idle_poll_ticks;
unsigned reactor_busy_poll_us;

void reactor_wake(struct reactor *reactor)
{
	/* pairs with the fence in sleep_until_work(): either the sleeper sees what was sent, or
	 * this sees that it sleeps */
	atomic_thread_fence(memory_order_seq_cst);
	if (likely(!atomic_load_explicit(&reactor->sleeping, memory_order_relaxed)))
		return;
	if (!atomic_exchange(&reactor->sleeping, 0))
		return;
	uint64_t one = 1;
	ssize_t ignored = write(reactor->wake_fd, &one, sizeof(one));
	(void)ignored;
}

static unsigned run_pollers(struct reactor *reactor)
{
	unsigned work = 0;
	struct poller *poller;
	for (poller = TAILQ_FIRST(&reactor->pollers); poller; poller = reactor->next_poller) {
		reactor->next_poller = TAILQ_NEXT(poller, link);
		work += poller->poll(poller);
	}
	return work;
}

static unsigned run_deferred(struct reactor *reactor)
{
	unsigned work = 0;
	for (int round = 0; round < DEFERRED_ROUNDS && reactor->deferred_first; round++) {
		struct deferred *deferred = reactor->deferred_first;
		reactor->deferred_first = NULL;
		reactor->deferred_last = &reactor->deferred_first;
		while (deferred) {
			struct deferred *next = deferred->next;
			deferred->queued = false;
			deferred->run(deferred);
			deferred = next;
			work++;
		}
	}
	return work;
}

static unsigned pass(struct reactor *reactor)
{
	unsigned work = 0;
	if (unlikely(!ring_empty(reactor->control)))
		work += messages_run(reactor);
	work += hop_drain(reactor);
	work += uring_reap(&reactor->uring, REAP_MOST);
	work += run_pollers(reactor);
	work += timers_run(reactor);
	work += run_deferred(reactor);
	uring_submit(&reactor->uring);
	return work;
}

static bool may_sleep(const struct reactor *reactor)
{
	struct poller *poller;
	if (reactor->deferred_first)
		return false;
	TAILQ_FOREACH (poller, &reactor->pollers, link) {
		if (poller->may_sleep && !poller->may_sleep(poller))
			return false;
	}
	return true;
}

static void sleep_until_work(struct reactor *reactor)
{
	atomic_store_explicit(&reactor->sleeping, 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	if (ring_empty(reactor->control) && !hop_waiting(reactor)) {
		counter_add(&reactor->stats.sleeps, 1);
		uring_wait(&reactor->uring, timers_next_ns(reactor));
	}
	atomic_store_explicit(&reactor->sleeping, 0, memory_order_relaxed);
}

/* The eventfd was written: that alone has ended the sleep. */
static void woken(struct uring_op *op, int result, uint32_t flags)
{
	struct reactor *reactor = container_of(op, struct reactor, wake_op);
	struct io_uring_sqe *sqe = uring_get_sqe(&reactor->uring);
	io_uring_prep_read(sqe, reactor->wake_fd, &reactor->wake_value, sizeof(reactor->wake_value),
			   0);
	uring_set_op(sqe, op);
}

int reactor_loop(void *arg)
{
	struct reactor *reactor = arg;
	reactor_self = reactor;
	reactor->tid = gettid();
	int error = uring_init(&reactor->uring, &reactor_caps, URING_SQ_ENTRIES, URING_CQ_ENTRIES);
	if (!error && reactor_busy_poll_us && !uring_busy_poll(&reactor->uring, reactor_busy_poll_us))
		reactor->busy_poll_us = reactor_busy_poll_us;
	atomic_store(&reactor->started, error ? error : 1);
	if (error)
		return error;
	reactor->wake_op.done = woken;
	woken(&reactor->wake_op, 0, 0);
	uint64_t previous = reactor->last_work = clock_ticks();
	uint64_t *account = &reactor->stats.idle_ticks; /* the pass before: busy or idle */
	while (!reactor->stopping) {
		counter_set(&reactor->now, clock_ticks());
		counter_add(account, reactor->now - previous);
		previous = reactor->now;
		counter_add(&reactor->stats.loops, 1);
		if (pass(reactor)) {
			reactor->last_work = reactor->now;
			account = &reactor->stats.busy_ticks;
			continue;
		}
		account = &reactor->stats.idle_ticks;
		uint64_t patience = reactor->devices_busy ? REACTOR_DEVICE_PATIENCE : 1;
		if (reactor_never_sleeps ||
		    reactor->now - reactor->last_work < reactor_idle_poll_ticks * patience)
			continue;
		if (may_sleep(reactor))
			sleep_until_work(reactor);
	}
	uring_fini(&reactor->uring);
	reactor_self = NULL;
	atomic_store(&reactor->started, 2);
	return 0;
}

void reactor_add_poller(struct poller *poller)
{
	TAILQ_INSERT_TAIL(&reactor_self->pollers, poller, link);
}

void reactor_remove_poller(struct poller *poller)
{
	if (reactor_self->next_poller == poller)
		reactor_self->next_poller = TAILQ_NEXT(poller, link);
	TAILQ_REMOVE(&reactor_self->pollers, poller, link);
}
