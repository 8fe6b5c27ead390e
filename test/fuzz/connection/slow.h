/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * slow: a disk in memory as a file on a busy drive - whole blocks only, requests end passes later
 * and in the order that the test wants, fail on demand, and may be asked to end early. It knows
 * which of its blocks were written. One thread, on fake reactors.
 */
#ifndef POLLUX_TEST_FUZZ_SLOW_H
#define POLLUX_TEST_FUZZ_SLOW_H

#include "bdev/bdev.h"

enum { SLOW_BLOCK_BYTES = 512 };

struct slow_control {
	bool hold;	   /* requests end only by slow_finish() */
	unsigned failures; /* so many of the next ones fail */
	bool newest_first;
};

extern struct slow_control slow;

/* Registers `name`. */
void slow_create(const char *name, uint64_t size_bytes);
/* Ends up to `most` requests of this reactor. Returns how many. */
unsigned slow_finish(unsigned most);
/* All blocks are unwritten again. */
void slow_wipe(void);

#endif
