/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz_rpc: any bytes as a client's stream. The first byte chooses how the rest is cut into pieces.
 * Beyond not crashing and not leaking it checks that the cuts make no difference: whole and in
 * pieces the stream gets the same answers, each a line of valid JSON.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/log.h"
#include "lib/rpc/rpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HELD_MAX = 64 };

struct every_params {
	const char *text, *colour, *uuid;
	uint64_t count, size;
	int64_t offset;
	double ratio;
	bool flag;
	json_t *names, *options;
};

struct client {
	struct rpc_session *session;
	char *sent;
	size_t sent_bytes;
	struct rpc_call *held[HELD_MAX];
	unsigned held_count;
};

static struct client *now; /* whose bytes are being fed */

static const char *const colours[] = {"red", "green", NULL};

#define AT(member) offsetof(struct every_params, member)

static const struct rpc_param every_params[] = {
	{.name = "text", .type = RPC_STRING, .offset = AT(text), .required = true, .max = 16},
	{.name = "count", .type = RPC_U64, .offset = AT(count), .min = 1, .def = "7"},
	{.name = "offset", .type = RPC_I64, .offset = AT(offset), .smin = -9, .smax = 9},
	{.name = "flag", .type = RPC_BOOL, .offset = AT(flag)},
	{.name = "ratio", .type = RPC_DOUBLE, .offset = AT(ratio)},
	{.name = "size", .type = RPC_SIZE, .offset = AT(size), .def = "\"1M\""},
	{.name = "colour", .type = RPC_ENUM, .offset = AT(colour), .values = colours},
	{.name = "uuid", .type = RPC_UUID, .offset = AT(uuid)},
	{.name = "names", .type = RPC_STRINGS, .offset = AT(names)},
	{.name = "options", .type = RPC_OBJECT, .offset = AT(options)},
	{.name = "md_size", .type = RPC_OFF},
};

static void every(struct rpc_call *call, const void *decoded)
{
	const struct every_params *params = decoded;
	rpc_reply(call,
		  json_pack("{s:s, s:I, s:f, s:s?, s:O?, s:O?}", "text", params->text, "count",
			    (json_int_t)params->count, "ratio", params->ratio, "uuid", params->uuid,
			    "names", params->names, "options", params->options));
}

/* Answered when the client has closed, or at once where too many wait. */
static void hold(struct rpc_call *call, const void *params)
{
	if (now->held_count == HELD_MAX)
		rpc_error(call, -16, "busy");
	else
		now->held[now->held_count++] = call;
}

static const struct rpc_method methods[] = {
	{.name = "e",
	 .params = every_params,
	 .param_count = sizeof(every_params) / sizeof(every_params[0]),
	 .params_bytes = sizeof(struct every_params),
	 .handler = every},
	{.name = "h", .handler = hold},
	{.name = "a", .alias_of = "e"},
};
static const struct rpc_table tables[] = {{methods, 3}, {NULL, 0}};

static void collect(void *arg, const char *bytes, size_t count)
{
	struct client *client = arg;
	if (!count)
		return;
	json_t *value = json_loadb(bytes, count, 0, NULL);
	if (!value || bytes[count - 1] != '\n')
		abort();
	json_decref(value);
	client->sent = realloc(client->sent, client->sent_bytes + count);
	memcpy(client->sent + client->sent_bytes, bytes, count);
	client->sent_bytes += count;
}

static void talk(struct rpc_server *server, struct client *client, const uint8_t *data, size_t size,
		 size_t piece)
{
	now = client;
	client->session = rpc_session_open(server, collect, client);
	int error = 0;
	for (size_t at = 0; at < size && !error; at += piece) {
		size_t count = piece < size - at ? piece : size - at;
		error = rpc_session_feed(client->session, (const char *)data + at, count);
	}
	/* half of what is held is answered before the client goes, half after */
	for (unsigned i = 0; i < client->held_count; i++) {
		if (i == client->held_count / 2)
			rpc_session_close(client->session);
		rpc_reply(client->held[i], NULL);
	}
	if (!client->held_count)
		rpc_session_close(client->session);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct client whole = {0}, cut = {0};
	if (!size)
		return 0;
	log_set_level(LOG_DISABLED);
	struct rpc_server *server = rpc_server_create(tables);
	if (!server)
		abort();
	talk(server, &whole, data + 1, size - 1, size);
	talk(server, &cut, data + 1, size - 1, data[0] % 64 + 1);
	if (whole.sent_bytes != cut.sent_bytes || whole.held_count != cut.held_count ||
	    (whole.sent_bytes && memcmp(whole.sent, cut.sent, whole.sent_bytes)))
		abort();
	rpc_server_destroy(server);
	free(whole.sent);
	free(cut.sent);
	return 0;
}
