/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server: cuts what a client sends during the handshake into flags, option headers and option data,
 * whatever pieces it arrives in. What an option means is decided in server_option.c. One owner
 * core. It never reads past the option that ends the handshake: those bytes belong to TLS or to
 * transmission.
 */
#include "lib/nbd/server.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/compiler.h"
#include "lib/nbd/server_option.h"

enum {
	CLIENT_FLAGS_BYTES = 4,
};

enum nbd_handshake_result nbd_handshake_end(struct nbd_handshake *hs, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(hs->reason, sizeof(hs->reason), format, arguments);
	va_end(arguments);
	return NBD_HANDSHAKE_CLOSE;
}

void nbd_handshake_init(struct nbd_handshake *hs, const struct nbd_server_config *config,
			const struct nbd_server_ops *ops, void *arg)
{
	struct nbd_greeting greeting = {
		.magic = be64_of(NBD_MAGIC_INIT),
		.option_magic = be64_of(NBD_MAGIC_OPTION),
		.flags = be16_of(NBD_FLAG_FIXED_NEWSTYLE |
				 (config->no_zeroes ? NBD_FLAG_NO_ZEROES : 0)),
	};

	memset(hs, 0, sizeof(*hs));
	hs->ops = ops;
	hs->arg = arg;
	hs->config = *config;
	ops->send(arg, &greeting, sizeof(greeting));
}

/* Gathers `want` bytes at `into`; returns whether they are all there. */
static bool gather(struct nbd_handshake *hs, uint8_t *into, uint32_t want, const uint8_t **bytes,
		   size_t *count)
{
	size_t part = MIN_OF(*count, (size_t)(want - hs->have));

	if (part)
		memcpy(into + hs->have, *bytes, part);
	hs->have += part;
	*bytes += part;
	*count -= part;
	return hs->have == want;
}

static enum nbd_handshake_result take_flags(struct nbd_handshake *hs)
{
	be32 wire;
	uint32_t flags, offered = NBD_FLAG_FIXED_NEWSTYLE;

	memcpy(&wire, hs->header, sizeof(wire));
	flags = be32_get(wire);
	if (hs->config.no_zeroes)
		offered |= NBD_FLAG_NO_ZEROES;
	if (flags & ~offered)
		return nbd_handshake_end(hs, "client flags 0x%" PRIx32 " were not offered",
					 flags & ~offered);
	hs->fixed = flags & NBD_FLAG_FIXED_NEWSTYLE;
	hs->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
	hs->state = NBD_HS_OPTION;
	hs->have = 0;
	return NBD_HANDSHAKE_MORE;
}

/* An option's header is in: decides what its data is good for. */
static enum nbd_handshake_result take_header(struct nbd_handshake *hs)
{
	struct nbd_option_header header;

	memcpy(&header, hs->header, sizeof(header));
	if (be64_get(header.magic) != NBD_MAGIC_OPTION)
		return nbd_handshake_end(hs, "wrong option magic 0x%" PRIx64,
					 be64_get(header.magic));
	if (++hs->options > NBD_MAX_OPTIONS)
		return nbd_handshake_end(hs, "more than %d options", NBD_MAX_OPTIONS);
	hs->option = be32_get(header.option);
	hs->length = be32_get(header.length);
	hs->have = 0;
	switch (nbd_option_judge(hs)) {
	case NBD_VERDICT_CLOSE:
		return NBD_HANDSHAKE_CLOSE;
	case NBD_VERDICT_SKIP:
		hs->state = NBD_HS_SKIP;
		return NBD_HANDSHAKE_MORE;
	case NBD_VERDICT_COLLECT:
		break;
	}
	hs->state = NBD_HS_DATA;
	if (hs->length) {
		hs->data = malloc(hs->length);
		if (!hs->data)
			return nbd_handshake_end(hs, "no memory for an option");
	}
	return NBD_HANDSHAKE_MORE;
}

static enum nbd_handshake_result take_data(struct nbd_handshake *hs)
{
	enum nbd_handshake_result result = nbd_option_answer(hs);

	free(hs->data);
	hs->data = NULL;
	hs->have = 0;
	hs->state = result == NBD_HANDSHAKE_STARTTLS ? NBD_HS_TLS : NBD_HS_OPTION;
	return result;
}

/* The data of a refused option is gone: answers it. */
static enum nbd_handshake_result take_skipped(struct nbd_handshake *hs)
{
	hs->have = 0;
	hs->state = NBD_HS_OPTION;
	if (hs->option == NBD_OPT_ABORT) {
		nbd_option_ack(hs);
		return nbd_handshake_end(hs, "the client aborted the handshake");
	}
	nbd_option_error(hs, hs->skip_reply, hs->skip_message);
	return NBD_HANDSHAKE_MORE;
}

/* Drops an option's data; returns whether it is all gone. */
static bool skip(struct nbd_handshake *hs, const uint8_t **bytes, size_t *count)
{
	size_t part = MIN_OF(*count, (size_t)(hs->length - hs->have));

	hs->have += part;
	*bytes += part;
	*count -= part;
	return hs->have == hs->length;
}

/* Does the next thing that is complete; false: more input is needed. */
static bool step(struct nbd_handshake *hs, const uint8_t **bytes, size_t *count,
		 enum nbd_handshake_result *result)
{
	switch (hs->state) {
	case NBD_HS_CLIENT_FLAGS:
		if (!gather(hs, hs->header, CLIENT_FLAGS_BYTES, bytes, count))
			return false;
		*result = take_flags(hs);
		return true;
	case NBD_HS_OPTION:
		if (!gather(hs, hs->header, sizeof(struct nbd_option_header), bytes, count))
			return false;
		*result = take_header(hs);
		return true;
	case NBD_HS_DATA:
		if (!gather(hs, hs->data, hs->length, bytes, count))
			return false;
		*result = take_data(hs);
		return true;
	case NBD_HS_SKIP:
		if (!skip(hs, bytes, count))
			return false;
		*result = take_skipped(hs);
		return true;
	case NBD_HS_TLS:
		*result = NBD_HANDSHAKE_STARTTLS;
		return true;
	case NBD_HS_DONE:
		*result = hs->transmit ? NBD_HANDSHAKE_TRANSMIT : NBD_HANDSHAKE_CLOSE;
		return true;
	}
	__builtin_unreachable();
}

enum nbd_handshake_result nbd_handshake_feed(struct nbd_handshake *hs, const uint8_t *bytes,
					     size_t count, size_t *taken)
{
	enum nbd_handshake_result result = NBD_HANDSHAKE_MORE;
	const uint8_t *start = bytes;

	while (result == NBD_HANDSHAKE_MORE && step(hs, &bytes, &count, &result))
		;
	if (result == NBD_HANDSHAKE_TRANSMIT || result == NBD_HANDSHAKE_CLOSE) {
		hs->transmit = result == NBD_HANDSHAKE_TRANSMIT;
		hs->state = NBD_HS_DONE;
	}
	*taken = bytes - start;
	return result;
}

void nbd_handshake_tls_done(struct nbd_handshake *hs)
{
	hs->tls = true;
	hs->mode = NBD_MODE_SIMPLE;
	nbd_contexts_forget(hs);
	hs->state = NBD_HS_OPTION;
	hs->have = 0;
}

void nbd_handshake_fini(struct nbd_handshake *hs)
{
	free(hs->data);
	hs->data = NULL;
	free(hs->context_export);
	hs->context_export = NULL;
	free(hs->context_names);
	hs->context_names = NULL;
}
