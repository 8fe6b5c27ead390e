/* SPDX-License-Identifier: BSD-3-Clause */
/* The session: framing at every cut, exactly one answer each, batches, late answers, garbage. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "test/unit/rpc/harness.h"

#define REQUEST(id, method) "{\"jsonrpc\":\"2.0\",\"id\":" id ",\"method\":\"" method "\"}"
#define HOLD(id)                                                                                   \
	"{\"jsonrpc\":\"2.0\",\"id\":" id ",\"method\":\"hold\",\"params\":{\"text\":\"t" id "\"}" \
	"}"

static const char conversation[] = "  " REQUEST("1", "nothing")
	REQUEST("\"two\"", "fail_busy") "\n[" REQUEST("3", "nothing") ",\n" REQUEST(
		"4", "nope") "]\n"
			     "{\"jsonrpc\":\"2.0\",\"method\":\"nothing\"} "
			     "{\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"echo\",\"params\":{"
			     "\"text\":\"\\\"}{\",\"count\":9}}";

/* All answers as one text, in the order they were sent. */
static char *sent_text(struct harness *harness)
{
	json_t *sent = take_sent(harness);
	char *text = json_dumps(sent, JSON_COMPACT);
	json_decref(sent);
	return text;
}

static void assert_sent(struct harness *harness, const char *expected)
{
	char *text = sent_text(harness);
	assert_string_equal(text, expected);
	free(text);
}

/* The same bytes give the same answers, wherever they are cut: at one place, and into pieces. */
static void every_cut(void **state)
{
	struct harness *harness = *state;
	size_t count = strlen(conversation);
	assert_int_equal(feed(harness, conversation), 0);
	char *whole = sent_text(harness);
	assert_non_null(strstr(whole, "\"id\":\"two\""));
	assert_non_null(strstr(whole, "\"count\":9"));
	for (size_t cut = 0; cut <= count; cut++) {
		assert_int_equal(rpc_session_feed(harness->session, conversation, cut), 0);
		assert_int_equal(
			rpc_session_feed(harness->session, conversation + cut, count - cut), 0);
		assert_sent(harness, whole);
	}
	for (size_t piece = 1; piece <= 16; piece++) {
		for (size_t at = 0; at < count; at += piece) {
			size_t now = piece < count - at ? piece : count - at;
			assert_int_equal(rpc_session_feed(harness->session, conversation + at, now),
					 0);
		}
		assert_sent(harness, whole);
	}
	free(whole);
}

/* Cut off at every byte: what came in part is dropped without a trace (the sanitizer looks). */
static void close_at_every_byte(void **state)
{
	struct harness *harness = *state;
	for (size_t cut = 0; cut < strlen(conversation); cut++) {
		assert_int_equal(rpc_session_feed(harness->session, conversation, cut), 0);
		rpc_session_close(harness->session);
		harness->session = NULL;
		harness->sent_bytes = 0;
		assert_int_equal(harness_teardown(state), 0);
		assert_int_equal(harness_setup(state), 0);
		harness = *state;
	}
}

static void answers(void **state)
{
	json_t *answer = call_method(*state, "nothing", NULL);
	assert_true(json_is_true(json_object_get(answer, "result")));
	json_decref(answer);

	answer = call_method(*state, "fail_busy", NULL);
	assert_error(answer, -EBUSY, "name");
	assert_string_equal(error_message(answer), "disk7 is in use");
	json_t *data = json_object_get(json_object_get(answer, "error"), "data");
	assert_string_equal(json_string_value(json_object_get(data, "errno")), "EBUSY");
	json_decref(answer);

	/* a message that is not UTF-8 does not cost the answer */
	answer = call_method(*state, "fail_cut", NULL);
	assert_error(answer, -EIO, NULL);
	assert_string_equal(error_message(answer), "a character cut in two: ?");
	json_decref(answer);

	answer = call_method(*state, "nope", NULL);
	assert_error(answer, RPC_METHOD_NOT_FOUND, NULL);
	assert_non_null(strstr(error_message(answer), "nope"));
	json_decref(answer);

	answer = call_method(*state, "old_echo", "{\"count\": 3}");
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(answer, "result"), "count")), 3);
	json_decref(answer);
}

/* The id comes back as it was, whatever kind it is. */
static void ids(void **state)
{
	static const char *const good[] = {
		"0", "-7", "1.5", "\"\"", "\"x y\"", "null", "9223372036854775807"};
	static const char *const bad[] = {"true", "[]", "{}", "[1]"};
	char request[256], expected[256];
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		snprintf(request, sizeof(request), REQUEST("%s", "nothing"), good[i]);
		snprintf(expected, sizeof(expected),
			 "[{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":true}]", good[i]);
		feed(*state, request);
		assert_sent(*state, expected);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snprintf(request, sizeof(request), REQUEST("%s", "nothing"), bad[i]);
		json_t *answer = ask(*state, request);
		assert_error(answer, RPC_INVALID_REQUEST, NULL);
		assert_true(json_is_null(json_object_get(answer, "id")));
		json_decref(answer);
	}
}

static void invalid_requests(void **state)
{
	static const struct {
		const char *request;
		const char *told;
		int id; /* 0: null */
	} cases[] = {
		{"{}", "jsonrpc", 0},
		{"{\"foo\":\"boo\"}", "jsonrpc", 0},
		{"{\"id\":1,\"method\":\"nothing\"}", "jsonrpc", 1},
		{"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"nothing\"}", "jsonrpc", 1},
		{"{\"jsonrpc\":2.0,\"id\":1,\"method\":\"nothing\"}", "jsonrpc", 1},
		{"{\"jsonrpc\":\"2.0\",\"id\":1}", "method", 1},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}", "method", 1},
		{"{\"jsonrpc\":\"2.0\",\"method\":1,\"params\":\"bar\"}", "method", 0},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"nothing\",\"params\":5}", "params", 1},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"nothing\",\"param\":{}}", "members",
		 1},
		{"[]", "batch", 0},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_t *answer = ask(*state, cases[i].request);
		assert_error(answer, RPC_INVALID_REQUEST, NULL);
		assert_int_equal(json_integer_value(json_object_get(answer, "id")), cases[i].id);
		assert_non_null(strstr(error_message(answer), cases[i].told));
		json_decref(answer);
	}
}

/* A notification is carried out; nothing is ever sent for it, whatever comes of it. */
static void notifications(void **state)
{
	struct harness *harness = *state;
	feed(harness, "{\"jsonrpc\":\"2.0\",\"method\":\"echo\"}"
		      "{\"jsonrpc\":\"2.0\",\"method\":\"nope\"}"
		      "{\"jsonrpc\":\"2.0\",\"method\":\"fail_busy\"}"
		      "{\"jsonrpc\":\"2.0\",\"method\":\"echo\",\"params\":{\"cuont\":1}}"
		      "{\"jsonrpc\":\"2.0\",\"method\":\"echo\",\"params\":[1]}"
		      "{\"jsonrpc\":\"2.0\",\"method\":\"hold\",\"params\":{\"text\":\"x\"}}"
		      "[{\"jsonrpc\":\"2.0\",\"method\":\"echo\"},"
		      "{\"jsonrpc\":\"2.0\",\"method\":\"nope\"}]");
	assert_int_equal(echo_calls, 2);
	assert_int_equal(held_count, 1);
	assert_int_equal(rpc_session_pending(harness->session), 1);
	/* the owner may wait for it to end, and is told */
	unsigned before = harness->silent_ends;
	rpc_reply(held[0], json_string("dropped"));
	assert_int_equal(rpc_session_pending(harness->session), 0);
	assert_int_equal(harness->silent_ends, before + 1);
	assert_int_equal(harness->sends, 0);
}

static void late_answers_out_of_order(void **state)
{
	struct harness *harness = *state;
	feed(harness, HOLD("1") HOLD("2") HOLD("3") REQUEST("4", "nothing"));
	assert_sent(harness, "[{\"jsonrpc\":\"2.0\",\"id\":4,\"result\":true}]");
	assert_int_equal(rpc_session_pending(harness->session), 3);
	for (int i = 2; i >= 0; i--) {
		/* the parameters live until the answer */
		const char *const *text = rpc_params(held[i]);
		char expected[128];
		assert_ptr_equal(rpc_context(held[i]), &held[i]);
		assert_int_equal((*text)[1], '1' + i);
		rpc_reply(held[i], json_string(*text));
		snprintf(expected, sizeof(expected),
			 "[{\"jsonrpc\":\"2.0\",\"id\":%d,\"result\":\"t%d\"}]", i + 1, i + 1);
		assert_sent(harness, expected);
		assert_int_equal(rpc_session_pending(harness->session), i);
	}
}

static void batches(void **state)
{
	struct harness *harness = *state;
	/* in order of the requests, whatever the order of the answers; sent when all are in */
	feed(harness, "[" HOLD("1") "," REQUEST("2", "nothing") ",7," HOLD(
			      "3") ",{\"jsonrpc\":\"2.0\",\"method\":\"nothing\"}]");
	assert_int_equal(harness->sends, 0);
	assert_int_equal(held_count, 2);
	rpc_error(held[1], -ENODEV, "gone");
	assert_int_equal(harness->sends, 0);
	rpc_reply(held[0], json_integer(1));
	assert_int_equal(harness->sends, 1);
	assert_sent(harness,
		    "[[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1},"
		    "{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":true},"
		    "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32600,\"message\":"
		    "\"invalid request: a request is an object\"}},"
		    "{\"jsonrpc\":\"2.0\",\"id\":3,\"error\":{\"code\":-19,\"message\":\"gone\","
		    "\"data\":{\"errno\":\"ENODEV\"}}}]]");

	/* the last one in a batch may be a notification that ends late */
	feed(harness, "[" REQUEST("1", "nothing") ",{\"jsonrpc\":\"2.0\",\"method\":\"hold\","
						  "\"params\":{\"text\":\"x\"}}]");
	rpc_reply(held[2], NULL);
	assert_sent(harness, "[[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":true}]]");
}

static void batch_limit(void **state)
{
	struct harness *harness = *state;
	for (unsigned count = RPC_MAX_BATCH; count <= RPC_MAX_BATCH + 1; count++) {
		feed(harness, "[");
		for (unsigned i = 0; i < count; i++) {
			feed(harness, i ? "," : "");
			feed(harness, REQUEST("1", "nothing"));
		}
		json_t *answer = ask(harness, "]");
		if (count <= RPC_MAX_BATCH)
			assert_int_equal(json_array_size(answer), count);
		else
			assert_error(answer, RPC_INVALID_REQUEST, NULL);
		json_decref(answer);
	}
	/* and the stream goes on */
	json_decref(call_method(harness, "nothing", NULL));
}

/* What is refused as garbage gets one answer with id null; then nothing is taken any more. */
static void assert_stream_ends(struct harness *harness, const char *told)
{
	json_t *sent = take_sent(harness);
	assert_int_equal(json_array_size(sent), 1);
	json_t *answer = json_array_get(sent, 0);
	assert_error(answer, RPC_PARSE_ERROR, NULL);
	assert_true(json_is_null(json_object_get(answer, "id")));
	if (!strstr(error_message(answer), told))
		fail_msg("'%s' does not say '%s'", error_message(answer), told);
	json_decref(sent);
	assert_int_equal(feed(harness, REQUEST("1", "nothing")), -EPROTO);
	assert_int_equal(harness->sends, 0);
}

static void garbage(void **state)
{
	static const char *const texts[] = {
		"x",	   "GET / HTTP/1.1\r\n\r\n", "{\"jsonrpc\":\"2.0\",}", "\"text\"", "12",
		"{'a':1}", "{\"a\":\"\n\"}"};
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		assert_int_equal(feed(*state, texts[i]), -EPROTO);
		assert_stream_ends(*state, "not JSON at byte");
		harness_teardown(state);
		harness_setup(state);
	}
	/* what came before it is answered, also later */
	struct harness *harness = *state;
	assert_int_equal(feed(harness, HOLD("1") REQUEST("2", "nothing") "garbage"), -EPROTO);
	json_t *sent = take_sent(harness);
	assert_int_equal(json_array_size(sent), 2);
	json_decref(sent);
	rpc_reply(held[0], NULL);
	assert_sent(harness, "[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":true}]");
}

static void thousand_levels(void **state)
{
	static const char *const levels[] = {"[", "{\"a\":"};
	for (int kind = 0; kind < 2; kind++) {
		int error = 0;
		for (int i = 0; i < 1000 && !error; i++)
			error = feed(*state, levels[kind]);
		assert_int_equal(error, -EPROTO);
		assert_stream_ends(*state, "64 levels");
		harness_teardown(state);
		harness_setup(state);
	}
}

static double cpu_seconds(void)
{
	return (double)clock() / CLOCKS_PER_SEC;
}

/* Feeds a request with a text of `bytes` characters, in pieces. Returns rpc_session_feed()'s error.
 */
static int feed_long(struct harness *harness, size_t bytes, size_t piece)
{
	char *text = malloc(bytes);
	int error = feed(harness, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hold\","
				  "\"params\":{\"text\":\"");
	memset(text, 'x', bytes);
	for (size_t at = 0; at < bytes && !error; at += piece)
		error = rpc_session_feed(harness->session, text + at,
					 piece < bytes - at ? piece : bytes - at);
	free(text);
	return error ? error : feed(harness, "\"}}");
}

static void long_requests(void **state)
{
	struct harness *harness = *state;
	size_t bytes = RPC_MAX_REQUEST_BYTES - 100;
	double start = cpu_seconds();
	assert_int_equal(feed_long(harness, bytes, 64 << 10), 0);
	double coarse = cpu_seconds() - start;
	assert_int_equal(held_count, 1);
	assert_int_equal(strlen(*(const char *const *)rpc_params(held[0])), bytes);
	rpc_reply(held[0], NULL);
	json_decref(take_sent(harness));

	/*
	 * Small pieces cost a constant each: scanning again from the beginning would look at
	 * 10^11 bytes here, minutes of work.
	 */
	start = cpu_seconds();
	assert_int_equal(feed_long(harness, bytes, 64), 0);
	assert_true(cpu_seconds() - start < 20 * coarse + 5);
	rpc_reply(held[1], NULL);
	json_decref(take_sent(harness));

	assert_int_equal(feed_long(harness, RPC_MAX_REQUEST_BYTES, 5000), -EPROTO);
	assert_int_equal(held_count, 2);
	assert_stream_ends(harness, "4194304 bytes");
}

static void too_many_values(void **state)
{
	struct harness *harness = *state;
	int error = feed(harness, "[");
	for (int i = 0; i < 200000 && !error; i++)
		error = feed(harness, "{},");
	assert_int_equal(error, -EPROTO);
	assert_stream_ends(harness, "values");
}

/* Whole values that the JSON library refuses: answered, and the stream goes on. */
static void refused_values(void **state)
{
	static const struct {
		const char *text, *told;
	} cases[] = {
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"nothing\"}", "duplicate"},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\",\"params\":{\"a\":1,\"a\":1}}",
		 "duplicate"},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}", "0xff"},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\\u0000b\"}", "\\u0000"},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\\udc00\"}", "Unicode"},
		{"{\"jsonrpc\":\"2.0\",\"id\":1e999,\"method\":\"nothing\"}", "overflow"},
		{"{\"jsonrpc\":\"2.0\",\"id\":1-2,\"method\":\"nothing\"}", "near '-2'"},
		{"{\"jsonrpc\":\"2.0\",\"id\":01,\"method\":\"nothing\"}", "'0'"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_t *answer = ask(*state, cases[i].text);
		assert_error(answer, RPC_PARSE_ERROR, NULL);
		assert_true(json_is_null(json_object_get(answer, "id")));
		if (!strstr(error_message(answer), cases[i].told))
			fail_msg("'%s' does not say '%s'", error_message(answer), cases[i].told);
		json_decref(answer);
		json_decref(call_method(*state, "nothing", NULL));
	}
}

/* An integer too large for 64 bits makes reals of all in its request: the id stays what it was. */
static void id_beside_overflow(void **state)
{
	feed(*state, "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"echo\","
		     "\"params\":{\"ratio\":100000000000000000000,\"count\":8}}");
	json_t *sent = take_sent(*state);
	json_t *answer = json_array_get(sent, 0);
	assert_true(json_is_integer(json_object_get(answer, "id")));
	assert_int_equal(json_integer_value(json_object_get(answer, "id")), 7);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(answer, "result"), "count")), 8);
	json_decref(sent);
}

static void answers_after_close(void **state)
{
	struct harness *harness = *state;
	feed(harness, HOLD("1") "[" HOLD("2") "," REQUEST("3", "nothing") "]" HOLD("4") "{\"jso");
	assert_int_equal(held_count, 3);
	rpc_session_close(harness->session);
	harness->session = NULL;
	assert_string_equal(*(const char *const *)rpc_params(held[0]), "t1");
	rpc_reply(held[0], json_string("late"));
	rpc_error(held[1], -EIO, "late");
	rpc_param_error(held[2], "x", -EIO, "late");
	assert_int_equal(harness->sends, 0);
}

/* The target ends: server first, then the sessions, then what the handlers were at. */
static void server_goes_first(void **state)
{
	struct harness *harness = *state;
	feed(harness, HOLD("1") "[" HOLD("2") "]");
	rpc_server_destroy(harness->server);
	harness->server = NULL;
	feed(harness, REQUEST("5", "nothing"));
	assert_int_equal(harness->sends, 0);
	rpc_reply(held[0], NULL);
	assert_sent(harness, "[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":true}]");
	rpc_session_close(harness->session);
	harness->session = NULL;
	rpc_reply(held[1], NULL);
	assert_int_equal(harness->sends, 0);
}

static struct rpc_session *closing;
static unsigned closing_sends;

static void close_while_sent(void *arg, const char *bytes, size_t count)
{
	closing_sends++;
	rpc_session_close(closing);
}

/* A client that is found gone while its answer is sent: the rest of what it sent is let be. */
static void close_inside_send(void **state)
{
	struct harness *harness = *state;
	static const char text[] = REQUEST("1", "nothing") REQUEST("2", "echo") "[" HOLD("3") "]";
	for (size_t cut = 0; cut < strlen(text); cut += 7) {
		closing_sends = echo_calls = held_count = 0;
		closing = rpc_session_open(harness->server, close_while_sent, NULL);
		int error = 0;
		if (cut)
			error = rpc_session_feed(closing, text, cut);
		if (!closing_sends)
			error = rpc_session_feed(closing, text + cut, strlen(text) - cut);
		assert_int_equal(error, 0);
		assert_int_equal(closing_sends, 1);
		assert_int_equal(echo_calls, 0);
	}
}

static void method_lists(void **state)
{
	json_t *answer = call_method(*state, "rpc_get_methods",
				     "{\"current\":false,\"include_aliases\":false}");
	char *text = json_dumps(json_object_get(answer, "result"), JSON_COMPACT);
	assert_string_equal(text, "[\"echo\",\"fail_busy\",\"fail_cut\",\"hold\",\"nothing\","
				  "\"rpc_get_methods\",\"rpc_get_schema\"]");
	free(text);
	json_decref(answer);
	answer = call_method(*state, "rpc_get_methods", "{\"include_aliases\":true}");
	assert_int_equal(json_array_size(json_object_get(answer, "result")), 8);
	json_decref(answer);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, harness_setup, harness_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(every_cut),
		TEST(close_at_every_byte),
		TEST(answers),
		TEST(ids),
		TEST(invalid_requests),
		TEST(notifications),
		TEST(late_answers_out_of_order),
		TEST(batches),
		TEST(batch_limit),
		TEST(garbage),
		TEST(thousand_levels),
		TEST(long_requests),
		TEST(too_many_values),
		TEST(refused_values),
		TEST(id_beside_overflow),
		TEST(answers_after_close),
		TEST(server_goes_first),
		TEST(close_inside_send),
		TEST(method_lists),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
