/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stamp: writing and judging stamped blocks. A good block costs one pass for its checksum; only one
 * that is not good is taken apart, sector by sector. Pure; any thread.
 */
#include "app/perf/stamp.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/compiler.h"

enum {
	SECTOR_WORDS = STAMP_SECTOR_BYTES / 8,
	CHECKSUM_WORD = 3,
	LANES = 4,
};

#define GOLDEN 0x9e3779b97f4a7c15ull
#define PRIME  0x2545f4914f6cdd1dull

const char *const stamp_verdict_names[STAMP_VERDICTS] = {
	[STAMP_GOOD] = "good",	     [STAMP_UNWRITTEN] = "unwritten",
	[STAMP_CORRUPT] = "corrupt", [STAMP_MISPLACED] = "misplaced",
	[STAMP_STALE] = "stale",     [STAMP_TORN] = "torn",
	[STAMP_FOREIGN] = "foreign",
};

/* What a sector says about itself, in its first three words. */
struct sector {
	uint64_t offset;
	struct stamp stamp;
};

static uint64_t second_word(const struct stamp *stamp)
{
	return (uint64_t)stamp->run << 32 | stamp->generation;
}

static uint64_t mix(uint64_t value)
{
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ull;
	value = (value ^ value >> 27) * 0x94d049bb133111ebull;
	return value ^ value >> 31;
}

static void write_sector(uint64_t words[SECTOR_WORDS], const struct sector *sector)
{
	uint64_t second = second_word(&sector->stamp);
	uint64_t key = mix(sector->offset + mix(second + mix(sector->stamp.seed + GOLDEN)));
	words[0] = sector->offset;
	words[1] = second;
	words[2] = sector->stamp.seed;
	for (unsigned i = CHECKSUM_WORD; i < SECTOR_WORDS; i++) {
		uint64_t value = key + i * GOLDEN;
		words[i] = value ^ value >> 29;
	}
}

/* Over the whole block, the checksum itself counted as 0. Every step can be undone, so no change of
 * a single word goes unnoticed. */
static uint64_t checksum(const uint8_t *block, size_t bytes)
{
	uint64_t lanes[LANES] = {1, 2, 3, 4}, words[LANES];
	for (size_t at = 0; at < bytes; at += sizeof(words)) {
		memcpy(words, block + at, sizeof(words));
		if (!at)
			words[CHECKSUM_WORD] = 0;
		for (unsigned i = 0; i < LANES; i++)
			lanes[i] = ((lanes[i] << 31 | lanes[i] >> 33) ^ words[i]) * PRIME;
	}
	return mix(lanes[0] + mix(lanes[1] + mix(lanes[2] + mix(lanes[3]))));
}

void stamp_write(void *block, size_t bytes, uint64_t offset, const struct stamp *stamp)
{
	uint64_t *words = block;
	struct sector sector = {offset, *stamp};
	for (size_t at = 0; at < bytes; at += STAMP_SECTOR_BYTES) {
		write_sector(words + at / 8, &sector);
		sector.offset += STAMP_SECTOR_BYTES;
	}
	words[CHECKSUM_WORD] = checksum(block, bytes);
}

/* ---- Taking a wrong block apart ---- */

struct judge {
	const uint8_t *block;
	size_t bytes;
	const struct stamp_expected *expected;
	char *detail;
};

#define TELL(judge, ...) snprintf((judge)->detail, STAMP_DETAIL_BYTES, __VA_ARGS__)

static bool all_zero(const uint8_t *bytes, size_t count)
{
	return !bytes[0] && !memcmp(bytes, bytes + 1, count - 1);
}

static void read_sector(const struct judge *judge, size_t at, struct sector *sector)
{
	uint64_t words[3];
	memcpy(words, judge->block + at, sizeof(words));
	*sector = (struct sector){words[0], {words[2], words[1] >> 32, (uint32_t)words[1]}};
}

/* Whether the sector is what it says it is. */
static bool is_whole(const struct judge *judge, size_t at, struct sector *sector)
{
	uint64_t words[SECTOR_WORDS];
	read_sector(judge, at, sector);
	write_sector(words, sector);
	if (!at) /* its checksum is judged with the whole block */
		memcpy(&words[CHECKSUM_WORD], judge->block + 8 * CHECKSUM_WORD, 8);
	return !memcmp(words, judge->block + at, sizeof(words));
}

/* What the block should be: as expected, or else as its first whole sector says. */
static bool find_reference(const struct judge *judge, struct sector *reference)
{
	const struct stamp_expected *expected = judge->expected;
	if (expected->stamp.generation && !expected->any_seed && !expected->any_run) {
		*reference = (struct sector){expected->offset, expected->stamp};
		return true;
	}
	for (size_t at = 0; at < judge->bytes; at += STAMP_SECTOR_BYTES) {
		if (!is_whole(judge, at, reference))
			continue;
		reference->offset -= at;
		return true;
	}
	return false;
}

/* A sector is not what it says it is: where is the first wrong byte? */
static enum stamp_verdict tell_corrupt(const struct judge *judge, size_t at)
{
	uint64_t words[SECTOR_WORDS];
	struct sector reference;
	const uint8_t *is = judge->block + at, *should = (const uint8_t *)words;
	unsigned first = 0, wrong = 0;
	if (!find_reference(judge, &reference)) {
		TELL(judge, "no part of it is a stamped block");
		return STAMP_CORRUPT;
	}
	reference.offset += at;
	write_sector(words, &reference);
	if (!at)
		memcpy(&words[CHECKSUM_WORD], is + 8 * CHECKSUM_WORD, 8);
	for (unsigned i = 0; i < STAMP_SECTOR_BYTES; i++) {
		if (is[i] == should[i])
			continue;
		if (!wrong++)
			first = i;
	}
	if (wrong)
		TELL(judge,
		     "byte %zu is 0x%02x instead of 0x%02x, %u bytes are wrong in its sector at "
		     "%" PRIu64,
		     at + first, is[first], should[first], wrong, judge->expected->offset + at);
	return STAMP_CORRUPT;
}

static bool same_content(const struct sector *a, const struct sector *b)
{
	return second_word(&a->stamp) == second_word(&b->stamp) && a->stamp.seed == b->stamp.seed;
}

/* Of two contents, neither of them zeroes. */
static bool other_runs(const struct stamp *a, const struct stamp *b)
{
	return a->generation && b->generation && (a->seed != b->seed || a->run != b->run);
}

/* The checksum is wrong, or there is none. */
static enum stamp_verdict take_apart(const struct judge *judge)
{
	struct sector first, sector;
	for (size_t at = 0; at < judge->bytes; at += STAMP_SECTOR_BYTES)
		/* zeroes are content too: that from before the first write */
		if (!is_whole(judge, at, &sector) &&
		    !all_zero(judge->block + at, STAMP_SECTOR_BYTES))
			return tell_corrupt(judge, at);
	read_sector(judge, 0, &first);
	for (size_t at = 0; at < judge->bytes; at += STAMP_SECTOR_BYTES) {
		read_sector(judge, at, &sector);
		if (sector.stamp.generation && sector.offset != judge->expected->offset + at) {
			TELL(judge, "byte %zu and on were written to offset %" PRIu64, at,
			     sector.offset);
			return STAMP_MISPLACED;
		}
		if (same_content(&sector, &first))
			continue;
		TELL(judge, "generation %" PRIu32 " up to byte %zu, then generation %" PRIu32 "%s",
		     first.stamp.generation, at - 1, sector.stamp.generation,
		     other_runs(&first.stamp, &sector.stamp) ? " of another run" : "");
		return STAMP_TORN;
	}
	TELL(judge,
	     "its checksum, bytes %d to %d, is wrong (or --bs or --offset is not that of its "
	     "writer)",
	     8 * CHECKSUM_WORD, 8 * CHECKSUM_WORD + 7);
	return STAMP_CORRUPT;
}

/* The block is whole; is it the right one? */
static enum stamp_verdict compare(const struct judge *judge, const struct sector *is)
{
	const struct stamp_expected *expected = judge->expected;
	const struct stamp *stamp = &is->stamp, *wanted = &expected->stamp;
	bool same_seed = stamp->seed == wanted->seed;
	uint32_t sibling = stamp->run - expected->first_run;
	if (is->offset != expected->offset) {
		TELL(judge, "it was written to offset %" PRIu64 " (generation %" PRIu32 ")",
		     is->offset, stamp->generation);
		return STAMP_MISPLACED;
	}
	if (!expected->any_seed && !same_seed) {
		TELL(judge, "it was written by another run (seed %" PRIu64 ")", stamp->seed);
		return STAMP_STALE;
	}
	if (!expected->any_run && stamp->run != wanted->run) {
		if (same_seed && sibling < expected->runs) {
			TELL(judge, "it was written to the export of URI %" PRIu32, sibling + 1);
			return STAMP_MISPLACED;
		}
		TELL(judge, "it was written by another run (of the same seed)");
		return STAMP_STALE;
	}
	if (!wanted->generation || stamp->generation == wanted->generation)
		return STAMP_GOOD;
	TELL(judge, "generation %" PRIu32 " instead of %" PRIu32, stamp->generation,
	     wanted->generation);
	return stamp->generation < wanted->generation ? STAMP_STALE : STAMP_FOREIGN;
}

enum stamp_verdict stamp_check(const void *block, size_t bytes,
			       const struct stamp_expected *expected, char *detail)
{
	const struct judge judge = {block, bytes, expected, detail};
	struct sector first;
	uint64_t sum;
	read_sector(&judge, 0, &first);
	memcpy(&sum, judge.block + 8 * CHECKSUM_WORD, 8);
	if (likely(sum == checksum(block, bytes) && first.stamp.generation))
		return compare(&judge, &first);
	if (!all_zero(block, bytes))
		return take_apart(&judge);
	if (!expected->stamp.generation)
		return STAMP_UNWRITTEN;
	snprintf(detail, STAMP_DETAIL_BYTES,
		 "it is all zeroes, as before any write, instead of generation %" PRIu32,
		 expected->stamp.generation);
	return STAMP_STALE;
}
