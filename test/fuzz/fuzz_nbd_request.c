/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz_nbd_request: any bytes as a client's transmission, in all three modes. The first two bytes
 * choose the mode and the export; then come requests with their payloads. What passes the check
 * must be harmless to carry out, and each reply to it readable by the client's parser.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/nbd/client_reply.h"
#include "lib/nbd/reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OUT_BYTES = 4096, EXTENTS = 8 };

static const struct nbd_context contexts[] = {{"a:a", 0, 1}, {"b:b", 1, 2}, {"c:c", 2, 3}};

static void check(bool good)
{
	if (!good)
		abort();
}

static bool lookup(void *arg, uint64_t cookie, struct nbd_pending *pending)
{
	*pending = *(const struct nbd_pending *)arg;
	return true;
}

/* Lets the client's parser read a reply; it must be whole, and end if `last`. */
static void read_back(const uint8_t *out, size_t length, enum nbd_mode mode,
		      struct nbd_pending *pending, bool last)
{
	static struct nbd_parser parser;
	struct nbd_event event;
	enum nbd_event_kind kind;
	bool done = false;
	size_t taken;

	nbd_parser_init(&parser, mode, lookup, pending);
	while ((kind = nbd_parser_feed(&parser, out, length, &taken, &event)) != NBD_EVENT_MORE) {
		check(kind != NBD_EVENT_BROKEN);
		done |= kind == NBD_EVENT_DONE;
		out += taken;
		length -= taken;
		/* the data itself is not there */
		nbd_parser_skip(&parser, nbd_parser_data_left(&parser));
	}
	check(done == last && !length && parser.state == NBD_PS_HEAD);
}

static void answer_error(const struct nbd_command_request *request, const struct nbd_limits *limits,
			 uint32_t error, const char *message)
{
	struct nbd_reply_to to = nbd_reply_to(request, limits->mode);
	struct nbd_pending pending = {request->type, request->offset, request->length};
	uint8_t out[NBD_REPLY_ERROR_BYTES];

	check(message && *message);
	read_back(out, nbd_reply_error(out, &to, error, message), limits->mode, &pending, true);
}

static void answer_status(const struct nbd_command_request *request, const uint8_t *payload,
			  const struct nbd_limits *limits)
{
	struct nbd_reply_to to = nbd_reply_to(request, limits->mode);
	struct nbd_pending pending = {request->type, request->offset, request->length};
	struct nbd_extent extents[EXTENTS];
	struct nbd_status_filter filter;
	const char *message = NULL;
	uint8_t out[OUT_BYTES];
	size_t length;
	uint32_t error = nbd_status_filter_parse(request, payload, limits, contexts,
						 COUNT_OF(contexts), &filter, &message);

	if (error) {
		answer_error(request, limits, error, message);
		return;
	}
	check(filter.length && filter.length <= limits->size - request->offset);
	check(filter.selected && filter.selected < 1u << COUNT_OF(contexts));
	/* extents as wild as the request */
	for (unsigned i = 0; i < EXTENTS; i++)
		extents[i] = (struct nbd_extent){request->cookie >> i * 8 << (i & 1 ? 40 : 0),
						 request->cookie >> i & 3};
	length =
		nbd_reply_status(out, nbd_reply_status_bytes(limits->mode, 1 + request->cookie % 9),
				 &to, true, 1, &filter, extents, EXTENTS);
	check(length <= nbd_reply_status_bytes(limits->mode, 1 + request->cookie % 9));
	if (length)
		read_back(out, length, limits->mode, &pending, true);
}

static void answer(const struct nbd_command_request *request, const uint8_t *payload,
		   const struct nbd_limits *limits)
{
	struct nbd_reply_to to = nbd_reply_to(request, limits->mode);
	struct nbd_pending pending = {request->type, request->offset, request->length};
	uint8_t out[NBD_REPLY_ERROR_BYTES];
	size_t length;

	if (request->type == NBD_CMD_DISC)
		return;
	if (request->type == NBD_CMD_BLOCK_STATUS) {
		answer_status(request, payload, limits);
		return;
	}
	check(request->type == NBD_CMD_FLUSH ||
	      (request->length && request->offset < limits->size &&
	       request->length <= limits->size - request->offset));
	check(request->payload <= limits->max_payload);
	check(request->type == NBD_CMD_WRITE ? request->payload == request->length
					     : !request->payload);
	if (request->type != NBD_CMD_READ) {
		read_back(out, nbd_reply_done(out, &to), limits->mode, &pending, true);
		return;
	}
	check(request->length <= limits->max_payload);
	length = nbd_reply_data(out, &to, true, request->offset, request->length);
	read_back(out, length, limits->mode, &pending, true);
	if (limits->mode == NBD_MODE_SIMPLE)
		return;
	length = nbd_reply_hole(out, &to, false, request->offset, request->length);
	read_back(out, length, limits->mode, &pending, false);
	length = nbd_reply_error_at(out, &to, true, NBD_EIO, request->offset + request->length - 1,
				    "a message");
	read_back(out, length, limits->mode, &pending, true);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nbd_limits limits;

	if (size < 2)
		return 0;
	limits = (struct nbd_limits){
		.size = data[0] & 0x80 ? INT64_MAX : 1 << 20,
		.max_payload = data[0] & 0x40 ? 512 : 64 << 20,
		.transmission_flags = data[1] << 5 | 0xd | (data[0] & 0x20 ? 2 : 0),
		.mode = data[0] % 3,
		.contexts = data[0] & 0x10,
		.block_mask = data[0] & 8 ? 511 : 0,
	};
	data += 2;
	size -= 2;
	while (size >= nbd_request_bytes(limits.mode)) {
		struct nbd_command_request request;
		const char *message = NULL;
		bool fatal = false;
		uint32_t error;

		if (!nbd_request_decode(data, limits.mode, &request))
			return 0;
		data += nbd_request_bytes(limits.mode);
		size -= nbd_request_bytes(limits.mode);
		error = nbd_request_check(&request, &limits, &fatal, &message);
		check(error || !fatal);
		check(fatal || request.type == NBD_CMD_DISC || request.payload <= 128 << 20);
		if (error)
			answer_error(&request, &limits, error, message);
		/* only a BLOCK_STATUS looks into its payload */
		else if (request.type != NBD_CMD_BLOCK_STATUS || request.payload <= size)
			answer(&request, data, &limits);
		if (fatal || request.type == NBD_CMD_DISC || request.payload > size)
			return 0;
		data += request.payload;
		size -= request.payload;
	}
	return 0;
}
