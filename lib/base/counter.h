/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * counter: statistics that one thread counts and any thread reads. The owner's addition is a plain
 * load, an add and a store - no locked instruction -, yet no reader sees half of it.
 */
#ifndef POLLUX_LIB_BASE_COUNTER_H
#define POLLUX_LIB_BASE_COUNTER_H

#include <stdint.h>

/* The owner: an integer of any width. */
#define counter_set(counter, value) __atomic_store_n((counter), (value), __ATOMIC_RELAXED)
#define counter_add(counter, n)	    counter_set((counter), *(counter) + (n))
/* Any thread: right, a moment late. */
#define counter_read(counter) __atomic_load_n((counter), __ATOMIC_RELAXED)

#endif
