/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * malloc_map: the memory of a malloc bdev and the record of which of it is in use, a bit a block of
 * 4 KiB. Knows no request and no reactor. Init, fini and grow: one thread; all else: any thread,
 * several at once.
 *
 * A block whose bit is clear reads as zeros. What keeps that true with writers and givers on
 * several cores stands at the head of map.c.
 */
#ifndef POLLUX_BDEV_MALLOC_MAP_H
#define POLLUX_BDEV_MALLOC_MAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/base/compiler.h"
#include "lib/mem/region.h"

enum {
	MALLOC_BLOCK_SHIFT = 12,
	MALLOC_BLOCK_BYTES = 1 << MALLOC_BLOCK_SHIFT,
	MALLOC_WORD_SHIFT = 6,
	MALLOC_WORD_BLOCKS = 1 << MALLOC_WORD_SHIFT,
	MALLOC_STEP_NS = 400000, /* what one step of malloc_map_zero() may cost, about */
};

struct malloc_map {
	uint8_t *base;
	_Atomic uint64_t *bits;
	struct region memory;
	struct region bits_memory;
	const uint8_t *zeros; /* region_zeros() */
	bool keeps;	      /* memory is zeroed, but not given back */
	/* Calls of malloc_map_zero() that have cleared bits and not yet zeroed what these stood
	 * for. */
	cache_aligned _Atomic uint32_t giving;
};

/*
 * bytes: what is usable; address space for growing to `most` is kept where there is some. Returns
 * 0, -ENOMEM, or -EINVAL for a node that does not exist.
 */
int malloc_map_init(struct malloc_map *map, uint64_t bytes, uint64_t most, int node);
void malloc_map_fini(struct malloc_map *map);
/* Makes `bytes` usable, others using the map meanwhile. -EFBIG: no address space left; -ENOMEM. */
int malloc_map_grow(struct malloc_map *map, uint64_t bytes);

bool malloc_map_any_slow(const struct malloc_map *map, uint64_t first, uint64_t last);
void malloc_map_mark_slow(struct malloc_map *map, uint64_t first, uint64_t last);

/* The bits of blocks first … last, both in one word. */
static inline uint64_t malloc_map_mask(uint64_t first, uint64_t last)
{
	return ((2ull << (last - first)) - 1) << (first % MALLOC_WORD_BLOCKS);
}

/* Whether the blocks of a range (not empty) share a word: never more than MALLOC_WORD_BLOCKS. */
static inline bool malloc_map_in_word(uint64_t offset, uint64_t length)
{
	const unsigned shift = MALLOC_BLOCK_SHIFT + MALLOC_WORD_SHIFT;
	return offset >> shift == (offset + length - 1) >> shift;
}

/* As malloc_map_any(), where they do. */
static inline bool malloc_map_any_in_word(const struct malloc_map *map, uint64_t offset,
					  uint64_t length)
{
	uint64_t first = offset >> MALLOC_BLOCK_SHIFT;
	uint64_t last = (offset + length - 1) >> MALLOC_BLOCK_SHIFT;
	uint64_t word =
		atomic_load_explicit(&map->bits[first / MALLOC_WORD_BLOCKS], memory_order_acquire);
	return word & malloc_map_mask(first, last);
}

/* Whether any block that the range (not empty) touches is in use. */
static inline bool malloc_map_any(const struct malloc_map *map, uint64_t offset, uint64_t length)
{
	if (unlikely(!malloc_map_in_word(offset, length)))
		return malloc_map_any_slow(map, offset >> MALLOC_BLOCK_SHIFT,
					   (offset + length - 1) >> MALLOC_BLOCK_SHIFT);
	return malloc_map_any_in_word(map, offset, length);
}

/* After the range (not empty) was written: its blocks are in use. */
static inline void malloc_map_mark(struct malloc_map *map, uint64_t offset, uint64_t length)
{
	uint64_t first = offset >> MALLOC_BLOCK_SHIFT;
	uint64_t last = (offset + length - 1) >> MALLOC_BLOCK_SHIFT;
	if (likely(first / MALLOC_WORD_BLOCKS == last / MALLOC_WORD_BLOCKS)) {
		uint64_t mask = malloc_map_mask(first, last);
		uint64_t word = atomic_load_explicit(&map->bits[first / MALLOC_WORD_BLOCKS],
						     memory_order_relaxed);
		if (likely((word & mask) == mask))
			return;
	}
	malloc_map_mark_slow(map, first, last);
}

/*
 * Zeroes some of the range from `offset` to `end` (not empty), about MALLOC_STEP_NS worth of it.
 * keep: the blocks stay in use; else whole blocks are given back. Subtracts what it cost from
 * *budget_ns. Returns where to go on: `end` when all is done.
 */
uint64_t malloc_map_zero(struct malloc_map *map, uint64_t offset, uint64_t end, bool keep,
			 int64_t *budget_ns);

/*
 * The run of blocks in use, or not in use, that begins at `offset`, looked at up to `end`. Returns
 * the run's end; tells in *hole which it is.
 */
uint64_t malloc_map_run(const struct malloc_map *map, uint64_t offset, uint64_t end, bool *hole);

#endif
