/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * reply: the chunks that are not on every request's path - holes, errors and block status - and the
 * list of context ids that a BLOCK_STATUS may carry. Pure; any thread.
 */
#include "lib/nbd/reply.h"

#include <string.h>

enum {
	/* the longest extent that 32 bits tell and that is aligned to any minimum block */
	MAX_COMPACT_EXTENT_BYTES = 0xffff0000u,
};

struct NBD_PACKED hole_payload {
	be64 offset;
	be32 length;
};

struct NBD_PACKED error_payload {
	be32 error;
	be16 message_length;
};

struct NBD_PACKED compact_descriptor {
	be32 length, flags;
};

struct NBD_PACKED extended_descriptor {
	be64 length, flags;
};

size_t nbd_reply_hole(uint8_t *out, const struct nbd_reply_to *to, bool last, uint64_t offset,
		      uint32_t length)
{
	struct hole_payload payload = {be64_of(offset), be32_of(length)};
	size_t head = nbd_reply_chunk(out, to, NBD_REPLY_TYPE_OFFSET_HOLE, last, sizeof(payload));

	memcpy(out + head, &payload, sizeof(payload));
	return head + sizeof(payload);
}

/* An error chunk up to its message, with `more` bytes to come behind that. */
static size_t error_chunk(uint8_t *out, const struct nbd_reply_to *to, uint16_t type, bool last,
			  uint32_t error, const char *message, size_t more)
{
	size_t length = message ? strnlen(message, NBD_REPLY_MESSAGE_BYTES) : 0;
	struct error_payload payload = {be32_of(error), be16_of(length)};
	size_t at = nbd_reply_chunk(out, to, type, last, sizeof(payload) + length + more);

	memcpy(out + at, &payload, sizeof(payload));
	at += sizeof(payload);
	if (length)
		memcpy(out + at, message, length);
	return at + length;
}

size_t nbd_reply_error(uint8_t *out, const struct nbd_reply_to *to, uint32_t error,
		       const char *message)
{
	if (to->mode == NBD_MODE_SIMPLE)
		return nbd_reply_simple(out, to->cookie, error);
	return error_chunk(out, to, NBD_REPLY_TYPE_ERROR, true, error, message, 0);
}

size_t nbd_reply_error_at(uint8_t *out, const struct nbd_reply_to *to, bool last, uint32_t error,
			  uint64_t offset, const char *message)
{
	be64 wire = be64_of(offset);
	size_t at;

	if (to->mode == NBD_MODE_SIMPLE)
		return nbd_reply_simple(out, to->cookie, error);
	at = error_chunk(out, to, NBD_REPLY_TYPE_ERROR_OFFSET, last, error, message, sizeof(wire));
	memcpy(out + at, &wire, sizeof(wire));
	return at + sizeof(wire);
}

static void put_descriptor(uint8_t *out, enum nbd_mode mode, const struct nbd_extent *extent)
{
	if (mode == NBD_MODE_EXTENDED) {
		struct extended_descriptor wire = {be64_of(extent->length), be64_of(extent->flags)};

		memcpy(out, &wire, sizeof(wire));
	} else {
		struct compact_descriptor wire = {be32_of(extent->length), be32_of(extent->flags)};

		memcpy(out, &wire, sizeof(wire));
	}
}

/*
 * Takes the run of one status that begins with extents[*index]; false: there is none. A run that is
 * too long for its field is cut, and then must be the chunk's last.
 */
static bool next_run(const struct nbd_extent *extents, unsigned count, unsigned *index,
		     uint64_t bound, struct nbd_extent *run)
{
	*run = (struct nbd_extent){0};
	for (; *index < count; ++*index) {
		const struct nbd_extent *extent = &extents[*index];

		if (!extent->length)
			continue;
		if (run->length && run->flags != extent->flags)
			break;
		run->flags = extent->flags;
		run->length =
			extent->length < bound - run->length ? run->length + extent->length : bound;
	}
	return run->length;
}

size_t nbd_reply_status(uint8_t *out, size_t room, const struct nbd_reply_to *to, bool last,
			uint32_t context_id, const struct nbd_status_filter *filter,
			const struct nbd_extent *extents, unsigned count)
{
	bool extended = to->mode == NBD_MODE_EXTENDED;
	size_t each =
		extended ? sizeof(struct extended_descriptor) : sizeof(struct compact_descriptor);
	size_t start = nbd_reply_status_bytes(to->mode, 0), most = (room - start) / each;
	uint64_t bound = extended ? UINT64_MAX : MAX_COMPACT_EXTENT_BYTES, told = 0;
	unsigned index = 0, written = 0;
	struct nbd_extent run;
	be32 wire;

	most = MIN_OF(most, (size_t)NBD_REPLY_MAX_EXTENTS);
	if (filter->one) {
		most = 1;
		bound = MIN_OF(bound, filter->length);
	}
	while (written < most && told < filter->length &&
	       next_run(extents, count, &index, bound, &run)) {
		put_descriptor(out + start + written++ * each, to->mode, &run);
		if (run.length == bound)
			break;
		told += run.length;
	}
	if (!written)
		return 0;
	start = nbd_reply_chunk(
		out, to, extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS,
		last, (extended ? 8 : 4) + written * each);
	wire = be32_of(context_id);
	memcpy(out + start, &wire, sizeof(wire));
	wire = be32_of(written);
	if (extended)
		memcpy(out + start + 4, &wire, sizeof(wire));
	return nbd_reply_status_bytes(to->mode, written);
}

/* Marks the context of this id; false: there is none, or it was named before. */
static bool select_id(uint32_t id, const struct nbd_context *contexts, unsigned count,
		      uint32_t *selected)
{
	for (unsigned i = 0; i < count; i++) {
		if (contexts[i].id == id && !(*selected & 1u << i)) {
			*selected |= 1u << i;
			return true;
		}
	}
	return false;
}

uint32_t nbd_status_filter_parse(const struct nbd_command_request *request, const uint8_t *payload,
				 const struct nbd_limits *limits,
				 const struct nbd_context *contexts, unsigned context_count,
				 struct nbd_status_filter *filter, const char **message)
{
	uint64_t length;
	be64 wire;
	be32 id;

	filter->one = request->flags & NBD_CMD_FLAG_REQ_ONE;
	filter->length = request->length;
	filter->selected = (1u << context_count) - 1;
	if (!request->payload)
		return NBD_SUCCESS;
	memcpy(&wire, payload, sizeof(wire));
	length = be64_get(wire);
	filter->length = length;
	filter->selected = 0;
	for (size_t at = sizeof(wire); at < request->payload; at += sizeof(id)) {
		memcpy(&id, payload + at, sizeof(id));
		if (!select_id(be32_get(id), contexts, context_count, &filter->selected)) {
			*message = "a context id is unknown or named twice";
			return NBD_EINVAL;
		}
	}
	if (!length || request->offset > limits->size || length > limits->size - request->offset ||
	    (request->offset | length) & limits->block_mask) {
		*message = "the range is empty, unaligned or exceeds the export";
		return NBD_EINVAL;
	}
	return NBD_SUCCESS;
}
