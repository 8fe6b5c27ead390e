/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_server_context: LIST_META_CONTEXT and SET_META_CONTEXT, and what is left of them when
 * transmission begins.
 */
#include <errno.h>
#include <stdio.h>

#include "session.h"

enum { LIST = NBD_OPT_LIST_META_CONTEXT, SET = NBD_OPT_SET_META_CONTEXT, FLAGS = 1 | 4 | 8 | 0x80 };

static struct session s;

/* With structured replies negotiated; the tests write on from there. */
static int set_up(void **state)
{
	session_init(&s);
	session_flags(&s, 3);
	session_option(&s, NBD_OPT_STRUCTURED_REPLY, "", 0);
	return 0;
}

static int tear_down(void **state)
{
	session_fini(&s);
	return 0;
}

static void run(enum nbd_handshake_result result)
{
	assert_int_equal(session_run(&s), result);
	expect_greeting(&s, 3);
	expect_ack(&s, NBD_OPT_STRUCTURED_REPLY);
}

/* Runs with a GO for `disk` behind; afterwards `contexts` are in force. */
static void run_go(unsigned contexts)
{
	session_ask(&s, NBD_OPT_GO, "disk", 0);
	run(NBD_HANDSHAKE_TRANSMIT);
	assert_int_equal(s.hs.context_count, contexts);
}

static void expect_go(void)
{
	expect_export(&s, NBD_OPT_GO, 1 << 20, FLAGS);
	expect_ack(&s, NBD_OPT_GO);
	expect_nothing(&s);
}

static void test_needs_structured(void **state)
{
	s.in_length = 0;
	session_flags(&s, 3);
	session_query(&s, LIST, "disk", 0);
	session_query(&s, SET, "disk", 1, "base:allocation");
	session_ask(&s, NBD_OPT_GO, "disk", 0);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_TRANSMIT);
	expect_greeting(&s, 3);
	expect_error(&s, LIST, NBD_REP_ERR_INVALID);
	expect_error(&s, SET, NBD_REP_ERR_INVALID);
	assert_int_equal(s.hs.context_count, 0);
}

static void test_list(void **state)
{
	session_query(&s, LIST, "disk", 0);
	session_query(&s, LIST, "", 1, "base:");
	session_query(&s, LIST, "disk", 1, "x-test:");
	session_query(&s, LIST, "disk", 1, "base:allocation");
	session_query(&s, LIST, "disk", 3, "x-test:1", "x-test:1", "x-test:");
	/* nothing matches, which is no error */
	session_query(&s, LIST, "disk", 8, "", ":", "base", "base:alloc", "base:allocation2",
		      "qemu:", "x-tes", "allocation");
	run_go(0);
	expect_context(&s, LIST, 0, "base:allocation");
	expect_context(&s, LIST, 0, "x-test:1");
	expect_context(&s, LIST, 0, "x-test:2");
	expect_ack(&s, LIST);
	expect_context(&s, LIST, 0, "base:allocation");
	expect_ack(&s, LIST);
	expect_context(&s, LIST, 0, "x-test:1");
	expect_context(&s, LIST, 0, "x-test:2");
	expect_ack(&s, LIST);
	expect_context(&s, LIST, 0, "base:allocation");
	expect_ack(&s, LIST);
	expect_context(&s, LIST, 0, "x-test:1");
	expect_context(&s, LIST, 0, "x-test:2");
	expect_ack(&s, LIST);
	expect_ack(&s, LIST);
	expect_go();
}

static void test_set(void **state)
{
	session_query(&s, SET, "disk", 3, "x-test:2", "base:allocation", "nosuch:thing");
	run_go(2);
	expect_context(&s, SET, 1, "x-test:2");
	expect_context(&s, SET, 2, "base:allocation");
	expect_ack(&s, SET);
	expect_go();
	assert_string_equal(s.hs.contexts[0].name, "x-test:2");
	assert_int_equal(s.hs.contexts[0].index, 2);
	assert_int_equal(s.hs.contexts[0].id, 1);
	assert_string_equal(s.hs.contexts[1].name, "base:allocation");
	assert_int_equal(s.hs.contexts[1].index, 0);
	assert_int_equal(s.hs.contexts[1].id, 2);
}

/* Wildcards and unknown leaves select nothing; no queries select nothing either. */
static void test_set_nothing(void **state)
{
	session_query(&s, SET, "disk", 4, "base:", "x-test:", "base:nosuch", "");
	session_query(&s, SET, "disk", 0);
	run_go(0);
	expect_ack(&s, SET);
	expect_ack(&s, SET);
	expect_go();
}

static void test_thousand_equal_queries(void **state)
{
	session_head(&s, SET, 4 + 4 + 4 + 1000 * 19);
	session_u32(&s, 4);
	session_bytes(&s, "disk", 4);
	session_u32(&s, 1000);
	for (int i = 0; i < 1000; i++) {
		session_u32(&s, 15);
		session_bytes(&s, "base:allocation", 15);
	}
	run_go(1);
	expect_context(&s, SET, 1, "base:allocation");
	expect_ack(&s, SET);
	expect_go();
}

static void test_too_many_queries(void **state)
{
	session_query(&s, SET, "disk", 1, "base:allocation");
	for (uint32_t option = LIST; option <= SET; option++) {
		session_head(&s, option, 4 + 4 + 4 + 4 * (NBD_MAX_QUERIES + 1));
		session_u32(&s, 4);
		session_bytes(&s, "disk", 4);
		session_u32(&s, NBD_MAX_QUERIES + 1);
		for (int i = 0; i < NBD_MAX_QUERIES + 1; i++)
			session_u32(&s, 0);
	}
	run_go(0);
	expect_context(&s, SET, 1, "base:allocation");
	expect_ack(&s, SET);
	expect_error(&s, LIST, NBD_REP_ERR_TOO_BIG);
	expect_error(&s, SET, NBD_REP_ERR_TOO_BIG);
	expect_go();
}

/* As many contexts as are allowed, and one more. */
static void test_too_many_contexts(void **state)
{
	for (unsigned count = NBD_MAX_CONTEXTS; count <= NBD_MAX_CONTEXTS + 1; count++) {
		uint32_t length = 4 + 4 + 4;
		char name[32];

		session_init(&s);
		s.context_count = SESSION_CONTEXTS;
		session_flags(&s, 3);
		session_option(&s, NBD_OPT_STRUCTURED_REPLY, "", 0);
		for (unsigned i = 1; i <= count; i++)
			length += 4 + snprintf(name, sizeof(name), "x-test:%u", i);
		session_head(&s, SET, length);
		session_u32(&s, 4);
		session_bytes(&s, "disk", 4);
		session_u32(&s, count);
		for (unsigned i = 1; i <= count; i++) {
			int bytes = snprintf(name, sizeof(name), "x-test:%u", i);

			session_u32(&s, bytes);
			session_bytes(&s, name, bytes);
		}
		run_go(count == NBD_MAX_CONTEXTS ? NBD_MAX_CONTEXTS : 0);
		for (unsigned i = 1; count == NBD_MAX_CONTEXTS && i <= count; i++) {
			snprintf(name, sizeof(name), "x-test:%u", i);
			expect_context(&s, SET, i, name);
		}
		if (count == NBD_MAX_CONTEXTS)
			expect_ack(&s, SET);
		else
			expect_error(&s, SET, NBD_REP_ERR_TOO_BIG);
		expect_go();
		session_fini(&s);
	}
}

static void test_malformed(void **state)
{
	static const struct {
		const char *data;
		uint32_t length;
	} cases[] = {
		{"", 0},
		{"\0\0\0", 3},
		{"\0\0\0\4disk", 8}, /* no count */
		{"\0\0\0\4disk\0\0\0", 11},
		{"\0\0\0\11disk\0\0\0\0", 12}, /* the name is too long */
		{"\377\377\377\377disk\0\0\0\0", 12},
		{"\0\0\0\4di\0k\0\0\0\0", 12}, /* a NUL in the name */
		{"\0\0\0\4disk\0\0\0\1", 12},  /* a query short */
		{"\0\0\0\4disk\0\0\0\1\0\0\0", 15},
		{"\0\0\0\4disk\0\0\0\1\0\0\0\4a:b", 19}, /* it is too short */
		{"\0\0\0\4disk\0\0\0\1\0\0\0\2a:b", 19}, /* something behind it */
		{"\0\0\0\4disk\0\0\0\2\0\0\0\3a:b", 19}, /* the second is missing */
		{"\0\0\0\4disk\377\377\377\377\0\0\0\3a:b", 19},
		{"\0\0\0\4disk\0\0\0\1\0\0\0\3a\0b", 19}, /* a NUL in a query */
		{"\0\0\0\4disk\0\0\0\0x", 13},
	};

	for (uint32_t option = LIST; option <= SET; option++) {
		for (size_t i = 0; i < COUNT_OF(cases); i++) {
			session_init(&s);
			session_flags(&s, 3);
			session_option(&s, NBD_OPT_STRUCTURED_REPLY, "", 0);
			session_query(&s, SET, "disk", 1, "base:allocation");
			session_option(&s, option, cases[i].data, cases[i].length);
			/* a failed SET forgets what an earlier one selected, a LIST does not */
			run_go(option == LIST ? 1 : 0);
			expect_context(&s, SET, 1, "base:allocation");
			expect_ack(&s, SET);
			expect_error(&s, option, NBD_REP_ERR_INVALID);
			expect_go();
			session_fini(&s);
		}
	}
}

static void test_long_query(void **state)
{
	static char query[NBD_MAX_STRING_BYTES + 2];

	memset(query, 'q', sizeof(query) - 2);
	session_query(&s, LIST, "disk", 2, query, "base:");
	query[NBD_MAX_STRING_BYTES] = 'q';
	session_query(&s, LIST, "disk", 2, query, "base:");
	run_go(0);
	expect_context(&s, LIST, 0, "base:allocation");
	expect_ack(&s, LIST);
	expect_error(&s, LIST, NBD_REP_ERR_INVALID);
	expect_go();
}

static void test_too_big(void **state)
{
	static uint8_t junk[NBD_MAX_OPTION_BYTES + 1];

	session_query(&s, SET, "disk", 1, "base:allocation");
	session_option(&s, SET, junk, sizeof(junk));
	run_go(0);
	expect_context(&s, SET, 1, "base:allocation");
	expect_ack(&s, SET);
	expect_error(&s, SET, NBD_REP_ERR_TOO_BIG);
	expect_go();
}

static void test_unknown_export(void **state)
{
	session_query(&s, SET, "disk", 1, "base:allocation");
	session_query(&s, LIST, "nosuch", 0);
	session_query(&s, SET, "nosuch", 1, "base:allocation");
	session_query(&s, LIST, "secret", 0);
	run_go(0);
	expect_context(&s, SET, 1, "base:allocation");
	expect_ack(&s, SET);
	expect_error(&s, LIST, NBD_REP_ERR_UNKNOWN);
	expect_error(&s, SET, NBD_REP_ERR_UNKNOWN);
	expect_error(&s, LIST, NBD_REP_ERR_UNKNOWN);
	expect_go();
}

/* What was selected for one export does not hold for another. */
static void test_other_export(void **state)
{
	static const char *const names[] = {"plain", "dis", "", "disk2"};

	for (size_t i = 0; i < COUNT_OF(names); i++) {
		static const struct nbd_export_info exports[] = {
			{.name = "disk", .min_block = 1, .max_payload = 64 << 20},
			{.name = "plain", .min_block = 1, .max_payload = 64 << 20},
			{.name = "dis", .min_block = 1, .max_payload = 64 << 20},
			{.name = "disk2", .min_block = 1, .max_payload = 64 << 20},
		};

		session_init(&s);
		s.exports = exports;
		s.export_count = COUNT_OF(exports);
		session_flags(&s, 3);
		session_option(&s, NBD_OPT_STRUCTURED_REPLY, "", 0);
		session_query(&s, SET, names[i], 1, "base:allocation");
		run_go(0);
		session_fini(&s);
	}
}

static void test_last_set_counts(void **state)
{
	session_query(&s, SET, "plain", 1, "x-test:1");
	session_query(&s, SET, "disk", 1, "base:allocation");
	session_query(&s, LIST, "plain", 1, "x-test:1");
	run_go(1);
	assert_string_equal(s.hs.contexts[0].name, "base:allocation");
}

static void test_export_name_keeps(void **state)
{
	session_query(&s, SET, "", 1, "base:allocation");
	session_option(&s, NBD_OPT_EXPORT_NAME, "", 0);
	run(NBD_HANDSHAKE_TRANSMIT);
	assert_int_equal(s.hs.context_count, 1);
}

static void test_payload_flag(void **state)
{
	s.in_length = 0;
	session_flags(&s, 3);
	session_option(&s, NBD_OPT_EXTENDED_HEADERS, "", 0);
	session_query(&s, SET, "disk", 1, "base:allocation");
	session_ask(&s, NBD_OPT_INFO, "plain", 0);
	session_ask(&s, NBD_OPT_INFO, "disk", 0);
	session_ask(&s, NBD_OPT_GO, "disk", 0);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_TRANSMIT);
	expect_greeting(&s, 3);
	expect_ack(&s, NBD_OPT_EXTENDED_HEADERS);
	expect_context(&s, SET, 1, "base:allocation");
	expect_ack(&s, SET);
	expect_export(&s, NBD_OPT_INFO, 3, 1 | 0x80);
	expect_ack(&s, NBD_OPT_INFO);
	expect_export(&s, NBD_OPT_INFO, 1 << 20, FLAGS | 0x1000);
	expect_ack(&s, NBD_OPT_INFO);
	expect_export(&s, NBD_OPT_GO, 1 << 20, FLAGS | 0x1000);
	expect_ack(&s, NBD_OPT_GO);
	assert_int_equal(s.hs.selected.flags, FLAGS | 0x1000);
}

static void test_no_contexts_at_all(void **state)
{
	s.no_context_op = true;
	session_query(&s, LIST, "disk", 0);
	session_query(&s, SET, "disk", 1, "base:allocation");
	run_go(0);
	expect_ack(&s, LIST);
	expect_ack(&s, SET);
	expect_go();
}

/* Between SET and GO the export may be replaced by one of the same name. */
static void test_export_replaced(void **state)
{
	s.change_contexts = true;
	session_query(&s, SET, "disk", 2, "base:allocation", "x-test:1");
	run_go(0);
}

static void test_contexts_moved(void **state)
{
	s.shuffle_contexts = true;
	session_query(&s, SET, "disk", 2, "base:allocation", "x-test:1");
	run_go(2);
	assert_int_equal(s.hs.contexts[0].index, 2);
	assert_string_equal(s.hs.contexts[0].name, "base:allocation");
	assert_int_equal(s.hs.contexts[1].index, 1);
	assert_string_equal(s.hs.contexts[1].name, "x-test:1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define CONTEXT_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		CONTEXT_TEST(test_needs_structured),
		CONTEXT_TEST(test_list),
		CONTEXT_TEST(test_set),
		CONTEXT_TEST(test_set_nothing),
		CONTEXT_TEST(test_thousand_equal_queries),
		CONTEXT_TEST(test_too_many_queries),
		CONTEXT_TEST(test_too_many_contexts),
		CONTEXT_TEST(test_malformed),
		CONTEXT_TEST(test_long_query),
		CONTEXT_TEST(test_too_big),
		CONTEXT_TEST(test_unknown_export),
		CONTEXT_TEST(test_other_export),
		CONTEXT_TEST(test_last_set_counts),
		CONTEXT_TEST(test_export_name_keeps),
		CONTEXT_TEST(test_payload_flag),
		CONTEXT_TEST(test_no_contexts_at_all),
		CONTEXT_TEST(test_export_replaced),
		CONTEXT_TEST(test_contexts_moved),
	};

	return cmocka_run_group_tests_name("nbd-server-context", tests, NULL, NULL);
}
