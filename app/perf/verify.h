/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * verify: what is known of the blocks that a run wrote, and what was found wrong with them.
 *
 * A table has an entry for each block of a region. Connections own disjoint slices of it, so that
 * it needs no lock, and no two requests for one block are ever in flight together: NBD orders
 * nothing among those. A log belongs to one worker, and to the main thread once that has ended.
 */
#ifndef POLLUX_APP_PERF_VERIFY_H
#define POLLUX_APP_PERF_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "app/perf/stamp.h"

enum {
	VERIFY_BUSY = 1 << 30,	    /* a request for the block is in flight */
	VERIFY_UNCERTAIN = 1 << 29, /* a write failed, or is in flight: old, new, or both */
	VERIFY_GENERATIONS = VERIFY_UNCERTAIN - 1, /* the bits of the generation; 0: not known */
	VERIFY_FINDINGS_MAX = 32,
};

struct verify_table {
	uint64_t offset, blocks;
	uint32_t block_bytes;
	uint64_t seed;
	uint32_t run;		  /* see struct stamp */
	uint32_t first_run, runs; /* those of all tables of this run */
	bool any_seed, any_run;	  /* what an unknown run wrote */
	bool judge_unknown; /* blocks of generation 0 too: they were all written by somebody */
	uint32_t *entries;
};

struct verify_finding {
	enum stamp_verdict verdict;
	const char *uri;
	uint64_t offset;
	char detail[STAMP_DETAIL_BYTES];
};

struct verify_log {
	uint64_t counts[STAMP_VERDICTS];
	uint64_t bad; /* also read by the main thread meanwhile */
	struct verify_finding findings[VERIFY_FINDINGS_MAX];
	unsigned finding_count; /* the first ones are kept */
};

/*
 * Makes a table of blocks of which nothing is known; seeds, runs and what is judged are the
 * caller's to set. Returns 0 or -ENOMEM.
 */
int verify_table_init(struct verify_table *table, uint64_t offset, uint64_t blocks,
		      uint32_t block_bytes);
void verify_table_fini(struct verify_table *table);

/*
 * The table from and to a file. Loading takes the file's seed and run. Returns 0 or -errno with a
 * sentence in `why`: -ENOENT (there is no such file), -EINVAL (it is of another region, block size,
 * or no such file at all), -EBUSY (it was saved as `open`, without its blocks: the run that then
 * began has not ended), ...
 */
int verify_load(struct verify_table *table, const char *path, char *why, size_t why_bytes);
int verify_save(const struct verify_table *table, const char *path, bool open, char *why,
		size_t why_bytes);

/*
 * The first block at or after `block`, around the slice [first, first + count), that no request is
 * in flight for. There must be one.
 */
static inline uint64_t verify_free_block(const struct verify_table *table, uint64_t first,
					 uint64_t count, uint64_t block)
{
	while (table->entries[block] & VERIFY_BUSY)
		block = block + 1 == first + count ? first : block + 1;
	return block;
}

/* Stamps `data` for a write of `block`, which is busy from here on. */
void verify_begin_write(struct verify_table *table, uint64_t block, void *data);
void verify_end_write(struct verify_table *table, uint64_t block, bool good);
void verify_begin_read(struct verify_table *table, uint64_t block);
/* data NULL: the READ failed, there is nothing to judge. */
void verify_end_read(struct verify_table *table, uint64_t block, const void *data, const char *uri,
		     struct verify_log *log);

/* Adds a worker's log to another. */
void verify_log_add(struct verify_log *log, const struct verify_log *from);

#endif
