/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * control: the control thread's event loop (epoll): descriptors, timers, calls from other threads,
 * and a few worker threads for what may block for long. The control thread owns the object tables
 * (bdevs, exports, listeners) and the RPC; it never waits for a reactor, a worker or a client.
 *
 * Unless a function says "any thread", it is called on the control thread.
 */
#ifndef POLLUX_REACTOR_CONTROL_H
#define POLLUX_REACTOR_CONTROL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

/* A descriptor watched for epoll events (EPOLLIN, EPOLLOUT, …). Owned by the registrant. */
struct control_watch {
	int fd;
	void (*ready)(struct control_watch *watch, uint32_t events);
};

struct control_timer {
	void (*fire)(struct control_timer *timer);
	uint64_t due_ns;
	bool armed;
	TAILQ_ENTRY(control_timer) link;
};

int control_init(void);
void control_fini(void);

/* Runs until control_stop(). */
void control_run(void);
void control_stop(void);

int control_watch_add(struct control_watch *watch, uint32_t events);
int control_watch_modify(struct control_watch *watch, uint32_t events);
void control_watch_remove(struct control_watch *watch);

void control_arm_timer(struct control_timer *timer, uint64_t after_us);
void control_disarm_timer(struct control_timer *timer);

/* Any thread: fn(arg) runs on the control thread. Never fails, never waits for the control thread.
 */
void control_send(void (*fn)(void *arg), void *arg);

/* True on the control thread. */
bool control_is_self(void);

/*
 * Runs work(arg) on a worker thread, then done(arg) on the control thread. For open(2), DNS, FIEMAP
 * and their like. As many calls may be under way as there are workers (8); a hung mount costs its
 * worker, no more.
 */
void control_work(void (*work)(void *arg), void (*done)(void *arg), void *arg);

/*
 * Runs fn(arg) on every reactor whose roles include one of `roles` (0: all), then done(arg) on the
 * control thread when the last has run, never before this returns. fn must be safe to run on
 * several cores at once.
 */
void control_for_each_reactor(unsigned roles, void (*fn)(void *arg), void (*done)(void *arg),
			      void *arg);

#endif
