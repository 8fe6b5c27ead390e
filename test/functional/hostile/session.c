/* SPDX-License-Identifier: BSD-3-Clause */
/* session: valid sessions and how to spoil them. */
#include "session.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	OPT_EXPORT_NAME = 1,
	OPT_LIST = 3,
	OPT_INFO = 6,
	OPT_GO = 7,
	OPT_STRUCTURED = 8,
	OPT_LIST_META = 9,
	OPT_SET_META = 10,
	OPT_EXTENDED = 11,
	CMD_READ = 0,
	CMD_WRITE = 1,
	CMD_DISC = 2,
	CMD_FLUSH = 3,
	CMD_CACHE = 5,
	CMD_BLOCK_STATUS = 7,
	COMMANDS = 8,
	PAYLOAD_FLAG = 32,
	LIGHT_BYTES = 20000,
	HEAVY_BYTES = 3 << 20,
};

/* xorshift64* */
uint32_t random_below(uint64_t *state, uint32_t limit)
{
	uint64_t x = *state;
	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*state = x;
	return (uint32_t)((x * 0x2545F4914F6CDD1Dull) >> 32) % limit;
}

/* ---- Making one ---- */

static void reserve(struct session *session, size_t count)
{
	if (session->count + count <= session->room)
		return;
	session->room = 2 * (session->count + count);
	session->bytes = realloc(session->bytes, session->room);
	if (!session->bytes)
		abort();
}

static void put_bytes(struct session *session, const void *bytes, size_t count)
{
	reserve(session, count);
	if (count)
		memcpy(session->bytes + session->count, bytes, count);
	session->count += count;
}

/* Zeros and a few bytes that tell where they are. */
static void put_payload(struct session *session, size_t count)
{
	reserve(session, count);
	memset(session->bytes + session->count, 0, count);
	for (size_t i = 0; i < count; i += 512)
		session->bytes[session->count + i] = (uint8_t)(i >> 9) | 1;
	session->count += count;
}

static void put(struct session *session, uint64_t value, unsigned width)
{
	uint64_t big = htobe64(value << (64 - 8 * width));
	if (session->field_count < SESSION_FIELDS_MOST) {
		session->fields[session->field_count].at = session->count;
		session->fields[session->field_count++].width = width;
	}
	put_bytes(session, &big, width);
}

static void put_option(struct session *session, uint32_t number, uint32_t length)
{
	put_bytes(session, "IHAVEOPT", 8);
	put(session, number, 4);
	put(session, length, 4);
}

static void put_string(struct session *session, const char *text)
{
	put(session, strlen(text), 4);
	put_bytes(session, text, strlen(text));
}

static void put_contexts(struct session *session, uint32_t option, const char *export,
			 uint64_t *random)
{
	static const char *const queries[] = {"base:allocation", "base:", "x-other:thing"};
	unsigned count = random_below(random, 4);
	uint32_t length = 8 + strlen(export);
	for (unsigned i = 0; i < count; i++)
		length += 4 + strlen(queries[i]);
	put_option(session, option, length);
	put_string(session, export);
	put(session, count, 4);
	for (unsigned i = 0; i < count; i++)
		put_string(session, queries[i]);
}

static void put_go(struct session *session, uint32_t option, const char *export, uint64_t *random)
{
	unsigned infos = random_below(random, 5);
	put_option(session, option, 6 + strlen(export) + 2 * infos);
	put_string(session, export);
	put(session, infos, 2);
	for (unsigned i = 0; i < infos; i++)
		put(session, i, 2);
}

static void put_handshake(struct session *session, const char *export, uint64_t *random, bool tls)
{
	if (!tls)
		put(session, 3, 4);
	if (!random_below(random, 4))
		put_option(session, OPT_LIST, 0);
	if (!random_below(random, 4))
		put_go(session, OPT_INFO, export, random);
	if (session->mode)
		put_option(session, session->mode == 2 ? OPT_EXTENDED : OPT_STRUCTURED, 0);
	if (session->mode && !random_below(random, 3))
		put_contexts(session, OPT_LIST_META, export, random);
	if (session->mode && random_below(random, 2))
		put_contexts(session, OPT_SET_META, export, random);
	if (!session->mode && !random_below(random, 8)) {
		put_option(session, OPT_EXPORT_NAME, strlen(export));
		put_bytes(session, export, strlen(export));
	} else {
		put_go(session, OPT_GO, export, random);
	}
}

static void put_header(struct session *session, uint16_t flags, uint16_t type, uint64_t offset,
		       uint64_t length)
{
	put(session, session->mode == 2 ? 0x21e41c71 : 0x25609513, 4);
	put(session, flags, 2);
	put(session, type, 2);
	put(session, session->requests, 8);
	put(session, offset, 8);
	put(session, length, session->mode == 2 ? 8 : 4);
}

static void put_command(struct session *session, uint64_t *random, uint64_t size_bytes)
{
	unsigned type = random_below(random, session->heavy ? 2 : COMMANDS);
	uint32_t most = session->heavy ? HEAVY_BYTES : LIGHT_BYTES;
	uint32_t length = 1 + random_below(random, random_below(random, 3) ? 4096 : most);
	uint64_t offset = random_below(random, (uint32_t)(size_bytes - length));
	uint16_t flags = random_below(random, 4) ? 0 : 1 << random_below(random, 6);
	if (type == CMD_DISC)
		type = CMD_READ;
	if (type == CMD_FLUSH)
		offset = length = 0;
	if (random_below(random, 4))
		flags &= ~PAYLOAD_FLAG;
	if (type == CMD_WRITE && session->mode == 2)
		flags |= PAYLOAD_FLAG;
	session->requests++;
	if (type == CMD_BLOCK_STATUS && session->mode == 2 && flags & PAYLOAD_FLAG) {
		put_header(session, flags, type, offset, 12);
		put(session, length, 8);
		put(session, random_below(random, 3), 4);
		return;
	}
	if (type != CMD_WRITE)
		flags &= ~PAYLOAD_FLAG;
	put_header(session, flags, type, offset, length);
	if (type == CMD_WRITE)
		put_payload(session, length);
}

void session_make(struct session *session, uint64_t *random, const char *export,
		  uint64_t size_bytes, bool tls, bool heavy)
{
	memset(session, 0, sizeof(*session));
	session->heavy = heavy;
	session->mode = random_below(random, 3);
	put_handshake(session, export, random, tls);
	for (unsigned i = 2 + random_below(random, 14); i; i--)
		put_command(session, random, size_bytes);
	put_header(session, 0, CMD_DISC, 0, 0);
}

void session_free(struct session *session)
{
	free(session->bytes);
	session->bytes = NULL;
}

/* ---- Spoiling it ---- */

static void insert(struct session *session, size_t at, const uint8_t *bytes, size_t count)
{
	uint8_t copy[4096];
	memcpy(copy, bytes, count);
	reserve(session, count);
	memmove(session->bytes + at + count, session->bytes + at, session->count - at);
	memcpy(session->bytes + at, copy, count);
	session->count += count;
}

static void tamper(struct session *session, uint64_t *random)
{
	unsigned field = random_below(random, session->field_count);
	size_t at = session->fields[field].at;
	unsigned width = session->fields[field].width;
	uint64_t value = 0;
	if (at + width > session->count)
		return; /* cut off by another change */
	memcpy(&value, session->bytes + at, width);
	value = be64toh(value) >> (64 - 8 * width);
	switch (random_below(random, 8)) {
	case 0:
		value = 0;
		break;
	case 1:
		value = UINT64_MAX;
		break;
	case 2:
		value++;
		break;
	case 3:
		value--;
		break;
	case 4:
		value *= 2;
		break;
	case 5:
		value = 1ull << random_below(random, 8 * width);
		break;
	case 6:
		value ^= 1ull << random_below(random, 8 * width);
		break;
	default:
		value = random_below(random, UINT32_MAX);
	}
	value = htobe64(value << (64 - 8 * width));
	memcpy(session->bytes + at, &value, width);
}

void mutate_bytes(uint8_t *bytes, size_t count, uint64_t *random)
{
	size_t at = random_below(random, (uint32_t)count);
	if (random_below(random, 2))
		bytes[at] ^= 1 << random_below(random, 8);
	else
		bytes[at] = (uint8_t)random_below(random, 256);
}

static void mutate_once(struct session *session, uint64_t *random)
{
	uint8_t noise[64];
	size_t at, count, left;
	if (!session->count)
		return;
	/* the beginning is where headers are; payload is long and tells little */
	count = random_below(random, 2) ? session->count
					: (session->count < 400 ? session->count : 400);
	at = random_below(random, (uint32_t)count);
	left = session->count - at;
	count = 1 + random_below(random, 64);
	switch (random_below(random, 8)) {
	case 0:
	case 1:
		mutate_bytes(session->bytes + at, left < 64 ? left : 64, random);
		break;
	case 2:
		for (size_t i = 0; i < count; i++)
			noise[i] = (uint8_t)random_below(random, 256);
		insert(session, at, noise, count);
		break;
	case 3:
		count = count < left ? count : left;
		memmove(session->bytes + at, session->bytes + at + count, left - count);
		session->count -= count;
		break;
	case 4:
		count = random_below(random, 2048) + 1;
		insert(session, at, session->bytes + at, count < left ? count : left);
		break;
	case 5:
		if (!random_below(random, 3))
			session->count = at;
		break;
	default:
		tamper(session, random);
	}
}

void session_mutate(struct session *session, uint64_t *random)
{
	for (unsigned i = 1 + random_below(random, 4); i; i--)
		mutate_once(session, random);
}
