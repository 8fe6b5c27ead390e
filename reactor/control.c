/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * control: the control thread's event loop. Calls from other threads come through a list behind a
 * mutex and an eventfd: nothing on a request path sends here.
 */
#include "reactor/control.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/log.h"
#include "reactor/internal.h"

enum { EVENTS_MOST = 64 };

struct call {
	void (*fn)(void *arg);
	void *arg;
	STAILQ_ENTRY(call) link;
};

static struct {
	int epoll;
	int wake_fd;
	bool stopping;
	pthread_t thread;
	pthread_mutex_t lock; /* of calls */
	STAILQ_HEAD(, call) calls;
	TAILQ_HEAD(control_timers, control_timer) timers;
	struct control_watch wake;
	/* the batch of events being delivered: a removed watch must not be called any more */
	struct epoll_event events[EVENTS_MOST];
	int event_count;
} loop = {.epoll = -1, .wake_fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER};

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static unsigned run_calls(void)
{
	unsigned ran = 0;
	STAILQ_HEAD(, call) taken = STAILQ_HEAD_INITIALIZER(taken);
	pthread_mutex_lock(&loop.lock);
	STAILQ_CONCAT(&taken, &loop.calls);
	pthread_mutex_unlock(&loop.lock);
	while (!STAILQ_EMPTY(&taken)) {
		struct call *call = STAILQ_FIRST(&taken);
		STAILQ_REMOVE_HEAD(&taken, link);
		call->fn(call->arg);
		free(call);
		ran++;
	}
	return ran;
}

static void woken(struct control_watch *watch, uint32_t events)
{
	uint64_t count;
	ssize_t ignored = read(loop.wake_fd, &count, sizeof(count));
	(void)ignored;
	run_calls();
}

int control_init(void)
{
	STAILQ_INIT(&loop.calls);
	TAILQ_INIT(&loop.timers);
	loop.stopping = false;
	loop.thread = pthread_self();
	loop.epoll = epoll_create1(EPOLL_CLOEXEC);
	loop.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop.epoll < 0 || loop.wake_fd < 0)
		return -errno;
	loop.wake.fd = loop.wake_fd;
	loop.wake.ready = woken;
	int error = control_watch_add(&loop.wake, EPOLLIN);
	return error ? error : workers_start();
}

/* A worker that still hangs may send later than this: nobody takes it any more. */
void control_fini(void)
{
	workers_stop();
	while (run_calls())
		;
	pthread_mutex_lock(&loop.lock);
	close(loop.epoll);
	close(loop.wake_fd);
	loop.epoll = loop.wake_fd = -1;
	pthread_mutex_unlock(&loop.lock);
}

static int wait_ms(void)
{
	struct control_timer *first = TAILQ_FIRST(&loop.timers);
	if (!first)
		return -1;
	uint64_t now = now_ns();
	uint64_t wait = first->due_ns > now ? (first->due_ns - now + 999999) / 1000000 : 0;
	return MIN_OF(wait, (uint64_t)INT_MAX);
}

static void run_timers(void)
{
	uint64_t now = now_ns();
	struct control_timer *timer;
	while ((timer = TAILQ_FIRST(&loop.timers)) && timer->due_ns <= now) {
		TAILQ_REMOVE(&loop.timers, timer, link);
		timer->armed = false;
		timer->fire(timer);
	}
}

void control_run(void)
{
	while (!loop.stopping) {
		loop.event_count = epoll_wait(loop.epoll, loop.events, EVENTS_MOST, wait_ms());
		for (int i = 0; i < loop.event_count; i++) {
			struct control_watch *watch = loop.events[i].data.ptr;
			if (watch)
				watch->ready(watch, loop.events[i].events);
		}
		loop.event_count = 0;
		run_timers();
	}
	loop.stopping = false;
}

void control_stop(void)
{
	loop.stopping = true;
}

int control_watch_add(struct control_watch *watch, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watch};
	return epoll_ctl(loop.epoll, EPOLL_CTL_ADD, watch->fd, &event) ? -errno : 0;
}

int control_watch_modify(struct control_watch *watch, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watch};
	return epoll_ctl(loop.epoll, EPOLL_CTL_MOD, watch->fd, &event) ? -errno : 0;
}

void control_watch_remove(struct control_watch *watch)
{
	epoll_ctl(loop.epoll, EPOLL_CTL_DEL, watch->fd, NULL);
	for (int i = 0; i < loop.event_count; i++) {
		if (loop.events[i].data.ptr == watch)
			loop.events[i].data.ptr = NULL;
	}
}

void control_arm_timer(struct control_timer *timer, uint64_t after_us)
{
	control_disarm_timer(timer);
	timer->due_ns = now_ns() + after_us * 1000;
	timer->armed = true;
	struct control_timer *before = TAILQ_LAST(&loop.timers, control_timers);
	while (before && before->due_ns > timer->due_ns)
		before = TAILQ_PREV(before, control_timers, link);
	if (before)
		TAILQ_INSERT_AFTER(&loop.timers, before, timer, link);
	else
		TAILQ_INSERT_HEAD(&loop.timers, timer, link);
}

void control_disarm_timer(struct control_timer *timer)
{
	if (!timer->armed)
		return;
	TAILQ_REMOVE(&loop.timers, timer, link);
	timer->armed = false;
}

void control_send(void (*fn)(void *arg), void *arg)
{
	struct call *call = malloc(sizeof(*call));
	if (!call) {
		log_error("control", "no memory for a call: it is lost");
		abort();
	}
	call->fn = fn;
	call->arg = arg;
	pthread_mutex_lock(&loop.lock);
	STAILQ_INSERT_TAIL(&loop.calls, call, link);
	uint64_t one = 1;
	ssize_t ignored = write(loop.wake_fd, &one, sizeof(one)); /* not after control_fini() */
	(void)ignored;
	pthread_mutex_unlock(&loop.lock);
}

bool control_is_self(void)
{
	return pthread_equal(loop.thread, pthread_self());
}

/* One round over the reactors: freed by the last to answer. */
struct round {
	void (*fn)(void *arg);
	void (*done)(void *arg);
	void *arg;
	_Atomic unsigned left; /* cores, and the sender until it has told all */
};

static void round_done(void *arg)
{
	struct round *round = arg;
	round->done(round->arg);
	free(round);
}

static void round_leave(struct round *round)
{
	if (atomic_fetch_sub(&round->left, 1) == 1)
		control_send(round_done, round);
}

static void round_run(void *arg)
{
	struct round *round = arg;
	round->fn(round->arg);
	round_leave(round);
}

void control_for_each_reactor(unsigned roles, void (*fn)(void *arg), void (*done)(void *arg),
			      void *arg)
{
	struct round *round = calloc(1, sizeof(*round));
	if (!round) {
		log_error("control", "no memory for a round over the reactors");
		abort();
	}
	round->fn = fn;
	round->done = done;
	round->arg = arg;
	atomic_store(&round->left, 1);
	for (unsigned i = 0; i < reactor_count; i++) {
		if (roles && !(reactors[i]->roles & roles))
			continue;
		atomic_fetch_add(&round->left, 1);
		reactor_send(reactors[i], round_run, round);
	}
	round_leave(round);
}
