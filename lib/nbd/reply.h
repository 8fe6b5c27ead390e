/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * reply: builds the server's replies - simple, structured or extended, as was negotiated - into
 * bytes of the caller's. Pure; any thread. Every function returns how many bytes it wrote; what
 * follows them (the data of a READ) is the caller's to send.
 * Source: proto.md, "Simple reply message", "Structured reply types", "Extended reply chunk
 * message".
 */
#ifndef POLLUX_LIB_NBD_REPLY_H
#define POLLUX_LIB_NBD_REPLY_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/nbd/request.h"

enum {
	/* the longest of nbd_reply_done() without an error, _data() and _hole() */
	NBD_REPLY_HEAD_BYTES = 44,
	NBD_REPLY_MESSAGE_BYTES = 256, /* of an error's message; more is cut off */
	/* the longest of nbd_reply_error() and nbd_reply_error_at() */
	NBD_REPLY_ERROR_BYTES = 32 + 6 + NBD_REPLY_MESSAGE_BYTES + 8,
	/* of one status chunk, as the document asks */
	NBD_REPLY_MAX_EXTENTS = 1 << 20,
};

/* The request a reply is for. */
struct nbd_reply_to {
	uint64_t cookie; /* wire order */
	uint64_t offset; /* of the request */
	enum nbd_mode mode;
};

/* A run of bytes of one status, from where the one before ends. */
struct nbd_extent {
	uint64_t length, flags;
};

/* What a BLOCK_STATUS is to answer. */
struct nbd_status_filter {
	uint64_t length;   /* the effect length, bytes */
	uint32_t selected; /* bit i: nbd_handshake.contexts[i] */
	bool one;	   /* REQ_ONE */
};

static inline struct nbd_reply_to nbd_reply_to(const struct nbd_command_request *request,
					       enum nbd_mode mode)
{
	return (struct nbd_reply_to){request->cookie, request->offset, mode};
}

/*
 * A simple reply: in simple mode before the data of a READ too; with structured replies for
 * anything but READ; never with extended headers.
 */
static inline size_t nbd_reply_simple(uint8_t *out, uint64_t cookie, uint32_t error)
{
	struct nbd_simple_reply *wire = (void *)out;

	wire->magic = be32_of(NBD_MAGIC_SIMPLE_REPLY);
	wire->error = be32_of(error);
	wire->cookie.raw = cookie;
	return sizeof(*wire);
}

/* The header of a chunk; `length` bytes of payload follow. Not in simple mode. */
static inline size_t nbd_reply_chunk(uint8_t *out, const struct nbd_reply_to *to, uint16_t type,
				     bool last, uint32_t length)
{
	uint16_t flags = last ? NBD_REPLY_FLAG_DONE : 0;

	if (to->mode == NBD_MODE_EXTENDED) {
		struct nbd_extended_reply *wire = (void *)out;

		wire->magic = be32_of(NBD_MAGIC_EXTENDED_REPLY);
		wire->flags = be16_of(flags);
		wire->type = be16_of(type);
		wire->cookie.raw = to->cookie;
		wire->offset = be64_of(to->offset);
		wire->length = be64_of(length);
		return sizeof(*wire);
	}
	struct nbd_structured_reply *wire = (void *)out;

	wire->magic = be32_of(NBD_MAGIC_STRUCTURED_REPLY);
	wire->flags = be16_of(flags);
	wire->type = be16_of(type);
	wire->cookie.raw = to->cookie;
	wire->length = be32_of(length);
	return sizeof(*wire);
}

/*
 * What comes before `length` bytes (at least 1) read at `offset`. In simple mode the data must be
 * the whole of the request's, and nothing can be told about it any more.
 */
static inline size_t nbd_reply_data(uint8_t *out, const struct nbd_reply_to *to, bool last,
				    uint64_t offset, uint32_t length)
{
	size_t head;
	be64 wire = be64_of(offset);

	if (to->mode == NBD_MODE_SIMPLE)
		return nbd_reply_simple(out, to->cookie, NBD_SUCCESS);
	head = nbd_reply_chunk(out, to, NBD_REPLY_TYPE_OFFSET_DATA, last,
			       length + (uint32_t)sizeof(wire));
	memcpy(out + head, &wire, sizeof(wire));
	return head + sizeof(wire);
}

/* `length` zeroes (at least 1) at `offset`, without their bytes. Not in simple mode. */
size_t nbd_reply_hole(uint8_t *out, const struct nbd_reply_to *to, bool last, uint64_t offset,
		      uint32_t length);

/* The end of a reply that has no error (or told it in an earlier chunk) and no data. */
static inline size_t nbd_reply_done(uint8_t *out, const struct nbd_reply_to *to)
{
	if (to->mode == NBD_MODE_SIMPLE)
		return nbd_reply_simple(out, to->cookie, NBD_SUCCESS);
	return nbd_reply_chunk(out, to, NBD_REPLY_TYPE_NONE, true, 0);
}

/*
 * The end of a reply with an error, which concerns the whole of the request. `message` may be NULL;
 * it does not travel in simple mode. `out` has room for NBD_REPLY_ERROR_BYTES.
 */
size_t nbd_reply_error(uint8_t *out, const struct nbd_reply_to *to, uint32_t error,
		       const char *message);

/*
 * An error at one place of the request; others may follow unless it is the last. In simple mode the
 * place is not told. `out` has room for NBD_REPLY_ERROR_BYTES.
 */
size_t nbd_reply_error_at(uint8_t *out, const struct nbd_reply_to *to, bool last, uint32_t error,
			  uint64_t offset, const char *message);

/* The room that nbd_reply_status() needs for as many extents. */
static inline size_t nbd_reply_status_bytes(enum nbd_mode mode, unsigned extents)
{
	return mode == NBD_MODE_EXTENDED
		       ? sizeof(struct nbd_extended_reply) + 8 + (size_t)extents * 16
		       : sizeof(struct nbd_structured_reply) + 4 + (size_t)extents * 8;
}

/*
 * A status chunk of one metadata context from the extents that lie one behind the other from the
 * request's offset on. Neighbours of one status are merged, what begins beyond the effect length is
 * left out, REQ_ONE is heeded, and no more than `room` bytes (at least for one extent) are written.
 * Returns 0 if there is nothing to tell: no extent, or only empty ones. Not in simple mode.
 */
size_t nbd_reply_status(uint8_t *out, size_t room, const struct nbd_reply_to *to, bool last,
			uint32_t context_id, const struct nbd_status_filter *filter,
			const struct nbd_extent *extents, unsigned count);

/*
 * What a BLOCK_STATUS that passed nbd_request_check() asks about. `payload`: the request->payload
 * bytes that followed it, if any. Returns 0 or the error to answer, with a constant *message.
 */
uint32_t nbd_status_filter_parse(const struct nbd_command_request *request, const uint8_t *payload,
				 const struct nbd_limits *limits,
				 const struct nbd_context *contexts, unsigned context_count,
				 struct nbd_status_filter *filter, const char **message);

#endif
