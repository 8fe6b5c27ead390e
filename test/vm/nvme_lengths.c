/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_lengths: an NBD client that goes through the lengths and places at which an NVMe driver cuts:
 * 1 to 64 blocks, each side of a page, of two, of the largest command (MDTS) and of the largest
 * request of a bdev; written, read, zeroed and trimmed, at whole blocks and one byte off.
 *
 * usage: nvme-lengths SOCKET EXPORT OFFSET BLOCK MDTS IMAGE
 * It works in WINDOW_BYTES from OFFSET on, and leaves in IMAGE what must stand there, for a look by
 * the kernel's driver. Trimmed blocks must read as zeroes. Exits with 0 if each answer was right, else
 * says which was not.
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
	FLAG_FUA = 1 << 0,
	FLAG_NO_HOLE = 1 << 1,
	WINDOW_BYTES = 4 << 20,
	BDEV_BYTES = 1 << 20, /* the largest request of a bdev */
	PAGE_BYTES = 4096,
	LENGTHS = 64,
};

static uint64_t offset;
static uint32_t block, mdts;
static uint64_t cookie, requests;
static uint8_t model[WINDOW_BYTES], back[WINDOW_BYTES];

/* One request, and its answer; `at` is in the window. */
static void request(uint16_t flags, uint16_t type, size_t at, size_t bytes, const void *payload,
		    void *room)
{
	uint64_t told;
	uint32_t error;
	need(plain_request(flags, type, ++cookie, type == CMD_FLUSH ? 0 : offset + at, bytes) &&
		     (!payload || plain_put(payload, bytes)),
	     "the socket takes nothing");
	need(plain_reply(&told, &error), "the server is gone");
	need(told == cookie, "not the reply to the request");
	if (error) {
		fprintf(stderr, "nvme-lengths: error %u of command %u at %zu, %zu bytes\n",
			error, type, at, bytes);
		exit(1);
	}
	need(!room || plain_get(room, bytes), "the server is gone");
	requests++;
}

/* ---- Steps ---- */

/* No two writes have a word in common, and no word is 0. */
static void fill(uint8_t *bytes, size_t count)
{
	static uint64_t word;
	for (size_t i = 0; i < count; i += sizeof(word)) {
		word++;
		uint64_t mixed = word * 0x9e3779b97f4a7c15;
		memcpy(bytes + i, &mixed, count - i < sizeof(mixed) ? count - i : sizeof(mixed));
	}
}

static void read_back(size_t at, size_t bytes)
{
	request(0, CMD_READ, at, bytes, NULL, back);
	if (!memcmp(back, model + at, bytes))
		return;
	size_t wrong = 0;
	while (back[wrong] == model[at + wrong])
		wrong++;
	fprintf(stderr, "nvme-lengths: a read of %zu bytes at %zu: byte %zu is wrong\n", bytes, at,
		wrong);
	exit(1);
}

/* What lies around it is read as well: nothing but it may have changed. */
static void change(uint16_t flags, uint16_t type, size_t at, size_t bytes)
{
	if (type == CMD_WRITE)
		fill(model + at, bytes);
	else
		memset(model + at, 0, bytes);
	request(flags, type, at, bytes, type == CMD_WRITE ? model + at : NULL, NULL);
	read_back(at, bytes);
	size_t before = at < PAGE_BYTES ? at : PAGE_BYTES;
	size_t after = WINDOW_BYTES - at - bytes;
	if (after > PAGE_BYTES)
		after = PAGE_BYTES;
	if (before)
		read_back(at - before, before);
	if (after)
		read_back(at + bytes, after);
}

/* Another place each time, `blocks` blocks behind the start of a page. */
static size_t place(unsigned blocks, size_t bytes)
{
	static size_t last;
	last = (last + 37 * PAGE_BYTES) % WINDOW_BYTES;
	size_t at = last + (size_t)blocks * block;
	if (at + bytes > WINDOW_BYTES)
		at = (size_t)blocks * block;
	return at;
}

/* Each number of blocks, at each place of its first one in a page by turns. */
static void all_lengths(uint16_t type)
{
	unsigned places = PAGE_BYTES / block;
	for (unsigned n = 1; n <= LENGTHS; n++) {
		size_t bytes = (size_t)n * block;
		change(n % 8 ? 0 : FLAG_FUA, type, place(n % places, bytes), bytes);
	}
}

/* A block less than an edge, the edge, a block more; at the start and at the end of a page. */
static void all_edges(uint16_t type)
{
	const uint32_t edges[] = {PAGE_BYTES,	   2 * PAGE_BYTES,
				  3 * PAGE_BYTES,  mdts / 2,
				  mdts - PAGE_BYTES, mdts,
				  mdts + PAGE_BYTES, 2 * mdts,
				  BDEV_BYTES};
	unsigned last = PAGE_BYTES / block - 1;
	for (unsigned i = 0; i < sizeof(edges) / sizeof(edges[0]); i++) {
		for (size_t bytes = edges[i] - block; bytes <= edges[i] + block; bytes += block) {
			if (!bytes)
				continue;
			change(0, type, place(0, bytes), bytes);
			if (last)
				change(0, type, place(last, bytes), bytes);
		}
	}
}

/* Off by a byte at the beginning, at the end, at both. */
static void odd_bytes(uint16_t type)
{
	const uint32_t edges[] = {block, PAGE_BYTES, mdts};
	for (unsigned i = 0; i < sizeof(edges) / sizeof(edges[0]); i++) {
		size_t at = place(1, edges[i] + PAGE_BYTES);
		change(0, type, at + 1, edges[i]);
		change(0, type, at, edges[i] - 1);
		change(FLAG_FUA, type, at + 1, edges[i] - 2);
		change(0, type, at + block - 1, edges[i] + 2);
	}
}

static void refill(void)
{
	fill(model, WINDOW_BYTES);
	for (size_t at = 0; at < WINDOW_BYTES; at += BDEV_BYTES)
		request(0, CMD_WRITE, at, BDEV_BYTES, model + at, NULL);
}

int main(int argc, char **argv)
{
	need(argc == 7, "usage: nvme-lengths SOCKET EXPORT OFFSET BLOCK MDTS IMAGE");
	offset = strtoull(argv[3], NULL, 0);
	block = (uint32_t)strtoul(argv[4], NULL, 0);
	mdts = (uint32_t)strtoul(argv[5], NULL, 0);
	need(block && block <= PAGE_BYTES && mdts > PAGE_BYTES && mdts <= WINDOW_BYTES / 4,
	     "sizes that it can not work with");
	plain_connect(argv[1], argv[2]);
	refill();
	all_lengths(CMD_WRITE);
	all_edges(CMD_WRITE);
	odd_bytes(CMD_WRITE);
	all_lengths(CMD_WRITE_ZEROES);
	odd_bytes(CMD_WRITE_ZEROES);
	refill();
	change(FLAG_NO_HOLE, CMD_WRITE_ZEROES, 3 * block, 2 * mdts + block);
	all_lengths(CMD_TRIM);
	all_edges(CMD_WRITE);
	refill();
	all_edges(CMD_WRITE_ZEROES);
	refill();
	all_edges(CMD_TRIM);
	all_lengths(CMD_WRITE);
	request(0, CMD_FLUSH, 0, 0, NULL, NULL);
	for (size_t at = 0; at < WINDOW_BYTES; at += BDEV_BYTES)
		read_back(at, BDEV_BYTES);
	int image = open(argv[6], O_WRONLY | O_CREAT | O_TRUNC, 0600);
	need(image >= 0 && write(image, model, WINDOW_BYTES) == WINDOW_BYTES && !close(image),
	     "the image can not be written");
	printf("%llu requests\n", (unsigned long long)requests);
	return 0;
}
