/* SPDX-License-Identifier: BSD-3-Clause */
/* The scanner: where a value ends, what is refused and at which byte, however the bytes are cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/rpc/rpc.h"
#include "lib/rpc/scan.h"

/* Feeds in pieces of `piece` bytes; *end: how many bytes were used in all. */
static enum rpc_scan_result scan(const char *text, size_t count, size_t piece, size_t *end)
{
	struct rpc_scan state;
	enum rpc_scan_result result = RPC_SCAN_MORE;
	rpc_scan_init(&state);
	*end = 0;
	while (*end < count && result == RPC_SCAN_MORE) {
		size_t left = count - *end;
		size_t used;
		/* a copy of exactly these bytes, so that reading beyond them is seen */
		size_t now = piece < left ? piece : left;
		char *copy = malloc(now);
		memcpy(copy, text + *end, now);
		result = rpc_scan_feed(&state, copy, now, &used);
		free(copy);
		if (result == RPC_SCAN_MORE)
			assert_int_equal(used, now);
		*end += used;
	}
	return result;
}

static void assert_scan(const char *text, enum rpc_scan_result result, size_t end)
{
	for (size_t piece = 1; piece <= strlen(text); piece++) {
		size_t used;
		enum rpc_scan_result got = scan(text, strlen(text), piece, &used);
		if (got != result || used != end)
			fail_msg("'%s' in pieces of %zu: %d at %zu, not %d at %zu", text, piece,
				 got, used, result, end);
	}
}

static void whole_values(void **state)
{
	static const char *const values[] = {
		"{}",
		"[]",
		"[[],{}]",
		"  \r\n\t{ \"a\" : 1 }",
		"{\"a\":\"}]{[\",\"b\":\"\\\"}\"}",
		"[\"\\\\\",\"\\u00e9\\ud83d\\ude00\",\"\xc3\xa9\"]",
		"[true,false,null]",
		"[0,-1,1.5,1e9,-2.5E-3]",
		"{\"a\":{\"b\":[{\"c\":[1,[2,[3]]]}]}}",
		"[\n1\n,\n2\n]",
	};
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		char text[256];
		assert_scan(values[i], RPC_SCAN_DONE, strlen(values[i]));
		/* what comes after it is not touched */
		snprintf(text, sizeof(text), "%s}]garbage", values[i] ? values[i] : "");
		assert_scan(text, RPC_SCAN_DONE, strlen(values[i]));
	}
}

static void unfinished_values(void **state)
{
	static const char whole[] = "{\"a\":[1,\"x\\u0041\",true,{\"b\":null}],\"c\":-1.5e3}";
	char text[sizeof(whole)] = "";
	for (size_t cut = 1; cut < strlen(whole); cut++) {
		text[cut - 1] = whole[cut - 1];
		assert_scan(text, RPC_SCAN_MORE, cut);
	}
}

static void garbage(void **state)
{
	static const struct {
		const char *text;
		size_t at;
	} cases[] = {
		{"x", 0},
		{"GET / HTTP/1.1", 0},
		{"  1", 2},
		{"\"a\"", 0},
		{"null", 0},
		{"}", 0},
		{"]", 0},
		{",", 0},
		{"{a", 1},
		{"{1", 1},
		{"{,", 1},
		{"{\"a\",", 4},
		{"{\"a\" 1", 5},
		{"{\"a\":}", 5},
		{"{\"a\":,", 5},
		{"{\"a\":1]", 6},
		{"{\"a\":1,}", 7},
		{"{\"a\":1 2", 7},
		{"[}", 1},
		{"[,", 1},
		{"[1,]", 3},
		{"[1}", 2},
		{"[1 2", 3},
		{"[:", 1},
		{"[trux", 4},
		{"[nul]", 4},
		{"[falsehood", 6},
		{"[x", 1},
		{"[+1", 1},
		{"[\"a\n", 3},
		{"[\"\\x", 3},
		{"[\"\\u12g", 6},
		{"['a'", 1},
		{"[1//", 2},
		{"\xef\xbb\xbf{", 0},
		{"[\x01", 1},
		{"[\"\x1f", 2},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_scan(cases[i].text, RPC_SCAN_GARBAGE, cases[i].at);
	size_t used;
	assert_int_equal(scan("{\0}", 3, 3, &used), RPC_SCAN_GARBAGE);
	assert_int_equal(used, 1);
	assert_int_equal(scan("[\"\\\0", 4, 1, &used), RPC_SCAN_GARBAGE);
}

static void depth(void **state)
{
	char text[2 * RPC_MAX_DEPTH + 8];
	size_t used;
	memset(text, '[', sizeof(text));
	memset(text + RPC_MAX_DEPTH, ']', RPC_MAX_DEPTH);
	assert_int_equal(scan(text, sizeof(text), 7, &used), RPC_SCAN_DONE);
	assert_int_equal(used, 2 * RPC_MAX_DEPTH);
	text[RPC_MAX_DEPTH] = '{';
	assert_int_equal(scan(text, sizeof(text), 7, &used), RPC_SCAN_TOO_DEEP);
	assert_int_equal(used, RPC_MAX_DEPTH);

	/* objects and arrays mixed: each is closed by its own bracket */
	char *mixed = text;
	size_t length = 0;
	for (int i = 0; i < RPC_MAX_DEPTH / 8; i++)
		length += (size_t)sprintf(mixed + length, "{\"\":[");
	for (int i = 0; i < RPC_MAX_DEPTH / 8; i++)
		length += (size_t)sprintf(mixed + length, "]}");
	assert_int_equal(scan(mixed, length, 3, &used), RPC_SCAN_DONE);
	mixed[length - 1] = ']';
	assert_int_equal(scan(mixed, length, 3, &used), RPC_SCAN_GARBAGE);
	assert_int_equal(used, length - 1);
}

/* A request of exactly `bytes`, one long string. */
static char *long_value(size_t bytes)
{
	char *text = malloc(bytes);
	assert_non_null(text);
	memset(text, 'x', bytes);
	memcpy(text, "[\"", 2);
	memcpy(text + bytes - 2, "\"]", 2);
	return text;
}

static void size_limit(void **state)
{
	size_t used;
	size_t most = RPC_MAX_REQUEST_BYTES;
	static const size_t pieces[] = {5, 4096, 8 << 20};
	for (size_t i = 0; i < 3; i++) {
		char *text = long_value(most);
		assert_int_equal(scan(text, most, pieces[i], &used), RPC_SCAN_DONE);
		assert_int_equal(used, most);
		free(text);
		text = long_value(most + 1);
		assert_int_equal(scan(text, most + 1, pieces[i], &used), RPC_SCAN_TOO_LONG);
		assert_int_equal(used, most + 1);
		free(text);
	}
}

/* White space before a value is no part of it, however much there is. */
static void white_space(void **state)
{
	size_t bytes = RPC_MAX_REQUEST_BYTES + 100;
	char *text = malloc(bytes);
	size_t used;
	memset(text, ' ', bytes);
	memcpy(text + bytes - 2, "{}", 2);
	assert_int_equal(scan(text, bytes, 65536, &used), RPC_SCAN_DONE);
	assert_int_equal(used, bytes);
	/* inside, it counts */
	memcpy(text, "[", 1);
	assert_int_equal(scan(text, bytes, 65536, &used), RPC_SCAN_TOO_LONG);
	free(text);
}

static void value_limit(void **state)
{
	size_t bytes = 2 * RPC_MAX_VALUES + 10;
	char *text = malloc(bytes);
	size_t used, length = 0;
	text[length++] = '['; /* the first value */
	for (int i = 1; i < RPC_MAX_VALUES; i++) {
		text[length++] = '1';
		text[length++] = ',';
	}
	text[length - 1] = ']';
	assert_int_equal(scan(text, length, 4096, &used), RPC_SCAN_DONE);
	memcpy(text + length - 1, ",1]", 3);
	assert_int_equal(scan(text, length + 2, 4096, &used), RPC_SCAN_TOO_MANY);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_values), cmocka_unit_test(unfinished_values),
		cmocka_unit_test(garbage),	cmocka_unit_test(depth),
		cmocka_unit_test(size_limit),	cmocka_unit_test(white_space),
		cmocka_unit_test(value_limit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
