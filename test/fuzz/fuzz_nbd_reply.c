/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz_nbd_reply: any bytes as a server's transmission, to the client's parser in all three modes.
 * The first byte is the mode, the second how the rest is cut. No data may be told to lie outside of
 * the READ that it answers, and the cut must make no difference.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/compiler.h"
#include "lib/nbd/client_reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The low bits of a cookie tell what it stands for, so that most replies find a request. */
static bool lookup(void *arg, uint64_t cookie, struct nbd_pending *pending)
{
	static const uint16_t types[] = {NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_BLOCK_STATUS,
					 NBD_CMD_FLUSH};
	unsigned low = cookie & 0xff;

	if (low > 15)
		return false;
	*pending = (struct nbd_pending){types[low % 4], 4096, low & 4 ? 1 << 20 : 16};
	if (pending->type == NBD_CMD_FLUSH)
		*pending = (struct nbd_pending){NBD_CMD_FLUSH, 0, 0};
	return true;
}

static void check(bool good)
{
	if (!good)
		abort();
}

struct side {
	struct nbd_parser parser;
	uint64_t next, left; /* of the data under way */
	uint64_t hash;
	unsigned events;
	bool broken;
};

static void mix(struct side *side, uint64_t value)
{
	side->hash = (side->hash ^ value) * 0x9e3779b97f4a7c15ull;
	side->hash ^= side->hash >> 29;
}

/* The text is the parser's, and valid now. */
static void mix_text(struct side *side, const char *text)
{
	for (; *text; text++)
		mix(side, (uint8_t)*text);
}

static void take(struct side *side, const struct nbd_event *event)
{
	struct nbd_pending pending;

	check(side->broken || lookup(NULL, event->cookie, &pending));
	if (event->kind == NBD_EVENT_BYTES) {
		check(event->count && event->count <= side->left && event->offset == side->next);
		side->next += event->count;
		side->left -= event->count;
		for (size_t i = 0; i < event->count; i++)
			mix(side, event->bytes[i]);
		return;
	}
	mix(side, event->kind);
	mix(side, event->cookie);
	check(!side->left);
	if (event->kind == NBD_EVENT_DATA || event->kind == NBD_EVENT_HOLE) {
		check(pending.type == NBD_CMD_READ && event->offset >= pending.offset &&
		      event->length <= pending.length &&
		      event->offset - pending.offset <= pending.length - event->length);
		mix(side, event->offset);
		mix(side, event->length);
	}
	if (event->kind == NBD_EVENT_DATA) {
		side->next = event->offset;
		side->left = event->length;
	}
	if (event->kind == NBD_EVENT_EXTENT) {
		check(pending.type == NBD_CMD_BLOCK_STATUS && event->length);
		mix(side, event->length);
		mix(side, event->flags);
	}
	if (event->kind == NBD_EVENT_STATUS)
		mix(side, event->context);
	if (event->kind == NBD_EVENT_ERROR) {
		check(event->error);
		mix(side, event->error);
		mix_text(side, event->message);
	}
	side->events++;
}

static void feed(struct side *side, enum nbd_mode mode, const uint8_t *data, size_t size,
		 size_t step)
{
	struct nbd_event event;
	enum nbd_event_kind kind;
	size_t at = 0, taken;

	side->next = side->left = side->hash = side->events = 0;
	side->broken = false;
	nbd_parser_init(&side->parser, mode, lookup, NULL);
	while (at < size && !side->broken) {
		size_t part = MIN_OF(step, size - at), used = 0;

		while ((kind = nbd_parser_feed(&side->parser, data + at + used, part - used, &taken,
					       &event)) != NBD_EVENT_MORE) {
			check(taken <= part - used);
			used += taken;
			side->broken = kind == NBD_EVENT_BROKEN;
			if (side->broken) {
				mix_text(side, event.message);
				break;
			}
			take(side, &event);
		}
		check(side->broken || used + taken == part);
		at += part;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct side whole, pieces;

	if (size < 2)
		return 0;
	feed(&whole, data[0] % 3, data + 2, size - 2, size);
	feed(&pieces, data[0] % 3, data + 2, size - 2, 1 + data[1]);
	check(whole.broken == pieces.broken && whole.events == pieces.events);
	check(whole.hash == pieces.hash);
	return 0;
}
