/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * request: decoding and checking of one transmission request. Pure, inline: the hot path.
 * Source: proto.md, "Request message", "Request types", "Command flags", "Error values".
 */
#ifndef POLLUX_LIB_NBD_REQUEST_H
#define POLLUX_LIB_NBD_REQUEST_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/nbd/proto.h"
#include "lib/nbd/server.h"

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
};

static inline size_t nbd_request_bytes(enum nbd_mode mode)
{
	return mode == NBD_MODE_EXTENDED ? sizeof(struct nbd_extended_request)
					 : sizeof(struct nbd_request);
}

/*
 * Decodes nbd_request_bytes(mode) bytes. Returns false on a wrong magic: the stream can not be
 * followed any more, the connection ends.
 */
bool nbd_request_decode(const uint8_t *bytes, enum nbd_mode mode, struct nbd_command_request *request);

/*
 * Whether the request may be carried out: 0 or the error to answer (enum nbd_error). Either way
 * request->payload bytes must be consumed; *fatal says that they can not be (a payload beyond what
 * the server is willing to read): the connection ends after the error. *message: a constant
 * sentence for structured error replies, set where the result is not 0.
 */
uint32_t nbd_request_check(const struct nbd_command_request *request, const struct nbd_limits *limits,
			   bool *fatal, const char **message);

#endif
