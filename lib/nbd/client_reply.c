/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client_reply: the parser of replies. A header sets the state for its payload; each state takes
 * what it is waiting for from the input and yields at most one event. One owner core.
 */
#include "lib/nbd/client_reply.h"

#include "lib/base/compiler.h"

enum {
	ERROR_TYPE_BIT = 1 << 15, /* of a chunk's type, known or not */
};

struct NBD_PACKED error_head {
	be32 error;
	be16 message_length;
};

struct NBD_PACKED hole_payload {
	be64 offset;
	be32 length;
};

struct NBD_PACKED status_head {
	be32 id, count;
};

/* The input, and what becomes of it. */
struct input {
	const uint8_t *bytes;
	size_t count;
	struct nbd_event *event;
};

size_t nbd_client_filter(uint8_t *out, uint64_t length, const uint32_t *ids, unsigned count)
{
	be64 effect = be64_of(length);

	memcpy(out, &effect, sizeof(effect));
	for (unsigned i = 0; i < count; i++) {
		be32 id = be32_of(ids[i]);

		memcpy(out + sizeof(effect) + i * sizeof(id), &id, sizeof(id));
	}
	return sizeof(effect) + count * sizeof(be32);
}

void nbd_parser_init(struct nbd_parser *parser, enum nbd_mode mode,
		     bool (*lookup)(void *arg, uint64_t cookie, struct nbd_pending *pending),
		     void *arg)
{
	memset(parser, 0, sizeof(*parser));
	parser->mode = mode;
	parser->lookup = lookup;
	parser->arg = arg;
}

static bool broken(struct nbd_parser *parser, const char *how)
{
	parser->state = NBD_PS_BROKEN;
	parser->broken = how;
	return true;
}

static void enter(struct nbd_parser *parser, enum nbd_parser_state state)
{
	parser->state = state;
	parser->have = 0;
}

static bool tell(struct nbd_parser *parser, struct input *input, enum nbd_event_kind kind)
{
	input->event->kind = kind;
	input->event->cookie = parser->cookie;
	return true;
}

/*
 * Gathers `want` bytes, and returns where they are: in the input itself if they all are there.
 * NULL: more input is needed.
 */
static const uint8_t *gather(struct nbd_parser *parser, uint32_t want, struct input *input)
{
	const uint8_t *at = input->bytes;
	size_t part = MIN_OF(input->count, (size_t)(want - parser->have));

	input->bytes += part;
	input->count -= part;
	if (part == want)
		return at;
	if (part)
		memcpy(parser->buffer + parser->have, at, part);
	parser->have += part;
	return parser->have == want ? parser->buffer : NULL;
}

/* A chunk of the payload has come in. */
static void used(struct nbd_parser *parser, uint64_t count)
{
	parser->left -= count;
	parser->have = 0;
}

static bool data_begins(struct nbd_parser *parser, struct input *input, uint64_t offset)
{
	const struct nbd_pending *pending = &parser->pending;

	if (offset < pending->offset || offset - pending->offset > pending->length ||
	    parser->left > pending->length - (offset - pending->offset))
		return broken(parser, "data outside of what was to be read");
	parser->offset = offset;
	enter(parser, NBD_PS_DATA);
	input->event->offset = offset;
	input->event->length = parser->left;
	return tell(parser, input, NBD_EVENT_DATA);
}

static bool failed(struct nbd_parser *parser, struct input *input, uint32_t error)
{
	input->event->error = error;
	input->event->message = parser->message;
	return tell(parser, input, NBD_EVENT_ERROR);
}

static bool take_simple(struct nbd_parser *parser, struct input *input, uint32_t error)
{
	if (parser->mode == NBD_MODE_STRUCTURED && parser->pending.type == NBD_CMD_READ)
		return broken(parser, "a simple reply to a structured read");
	parser->last = true;
	parser->left = 0;
	enter(parser, NBD_PS_END);
	if (error) {
		parser->message[0] = '\0';
		return failed(parser, input, error);
	}
	if (parser->pending.type != NBD_CMD_READ)
		return false;
	parser->left = parser->pending.length;
	return data_begins(parser, input, parser->pending.offset);
}

/* The bytes of a chunk's payload that stand before its variable part; 0: the chunk is wrong. */
static uint32_t fixed_bytes(struct nbd_parser *parser)
{
	bool extended = parser->mode == NBD_MODE_EXTENDED;
	uint64_t length = parser->left;

	if (parser->type & ERROR_TYPE_BIT)
		return length < sizeof(struct error_head) ? 0 : sizeof(struct error_head);
	switch (parser->type) {
	case NBD_REPLY_TYPE_OFFSET_DATA:
		return parser->pending.type == NBD_CMD_READ && length > 8 ? 8 : 0;
	case NBD_REPLY_TYPE_OFFSET_HOLE:
		return parser->pending.type == NBD_CMD_READ && length == 12 ? 12 : 0;
	case NBD_REPLY_TYPE_BLOCK_STATUS:
		if (extended || parser->pending.type != NBD_CMD_BLOCK_STATUS)
			return 0;
		return length > 4 && (length - 4) % 8 == 0 ? 4 : 0;
	case NBD_REPLY_TYPE_BLOCK_STATUS_EXT:
		if (!extended || parser->pending.type != NBD_CMD_BLOCK_STATUS)
			return 0;
		return length > 8 && (length - 8) % 16 == 0 ? 8 : 0;
	default:
		return 0;
	}
}

static bool take_chunk(struct nbd_parser *parser, uint16_t flags)
{
	if (parser->mode == NBD_MODE_SIMPLE)
		return broken(parser, "a chunk where structured replies were not negotiated");
	parser->last = flags & NBD_REPLY_FLAG_DONE;
	enter(parser, NBD_PS_FIXED);
	if (parser->type == NBD_REPLY_TYPE_NONE) {
		if (parser->left || !parser->last)
			return broken(parser, "a chunk of type NONE that is not the end");
		enter(parser, NBD_PS_END);
		return false;
	}
	if (!fixed_bytes(parser))
		return broken(parser, "a chunk of a wrong type or length");
	return false;
}

/* Finds what a message of the server is for. */
static bool find_pending(struct nbd_parser *parser, uint64_t cookie)
{
	parser->cookie = cookie;
	return parser->lookup(parser->arg, cookie, &parser->pending);
}

static bool take_extended_head(struct nbd_parser *parser, const uint8_t *bytes)
{
	const struct nbd_extended_reply *wire = (const void *)bytes;

	if (be32_get(wire->magic) != NBD_MAGIC_EXTENDED_REPLY)
		return broken(parser, "wrong magic in an extended reply");
	if (!find_pending(parser, wire->cookie.raw))
		return broken(parser, "a reply to no request");
	if (be64_get(wire->offset) != parser->pending.offset)
		return broken(parser, "a reply with another offset than its request");
	parser->type = be16_get(wire->type);
	parser->left = be64_get(wire->length);
	return take_chunk(parser, be16_get(wire->flags));
}

static bool take_structured_head(struct nbd_parser *parser, const uint8_t *bytes)
{
	const struct nbd_structured_reply *wire = (const void *)bytes;

	if (!find_pending(parser, wire->cookie.raw))
		return broken(parser, "a reply to no request");
	parser->type = be16_get(wire->type);
	parser->left = be32_get(wire->length);
	return take_chunk(parser, be16_get(wire->flags));
}

static bool take_simple_head(struct nbd_parser *parser, const uint8_t *bytes, struct input *input)
{
	const struct nbd_simple_reply *wire = (const void *)bytes;

	if (!find_pending(parser, wire->cookie.raw))
		return broken(parser, "a reply to no request");
	return take_simple(parser, input, be32_get(wire->error));
}

/* The magic of a message that has not come in whole. */
static uint32_t magic_of(const struct nbd_parser *parser, const struct input *input)
{
	be32 magic;
	uint8_t bytes[sizeof(magic)];
	uint32_t have = MIN_OF(parser->have, (uint32_t)sizeof(magic));

	memcpy(bytes, parser->buffer, have);
	memcpy(bytes + have, input->bytes, sizeof(magic) - have);
	memcpy(&magic, bytes, sizeof(magic));
	return be32_get(magic);
}

static bool step_head(struct nbd_parser *parser, struct input *input, bool *more)
{
	uint32_t want = sizeof(struct nbd_extended_reply), magic = 0;
	const uint8_t *bytes;

	if (parser->mode != NBD_MODE_EXTENDED) {
		/* only the magic tells how long the header is */
		if (parser->have + input->count < sizeof(magic)) {
			gather(parser, sizeof(magic), input);
			*more = true;
			return false;
		}
		magic = magic_of(parser, input);
		if (magic == NBD_MAGIC_SIMPLE_REPLY)
			want = sizeof(struct nbd_simple_reply);
		else if (magic == NBD_MAGIC_STRUCTURED_REPLY)
			want = sizeof(struct nbd_structured_reply);
		else
			return broken(parser, "wrong magic in a reply");
	}
	bytes = gather(parser, want, input);
	if (!bytes) {
		*more = true;
		return false;
	}
	if (parser->mode == NBD_MODE_EXTENDED)
		return take_extended_head(parser, bytes);
	if (magic == NBD_MAGIC_SIMPLE_REPLY)
		return take_simple_head(parser, bytes, input);
	return take_structured_head(parser, bytes);
}

static bool take_error(struct nbd_parser *parser, const uint8_t *bytes)
{
	const struct error_head *wire = (const void *)bytes;
	/* ERROR_OFFSET has its offset behind the message */
	uint64_t tail = parser->type == NBD_REPLY_TYPE_ERROR_OFFSET ? 8 : 0;

	parser->error = be32_get(wire->error);
	parser->message_length = be16_get(wire->message_length);
	used(parser, sizeof(*wire));
	if (!parser->error)
		return broken(parser, "an error chunk without an error");
	if (parser->message_length > NBD_MAX_STRING_BYTES ||
	    parser->left < parser->message_length + tail)
		return broken(parser, "an error chunk that is shorter than its text");
	/* types that are known end here; others may have more to say that nobody understands */
	if ((tail || parser->type == NBD_REPLY_TYPE_ERROR) &&
	    parser->left != parser->message_length + tail)
		return broken(parser, "an error chunk that is longer than its text");
	enter(parser, NBD_PS_MESSAGE);
	return false;
}

static bool take_hole(struct nbd_parser *parser, const uint8_t *bytes, struct input *input)
{
	const struct hole_payload *wire = (const void *)bytes;
	const struct nbd_pending *pending = &parser->pending;
	uint64_t offset = be64_get(wire->offset), length = be32_get(wire->length);

	used(parser, sizeof(*wire));
	if (!length || offset < pending->offset || offset - pending->offset > pending->length ||
	    length > pending->length - (offset - pending->offset))
		return broken(parser, "a hole outside of what was to be read");
	enter(parser, NBD_PS_END);
	input->event->offset = offset;
	input->event->length = length;
	return tell(parser, input, NBD_EVENT_HOLE);
}

static bool take_status(struct nbd_parser *parser, const uint8_t *bytes, struct input *input)
{
	struct status_head wire = {0};

	if (parser->mode == NBD_MODE_EXTENDED) {
		memcpy(&wire, bytes, sizeof(wire));
		used(parser, sizeof(wire));
		if (be32_get(wire.count) != parser->left / 16)
			return broken(parser, "a status chunk that counts wrongly");
	} else {
		memcpy(&wire.id, bytes, sizeof(wire.id));
		used(parser, sizeof(wire.id));
	}
	enter(parser, NBD_PS_EXTENTS);
	input->event->context = be32_get(wire.id);
	return tell(parser, input, NBD_EVENT_STATUS);
}

static bool step_fixed(struct nbd_parser *parser, struct input *input, bool *more)
{
	const uint8_t *bytes = gather(parser, fixed_bytes(parser), input);
	be64 offset;

	if (!bytes) {
		*more = true;
		return false;
	}
	switch (parser->type) {
	case NBD_REPLY_TYPE_OFFSET_DATA:
		memcpy(&offset, bytes, sizeof(offset));
		used(parser, sizeof(offset));
		return data_begins(parser, input, be64_get(offset));
	case NBD_REPLY_TYPE_OFFSET_HOLE:
		return take_hole(parser, bytes, input);
	case NBD_REPLY_TYPE_BLOCK_STATUS:
	case NBD_REPLY_TYPE_BLOCK_STATUS_EXT:
		return take_status(parser, bytes, input);
	default:
		return take_error(parser, bytes);
	}
}

static bool step_data(struct nbd_parser *parser, struct input *input, bool *more)
{
	size_t part = MIN_OF((uint64_t)input->count, parser->left);

	if (!parser->left) {
		enter(parser, NBD_PS_END);
		return false;
	}
	if (!part) {
		*more = true;
		return false;
	}
	input->event->offset = parser->offset;
	input->event->bytes = input->bytes;
	input->event->count = part;
	input->bytes += part;
	input->count -= part;
	nbd_parser_skip(parser, part);
	return tell(parser, input, NBD_EVENT_BYTES);
}

static bool step_message(struct nbd_parser *parser, struct input *input, bool *more)
{
	size_t part = MIN_OF(input->count, (size_t)(parser->message_length - parser->have));

	if (part)
		memcpy(parser->message + parser->have, input->bytes, part);
	parser->have += part;
	input->bytes += part;
	input->count -= part;
	if (parser->have < parser->message_length) {
		*more = true;
		return false;
	}
	parser->message[parser->message_length] = '\0';
	used(parser, parser->message_length);
	enter(parser, NBD_PS_TAIL);
	return false;
}

static bool step_tail(struct nbd_parser *parser, struct input *input, bool *more)
{
	const uint8_t *bytes;
	uint64_t offset;
	size_t part;
	be64 wire;

	if (parser->type != NBD_REPLY_TYPE_ERROR_OFFSET) {
		part = MIN_OF((uint64_t)input->count, parser->left);
		input->bytes += part;
		input->count -= part;
		used(parser, part);
		*more = parser->left;
		if (*more)
			return false;
		enter(parser, NBD_PS_END);
		return failed(parser, input, parser->error);
	}
	bytes = gather(parser, sizeof(wire), input);
	if (!bytes) {
		*more = true;
		return false;
	}
	memcpy(&wire, bytes, sizeof(wire));
	offset = be64_get(wire);
	used(parser, sizeof(wire));
	if (offset < parser->pending.offset ||
	    offset - parser->pending.offset >= parser->pending.length)
		return broken(parser, "an error at an offset outside of the request");
	enter(parser, NBD_PS_END);
	input->event->offset = offset;
	input->event->has_offset = true;
	return failed(parser, input, parser->error);
}

static bool step_extents(struct nbd_parser *parser, struct input *input, bool *more)
{
	bool extended = parser->mode == NBD_MODE_EXTENDED;
	const uint8_t *bytes = gather(parser, extended ? 16 : 8, input);
	struct NBD_PACKED {
		be64 length, flags;
	} wide;
	struct NBD_PACKED {
		be32 length, flags;
	} compact;

	if (!bytes) {
		*more = true;
		return false;
	}
	if (extended) {
		memcpy(&wide, bytes, sizeof(wide));
		used(parser, sizeof(wide));
		input->event->length = be64_get(wide.length);
		input->event->flags = be64_get(wide.flags);
	} else {
		memcpy(&compact, bytes, sizeof(compact));
		used(parser, sizeof(compact));
		input->event->length = be32_get(compact.length);
		input->event->flags = be32_get(compact.flags);
	}
	if (!input->event->length)
		return broken(parser, "an extent of no bytes");
	if (!parser->left)
		enter(parser, NBD_PS_END);
	return tell(parser, input, NBD_EVENT_EXTENT);
}

static bool step_end(struct nbd_parser *parser, struct input *input)
{
	enter(parser, NBD_PS_HEAD);
	return parser->last && tell(parser, input, NBD_EVENT_DONE);
}

/* Does the next thing that is complete; true: there is an event, or the stream is broken. */
static bool step(struct nbd_parser *parser, struct input *input, bool *more)
{
	switch (parser->state) {
	case NBD_PS_HEAD:
		return step_head(parser, input, more);
	case NBD_PS_FIXED:
		return step_fixed(parser, input, more);
	case NBD_PS_DATA:
		return step_data(parser, input, more);
	case NBD_PS_MESSAGE:
		return step_message(parser, input, more);
	case NBD_PS_TAIL:
		return step_tail(parser, input, more);
	case NBD_PS_EXTENTS:
		return step_extents(parser, input, more);
	case NBD_PS_END:
		return step_end(parser, input);
	case NBD_PS_BROKEN:
		return true;
	}
	__builtin_unreachable();
}

enum nbd_event_kind nbd_parser_feed(struct nbd_parser *parser, const uint8_t *bytes, size_t count,
				    size_t *taken, struct nbd_event *event)
{
	struct input input = {bytes, count, event};
	bool more = false;

	event->kind = NBD_EVENT_MORE;
	event->message = "";
	event->has_offset = false;
	while (!step(parser, &input, &more) && !more)
		;
	if (parser->state == NBD_PS_BROKEN) {
		event->kind = NBD_EVENT_BROKEN;
		event->message = parser->broken;
	}
	*taken = input.bytes - bytes;
	return event->kind;
}

void nbd_parser_skip(struct nbd_parser *parser, uint64_t count)
{
	if (parser->state != NBD_PS_DATA)
		return;
	parser->left -= count;
	parser->offset += count;
	if (!parser->left)
		enter(parser, NBD_PS_END);
}
