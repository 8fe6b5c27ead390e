/* SPDX-License-Identifier: BSD-3-Clause */
/* Decoding of parameters: every type's good and bad values, defaults, and what a refusal says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/log.h"
#include "test/unit/rpc/harness.h"

/* Calls echo with the one parameter and returns what the handler got, as JSON text. */
static char *decoded(struct harness *harness, const char *name, const char *value)
{
	char params[512];
	snprintf(params, sizeof(params), "{\"%s\": %s}", name, value);
	json_t *answer = call_method(harness, "echo", params);
	json_t *result = json_object_get(answer, "result");
	if (!result)
		fail_msg("%s: %s was refused: %s", name, value, error_message(answer));
	char *text = json_dumps(json_object_get(result, name), JSON_ENCODE_ANY | JSON_COMPACT);
	json_decref(answer);
	return text;
}

static void assert_decodes(struct harness *harness, const char *name, const char *value,
			   const char *expected)
{
	char *text = decoded(harness, name, value);
	assert_string_equal(text, expected);
	free(text);
}

/* Refused with the parameter's name, and a message that holds each part of `told`. */
static void assert_refused(struct harness *harness, const char *name, const char *value,
			   const char *told)
{
	char params[512];
	snprintf(params, sizeof(params), "{\"%s\": %s}", name, value);
	unsigned calls = echo_calls;
	json_t *answer = call_method(harness, "echo", params);
	assert_error(answer, RPC_INVALID_PARAMS, name);
	const char *message = error_message(answer);
	if (!strstr(message, name) || !strstr(message, told))
		fail_msg("'%s' does not say '%s'", message, told);
	assert_int_equal(echo_calls, calls);
	json_decref(answer);
}

static void strings(void **state)
{
	assert_decodes(*state, "text", "\"a\"", "\"a\"");
	assert_decodes(*state, "text", "\"12345678\"", "\"12345678\"");
	assert_decodes(*state, "text", "\"\xc3\xa9\"", "\"\xc3\xa9\"");
	assert_refused(*state, "text", "\"\"", "a string from 1 to 8 bytes, got \"\"");
	assert_refused(*state, "text", "\"123456789\"", "got \"123456789\"");
	assert_refused(*state, "text", "\"\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\"", "8 bytes");
	assert_refused(*state, "text", "5", "got 5");
	assert_refused(*state, "text", "null", "got null");
	assert_refused(*state, "text", "[\"a\"]", "got an array");
}

static void unsigned_integers(void **state)
{
	assert_decodes(*state, "count", "1", "1");
	assert_decodes(*state, "count", "1000", "1000");
	assert_decodes(*state, "count", "7.0", "7");
	assert_decodes(*state, "count", "1e2", "100");
	assert_refused(*state, "count", "0", "an integer from 1 to 1000, got 0");
	assert_refused(*state, "count", "1001", "got 1001");
	assert_refused(*state, "count", "-1", "got -1");
	assert_refused(*state, "count", "1.5", "got 1.5");
	assert_refused(*state, "count", "\"5\"", "got \"5\"");
	assert_refused(*state, "count", "true", "got true");
	/* beyond what fits: the parameter is named all the same */
	assert_refused(*state, "count", "9223372036854775808",
		       "1 to 1000, got 9.2233720368547758e18");
	assert_refused(*state, "count", "-99999999999999999999", "got -");
	assert_refused(*state, "count", "1e300", "got 1");
}

static void signed_integers(void **state)
{
	assert_decodes(*state, "offset", "-5", "-5");
	assert_decodes(*state, "offset", "5", "5");
	assert_decodes(*state, "offset", "-2.0", "-2");
	assert_refused(*state, "offset", "-6", "an integer from -5 to 5, got -6");
	assert_refused(*state, "offset", "6", "got 6");
	assert_refused(*state, "offset", "0.5", "got 0.5");
	assert_refused(*state, "offset", "false", "got false");
}

static void booleans(void **state)
{
	assert_decodes(*state, "flag", "false", "false");
	assert_decodes(*state, "flag", "true", "true");
	assert_refused(*state, "flag", "0", "true or false, got 0");
	assert_refused(*state, "flag", "\"true\"", "got \"true\"");
}

static void doubles(void **state)
{
	assert_decodes(*state, "ratio", "0.25", "0.25");
	assert_decodes(*state, "ratio", "-3", "-3.0");
	assert_refused(*state, "ratio", "\"1\"", "a number, got \"1\"");
	assert_refused(*state, "ratio", "{}", "got an object");
}

static void sizes(void **state)
{
	assert_decodes(*state, "size", "512", "512");
	assert_decodes(*state, "size", "\"4096\"", "4096");
	assert_decodes(*state, "size", "\"64M\"", "67108864");
	assert_decodes(*state, "size", "\"1g\"", "1073741824");
	assert_decodes(*state, "size", "1e6", "1000000");
	assert_refused(*state, "size", "511", "of at least 512, got 511");
	assert_refused(*state, "size", "\"64MB\"", "got \"64MB\"");
	assert_refused(*state, "size", "\"-1\"", "a size");
	assert_refused(*state, "size", "\"9999999999T\"", "a size");
	assert_refused(*state, "size", "-1", "got -1");
	assert_refused(*state, "size", "0.5", "got 0.5");
	assert_refused(*state, "size", "true", "got true");
}

static void enums(void **state)
{
	assert_decodes(*state, "colour", "\"blue\"", "\"blue\"");
	assert_refused(*state, "colour", "\"Blue\"", "one of red, green, blue, got \"Blue\"");
	assert_refused(*state, "colour", "\"\"", "got \"\"");
	assert_refused(*state, "colour", "1", "got 1");
}

static void uuids(void **state)
{
	assert_decodes(*state, "uuid", "\"6b0c2b1e-4f0c-4d8f-9a39-0c6d5d2b9b7E\"",
		       "\"6b0c2b1e-4f0c-4d8f-9a39-0c6d5d2b9b7E\"");
	assert_refused(*state, "uuid", "\"6b0c2b1e-4f0c-4d8f-9a39-0c6d5d2b9b7\"", "a UUID");
	assert_refused(*state, "uuid", "\"6b0c2b1e-4f0c-4d8f-9a39-0c6d5d2b9b7e0\"", "a UUID");
	assert_refused(*state, "uuid", "\"6b0c2b1e-4f0c-4d8f-9a39-0c6d5d2b9b7g\"", "a UUID");
	assert_refused(*state, "uuid", "\"6b0c2b1e04f0c-4d8f-9a39-0c6d5d2b9b7e\"", "a UUID");
	assert_refused(*state, "uuid", "\"\"", "a UUID");
	assert_refused(*state, "uuid", "1", "a UUID");
}

static void containers(void **state)
{
	assert_decodes(*state, "names", "[]", "[]");
	assert_decodes(*state, "names", "[\"a\",\"b\"]", "[\"a\",\"b\"]");
	assert_refused(*state, "names", "[\"a\",1]", "an array of strings, got an array");
	assert_refused(*state, "names", "\"a\"", "got \"a\"");
	assert_decodes(*state, "options", "{\"a\":[1]}", "{\"a\":[1]}");
	assert_refused(*state, "options", "[]", "an object, got an array");
	assert_refused(*state, "options", "null", "got null");
}

static void off(void **state)
{
	static const char *const good[] = {"null", "false", "0", "0.0", "\"\"", "\"disable\""};
	static const char *const bad[] = {"true", "8", "\"on\"", "[]", "{}", "-1"};
	for (size_t i = 0; i < 6; i++) {
		char *text = decoded(*state, "md_size", good[i]);
		free(text);
		assert_refused(*state, "md_size", bad[i], "does not have it");
	}
}

static void defaults(void **state)
{
	static const char *const params[] = {NULL, "{}", "null"};
	for (size_t i = 0; i < 3; i++) {
		json_t *answer = call_method(*state, "echo", params[i]);
		char *text = json_dumps(json_object_get(answer, "result"), JSON_COMPACT);
		assert_string_equal(
			text, "{\"text\":null,\"count\":5,\"offset\":-1,\"flag\":true,"
			      "\"ratio\":0.5,\"size\":67108864,\"colour\":\"red\",\"uuid\":null,"
			      "\"names\":null,\"options\":null,\"count_given\":false}");
		free(text);
		json_decref(answer);
	}
	/* the default given by the caller is told from the one left out */
	json_t *answer = call_method(*state, "echo", "{\"count\": 5}");
	assert_true(
		json_is_true(json_object_get(json_object_get(answer, "result"), "count_given")));
	json_decref(answer);
}

static void missing_and_unknown(void **state)
{
	json_t *answer = call_method(*state, "hold", NULL);
	assert_error(answer, RPC_INVALID_PARAMS, "text");
	assert_string_equal(error_message(answer), "missing parameter 'text'");
	json_decref(answer);

	answer = call_method(*state, "echo", "{\"count\": 5, \"cuont\": 6}");
	assert_error(answer, RPC_INVALID_PARAMS, "cuont");
	assert_string_equal(error_message(answer), "unknown parameter 'cuont'");
	json_decref(answer);

	answer = call_method(*state, "nothing", "{\"a\": 1}");
	assert_error(answer, RPC_INVALID_PARAMS, "a");
	json_decref(answer);

	answer = call_method(*state, "echo", "[5]");
	assert_error(answer, RPC_INVALID_PARAMS, NULL);
	json_decref(answer);
}

static void long_values_are_cut(void **state)
{
	char value[300];
	memset(value, 'y', sizeof(value));
	value[0] = '"';
	memcpy(value + 298, "\"", 2);
	assert_refused(*state, "count", value, "yyy...");
}

static void schema(void **state)
{
	struct harness *harness = *state;
	json_t *all = rpc_server_schema(harness->server);
	json_t *answer = call_method(harness, "rpc_get_schema", NULL);
	assert_true(json_equal(all, json_object_get(answer, "result")));
	assert_int_equal(json_array_size(json_object_get(all, "methods")), 8);
	json_decref(answer);
	json_decref(all);

	answer = call_method(harness, "rpc_get_schema", "{\"method\": \"echo\"}");
	json_t *methods = json_object_get(json_object_get(answer, "result"), "methods");
	assert_int_equal(json_array_size(methods), 1);
	json_t *params = json_object_get(json_array_get(methods, 0), "params");
	assert_int_equal(json_array_size(params), 11);
	char *text = json_dumps(json_array_get(params, 1), JSON_COMPACT);
	assert_string_equal(text, "{\"name\":\"count\",\"type\":\"integer\",\"required\":false,"
				  "\"min\":1,\"max\":1000,\"default\":5,\"unit\":\"blocks\","
				  "\"description\":\"How many\"}");
	free(text);
	text = json_dumps(json_array_get(params, 6), JSON_COMPACT);
	assert_string_equal(text, "{\"name\":\"colour\",\"type\":\"enum\",\"required\":false,"
				  "\"values\":[\"red\",\"green\",\"blue\"],\"default\":\"red\"}");
	free(text);
	json_decref(answer);

	/* an alias shows the parameters of what it stands for */
	answer = call_method(harness, "rpc_get_schema", "{\"method\": \"old_echo\"}");
	json_t *alias =
		json_array_get(json_object_get(json_object_get(answer, "result"), "methods"), 0);
	assert_string_equal(json_string_value(json_object_get(alias, "alias_of")), "echo");
	assert_int_equal(json_array_size(json_object_get(alias, "params")), 11);
	json_decref(answer);

	answer = call_method(harness, "rpc_get_schema", "{\"method\": \"nope\"}");
	assert_error(answer, -2, "method");
	json_decref(answer);
}

static void handle(struct rpc_call *call, const void *params)
{
	rpc_reply(call, NULL);
}

/* A broken table is found when the server is made. */
static void broken_tables(void **state)
{
	struct params {
		uint64_t number;
	};
	static const struct rpc_param bad_default[] = {
		{.name = "number", .type = RPC_U64, .max = 10, .def = "11"}};
	static const struct rpc_param no_json[] = {
		{.name = "number", .type = RPC_U64, .def = "0x"}};
	static const struct rpc_method twice[] = {{.name = "a", .handler = handle},
						  {.name = "a", .handler = handle}};
	static const struct rpc_method builtin[] = {{.name = "rpc_get_schema", .handler = handle}};
	static const struct rpc_method lost_alias[] = {
		{.name = "a", .alias_of = "b", .handler = handle}};
	static const struct rpc_method no_handler[] = {{.name = "a"}};
	static const struct rpc_method defaults1[] = {
		{"a", "", bad_default, 1, sizeof(struct params), handle}};
	static const struct rpc_method defaults2[] = {
		{"a", "", no_json, 1, sizeof(struct params), handle}};
	const struct rpc_table tables[][2] = {{{twice, 2}},	 {{builtin, 1}},
					      {{lost_alias, 1}}, {{no_handler, 1}},
					      {{defaults1, 1}},	 {{defaults2, 1}}};
	log_set_level(LOG_DISABLED);
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		assert_null(rpc_server_create(tables[i]));
	log_set_level(LOG_NOTICE);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, harness_setup, harness_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(strings),
		TEST(unsigned_integers),
		TEST(signed_integers),
		TEST(booleans),
		TEST(doubles),
		TEST(sizes),
		TEST(enums),
		TEST(uuids),
		TEST(containers),
		TEST(off),
		TEST(defaults),
		TEST(missing_and_unknown),
		TEST(long_values_are_cut),
		TEST(schema),
		cmocka_unit_test(broken_tables),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
