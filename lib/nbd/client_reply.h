/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client_reply: what a client does in transmission - it builds requests, and cuts the server's
 * bytes into events, in simple, structured and extended mode. Pure: no socket, no allocation. One
 * owner core. The parser keeps nothing per request: it asks the owner what is pending, and checks
 * every chunk against that, so that a server can neither write outside of a READ's buffer nor
 * answer what was not asked. What it does not check is whether chunks of one reply overlap or leave
 * gaps.
 */
#ifndef POLLUX_LIB_NBD_CLIENT_REPLY_H
#define POLLUX_LIB_NBD_CLIENT_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "lib/nbd/proto.h"
#include "lib/nbd/server.h"

enum {
	NBD_CLIENT_REQUEST_BYTES = 32, /* the longest request, without its payload */
};

/*
 * Builds a request and returns its size, at most NBD_CLIENT_REQUEST_BYTES. `cookie` travels as it
 * stands in memory. `length` has at most 32 bits unless the mode is extended; PAYLOAD_LEN is set
 * for a WRITE in extended mode, and is the caller's to set for a BLOCK_STATUS with a filter
 * (`length` is the filter's size then).
 */
static inline size_t nbd_client_request(uint8_t *out, enum nbd_mode mode, uint16_t type,
					uint16_t flags, uint64_t cookie, uint64_t offset,
					uint64_t length)
{
	if (mode == NBD_MODE_EXTENDED) {
		struct nbd_extended_request *wire = (void *)out;

		if (type == NBD_CMD_WRITE)
			flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
		wire->magic = be32_of(NBD_MAGIC_EXTENDED_REQUEST);
		wire->flags = be16_of(flags);
		wire->type = be16_of(type);
		wire->cookie.raw = cookie;
		wire->offset = be64_of(offset);
		wire->length = be64_of(length);
		return sizeof(*wire);
	}
	struct nbd_request *wire = (void *)out;

	wire->magic = be32_of(NBD_MAGIC_REQUEST);
	wire->flags = be16_of(flags);
	wire->type = be16_of(type);
	wire->cookie.raw = cookie;
	wire->offset = be64_of(offset);
	wire->length = be32_of((uint32_t)length);
	return sizeof(*wire);
}

/* The payload of a BLOCK_STATUS with a filter: 8 + 4 * count bytes, returned. */
size_t nbd_client_filter(uint8_t *out, uint64_t length, const uint32_t *ids, unsigned count);

/* A request whose reply has not ended. */
struct nbd_pending {
	uint16_t type;
	uint64_t offset, length; /* bytes; of a BLOCK_STATUS with a filter the effect length */
};

enum nbd_event_kind {
	NBD_EVENT_MORE,	  /* all input taken, more is needed */
	NBD_EVENT_DATA,	  /* `length` bytes for `offset` follow, in any number of BYTES */
	NBD_EVENT_BYTES,  /* `count` of them at `bytes`, for `offset` */
	NBD_EVENT_HOLE,	  /* `length` zeroes at `offset` */
	NBD_EVENT_STATUS, /* extents of context `context` follow, from the request's offset on */
	NBD_EVENT_EXTENT, /* the next `length` bytes have status `flags` */
	NBD_EVENT_ERROR, /* the request failed with `error`, at `offset` if has_offset; `message` */
	NBD_EVENT_DONE,	 /* the reply has ended */
	NBD_EVENT_BROKEN, /* the server broke the protocol: close. `message` tells how */
};

/* Fields beyond kind and cookie are valid as the kind's comment says. */
struct nbd_event {
	enum nbd_event_kind kind;
	uint64_t cookie; /* as nbd_client_request() was given it */
	uint64_t offset, length, flags;
	uint32_t context;
	uint32_t error;	      /* enum nbd_error, never 0 */
	bool has_offset;      /* ERROR */
	const uint8_t *bytes; /* within the input */
	size_t count;
	const char *message; /* NUL-terminated, "" if none; valid until the next feed */
};

enum nbd_parser_state {
	NBD_PS_HEAD,	/* between messages; leaves when a header is in */
	NBD_PS_FIXED,	/* collects the fixed part of a chunk's payload */
	NBD_PS_DATA,	/* a READ's bytes pass by */
	NBD_PS_MESSAGE, /* collects an error's text */
	NBD_PS_TAIL,	/* collects what follows that text */
	NBD_PS_EXTENTS, /* collects descriptors, one after the other */
	NBD_PS_END,	/* the chunk is complete; DONE is due if it was the last */
	NBD_PS_BROKEN,	/* for good */
};

struct nbd_parser {
	enum nbd_mode mode;
	/* Tells of a pending request; false: there is none with this cookie. */
	bool (*lookup)(void *arg, uint64_t cookie, struct nbd_pending *pending);
	void *arg;
	/* ---- private ---- */
	enum nbd_parser_state state;
	bool last;     /* the chunk under way ends the reply */
	uint16_t type; /* of the chunk under way */
	uint64_t cookie;
	uint64_t left;	 /* bytes of its payload yet to come */
	uint64_t offset; /* of the next byte of data */
	uint32_t error;	 /* of the error chunk under way */
	uint16_t message_length;
	uint32_t have;		    /* bytes in buffer */
	struct nbd_pending pending; /* what the chunk under way answers */
	const char *broken;
	uint8_t buffer[32];
	char message[NBD_MAX_STRING_BYTES + 1];
};

void nbd_parser_init(struct nbd_parser *parser, enum nbd_mode mode,
		     bool (*lookup)(void *arg, uint64_t cookie, struct nbd_pending *pending),
		     void *arg);
/*
 * Takes bytes until there is something to tell, *taken tells how many. Call it again with the rest
 * until it tells MORE or BROKEN; an event may be due without any input.
 */
enum nbd_event_kind nbd_parser_feed(struct nbd_parser *parser, const uint8_t *bytes, size_t count,
				    size_t *taken, struct nbd_event *event);
/*
 * How many bytes of data come next. The owner may receive up to as many past the parser, straight
 * to where they belong, and then tell so with nbd_parser_skip().
 */
static inline uint64_t nbd_parser_data_left(const struct nbd_parser *parser)
{
	return parser->state == NBD_PS_DATA ? parser->left : 0;
}
void nbd_parser_skip(struct nbd_parser *parser, uint64_t count);

/* A reply that is good and ends with this message, as far as its header tells. */
struct nbd_good_reply {
	uint64_t cookie;
	uint64_t offset, length; /* of the data, in a chunk */
	uint32_t header_bytes;	 /* what stands before the data, or all of it */
	bool simple;		 /* data follows if it was a READ, as long as that */
	bool has_data;		 /* a chunk, and data follows */
};

/*
 * Looks at the head of the input for a reply of that kind, without taking it: a short cut for those
 * who find whole replies in their buffer. False: there is none, or the parser is in the middle of
 * something, or the mode is extended; then feed the parser. To take it, just go on behind it, once
 * nbd_good_reply_data() agrees for a READ, or has_data is false for others.
 */
static inline bool nbd_good_reply(const struct nbd_parser *parser, const uint8_t *bytes,
				  size_t count, struct nbd_good_reply *reply)
{
	const struct nbd_simple_reply *simple = (const void *)bytes;
	const struct nbd_structured_reply *chunk = (const void *)bytes;

	if (parser->state != NBD_PS_HEAD || parser->have || count < sizeof(*simple))
		return false;
	reply->has_data = false;
	reply->offset = reply->length = 0;
	if (be32_get(simple->magic) == NBD_MAGIC_SIMPLE_REPLY) {
		reply->cookie = simple->cookie.raw;
		reply->header_bytes = sizeof(*simple);
		/* where there are structured replies, a READ must not be answered by this */
		reply->simple = parser->mode == NBD_MODE_SIMPLE;
		return parser->mode != NBD_MODE_EXTENDED && !simple->error.raw;
	}
	if (parser->mode != NBD_MODE_STRUCTURED || count <= sizeof(*chunk) + sizeof(be64) ||
	    be32_get(chunk->magic) != NBD_MAGIC_STRUCTURED_REPLY ||
	    be16_get(chunk->flags) != NBD_REPLY_FLAG_DONE ||
	    be16_get(chunk->type) != NBD_REPLY_TYPE_OFFSET_DATA ||
	    be32_get(chunk->length) <= sizeof(be64))
		return false;
	reply->cookie = chunk->cookie.raw;
	reply->simple = false;
	reply->has_data = true;
	reply->header_bytes = sizeof(*chunk) + sizeof(be64);
	reply->offset = be64_get(*(const be64 *)(chunk + 1));
	reply->length = be32_get(chunk->length) - sizeof(be64);
	return true;
}

/* Whether a reply is the whole answer to a READ of these bytes. */
static inline bool nbd_good_reply_data(const struct nbd_good_reply *reply, uint64_t offset,
				       uint64_t length)
{
	return reply->simple ||
	       (reply->has_data && reply->offset == offset && reply->length == length);
}

#endif
