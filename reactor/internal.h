/* SPDX-License-Identifier: BSD-3-Clause */
/* internal: what the files of reactor/ share with each other and with nobody else. */
#ifndef POLLUX_REACTOR_INTERNAL_H
#define POLLUX_REACTOR_INTERNAL_H

#include "reactor/reactor.h"
#include "reactor/ring.h"

/* hop.c */
int hop_init(struct reactor *reactor, unsigned count);
void hop_fini(struct reactor *reactor, unsigned count);
unsigned hop_drain(struct reactor *reactor);
bool hop_waiting(const struct reactor *reactor);

/* message.c */
int messages_init(struct reactor *reactor);
void messages_fini(struct reactor *reactor);
unsigned messages_run(struct reactor *reactor); /* a bounded number; returns how many */

/* reactor.c */
int reactor_loop(void *arg); /* an lcore's main function; arg: its struct reactor */
void reactor_wake(struct reactor *reactor);

/* timer.c */
unsigned timers_run(struct reactor *reactor);
/* Nanoseconds until the first timer is due, UINT64_MAX if there is none. */
uint64_t timers_next_ns(const struct reactor *reactor);

/* worker.c */
int workers_start(void);
void workers_stop(void);

extern bool reactor_never_sleeps;
extern uint64_t reactor_idle_poll_ticks;
extern unsigned reactor_busy_poll_us;

#endif
