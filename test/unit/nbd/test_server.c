/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_server: the server's handshake without TLS and metadata contexts - flags, EXPORT_NAME,
 * ABORT, LIST, INFO, GO, STRUCTURED_REPLY, EXTENDED_HEADERS, and all that is malformed.
 */
#include <errno.h>

#include "session.h"

enum { HAS_FLAGS = 1, DISK_FLAGS = 1 | 4 | 8, DF = 0x80, BOTH = 3 };

static struct session s;

static int set_up(void **state)
{
	session_init(&s);
	return 0;
}

static int tear_down(void **state)
{
	session_fini(&s);
	return 0;
}

static void test_greeting(void **state)
{
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_MORE);
	s.in_length = 0;
	session_flags(&s, BOTH);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_MORE);
	expect_greeting(&s, BOTH);
	expect_nothing(&s);
	assert_true(s.hs.fixed && s.hs.no_zeroes);
	assert_int_equal(s.hs.state, NBD_HS_OPTION);
}

static void test_greeting_without_no_zeroes(void **state)
{
	s.config.no_zeroes = false;
	session_flags(&s, 1);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_MORE);
	expect_greeting(&s, 1);
	assert_false(s.hs.no_zeroes);
}

static void test_unknown_client_flags(void **state)
{
	for (unsigned bit = 0; bit < 32; bit++) {
		s.in_length = 0;
		session_flags(&s, 1u << bit | 1);
		assert_int_equal(session_run(&s),
				 bit < 2 ? NBD_HANDSHAKE_MORE : NBD_HANDSHAKE_CLOSE);
	}
	/* known, but not offered */
	s.config.no_zeroes = false;
	s.in_length = 0;
	session_flags(&s, BOTH);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_CLOSE);
	expect_greeting(&s, 1);
	expect_nothing(&s);
}

static void test_wrong_option_magic(void **state)
{
	session_flags(&s, BOTH);
	session_bytes(&s, "IHAVEOPS\0\0\0\3\0\0\0\0", 16);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_CLOSE);
	expect_greeting(&s, BOTH);
	expect_nothing(&s);
}

/* EXPORT_NAME's own form of an answer. */
static void expect_export_name(uint64_t size, uint16_t flags, bool zeroes)
{
	static const uint8_t none[124];
	const uint8_t *at = s.out + s.out_read;

	assert_int_equal(s.out_length - s.out_read, zeroes ? 134 : 10);
	assert_int_equal(read_be(at, 8), size);
	assert_int_equal(read_be(at + 8, 2), flags);
	if (zeroes)
		assert_memory_equal(at + 10, none, sizeof(none));
}

static void test_export_name(void **state)
{
	for (uint32_t flags = 0; flags <= BOTH; flags++) {
		s.in_length = 0;
		session_flags(&s, flags);
		session_option(&s, NBD_OPT_EXPORT_NAME, "disk", 4);
		session_bytes(&s, "next", 4);
		assert_int_equal(session_run(&s), NBD_HANDSHAKE_TRANSMIT);
		assert_int_equal(s.taken, s.in_length - 4);
		expect_greeting(&s, BOTH);
		expect_export_name(1 << 20, DISK_FLAGS, !(flags & 2));
		assert_int_equal(s.hs.selected.flags, DISK_FLAGS);
		assert_ptr_equal(s.hs.selected.export, &s.exports[0]);
		assert_int_equal(s.opened, 1);
		assert_int_equal(s.hs.mode, NBD_MODE_SIMPLE);
		assert_false(s.hs.asked_block_size);
	}
}

static void test_export_name_default(void **state)
{
	session_flags(&s, BOTH);
	session_option(&s, NBD_OPT_EXPORT_NAME, "", 0);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_TRANSMIT);
	expect_greeting(&s, BOTH);
	expect_export_name(1 << 20, DISK_FLAGS, false);
}

static void test_export_name_structured(void **state)
{
	session_flags(&s, BOTH);
	session_option(&s, NBD_OPT_STRUCTURED_REPLY, "", 0);
	session_option(&s, NBD_OPT_EXPORT_NAME, "plain", 5);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_TRANSMIT);
	expect_greeting(&s, BOTH);
	expect_ack(&s, NBD_OPT_STRUCTURED_REPLY);
	expect_export_name(3, HAS_FLAGS | DF, false);
	assert_int_equal(s.hs.mode, NBD_MODE_STRUCTURED);
}

/* An EXPORT_NAME that must end the session without an answer. */
static void export_name_closes(const void *name, uint32_t length)
{
	session_option(&s, NBD_OPT_EXPORT_NAME, name, length);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_CLOSE);
	expect_greeting(&s, BOTH);
	assert_int_equal(s.opened, 0);
}

static void test_export_name_refused(void **state)
{
	static char lengthy[NBD_MAX_STRING_BYTES + 1];
	static const struct {
		const char *name;
		uint32_t length;
	} names[] = {
		{"nosuch", 6}, {"dis", 3},    {"disk\0", 5},
		{"strict", 6}, {"broken", 6}, {"secret", 6},
	};

	for (size_t i = 0; i < COUNT_OF(names); i++) {
		s.in_length = 0;
		session_flags(&s, BOTH);
		export_name_closes(names[i].name, names[i].length);
		expect_nothing(&s);
	}
	memset(lengthy, 'x', sizeof(lengthy));
	for (size_t length = sizeof(lengthy) - 1; length <= sizeof(lengthy); length++) {
		s.in_length = 0;
		session_flags(&s, BOTH);
		export_name_closes(lengthy, length);
		expect_nothing(&s);
	}
	s.open_error = -EACCES;
	s.in_length = 0;
	session_flags(&s, BOTH);
	export_name_closes("disk", 4);
	expect_nothing(&s);
}

static void test_export_name_after_extended(void **state)
{
	session_flags(&s, BOTH);
	session_option(&s, NBD_OPT_EXTENDED_HEADERS, "", 0);
	export_name_closes("disk", 4);
	expect_ack(&s, NBD_OPT_EXTENDED_HEADERS);
	expect_nothing(&s);
}

static void test_not_fixed(void **state)
{
	session_flags(&s, 0);
	session_option(&s, NBD_OPT_LIST, "", 0);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_CLOSE);
	expect_greeting(&s, BOTH);
	expect_nothing(&s);
	s.in_length = 0;
	session_flags(&s, 0);
	session_option(&s, NBD_OPT_ABORT, "", 0);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_CLOSE);
	expect_greeting(&s, BOTH);
	expect_ack(&s, NBD_OPT_ABORT);
}

static void test_abort(void **state)
{
	static const uint32_t lengths[] = {0, 1, 100, NBD_MAX_OPTION_BYTES + 1, 300000};
	static uint8_t junk[300000];

	for (size_t i = 0; i < COUNT_OF(lengths); i++) {
		s.in_length = 0;
		session_flags(&s, BOTH);
		session_option(&s, NBD_OPT_ABORT, junk, lengths[i]);
		assert_int_equal(session_run(&s), NBD_HANDSHAKE_CLOSE);
		assert_int_equal(s.taken, s.in_length);
		expect_greeting(&s, BOTH);
		expect_ack(&s, NBD_OPT_ABORT);
		expect_nothing(&s);
	}
}

/* Runs the options that were written, with an ABORT behind them that shows that it went on. */
static void run_on(void)
{
	session_option(&s, NBD_OPT_ABORT, "", 0);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_CLOSE);
	expect_greeting(&s, BOTH);
}

static void expect_end(void)
{
	expect_ack(&s, NBD_OPT_ABORT);
	expect_nothing(&s);
}

static void test_list(void **state)
{
	session_flags(&s, BOTH);
	session_option(&s, NBD_OPT_LIST, "", 0);
	session_option(&s, NBD_OPT_LIST, "", 0);
	run_on();
	for (int i = 0; i < 2; i++) {
		expect_listed(&s, "disk", "the first disk");
		expect_listed(&s, "plain", "");
		expect_listed(&s, "strict", "");
		expect_ack(&s, NBD_OPT_LIST);
	}
	expect_end();
}

static void test_list_refused(void **state)
{
	session_flags(&s, BOTH);
	session_option(&s, NBD_OPT_LIST, "x", 1);
	run_on();
	expect_error(&s, NBD_OPT_LIST, NBD_REP_ERR_INVALID);
	expect_end();
	s.list_error = -EACCES;
	s.in_length = 0;
	session_flags(&s, BOTH);
	session_option(&s, NBD_OPT_LIST, "", 0);
	run_on();
	expect_error(&s, NBD_OPT_LIST, NBD_REP_ERR_POLICY);
	expect_end();
	s.list_error = -ESHUTDOWN;
	session_run(&s);
	expect_greeting(&s, BOTH);
	expect_error(&s, NBD_OPT_LIST, NBD_REP_ERR_SHUTDOWN);
	expect_end();
	s.list_error = -ENOENT;
	session_run(&s);
	expect_greeting(&s, BOTH);
	expect_ack(&s, NBD_OPT_LIST);
	expect_end();
}

static void test_go(void **state)
{
	session_flags(&s, BOTH);
	session_ask(&s, NBD_OPT_GO, "disk", 0);
	session_bytes(&s, "next", 4);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_TRANSMIT);
	assert_int_equal(s.taken, s.in_length - 4);
	expect_greeting(&s, BOTH);
	expect_export(&s, NBD_OPT_GO, 1 << 20, DISK_FLAGS);
	expect_ack(&s, NBD_OPT_GO);
	expect_nothing(&s);
	assert_int_equal(s.opened, 1);
	assert_int_equal(s.hs.selected.size, 1 << 20);
	assert_false(s.hs.asked_block_size);
}

static void test_go_infos(void **state)
{
	session_flags(&s, 1);
	/* one of them unknown, one asked for twice, EXPORT for what is told anyway */
	session_ask(&s, NBD_OPT_GO, "", 7, 1u, 2u, 3u, 77u, 0u, 3u, 0xffffu);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_TRANSMIT);
	expect_greeting(&s, BOTH);
	expect_export(&s, NBD_OPT_GO, 1 << 20, DISK_FLAGS);
	expect_info_string(&s, NBD_OPT_GO, NBD_INFO_NAME, "disk");
	expect_info_string(&s, NBD_OPT_GO, NBD_INFO_DESCRIPTION, "the first disk");
	expect_block_size(&s, NBD_OPT_GO, 1, 4096, 64 << 20);
	expect_ack(&s, NBD_OPT_GO);
	expect_nothing(&s);
	assert_true(s.hs.asked_block_size);
}

static void test_info(void **state)
{
	session_flags(&s, BOTH);
	session_ask(&s, NBD_OPT_INFO, "plain", 2, 2u, 3u);
	session_ask(&s, NBD_OPT_INFO, "nosuch", 1, 3u);
	session_ask(&s, NBD_OPT_GO, "disk", 0);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_TRANSMIT);
	expect_greeting(&s, BOTH);
	expect_export(&s, NBD_OPT_INFO, 3, HAS_FLAGS);
	expect_block_size(&s, NBD_OPT_INFO, 1, 4096, 32 << 20);
	expect_ack(&s, NBD_OPT_INFO);
	expect_error(&s, NBD_OPT_INFO, NBD_REP_ERR_UNKNOWN);
	expect_export(&s, NBD_OPT_GO, 1 << 20, DISK_FLAGS);
	expect_ack(&s, NBD_OPT_GO);
	expect_nothing(&s);
	assert_int_equal(s.opened, 1);
	assert_false(s.hs.asked_block_size);
}

static void test_block_size_required(void **state)
{
	session_flags(&s, BOTH);
	session_ask(&s, NBD_OPT_INFO, "strict", 0);
	session_ask(&s, NBD_OPT_GO, "strict", 1, 1u);
	session_ask(&s, NBD_OPT_GO, "strict", 1, 3u);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_TRANSMIT);
	expect_greeting(&s, BOTH);
	expect_block_size(&s, NBD_OPT_INFO, 512, 4096, 1 << 20);
	expect_error(&s, NBD_OPT_INFO, NBD_REP_ERR_BLOCK_SIZE_REQD);
	expect_block_size(&s, NBD_OPT_GO, 512, 4096, 1 << 20);
	expect_error(&s, NBD_OPT_GO, NBD_REP_ERR_BLOCK_SIZE_REQD);
	expect_export(&s, NBD_OPT_GO, 8192, HAS_FLAGS | NBD_FLAG_READ_ONLY);
	expect_block_size(&s, NBD_OPT_GO, 512, 4096, 1 << 20);
	expect_ack(&s, NBD_OPT_GO);
	expect_nothing(&s);
	assert_int_equal(s.opened, 1);
}

/* Sizes that a client would not assume are told unasked, if the export takes any client. */
static void test_block_size_unasked(void **state)
{
	static struct nbd_export_info export = {.name = "disk", .preferred_block = 4096};

	for (int i = 0; i < 3; i++) {
		export.min_block = i == 1 ? 512 : 1;
		export.max_payload = i == 2 ? 1 << 20 : 32 << 20;
		s.exports = &export;
		s.export_count = 1;
		s.in_length = 0;
		session_flags(&s, BOTH);
		session_ask(&s, NBD_OPT_GO, "disk", 0);
		assert_int_equal(session_run(&s), NBD_HANDSHAKE_TRANSMIT);
		expect_greeting(&s, BOTH);
		expect_export(&s, NBD_OPT_GO, 0, HAS_FLAGS);
		if (i)
			expect_block_size(&s, NBD_OPT_GO, export.min_block, 4096,
					  export.max_payload);
		expect_ack(&s, NBD_OPT_GO);
		expect_nothing(&s);
	}
}

static void test_find_errors(void **state)
{
	static const struct {
		int error;
		uint32_t reply;
	} cases[] = {
		{-ENOENT, NBD_REP_ERR_UNKNOWN},
		{-EACCES, NBD_REP_ERR_POLICY},
		{-ESHUTDOWN, NBD_REP_ERR_SHUTDOWN},
		{-ENOMEM, NBD_REP_ERR_PLATFORM},
	};

	session_flags(&s, BOTH);
	session_ask(&s, NBD_OPT_INFO, "broken", 0);
	session_ask(&s, NBD_OPT_GO, "broken", 1, 3u);
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		s.find_error = cases[i].error;
		assert_int_equal(session_run(&s), NBD_HANDSHAKE_MORE);
		expect_greeting(&s, BOTH);
		expect_error(&s, NBD_OPT_INFO, cases[i].reply);
		expect_error(&s, NBD_OPT_GO, cases[i].reply);
		expect_nothing(&s);
	}
	s.in_length = 0;
	session_flags(&s, BOTH);
	session_ask(&s, NBD_OPT_INFO, "disk", 0);
	session_ask(&s, NBD_OPT_GO, "disk", 0);
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		s.open_error = cases[i].error;
		assert_int_equal(session_run(&s), NBD_HANDSHAKE_MORE);
		expect_greeting(&s, BOTH);
		expect_export(&s, NBD_OPT_INFO, 1 << 20, DISK_FLAGS);
		expect_ack(&s, NBD_OPT_INFO);
		expect_error(&s, NBD_OPT_GO, cases[i].reply);
		expect_nothing(&s);
	}
}

static void test_malformed_info(void **state)
{
	static const struct {
		const char *data;
		uint32_t length;
	} cases[] = {
		{"", 0},
		{"\0\0\0", 3},
		{"\0\0\0\0", 4}, /* no count */
		{"\0\0\0\0\0", 5},
		{"\0\0\0\4disk", 8},
		{"\0\0\0\4disk\0", 9},
		{"\0\0\0\5disk\0\0", 10}, /* the name would swallow the count */
		{"\0\0\0\7disk\0\0", 10}, /* the name would end behind the data */
		{"\377\377\377\377disk\0\0", 10},
		{"\0\0\0\4disk\0\1", 10}, /* an info request short */
		{"\0\0\0\4disk\0\1\0", 11},
		{"\0\0\0\4disk\0\0\0\1", 12}, /* one too many */
		{"\0\0\0\4disk\0\1\0\1\0", 13},
		{"\0\0\0\4di\0k\0\0", 10}, /* a NUL */
	};

	for (uint32_t option = NBD_OPT_INFO; option <= NBD_OPT_GO; option++) {
		for (size_t i = 0; i < COUNT_OF(cases); i++) {
			s.in_length = 0;
			session_flags(&s, BOTH);
			session_option(&s, option, cases[i].data, cases[i].length);
			run_on();
			expect_error(&s, option, NBD_REP_ERR_INVALID);
			expect_end();
		}
	}
}

static void test_long_names(void **state)
{
	static char name[NBD_MAX_STRING_BYTES + 2];

	memset(name, 'n', sizeof(name) - 2);
	session_flags(&s, BOTH);
	session_ask(&s, NBD_OPT_GO, name, 0);
	name[NBD_MAX_STRING_BYTES] = 'n';
	session_ask(&s, NBD_OPT_GO, name, 0);
	run_on();
	expect_error(&s, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
	expect_error(&s, NBD_OPT_GO, NBD_REP_ERR_INVALID);
	expect_end();
}

static void test_long_name_served(void **state)
{
	static char name[NBD_MAX_STRING_BYTES + 1];
	static struct nbd_export_info export = {
		.name = name, .description = name, .min_block = 1, .max_payload = 64 << 20};

	memset(name, 'n', sizeof(name) - 1);
	s.exports = &export;
	s.export_count = 1;
	session_flags(&s, BOTH);
	session_option(&s, NBD_OPT_LIST, "", 0);
	session_option(&s, NBD_OPT_EXPORT_NAME, name, sizeof(name) - 1);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_TRANSMIT);
	expect_greeting(&s, BOTH);
	expect_listed(&s, name, name);
	expect_ack(&s, NBD_OPT_LIST);
}

static void test_unknown_options(void **state)
{
	static const uint32_t options[] = {0, NBD_OPT_PEEK_EXPORT, 12, 77, 0x7fffffff, 0xffffffff};
	static uint8_t junk[NBD_MAX_OPTION_BYTES + 5];

	session_flags(&s, BOTH);
	for (size_t i = 0; i < COUNT_OF(options); i++) {
		session_option(&s, options[i], "", 0);
		session_option(&s, options[i], "data", 4);
	}
	session_option(&s, 77, junk, sizeof(junk));
	run_on();
	for (size_t i = 0; i < COUNT_OF(options); i++) {
		expect_error(&s, options[i], NBD_REP_ERR_UNSUP);
		expect_error(&s, options[i], NBD_REP_ERR_UNSUP);
	}
	expect_error(&s, 77, NBD_REP_ERR_UNSUP);
	expect_end();
}

static void test_too_big(void **state)
{
	static uint8_t junk[NBD_MAX_OPTION_BYTES + 1];

	session_flags(&s, BOTH);
	session_option(&s, NBD_OPT_GO, junk, sizeof(junk) - 1);
	session_option(&s, NBD_OPT_GO, junk, sizeof(junk));
	session_option(&s, NBD_OPT_INFO, junk, sizeof(junk));
	session_option(&s, NBD_OPT_LIST, junk, sizeof(junk));
	run_on();
	/* the data says: no name, no infos, and then there is more */
	expect_error(&s, NBD_OPT_GO, NBD_REP_ERR_INVALID);
	expect_error(&s, NBD_OPT_GO, NBD_REP_ERR_TOO_BIG);
	expect_error(&s, NBD_OPT_INFO, NBD_REP_ERR_TOO_BIG);
	expect_error(&s, NBD_OPT_LIST, NBD_REP_ERR_INVALID);
	expect_end();
}

static void test_modes(void **state)
{
	session_flags(&s, BOTH);
	session_option(&s, NBD_OPT_STRUCTURED_REPLY, "x", 1);
	session_option(&s, NBD_OPT_STRUCTURED_REPLY, "", 0);
	session_option(&s, NBD_OPT_STRUCTURED_REPLY, "", 0);
	session_ask(&s, NBD_OPT_INFO, "disk", 0);
	session_option(&s, NBD_OPT_EXTENDED_HEADERS, "xy", 2);
	session_option(&s, NBD_OPT_EXTENDED_HEADERS, "", 0);
	session_option(&s, NBD_OPT_EXTENDED_HEADERS, "", 0);
	session_option(&s, NBD_OPT_STRUCTURED_REPLY, "", 0);
	session_ask(&s, NBD_OPT_GO, "disk", 0);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_TRANSMIT);
	expect_greeting(&s, BOTH);
	expect_error(&s, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID);
	expect_ack(&s, NBD_OPT_STRUCTURED_REPLY);
	expect_ack(&s, NBD_OPT_STRUCTURED_REPLY);
	expect_export(&s, NBD_OPT_INFO, 1 << 20, DISK_FLAGS | DF);
	expect_ack(&s, NBD_OPT_INFO);
	expect_error(&s, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_INVALID);
	expect_ack(&s, NBD_OPT_EXTENDED_HEADERS);
	expect_ack(&s, NBD_OPT_EXTENDED_HEADERS);
	expect_error(&s, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_EXT_HEADER_REQD);
	expect_export(&s, NBD_OPT_GO, 1 << 20, DISK_FLAGS | DF);
	expect_ack(&s, NBD_OPT_GO);
	expect_nothing(&s);
	assert_int_equal(s.hs.mode, NBD_MODE_EXTENDED);
}

/* Flags that depend on the negotiation are not believed when the export claims them. */
static void test_flags_of_modes(void **state)
{
	static const struct nbd_export_info export = {
		.name = "disk", .flags = 0xffff, .min_block = 1, .max_payload = 64 << 20};

	s.exports = &export;
	s.export_count = 1;
	session_flags(&s, BOTH);
	session_ask(&s, NBD_OPT_INFO, "disk", 0);
	session_option(&s, NBD_OPT_EXTENDED_HEADERS, "", 0);
	session_ask(&s, NBD_OPT_INFO, "disk", 0);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_MORE);
	expect_greeting(&s, BOTH);
	expect_export(&s, NBD_OPT_INFO, 0, 0xffff & ~DF & ~0x1000);
	expect_ack(&s, NBD_OPT_INFO);
	expect_ack(&s, NBD_OPT_EXTENDED_HEADERS);
	expect_export(&s, NBD_OPT_INFO, 0, 0xffff & ~0x1000);
}

static void test_modes_not_offered(void **state)
{
	s.config.structured = s.config.extended = false;
	session_flags(&s, BOTH);
	session_option(&s, NBD_OPT_STRUCTURED_REPLY, "", 0);
	session_option(&s, NBD_OPT_EXTENDED_HEADERS, "", 0);
	session_query(&s, NBD_OPT_LIST_META_CONTEXT, "disk", 0);
	session_query(&s, NBD_OPT_SET_META_CONTEXT, "disk", 0);
	run_on();
	for (uint32_t option = NBD_OPT_STRUCTURED_REPLY; option <= NBD_OPT_EXTENDED_HEADERS;
	     option++) {
		static const uint32_t order[] = {8, 11, 9, 10};

		expect_error(&s, order[option - 8], NBD_REP_ERR_UNSUP);
	}
	expect_end();
}

static void test_shutting_down(void **state)
{
	s.shutting_down = true;
	session_flags(&s, BOTH);
	session_option(&s, NBD_OPT_LIST, "", 0);
	session_ask(&s, NBD_OPT_GO, "disk", 0);
	session_option(&s, 77, "data", 4);
	run_on();
	expect_error(&s, NBD_OPT_LIST, NBD_REP_ERR_SHUTDOWN);
	expect_error(&s, NBD_OPT_GO, NBD_REP_ERR_SHUTDOWN);
	expect_error(&s, 77, NBD_REP_ERR_SHUTDOWN);
	expect_end();
	s.in_length = 0;
	session_flags(&s, BOTH);
	export_name_closes("disk", 4);
	expect_nothing(&s);
}

static void test_options_without_end(void **state)
{
	session_flags(&s, BOTH);
	for (int i = 0; i < NBD_MAX_OPTIONS; i++)
		session_option(&s, 77, "", 0);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_MORE);
	session_option(&s, 77, "", 0);
	assert_int_equal(session_run(&s), NBD_HANDSHAKE_CLOSE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define SERVER_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		SERVER_TEST(test_greeting),
		SERVER_TEST(test_greeting_without_no_zeroes),
		SERVER_TEST(test_unknown_client_flags),
		SERVER_TEST(test_wrong_option_magic),
		SERVER_TEST(test_export_name),
		SERVER_TEST(test_export_name_default),
		SERVER_TEST(test_export_name_structured),
		SERVER_TEST(test_export_name_refused),
		SERVER_TEST(test_export_name_after_extended),
		SERVER_TEST(test_not_fixed),
		SERVER_TEST(test_abort),
		SERVER_TEST(test_list),
		SERVER_TEST(test_list_refused),
		SERVER_TEST(test_go),
		SERVER_TEST(test_go_infos),
		SERVER_TEST(test_info),
		SERVER_TEST(test_block_size_required),
		SERVER_TEST(test_block_size_unasked),
		SERVER_TEST(test_find_errors),
		SERVER_TEST(test_malformed_info),
		SERVER_TEST(test_long_names),
		SERVER_TEST(test_long_name_served),
		SERVER_TEST(test_unknown_options),
		SERVER_TEST(test_too_big),
		SERVER_TEST(test_modes),
		SERVER_TEST(test_flags_of_modes),
		SERVER_TEST(test_modes_not_offered),
		SERVER_TEST(test_shutting_down),
		SERVER_TEST(test_options_without_end),
	};

	return cmocka_run_group_tests_name("nbd-server", tests, NULL, NULL);
}
