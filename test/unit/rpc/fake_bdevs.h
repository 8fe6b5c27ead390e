/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fake_bdevs: what the general bdev methods stand on, made of paper: a registry that the test
 * fills, reactors that are mere structs, and a control thread. What is sent to a reactor waits
 * until the test runs it, and so does the timer.
 */
#ifndef POLLUX_TEST_UNIT_RPC_FAKE_BDEVS_H
#define POLLUX_TEST_UNIT_RPC_FAKE_BDEVS_H

#include "bdev/bdev.h"
#include "reactor/control.h"

enum { CORES = 2 };

TAILQ_HEAD(fake_bdevs, bdev);
extern struct fake_bdevs bdevs;

extern struct control_timer *timer; /* the one armed, or NULL */
extern unsigned message_count;	    /* sent to reactors and not run */

/* What bdev_remove() was last asked for; it returns remove_error where that is not 0. */
extern struct bdev *removed_bdev;
extern bool removed_force;
extern int remove_error;

/* Before each test. */
void fake_reset(void);
/* The cores take their messages; then the control thread hears that they have. */
void run_cores(void);
void fire_timer(void);

#endif
