/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * client: the client's side of the handshake. One option is under way at a time; ask_next() chooses
 * the next from what is wanted and not yet asked, so that the answers decide the course. Whatever a
 * server sends is checked before it is believed. One owner core.
 */
#include "lib/nbd/client.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/compiler.h"

enum {
	EXPORT_ANSWER_BYTES = 10,
	EXPORT_ZEROES_BYTES = 124,
	DEFAULT_MIN_BLOCK_BYTES = 1,
	DEFAULT_PREFERRED_BLOCK_BYTES = 4096,
	DEFAULT_MAX_PAYLOAD_BYTES = 32 << 20,
	MAX_MIN_BLOCK_BYTES = 64 << 10,
	MAX_REPLIES = 4096, /* of one handshake: no server may keep a client for ever */
};

#define OLDSTYLE_MAGIC 0x00420281861253ull

static enum nbd_client_result fail(struct nbd_client *client, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static enum nbd_client_result fail(struct nbd_client *client, int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(client->reason, sizeof(client->reason), format, arguments);
	va_end(arguments);
	client->error = error;
	return NBD_CLIENT_FAILED;
}

static void send_option(struct nbd_client *client, uint32_t option, uint32_t length)
{
	struct nbd_option_header header = {
		.magic = be64_of(NBD_MAGIC_OPTION),
		.option = be32_of(option),
		.length = be32_of(length),
	};

	client->send(client->arg, &header, sizeof(header));
	client->option = option;
	if (option < 32)
		client->asked |= 1u << option;
	client->have = 0;
	client->state = NBD_CS_REPLY;
}

/* A failure after which both sides still understand each other: takes leave first. */
static enum nbd_client_result leave(struct nbd_client *client, enum nbd_client_result result)
{
	send_option(client, NBD_OPT_ABORT, 0);
	return result;
}

static void send_u32(struct nbd_client *client, uint32_t value)
{
	be32 wire = be32_of(value);

	client->send(client->arg, &wire, sizeof(wire));
}

static void send_string(struct nbd_client *client, const char *string)
{
	send_u32(client, strlen(string));
	client->send(client->arg, string, strlen(string));
}

static void ask_contexts(struct nbd_client *client)
{
	const struct nbd_client_config *config = &client->config;
	uint32_t length = 4 + strlen(config->export_name) + 4;

	for (unsigned i = 0; i < config->context_count; i++)
		length += 4 + strlen(config->contexts[i]);
	send_option(client, NBD_OPT_SET_META_CONTEXT, length);
	send_string(client, config->export_name);
	send_u32(client, config->context_count);
	for (unsigned i = 0; i < config->context_count; i++)
		send_string(client, config->contexts[i]);
}

static void ask_go(struct nbd_client *client)
{
	struct NBD_PACKED {
		be16 count, info;
	} wire = {be16_of(1), be16_of(NBD_INFO_BLOCK_SIZE)};

	send_option(client, NBD_OPT_GO, 4 + strlen(client->config.export_name) + sizeof(wire));
	send_string(client, client->config.export_name);
	client->send(client->arg, &wire, sizeof(wire));
}

static void ask_export_name(struct nbd_client *client)
{
	size_t length = strlen(client->config.export_name);

	send_option(client, NBD_OPT_EXPORT_NAME, length);
	client->send(client->arg, client->config.export_name, length);
	client->state = NBD_CS_EXPORT;
}

static bool was_asked(const struct nbd_client *client, enum nbd_option option)
{
	return client->asked & 1u << option;
}

/* Sends the next option that is wanted and was not sent yet. */
static void ask_next(struct nbd_client *client)
{
	const struct nbd_client_config *config = &client->config;

	if (!client->fixed || was_asked(client, NBD_OPT_GO))
		ask_export_name(client);
	else if (config->tls != NBD_CLIENT_TLS_OFF && !was_asked(client, NBD_OPT_STARTTLS))
		send_option(client, NBD_OPT_STARTTLS, 0);
	else if (config->mode == NBD_MODE_EXTENDED && !was_asked(client, NBD_OPT_EXTENDED_HEADERS))
		send_option(client, NBD_OPT_EXTENDED_HEADERS, 0);
	else if (config->mode != NBD_MODE_SIMPLE && client->mode == NBD_MODE_SIMPLE &&
		 !was_asked(client, NBD_OPT_STRUCTURED_REPLY))
		send_option(client, NBD_OPT_STRUCTURED_REPLY, 0);
	else if (config->context_count && client->mode != NBD_MODE_SIMPLE &&
		 !was_asked(client, NBD_OPT_SET_META_CONTEXT))
		ask_contexts(client);
	else
		ask_go(client);
}

static enum nbd_client_result take_greeting(struct nbd_client *client)
{
	struct nbd_greeting greeting;
	uint16_t flags;

	memcpy(&greeting, client->header, sizeof(greeting));
	if (be64_get(greeting.magic) != NBD_MAGIC_INIT)
		return fail(client, -EPROTO, "this is no NBD server");
	if (be64_get(greeting.option_magic) == OLDSTYLE_MAGIC)
		return fail(client, -EPROTONOSUPPORT,
			    "the server knows only the oldstyle handshake");
	if (be64_get(greeting.option_magic) != NBD_MAGIC_OPTION)
		return fail(client, -EPROTO, "the server's greeting is unknown");
	flags = be16_get(greeting.flags) & (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	client->fixed = flags & NBD_FLAG_FIXED_NEWSTYLE;
	client->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
	if (!client->fixed && client->config.tls == NBD_CLIENT_TLS_REQUIRE)
		return fail(client, -EPROTONOSUPPORT, "the server cannot do TLS");
	send_u32(client, flags);
	ask_next(client);
	return NBD_CLIENT_MORE;
}

/* The errno for an option error, and the words for it. */
static int error_of_reply(uint32_t type, const char **words)
{
	static const struct {
		uint32_t type;
		int error;
		const char *words;
	} table[] = {
		{NBD_REP_ERR_UNSUP, -EOPNOTSUPP, "the server does not know the option"},
		{NBD_REP_ERR_POLICY, -EACCES, "the server denies it"},
		{NBD_REP_ERR_INVALID, -EINVAL, "the server finds the request invalid"},
		{NBD_REP_ERR_PLATFORM, -EOPNOTSUPP, "the server's platform cannot do it"},
		{NBD_REP_ERR_TLS_REQD, -EACCES, "the server requires TLS"},
		{NBD_REP_ERR_UNKNOWN, -ENOENT, "the server has no such export"},
		{NBD_REP_ERR_SHUTDOWN, -ESHUTDOWN, "the server is shutting down"},
		{NBD_REP_ERR_BLOCK_SIZE_REQD, -EINVAL, "the server insists on its block sizes"},
		{NBD_REP_ERR_TOO_BIG, -E2BIG, "the server finds the request too big"},
		{NBD_REP_ERR_EXT_HEADER_REQD, -EACCES, "the server requires extended headers"},
	};

	for (size_t i = 0; i < COUNT_OF(table); i++) {
		if (table[i].type == type) {
			*words = table[i].words;
			return table[i].error;
		}
	}
	*words = "the server answers with an unknown error";
	return -EIO;
}

/* Gives up after an error reply; the server's own words go into the reason. */
static enum nbd_client_result give_up(struct nbd_client *client)
{
	const char *words;
	char text[160];
	int error = error_of_reply(client->type, &words);
	size_t length = MIN_OF((size_t)client->length, sizeof(text) - 1);

	for (size_t i = 0; i < length; i++)
		text[i] = iscntrl(client->data[i]) ? '?' : (char)client->data[i];
	text[length] = '\0';
	fail(client, error, length ? "%s: %s" : "%s", words, text);
	return leave(client, NBD_CLIENT_FAILED);
}

static enum nbd_client_result malformed(struct nbd_client *client)
{
	return fail(client, -EPROTO,
		    "the server's reply of type %" PRIu32 " to option %" PRIu32 " is malformed",
		    client->type, client->option);
}

static bool is_power_of_two(uint32_t value)
{
	return value && !(value & (value - 1));
}

static enum nbd_client_result take_block_size(struct nbd_client *client)
{
	struct NBD_PACKED {
		be16 type;
		be32 min_block, preferred_block, max_payload;
	} wire;

	if (client->length != sizeof(wire))
		return malformed(client);
	memcpy(&wire, client->data, sizeof(wire));
	client->min_block = be32_get(wire.min_block);
	client->preferred_block = be32_get(wire.preferred_block);
	client->max_payload = be32_get(wire.max_payload);
	if (!is_power_of_two(client->min_block) || client->min_block > MAX_MIN_BLOCK_BYTES ||
	    !is_power_of_two(client->preferred_block) ||
	    client->preferred_block < client->min_block || client->max_payload < client->min_block)
		return fail(client, -EPROTO, "the server's block sizes make no sense");
	client->has_block_size = true;
	return NBD_CLIENT_MORE;
}

static enum nbd_client_result take_info(struct nbd_client *client)
{
	struct NBD_PACKED {
		be16 type;
		be64 size;
		be16 flags;
	} wire;
	be16 type;

	if (client->length < sizeof(type))
		return malformed(client);
	memcpy(&type, client->data, sizeof(type));
	if (be16_get(type) == NBD_INFO_BLOCK_SIZE)
		return take_block_size(client);
	if (be16_get(type) != NBD_INFO_EXPORT)
		return NBD_CLIENT_MORE;
	if (client->length != sizeof(wire))
		return malformed(client);
	memcpy(&wire, client->data, sizeof(wire));
	client->size = be64_get(wire.size);
	client->flags = be16_get(wire.flags);
	client->has_export = true;
	return NBD_CLIENT_MORE;
}

static enum nbd_client_result take_context(struct nbd_client *client)
{
	const struct nbd_client_config *config = &client->config;
	be32 id;

	if (client->length <= sizeof(id) || client->length > sizeof(id) + NBD_MAX_STRING_BYTES)
		return malformed(client);
	memcpy(&id, client->data, sizeof(id));
	for (unsigned i = 0; i < client->context_count; i++)
		if (client->contexts[i].id == be32_get(id))
			return NBD_CLIENT_MORE; /* told twice */
	for (unsigned i = 0; i < config->context_count; i++) {
		const char *name = config->contexts[i];

		if (strlen(name) != client->length - sizeof(id) ||
		    memcmp(name, client->data + sizeof(id), strlen(name)) != 0)
			continue;
		if (client->context_count == NBD_MAX_CONTEXTS)
			return malformed(client);
		client->contexts[client->context_count++] =
			(struct nbd_client_context){name, be32_get(id)};
		break;
	}
	return NBD_CLIENT_MORE;
}

/* The final, favourable reply to the option under way. */
static enum nbd_client_result take_ack(struct nbd_client *client)
{
	switch (client->option) {
	case NBD_OPT_STARTTLS:
		return NBD_CLIENT_STARTTLS;
	case NBD_OPT_GO:
		if (!client->has_export)
			return fail(client, -EPROTO, "the server told nothing about the export");
		return NBD_CLIENT_TRANSMIT;
	case NBD_OPT_EXTENDED_HEADERS:
		client->mode = NBD_MODE_EXTENDED;
		break;
	case NBD_OPT_STRUCTURED_REPLY:
		client->mode = NBD_MODE_STRUCTURED;
		break;
	default:
		break;
	}
	ask_next(client);
	return NBD_CLIENT_MORE;
}

/* The final, unfavourable reply: goes on without, or gives up. */
static enum nbd_client_result take_error(struct nbd_client *client)
{
	switch (client->option) {
	case NBD_OPT_STARTTLS:
		if (client->config.tls == NBD_CLIENT_TLS_REQUIRE)
			return give_up(client);
		break;
	case NBD_OPT_GO:
		/* EXPORT_NAME is for servers that do not know GO, and not for extended headers */
		if (client->type != NBD_REP_ERR_UNSUP || client->mode == NBD_MODE_EXTENDED)
			return give_up(client);
		client->has_block_size = false;
		break;
	default:
		if (client->type == NBD_REP_ERR_TLS_REQD || client->type == NBD_REP_ERR_SHUTDOWN)
			return give_up(client);
		client->context_count = 0;
		break;
	}
	ask_next(client);
	return NBD_CLIENT_MORE;
}

static enum nbd_client_result take_reply(struct nbd_client *client)
{
	client->have = 0;
	client->state = NBD_CS_REPLY;
	if (client->type & NBD_REP_FLAG_ERROR)
		return take_error(client);
	if (client->type == NBD_REP_ACK)
		return client->length ? malformed(client) : take_ack(client);
	if (client->type == NBD_REP_INFO && client->option == NBD_OPT_GO)
		return take_info(client);
	if (client->type == NBD_REP_META_CONTEXT && client->option == NBD_OPT_SET_META_CONTEXT)
		return take_context(client);
	return malformed(client);
}

static enum nbd_client_result take_reply_header(struct nbd_client *client)
{
	struct nbd_option_reply_header header;

	memcpy(&header, client->header, sizeof(header));
	if (be64_get(header.magic) != NBD_MAGIC_OPTION_REPLY)
		return fail(client, -EPROTO, "wrong magic in an option reply");
	if (be32_get(header.option) != client->option)
		return fail(client, -EPROTO,
			    "a reply to option %" PRIu32 " where %" PRIu32 " is under way",
			    be32_get(header.option), client->option);
	if (++client->replies > MAX_REPLIES)
		return fail(client, -EPROTO, "more than %d option replies", MAX_REPLIES);
	client->type = be32_get(header.type);
	client->length = be32_get(header.length);
	if (client->length > NBD_MAX_OPTION_BYTES)
		return fail(client, -EPROTO, "an option reply of %" PRIu32 " bytes",
			    client->length);
	client->have = 0;
	client->state = NBD_CS_DATA;
	return NBD_CLIENT_MORE;
}

static enum nbd_client_result take_export(struct nbd_client *client)
{
	struct NBD_PACKED {
		be64 size;
		be16 flags;
	} wire;

	memcpy(&wire, client->data, sizeof(wire));
	client->size = be64_get(wire.size);
	client->flags = be16_get(wire.flags);
	return NBD_CLIENT_TRANSMIT;
}

/* Gathers `want` bytes, of which the first `room` are kept; returns whether they are all there. */
static bool gather(struct nbd_client *client, uint8_t *into, uint32_t room, uint32_t want,
		   const uint8_t **bytes, size_t *count)
{
	size_t part = MIN_OF(*count, (size_t)(want - client->have));

	if (part && client->have < room)
		memcpy(into + client->have, *bytes, MIN_OF(part, (size_t)(room - client->have)));
	client->have += part;
	*bytes += part;
	*count -= part;
	return client->have == want;
}

static uint32_t export_answer_bytes(const struct nbd_client *client)
{
	return EXPORT_ANSWER_BYTES + (client->no_zeroes ? 0 : EXPORT_ZEROES_BYTES);
}

/* Does the next thing that is complete; false: more input is needed. */
static bool step(struct nbd_client *client, const uint8_t **bytes, size_t *count,
		 enum nbd_client_result *result)
{
	switch (client->state) {
	case NBD_CS_GREETING:
		if (!gather(client, client->header, sizeof(client->header),
			    sizeof(struct nbd_greeting), bytes, count))
			return false;
		*result = take_greeting(client);
		return true;
	case NBD_CS_REPLY:
		if (!gather(client, client->header, sizeof(client->header),
			    sizeof(struct nbd_option_reply_header), bytes, count))
			return false;
		*result = take_reply_header(client);
		return true;
	case NBD_CS_DATA:
		if (!gather(client, client->data, sizeof(client->data), client->length, bytes,
			    count))
			return false;
		*result = take_reply(client);
		return true;
	case NBD_CS_EXPORT:
		if (!gather(client, client->data, sizeof(client->data), export_answer_bytes(client),
			    bytes, count))
			return false;
		*result = take_export(client);
		return true;
	case NBD_CS_TLS:
		*result = NBD_CLIENT_STARTTLS;
		return true;
	case NBD_CS_DONE:
		*result = client->error ? NBD_CLIENT_FAILED : NBD_CLIENT_TRANSMIT;
		return true;
	}
	__builtin_unreachable();
}

int nbd_client_init(struct nbd_client *client, const struct nbd_client_config *config,
		    void (*send)(void *arg, const void *bytes, size_t count), void *arg)
{
	if (strlen(config->export_name) > NBD_MAX_STRING_BYTES)
		return -ENAMETOOLONG;
	if (config->context_count > NBD_MAX_CONTEXTS)
		return -E2BIG;
	for (unsigned i = 0; i < config->context_count; i++)
		if (strlen(config->contexts[i]) > NBD_MAX_STRING_BYTES)
			return -ENAMETOOLONG;
	memset(client, 0, sizeof(*client));
	client->config = *config;
	client->send = send;
	client->arg = arg;
	client->min_block = DEFAULT_MIN_BLOCK_BYTES;
	client->preferred_block = DEFAULT_PREFERRED_BLOCK_BYTES;
	client->max_payload = DEFAULT_MAX_PAYLOAD_BYTES;
	return 0;
}

enum nbd_client_result nbd_client_feed(struct nbd_client *client, const uint8_t *bytes,
				       size_t count, size_t *taken)
{
	enum nbd_client_result result = NBD_CLIENT_MORE;
	const uint8_t *start = bytes;

	while (result == NBD_CLIENT_MORE && step(client, &bytes, &count, &result))
		;
	if (result == NBD_CLIENT_TRANSMIT || result == NBD_CLIENT_FAILED)
		client->state = NBD_CS_DONE;
	else if (result == NBD_CLIENT_STARTTLS)
		client->state = NBD_CS_TLS;
	*taken = bytes - start;
	return result;
}

void nbd_client_tls_done(struct nbd_client *client)
{
	client->tls = true;
	client->have = 0;
	ask_next(client);
}
