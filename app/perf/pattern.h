/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pattern: which block is next, and whether it is read or written. A connection's own; pure.
 * Offsets are random over all of its blocks, or go through them again and again.
 */
#ifndef POLLUX_APP_PERF_PATTERN_H
#define POLLUX_APP_PERF_PATTERN_H

#include <stdbool.h>
#include <stdint.h>

struct pattern {
	uint64_t state; /* of the random numbers */
	uint64_t blocks, next;
	uint32_t read_share; /* in 65536ths */
	bool random;
};

/* The next 64 random bits: a counter, mixed. */
static inline uint64_t pattern_bits(struct pattern *pattern)
{
	uint64_t value = pattern->state += 0x9e3779b97f4a7c15ull;

	value = (value ^ value >> 32) * 0xd6e8feb86659fd93ull;
	value = (value ^ value >> 32) * 0xd6e8feb86659fd93ull;
	return value ^ value >> 32;
}

static inline void pattern_init(struct pattern *pattern, uint64_t seed, uint64_t blocks,
				unsigned read_percent, bool random)
{
	*pattern = (struct pattern){
		.state = seed,
		.blocks = blocks,
		.read_share = read_percent * 65536 / 100,
		.random = random,
	};
	/* seeds that lie close together give streams that do not */
	pattern->state = pattern_bits(pattern) * 0x2545f4914f6cdd1dull;
}

static inline bool pattern_reads(struct pattern *pattern)
{
	if (pattern->read_share == 0 || pattern->read_share == 65536)
		return pattern->read_share;
	return pattern_bits(pattern) >> 48 < pattern->read_share;
}

/* A number below pattern->blocks. */
static inline uint64_t pattern_block(struct pattern *pattern)
{
	uint64_t block;

	if (pattern->random)
		return (unsigned __int128)pattern_bits(pattern) * pattern->blocks >> 64;
	block = pattern->next;
	pattern->next = block + 1 == pattern->blocks ? 0 : block + 1;
	return block;
}

#endif
