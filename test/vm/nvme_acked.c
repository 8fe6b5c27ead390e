/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_acked: what has been acknowledged is there. Writes block after block of a window through NBD,
 * sixteen at a time, until the server dies, and keeps a record of what it was told; later, or
 * elsewhere, it compares. A block holds its last acknowledged write, or a later one that was under
 * way, sector by sector.
 *
 * usage: nvme-acked write SOCKET EXPORT OFFSET RECORD     ends with 0 when the server is gone
 *        nvme-acked check IMAGE OFFSET RECORD             IMAGE: a disk, or a copy of one
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plain.h"

enum {
	BLOCKS = 256,
	BLOCK_BYTES = 4096,
	SECTOR_WORDS = 512 / 8,
	DEPTH = 16,
	ACKED_MIN = 50, /* fewer prove nothing */
};

/* Writes of each block, counted from 1. */
static struct {
	uint64_t sent[BLOCKS], acked[BLOCKS];
} record;

/* ---- Writing ---- */

static uint64_t word_of(unsigned block, uint64_t count, unsigned at)
{
	return (count << 32 | (uint64_t)block << 16 | at) * 0x9e3779b97f4a7c15;
}

static bool send_write(unsigned block, uint64_t offset)
{
	static uint64_t words[BLOCK_BYTES / 8];
	uint64_t count = ++record.sent[block];
	for (unsigned i = 0; i < BLOCK_BYTES / 8; i++)
		words[i] = word_of(block, count, i);
	return plain_request(0, CMD_WRITE, block, offset + (uint64_t)block * BLOCK_BYTES, BLOCK_BYTES) &&
	       plain_put(words, sizeof(words));
}

static bool take_reply(void)
{
	uint64_t block;
	uint32_t error;
	if (!plain_reply(&block, &error))
		return false;
	need(block < BLOCKS && record.acked[block] < record.sent[block], "a reply to nothing");
	need(!error, "an error");
	record.acked[block] = record.sent[block];
	return true;
}

static void write_until_the_end(uint64_t offset, const char *path)
{
	unsigned flying = 0, next = 0;
	uint64_t acked = 0;
	bool alive = true;
	while (alive) {
		/* one write of a block at a time: which of two comes last would be anyone's guess */
		bool free = record.acked[next] == record.sent[next];
		if (flying < DEPTH && free) {
			alive = send_write(next, offset);
			next = (next + 1) % BLOCKS;
			flying++;
		} else if ((alive = take_reply())) {
			flying--;
			acked++;
		}
	}
	int out = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	need(out >= 0 && write(out, &record, sizeof(record)) == sizeof(record), "no record");
	printf("%llu writes were acknowledged, %u were under way\n", (unsigned long long)acked, flying);
	need(acked >= ACKED_MIN && flying, "that is not enough");
}

/* ---- Comparing ---- */

/* Which write a sector is of; 0: of none. */
static uint64_t count_of(const uint64_t *words, unsigned block, unsigned first)
{
	for (uint64_t count = record.acked[block]; count <= record.sent[block]; count++) {
		unsigned same = 0;
		while (same < SECTOR_WORDS && words[same] == word_of(block, count, first + same))
			same++;
		if (count && same == SECTOR_WORDS)
			return count;
	}
	return 0;
}

static void check(const char *image, uint64_t offset)
{
	static _Alignas(4096) uint64_t words[BLOCK_BYTES / 8];
	unsigned newer = 0, wrong = 0;
	int in = open(image, O_RDONLY);
	need(in >= 0, "no image");
	for (unsigned block = 0; block < BLOCKS; block++) {
		off_t at = (off_t)(offset + (uint64_t)block * BLOCK_BYTES);
		need(pread(in, words, BLOCK_BYTES, at) == BLOCK_BYTES, "the image is too short");
		for (unsigned i = 0; i < BLOCK_BYTES / 8; i += SECTOR_WORDS) {
			uint64_t count = count_of(words + i, block, i);
			newer += count > record.acked[block];
			/* a block of which nothing was acknowledged may be what it was before */
			if (count || !record.acked[block])
				continue;
			if (!wrong++)
				fprintf(stderr, "nvme-acked: block %u, word %u: not write %llu\n", block,
					i, (unsigned long long)record.acked[block]);
		}
	}
	printf("%u sectors are of writes that were under way, %u are wrong\n", newer, wrong);
	need(!wrong, "what was acknowledged is not there");
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "write")) {
		plain_connect(argv[2], argv[3]);
		write_until_the_end(strtoull(argv[4], NULL, 0), argv[5]);
		return 0;
	}
	need(argc == 5 && !strcmp(argv[1], "check"),
	     "usage: nvme-acked write SOCKET EXPORT OFFSET RECORD | check IMAGE OFFSET RECORD");
	int in = open(argv[4], O_RDONLY);
	need(in >= 0 && read(in, &record, sizeof(record)) == sizeof(record), "no record");
	check(argv[2], strtoull(argv[3], NULL, 0));
	return 0;
}
