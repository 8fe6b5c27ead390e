/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * malloc_map: the memory of a malloc bdev and which of it is in use. Any thread, several at once.
 *
 * The promise: a block whose bit is clear holds zeros, unless a giver that cleared it is still at
 * work. No lock guards it, only an order. A writer copies, then looks at the bits, and sets those
 * that are clear. A giver counts itself in `giving`, clears bits, then drops the pages
 * (MADV_DONTNEED), and counts itself out.
 *
 * Only requests in flight together on the same bytes can meet here, and these may end in either
 * order: a giver gives whole blocks that lie in its own range, so a neighbour's bytes are never in
 * its hands. What must not come out is data that stays in a block whose bit is clear: it would come
 * and go with how a READ looks at it. It cannot:
 *
 * If the writer looked before the bit was cleared, it leaves the bit alone. But its stores came
 * before its look, so they went to the page that the giver drops: MADV_DONTNEED returns when no
 * core can reach that page any more, nor has a store to it under way.
 *
 * If the writer looks after the clearing, it sets the bit. Should the page be dropped later, the
 * block is in use and holds zeros, which is merely less than it could have been.
 *
 * Who finds a bit clear and wants zeros has nothing to do, unless a giver is at work (`giving`):
 * then the zeros may still be to come, and it zeroes by itself.
 *
 * Explicit huge pages are not given back: all pages of such a region were reserved for it when it
 * was mapped, so that nobody else could use them - or, on kernels that forget the reservation then,
 * somebody could, and our next write would end in SIGBUS. Locked memory is treated the same. Such a
 * giver zeroes first, clears the bits, makes every core run a barrier (membarrier), and looks
 * whether there are zeros still; if not, a writer has been there and has perhaps looked before the
 * clearing: the bit is set again.
 */
#include "bdev/malloc/map.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	/* rough costs, to hold no reactor for long */
	WORD_NS = 2,	     /* looking at 64 blocks that are not in use */
	GIVE_BLOCK_NS = 200, /* one that is */
	FILL_BLOCK_NS = 400, /* memset of one, with the page fault it may cost */
	GIVE_CALL_NS = 1000,
	HUGE_BLOCKS = REGION_HUGE_BYTES / MALLOC_BLOCK_BYTES,
};

static bool membarrier(int command)
{
	return syscall(SYS_membarrier, command, 0, 0) == 0;
}

int malloc_map_init(struct malloc_map *map, uint64_t bytes, uint64_t most, int node)
{
	memset(map, 0, sizeof(*map));
	int error = region_map_growable(&map->memory, bytes, most, node, true);
	if (error)
		return error;
	size_t blocks = map->memory.mapped / MALLOC_BLOCK_BYTES;
	map->zeros = region_zeros();
	error = map->zeros ? 0 : -ENOMEM;
	if (!error)
		error = region_map(&map->bits_memory, blocks / 8 + sizeof(uint64_t), node, false);
	if (error) {
		region_unmap(&map->memory);
		return error;
	}
	map->base = map->memory.base;
	map->bits = map->bits_memory.base;
	map->keeps = map->memory.hugetlb || madvise(map->base, MALLOC_BLOCK_BYTES, MADV_DONTNEED);
	if (map->keeps) /* where that is forbidden, zeroed blocks stay in use */
		(void)membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
	return 0;
}

void malloc_map_fini(struct malloc_map *map)
{
	region_unmap(&map->memory);
	region_unmap(&map->bits_memory);
}

int malloc_map_grow(struct malloc_map *map, uint64_t bytes)
{
	return region_grow(&map->memory, bytes);
}

bool malloc_map_any_slow(const struct malloc_map *map, uint64_t first, uint64_t last)
{
	while (first <= last) {
		uint64_t to = MIN_OF(last, first | (MALLOC_WORD_BLOCKS - 1));
		uint64_t word = atomic_load_explicit(&map->bits[first / MALLOC_WORD_BLOCKS],
						     memory_order_acquire);
		if (word & malloc_map_mask(first, to))
			return true;
		first = to + 1;
	}
	return false;
}

void malloc_map_mark_slow(struct malloc_map *map, uint64_t first, uint64_t last)
{
	while (first <= last) {
		uint64_t to = MIN_OF(last, first | (MALLOC_WORD_BLOCKS - 1));
		uint64_t mask = malloc_map_mask(first, to);
		_Atomic uint64_t *word = &map->bits[first / MALLOC_WORD_BLOCKS];
		if ((atomic_load_explicit(word, memory_order_relaxed) & mask) != mask)
			atomic_fetch_or_explicit(word, mask, memory_order_release);
		first = to + 1;
	}
}

static void drop(struct malloc_map *map, uint64_t first, uint64_t count)
{
	uint8_t *at = map->base + (first << MALLOC_BLOCK_SHIFT);
	if (madvise(at, count << MALLOC_BLOCK_SHIFT, MADV_DONTNEED) == 0)
		return;
	/* locked since; a writer may have looked before we cleared: stays in use */
	memset(at, 0, count << MALLOC_BLOCK_SHIFT);
	malloc_map_mark_slow(map, first, first + count - 1);
}

/* Zeroes blocks of one word whose pages stay. */
static void zero_kept(struct malloc_map *map, uint64_t first, uint64_t last)
{
	_Atomic uint64_t *word = &map->bits[first / MALLOC_WORD_BLOCKS];
	uint8_t *at = map->base + (first << MALLOC_BLOCK_SHIFT);
	memset(at, 0, (last + 1 - first) << MALLOC_BLOCK_SHIFT);
	atomic_fetch_and(word, ~malloc_map_mask(first, last));
	bool seen = membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
	for (uint64_t block = first; block <= last; block++, at += MALLOC_BLOCK_BYTES) {
		if (!seen || memcmp(at, map->zeros, MALLOC_BLOCK_BYTES))
			atomic_fetch_or(word, malloc_map_mask(block, block));
	}
}

/*
 * Zeroes what is in use from block `first` to before `end`. Returns where it stopped; not inside a
 * huge page, if it can be helped.
 */
static uint64_t zero_blocks(struct malloc_map *map, uint64_t first, uint64_t end,
			    int64_t *budget_ns)
{
	uint64_t begin = first, run = first, count = 0; /* run: cleared, not yet dropped */
	atomic_fetch_add(&map->giving, 1);
	while (first < end && (*budget_ns > 0 || (count && first % HUGE_BLOCKS))) {
		uint64_t to = MIN_OF(end - 1, first | (MALLOC_WORD_BLOCKS - 1));
		uint64_t mask = malloc_map_mask(first, to);
		_Atomic uint64_t *word = &map->bits[first / MALLOC_WORD_BLOCKS];
		uint64_t used = atomic_load_explicit(word, memory_order_acquire) & mask;
		*budget_ns -= WORD_NS + GIVE_BLOCK_NS * __builtin_popcountll(used);
		if (used && map->keeps) {
			zero_kept(map, first, to);
		} else if (used) {
			atomic_fetch_and(word, ~mask);
			run = count ? run : first;
			count += to + 1 - first;
		} else if (count) {
			drop(map, run, count);
			*budget_ns -= GIVE_CALL_NS;
			count = 0;
		}
		first = to + 1;
	}
	if (count) {
		drop(map, run, count);
		*budget_ns -= GIVE_CALL_NS;
	}
	/* what another giver had cleared looked like zeros to us, and may not be any yet */
	if (!map->keeps && atomic_load(&map->giving) > 1 && first > begin)
		drop(map, begin, first - begin);
	atomic_fetch_sub(&map->giving, 1);
	return first;
}

/* Part of one block. Not in use, it holds zeros, or will when the giver at work is done with it. */
static void zero_part(struct malloc_map *map, uint64_t offset, uint64_t length)
{
	if (malloc_map_any(map, offset, length) || atomic_load(&map->giving))
		memset(map->base + offset, 0, length);
}

static uint64_t fill(struct malloc_map *map, uint64_t offset, uint64_t end, int64_t *budget_ns)
{
	uint64_t most = (uint64_t)(*budget_ns / FILL_BLOCK_NS + 1) << MALLOC_BLOCK_SHIFT;
	uint64_t length = MIN_OF(end - offset, most);
	memset(map->base + offset, 0, length);
	malloc_map_mark(map, offset, length);
	*budget_ns -= (int64_t)(length >> MALLOC_BLOCK_SHIFT) * FILL_BLOCK_NS + FILL_BLOCK_NS;
	return offset + length;
}

uint64_t malloc_map_zero(struct malloc_map *map, uint64_t offset, uint64_t end, bool keep,
			 int64_t *budget_ns)
{
	const uint64_t block_mask = MALLOC_BLOCK_BYTES - 1;
	if (keep)
		return fill(map, offset, end, budget_ns);
	if (offset & block_mask) {
		uint64_t stop = MIN_OF(end, (offset | block_mask) + 1);
		zero_part(map, offset, stop - offset);
		offset = stop;
	}
	uint64_t whole_end = end & ~block_mask;
	if (offset < whole_end) {
		uint64_t stopped = zero_blocks(map, offset >> MALLOC_BLOCK_SHIFT,
					       whole_end >> MALLOC_BLOCK_SHIFT, budget_ns);
		offset = stopped << MALLOC_BLOCK_SHIFT;
	}
	if (offset == whole_end && offset < end) {
		zero_part(map, offset, end - offset);
		offset = end;
	}
	return offset;
}

uint64_t malloc_map_run(const struct malloc_map *map, uint64_t offset, uint64_t end, bool *hole)
{
	uint64_t block = offset >> MALLOC_BLOCK_SHIFT;
	uint64_t last = (end - 1) >> MALLOC_BLOCK_SHIFT;
	uint64_t flip = 0; /* makes the blocks of this kind zeros */
	*hole = !malloc_map_any(map, offset, 1);
	if (!*hole)
		flip = UINT64_MAX;
	while (block <= last) {
		uint64_t word = atomic_load_explicit(&map->bits[block / MALLOC_WORD_BLOCKS],
						     memory_order_acquire) ^
				flip;
		word >>= block % MALLOC_WORD_BLOCKS;
		if (word) {
			block += (unsigned)__builtin_ctzll(word);
			break;
		}
		block = (block | (MALLOC_WORD_BLOCKS - 1)) + 1;
	}
	return MIN_OF(end, block << MALLOC_BLOCK_SHIFT);
}
