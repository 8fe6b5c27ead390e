/* SPDX-License-Identifier: BSD-3-Clause */
/* harness: test methods (echo, hold, fail, nothing) and the collecting session. */
#include "test/unit/rpc/harness.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct rpc_call *held[HELD_MAX];
unsigned held_count;
unsigned echo_calls;

static const char *const colours[] = {"red", "green", "blue", NULL};

#define AT(member) offsetof(struct echo_params, member)

static const struct rpc_param echo_params[] = {
	{.name = "text", .type = RPC_STRING, .offset = AT(text), .min = 1, .max = 8},
	{.name = "count",
	 .type = RPC_U64,
	 .offset = AT(count),
	 .min = 1,
	 .max = 1000,
	 .def = "5",
	 .unit = "blocks",
	 .help = "How many",
	 .present_offset = AT(count_given)},
	{.name = "offset",
	 .type = RPC_I64,
	 .offset = AT(offset),
	 .smin = -5,
	 .smax = 5,
	 .def = "-1"},
	{.name = "flag", .type = RPC_BOOL, .offset = AT(flag), .def = "true"},
	{.name = "ratio", .type = RPC_DOUBLE, .offset = AT(ratio), .def = "0.5"},
	{.name = "size", .type = RPC_SIZE, .offset = AT(size), .min = 512, .def = "\"64M\""},
	{.name = "colour",
	 .type = RPC_ENUM,
	 .offset = AT(colour),
	 .values = colours,
	 .def = "\"red\""},
	{.name = "uuid", .type = RPC_UUID, .offset = AT(uuid)},
	{.name = "names", .type = RPC_STRINGS, .offset = AT(names)},
	{.name = "options", .type = RPC_OBJECT, .offset = AT(options)},
	{.name = "md_size", .type = RPC_OFF},
};

static void echo(struct rpc_call *call, const void *decoded)
{
	const struct echo_params *params = decoded;
	echo_calls++;
	rpc_reply(call,
		  json_pack("{s:s?, s:I, s:I, s:b, s:f, s:I, s:s, s:s?, s:O?, s:O?, s:b}", "text",
			    params->text, "count", (json_int_t)params->count, "offset",
			    (json_int_t)params->offset, "flag", params->flag, "ratio",
			    params->ratio, "size", (json_int_t)params->size, "colour",
			    params->colour, "uuid", params->uuid, "names", params->names, "options",
			    params->options, "count_given", params->count_given));
}

struct hold_params {
	const char *text;
};

static const struct rpc_param hold_params[] = {
	{.name = "text",
	 .type = RPC_STRING,
	 .offset = offsetof(struct hold_params, text),
	 .required = true},
};

static void hold(struct rpc_call *call, const void *params)
{
	assert_ptr_equal(params, rpc_params(call));
	assert_true(held_count < HELD_MAX);
	rpc_set_context(call, &held[held_count]);
	held[held_count++] = call;
}

static void fail_busy(struct rpc_call *call, const void *params)
{
	rpc_param_error(call, "name", -EBUSY, "disk%d is in use", 7);
}

static void fail_cut(struct rpc_call *call, const void *params)
{
	rpc_error(call, -EIO, "a character cut in two: \xc3");
}

static void nothing(struct rpc_call *call, const void *params)
{
	rpc_reply(call, NULL);
}

static const struct rpc_method methods[] = {
	{.name = "echo",
	 .help = "Gives its parameters back.",
	 .params = echo_params,
	 .param_count = sizeof(echo_params) / sizeof(echo_params[0]),
	 .params_bytes = sizeof(struct echo_params),
	 .handler = echo,
	 .result = "its parameters"},
	{.name = "hold",
	 .params = hold_params,
	 .param_count = 1,
	 .params_bytes = sizeof(struct hold_params),
	 .handler = hold},
	{.name = "nothing", .handler = nothing},
};
static const struct rpc_method more_methods[] = {
	{.name = "fail_busy", .handler = fail_busy},
	{.name = "fail_cut", .handler = fail_cut},
	{.name = "old_echo", .alias_of = "echo"},
};

const struct rpc_table test_tables[] = {{methods, 3}, {more_methods, 3}, {NULL, 0}};

static void collect(void *arg, const char *bytes, size_t count)
{
	struct harness *harness = arg;
	if (!count) {
		harness->silent_ends++;
		return;
	}
	harness->sent = realloc(harness->sent, harness->sent_bytes + count);
	assert_non_null(harness->sent);
	memcpy(harness->sent + harness->sent_bytes, bytes, count);
	harness->sent_bytes += count;
	harness->sends++;
}

int harness_setup_with(void **state, const struct rpc_table *tables)
{
	struct harness *harness = calloc(1, sizeof(*harness));
	assert_non_null(harness);
	held_count = echo_calls = 0;
	harness->server = rpc_server_create(tables);
	assert_non_null(harness->server);
	harness->session = rpc_session_open(harness->server, collect, harness);
	assert_non_null(harness->session);
	*state = harness;
	return 0;
}

int harness_setup(void **state)
{
	return harness_setup_with(state, test_tables);
}

int harness_teardown(void **state)
{
	struct harness *harness = *state;
	if (harness->session)
		rpc_session_close(harness->session);
	rpc_server_destroy(harness->server);
	free(harness->sent);
	free(harness);
	return 0;
}

int feed(struct harness *harness, const char *text)
{
	return rpc_session_feed(harness->session, text, strlen(text));
}

json_t *take_sent(struct harness *harness)
{
	json_t *values = json_array();
	size_t at = 0;
	while (at < harness->sent_bytes) {
		json_error_t error;
		json_t *value = json_loadb(harness->sent + at, harness->sent_bytes - at,
					   JSON_DISABLE_EOF_CHECK, &error);
		if (!value)
			fail_msg("what was sent is not JSON: %s", error.text);
		json_array_append_new(values, value);
		at += (size_t)error.position;
		assert_int_equal(harness->sent[at], '\n');
		at++;
	}
	harness->sent_bytes = 0;
	harness->sends = 0;
	return values;
}

json_t *ask(struct harness *harness, const char *request)
{
	feed(harness, request);
	json_t *sent = take_sent(harness);
	if (json_array_size(sent) != 1)
		fail_msg("%zu answers to %s", json_array_size(sent), request);
	json_t *answer = json_incref(json_array_get(sent, 0));
	json_decref(sent);
	return answer;
}

json_t *call_method(struct harness *harness, const char *method, const char *params)
{
	static int id;
	char request[4096];
	snprintf(request, sizeof(request),
		 "{\"jsonrpc\": \"2.0\", \"id\": %d, \"method\": \"%s\"%s%s}", ++id, method,
		 params ? ", \"params\": " : "", params ? params : "");
	json_t *answer = ask(harness, request);
	assert_string_equal(json_string_value(json_object_get(answer, "jsonrpc")), "2.0");
	assert_int_equal(json_integer_value(json_object_get(answer, "id")), id);
	assert_int_equal(json_object_size(answer), 3);
	return answer;
}

const char *error_message(json_t *answer)
{
	json_t *error = json_object_get(answer, "error");
	const char *message = json_string_value(json_object_get(error, "message"));
	assert_non_null(message);
	return message;
}

void assert_error(json_t *answer, int code, const char *parameter)
{
	json_t *error = json_object_get(answer, "error");
	json_t *data = json_object_get(error, "data");
	assert_null(json_object_get(answer, "result"));
	if (json_integer_value(json_object_get(error, "code")) != code)
		fail_msg("code %lld, not %d: %s",
			 (long long)json_integer_value(json_object_get(error, "code")), code,
			 error_message(answer));
	if (!parameter)
		return;
	const char *named = json_string_value(json_object_get(data, "parameter"));
	assert_non_null(named);
	assert_string_equal(named, parameter);
}
