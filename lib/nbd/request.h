/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * request: decoding and checking of one transmission request. Pure; any thread. The good path of
 * READ and WRITE is inline, since every request takes it; all else is in request.c.
 * Source: proto.md, "Request message", "Request types", "Command flags", "Error values".
 */
#ifndef POLLUX_LIB_NBD_REQUEST_H
#define POLLUX_LIB_NBD_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "lib/base/compiler.h"
#include "lib/nbd/proto.h"
#include "lib/nbd/server.h"

enum {
	/* A payload this much beyond the limit is still read and dropped; a longer one is fatal. */
	NBD_MAX_DRAIN_BYTES = 64 << 20,
	/* No client with extended headers is cut off for a payload up to this, whatever the limit.
	 */
	NBD_PORTABLE_PAYLOAD_BYTES = 32 << 20,
};

/* A request in host order; `cookie` stays as it came. */
struct nbd_command_request {
	uint64_t cookie; /* wire order */
	uint64_t offset, length;
	uint16_t flags, type;
	uint64_t payload; /* bytes that follow the header */
};

/* What a connection may do, fixed when transmission begins. */
struct nbd_limits {
	uint64_t size;	      /* as this client was told */
	uint32_t max_payload; /* bytes */
	uint16_t transmission_flags;
	enum nbd_mode mode;
	bool contexts; /* BLOCK_STATUS was negotiated */
	uint32_t
		block_mask; /* minimum block - 1, where the client promised to keep to it; 0: any */
};

static inline size_t nbd_request_bytes(enum nbd_mode mode)
{
	return mode == NBD_MODE_EXTENDED ? sizeof(struct nbd_extended_request)
					 : sizeof(struct nbd_request);
}

static inline uint32_t nbd_request_magic(enum nbd_mode mode)
{
	return unlikely(mode == NBD_MODE_EXTENDED) ? NBD_MAGIC_EXTENDED_REQUEST : NBD_MAGIC_REQUEST;
}

/*
 * Decodes nbd_request_bytes(mode) bytes. Returns false on a wrong magic: the stream can not be
 * followed any more, the connection ends.
 */
static inline bool nbd_request_decode(const uint8_t *bytes, enum nbd_mode mode,
				      struct nbd_command_request *request)
{
	/* both headers begin alike, and offset and cookie stand at the same places */
	const struct nbd_request *compact = (const void *)bytes;
	const struct nbd_extended_request *extended = (const void *)bytes;
	uint64_t head = be64_get(*(const be64 *)bytes);

	request->flags = head >> 16;
	request->type = head;
	request->cookie = compact->cookie.raw;
	request->offset = be64_get(compact->offset);
	if (unlikely(mode == NBD_MODE_EXTENDED)) {
		request->length = be64_get(extended->length);
		request->payload = request->flags & NBD_CMD_FLAG_PAYLOAD_LEN ? request->length : 0;
		return head >> 32 == NBD_MAGIC_EXTENDED_REQUEST;
	}
	request->length = be32_get(compact->length);
	request->payload = request->type == NBD_CMD_WRITE ? request->length : 0;
	return head >> 32 == NBD_MAGIC_REQUEST;
}

/*
 * Whether it is a READ or WRITE that may be carried out and has no flag: what nearly every request
 * is. False: nbd_request_check() knows more.
 */
static inline bool nbd_request_is_plain(const struct nbd_command_request *request,
					const struct nbd_limits *limits)
{
	uint16_t plain = 0;

	if (request->type == NBD_CMD_WRITE) {
		if (unlikely(limits->transmission_flags & NBD_FLAG_READ_ONLY))
			return false;
		if (unlikely(limits->mode == NBD_MODE_EXTENDED))
			plain = NBD_CMD_FLAG_PAYLOAD_LEN;
	}
	/* length - 1 wraps for a length of 0, and so fails with those that are too long */
	return request->type <= NBD_CMD_WRITE && request->flags == plain &&
	       request->length - 1 < limits->max_payload && request->offset <= limits->size &&
	       request->length <= limits->size - request->offset &&
	       !((request->offset | request->length) & limits->block_mask);
}

/*
 * The error that a client which sent such a request is told of a status. Some errors are answers to
 * certain requests only: from a bdev that fails otherwise with them, they say something else.
 */
uint32_t nbd_request_error(uint16_t type, uint16_t flags, int status);

/* The error for a range beyond the end, of a command that acts on one. Any thread. */
uint32_t nbd_request_past_end(const struct nbd_command_request *request);

/*
 * Whether the request may be carried out: 0 or the error to answer (enum nbd_error). Either way
 * request->payload bytes must be consumed; *fatal says that they can not be (a payload beyond what
 * the server is willing to read): the connection ends after the error. *message: a constant
 * sentence for structured error replies, set where the result is not 0.
 *
 * A length of 0 is refused, except for FLUSH (where it must be 0) and DISC (where nothing is
 * checked, since it is never answered). A BLOCK_STATUS with a payload passes if the payload may be
 * a filter at all; its content and effect length are for nbd_status_filter_parse() (reply.h).
 */
uint32_t nbd_request_check(const struct nbd_command_request *request,
			   const struct nbd_limits *limits, bool *fatal, const char **message);

#endif
