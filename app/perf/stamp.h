/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stamp: blocks that tell who wrote them, where, and when, so that a block which comes back wrong
 * tells what went wrong. Pure; any thread.
 *
 * A block is a row of sectors of 512 bytes. Each begins with its own offset in the export, the
 * block's generation, and the run and its seed; the first has a checksum over the whole block, and
 * the rest is a filler that follows from those four. So a sector can be judged by itself.
 */
#ifndef POLLUX_APP_PERF_STAMP_H
#define POLLUX_APP_PERF_STAMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { STAMP_SECTOR_BYTES = 512, STAMP_DETAIL_BYTES = 160 };

enum stamp_verdict {
	STAMP_GOOD,
	STAMP_UNWRITTEN, /* all zeroes, and nothing is known to have been written there */
	STAMP_CORRUPT,	 /* holds bytes that nobody wrote */
	STAMP_MISPLACED, /* holds what was written to another place */
	STAMP_STALE,	 /* holds an earlier content: a write, or its end, was lost */
	STAMP_TORN,	 /* holds parts of two contents */
	STAMP_FOREIGN,	 /* holds a generation that is newer than what is known here */
	STAMP_VERDICTS,
};

extern const char *const stamp_verdict_names[STAMP_VERDICTS];

/* Which write a block is from. */
struct stamp {
	uint64_t seed;
	uint32_t run;	     /* tells runs of the same seed apart, and the exports of one run */
	uint32_t generation; /* from 1 */
};

struct stamp_expected {
	uint64_t offset;
	struct stamp stamp; /* generation 0: not known, any will do, and so will no stamp at all */
	bool any_seed, any_run;
	uint32_t first_run, runs; /* those of the exports that this run writes to */
};

/* `bytes` is a multiple of STAMP_SECTOR_BYTES; `block` is aligned to 8. */
void stamp_write(void *block, size_t bytes, uint64_t offset, const struct stamp *stamp);

/*
 * Judges a block (of any alignment). `detail` (of STAMP_DETAIL_BYTES) says what is wrong, and at
 * which byte; it is left alone where nothing is.
 */
enum stamp_verdict stamp_check(const void *block, size_t bytes,
			       const struct stamp_expected *expected, char *detail);

#endif
