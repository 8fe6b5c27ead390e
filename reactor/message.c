/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * message: control messages, one MPSC ring a reactor. A sender waits where the ring is full; a
 * reactor that waits takes what is in its own ring aside, so that two that wait for each other, or
 * one that sends to itself, go on. Order is kept: what was set aside runs before what came later.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/counter.h"
#include "lib/base/log.h"
#include "reactor/internal.h"

enum { MESSAGES_MOST = 64 /* a pass */ };

struct control_message {
	void (*fn)(void *arg);
	void *arg;
};

/* ---- What was set aside: the owner's ---- */

static void reserve(struct reactor *reactor, unsigned count)
{
	if (reactor->held_count + count <= reactor->held_room)
		return;
	unsigned room = 2 * (reactor->held_count + count);
	struct control_message *held = realloc(reactor->held, room * sizeof(*held));
	if (!held) {
		log_error("reactor", "no memory for control messages: they are lost");
		abort();
	}
	reactor->held = held;
	reactor->held_room = room;
}

static unsigned take(struct reactor *reactor, struct control_message *messages)
{
	unsigned n = MIN_OF(ring_ready_rts(reactor->control), (unsigned)MESSAGES_MOST);
	return rte_ring_sc_dequeue_burst_elem(reactor->control, messages, sizeof(messages[0]), n,
					      NULL);
}

static void set_aside(struct reactor *reactor)
{
	unsigned n;
	do {
		reserve(reactor, MESSAGES_MOST);
		n = take(reactor, reactor->held + reactor->held_count);
		reactor->held_count += n;
	} while (n);
	if (reactor->held_count)
		reactor_defer(reactor, &reactor->held_run);
}

/* Those that are set aside meanwhile wait for their turn: the array may move. */
static unsigned run_held(struct reactor *reactor)
{
	unsigned count = reactor->held_count;
	for (unsigned i = 0; i < count; i++) {
		struct control_message message = reactor->held[i];
		message.fn(message.arg);
	}
	reactor->held_count -= count;
	memmove(reactor->held, reactor->held + count,
		reactor->held_count * sizeof(struct control_message));
	counter_add(&reactor->stats.messages, count);
	if (reactor->held_count)
		reactor_defer(reactor, &reactor->held_run);
	return count;
}

/* Where nothing new has come that would have made messages_run() run them. */
static void held_due(struct deferred *deferred)
{
	struct reactor *reactor = container_of(deferred, struct reactor, held_run);
	if (reactor->held_count)
		run_held(reactor);
}

/* ---- Sending and running ---- */

void reactor_send(struct reactor *reactor, void (*fn)(void *arg), void *arg)
{
	struct control_message message = {fn, arg};
	while (unlikely(rte_ring_enqueue_elem(reactor->control, &message, sizeof(message)))) {
		if (reactor_self)
			set_aside(reactor_self);
		if (reactor_self != reactor)
			sched_yield();
	}
	if (reactor != reactor_self)
		reactor_wake(reactor);
}

unsigned messages_run(struct reactor *reactor)
{
	struct control_message messages[MESSAGES_MOST];
	if (unlikely(reactor->held_count))
		return run_held(reactor);
	unsigned n = take(reactor, messages);
	for (unsigned i = 0; i < n; i++)
		messages[i].fn(messages[i].arg);
	counter_add(&reactor->stats.messages, n);
	return n;
}

/* ---- Life ---- */

int messages_init(struct reactor *reactor)
{
	ssize_t bytes =
		rte_ring_get_memsize_elem(sizeof(struct control_message), REACTOR_CONTROL_MESSAGES);
	if (bytes < 0)
		return bytes;
	reactor->held_run.run = held_due;
	reactor->control =
		aligned_alloc(CACHE_LINE_BYTES, ((size_t)bytes + CACHE_LINE_BYTES - 1) /
							CACHE_LINE_BYTES * CACHE_LINE_BYTES);
	if (!reactor->control)
		return -ENOMEM;
	/* RTS: a sender that is preempted between its two steps makes no other sender wait for it,
	 * which with more threads than processors costs whole time slices */
	return rte_ring_init(reactor->control, "control", REACTOR_CONTROL_MESSAGES,
			     RING_F_MP_RTS_ENQ | RING_F_SC_DEQ);
}

void messages_fini(struct reactor *reactor)
{
	free(reactor->control);
	free(reactor->held);
}
