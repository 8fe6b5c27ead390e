/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_server_tls: the options as a server answers them that offers TLS (SELECTIVETLS), requires it
 * (FORCEDTLS) or has none (NOTLS), before and behind STARTTLS.
 */
#include <errno.h>

#include "session.h"

static struct session s;

static int set_up(void **state)
{
	session_init(&s);
	s.config.tls_offered = true;
	session_flags(&s, 3);
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
}

static void test_not_offered(void **state)
{
	s.config.tls_offered = false;
	session_option(&s, NBD_OPT_STARTTLS, "", 0);
	/* and so TLS_REQD is never said: what needs TLS is unknown */
	session_ask(&s, NBD_OPT_GO, "secret", 0);
	session_ask(&s, NBD_OPT_GO, "nosuch", 0);
	run(NBD_HANDSHAKE_MORE);
	expect_error(&s, NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY);
	expect_error(&s, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
	expect_error(&s, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
	expect_nothing(&s);
	assert_int_equal(s.upgrades, 0);
}

static void test_starttls(void **state)
{
	session_option(&s, NBD_OPT_STARTTLS, "x", 1);
	session_option(&s, NBD_OPT_STARTTLS, "", 0);
	session_option(&s, NBD_OPT_STARTTLS, "", 0);
	session_option(&s, NBD_OPT_STARTTLS, "x", 1);
	session_ask(&s, NBD_OPT_GO, "secret", 0);
	run(NBD_HANDSHAKE_TRANSMIT);
	expect_error(&s, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID);
	expect_ack(&s, NBD_OPT_STARTTLS);
	expect_error(&s, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID);
	expect_error(&s, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID);
	expect_export(&s, NBD_OPT_GO, 4096, 1);
	expect_ack(&s, NBD_OPT_GO);
	expect_nothing(&s);
	assert_int_equal(s.upgrades, 1);
	assert_true(s.hs.tls);
}

static void test_not_fixed(void **state)
{
	s.in_length = 0;
	session_flags(&s, 2);
	session_option(&s, NBD_OPT_STARTTLS, "", 0);
	run(NBD_HANDSHAKE_CLOSE);
	expect_nothing(&s);
}

/* Nothing negotiated in the clear survives. */
static void test_state_forgotten(void **state)
{
	for (uint32_t option = NBD_OPT_STRUCTURED_REPLY; option <= NBD_OPT_EXTENDED_HEADERS;
	     option += 3) {
		s.in_length = 0;
		session_flags(&s, 3);
		session_option(&s, option, "", 0);
		session_query(&s, NBD_OPT_SET_META_CONTEXT, "disk", 1, "base:allocation");
		session_option(&s, NBD_OPT_STARTTLS, "", 0);
		session_query(&s, NBD_OPT_SET_META_CONTEXT, "disk", 1, "base:allocation");
		session_option(&s, NBD_OPT_EXPORT_NAME, "disk", 4);
		run(NBD_HANDSHAKE_TRANSMIT);
		expect_ack(&s, option);
		expect_context(&s, NBD_OPT_SET_META_CONTEXT, 1, "base:allocation");
		expect_ack(&s, NBD_OPT_SET_META_CONTEXT);
		expect_ack(&s, NBD_OPT_STARTTLS);
		expect_error(&s, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
		assert_int_equal(s.hs.mode, NBD_MODE_SIMPLE);
		assert_int_equal(s.hs.context_count, 0);
		/* the client's flags stay: no zeroes */
		assert_int_equal(s.out_length - s.out_read, 10);
	}
}

static void test_contexts_forgotten(void **state)
{
	session_option(&s, NBD_OPT_STRUCTURED_REPLY, "", 0);
	session_query(&s, NBD_OPT_SET_META_CONTEXT, "disk", 1, "base:allocation");
	session_option(&s, NBD_OPT_STARTTLS, "", 0);
	session_option(&s, NBD_OPT_STRUCTURED_REPLY, "", 0);
	session_ask(&s, NBD_OPT_GO, "disk", 0);
	run(NBD_HANDSHAKE_TRANSMIT);
	assert_int_equal(s.hs.mode, NBD_MODE_STRUCTURED);
	assert_int_equal(s.hs.context_count, 0);
}

static void test_selective(void **state)
{
	session_option(&s, NBD_OPT_LIST, "", 0);
	session_ask(&s, NBD_OPT_INFO, "secret", 1, 3u);
	session_ask(&s, NBD_OPT_GO, "secret", 1, 3u);
	/* so that nobody finds out which names exist */
	session_ask(&s, NBD_OPT_INFO, "nosuch", 0);
	session_ask(&s, NBD_OPT_GO, "nosuch", 0);
	/* other options never say TLS_REQD */
	session_option(&s, NBD_OPT_STRUCTURED_REPLY, "", 0);
	session_query(&s, NBD_OPT_LIST_META_CONTEXT, "secret", 0);
	session_query(&s, NBD_OPT_SET_META_CONTEXT, "secret", 0);
	session_ask(&s, NBD_OPT_GO, "disk", 0);
	run(NBD_HANDSHAKE_TRANSMIT);
	expect_listed(&s, "disk", "the first disk");
	expect_listed(&s, "plain", "");
	expect_listed(&s, "strict", "");
	expect_ack(&s, NBD_OPT_LIST);
	for (int i = 0; i < 2; i++) {
		expect_error(&s, NBD_OPT_INFO, NBD_REP_ERR_TLS_REQD);
		expect_error(&s, NBD_OPT_GO, NBD_REP_ERR_TLS_REQD);
	}
	expect_ack(&s, NBD_OPT_STRUCTURED_REPLY);
	expect_error(&s, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_UNKNOWN);
	expect_error(&s, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_UNKNOWN);
	expect_export(&s, NBD_OPT_GO, 1 << 20, 1 | 4 | 8 | 0x80);
	expect_ack(&s, NBD_OPT_GO);
	expect_nothing(&s);
}

static void test_selective_inside(void **state)
{
	session_option(&s, NBD_OPT_STARTTLS, "", 0);
	session_option(&s, NBD_OPT_LIST, "", 0);
	session_ask(&s, NBD_OPT_INFO, "nosuch", 0);
	session_option(&s, NBD_OPT_EXPORT_NAME, "secret", 6);
	run(NBD_HANDSHAKE_TRANSMIT);
	expect_ack(&s, NBD_OPT_STARTTLS);
	expect_listed(&s, "disk", "the first disk");
	expect_listed(&s, "plain", "");
	expect_listed(&s, "strict", "");
	expect_listed(&s, "secret", "only inside TLS");
	expect_ack(&s, NBD_OPT_LIST);
	expect_error(&s, NBD_OPT_INFO, NBD_REP_ERR_UNKNOWN);
	assert_int_equal(s.out_length - s.out_read, 10);
}

/* Where no export needs TLS there is nothing to hide. */
static void test_nothing_to_hide(void **state)
{
	s.export_count = 3;
	session_ask(&s, NBD_OPT_GO, "secret", 0);
	s.find_error = -EACCES;
	session_ask(&s, NBD_OPT_GO, "broken", 0);
	run(NBD_HANDSHAKE_MORE);
	expect_error(&s, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
	expect_error(&s, NBD_OPT_GO, NBD_REP_ERR_POLICY);
	expect_nothing(&s);
}

static void test_selective_export_name(void **state)
{
	session_option(&s, NBD_OPT_EXPORT_NAME, "secret", 6);
	run(NBD_HANDSHAKE_CLOSE);
	expect_nothing(&s);
	assert_int_equal(s.opened, 0);
}

static void test_forced(void **state)
{
	static const uint32_t options[] = {3, 4, 6, 7, 8, 9, 10, 11, 12, 77, 0xffffffff};

	s.config.tls_offered = false; /* required says it all */
	s.config.tls_required = true;
	for (size_t i = 0; i < COUNT_OF(options); i++) {
		session_option(&s, options[i], "", 0);
		session_option(&s, options[i], "data", 4);
	}
	session_option(&s, NBD_OPT_STARTTLS, "", 0);
	session_option(&s, NBD_OPT_LIST, "data", 4);
	session_option(&s, 77, "", 0);
	session_ask(&s, NBD_OPT_GO, "secret", 0);
	run(NBD_HANDSHAKE_TRANSMIT);
	for (size_t i = 0; i < COUNT_OF(options); i++) {
		expect_error(&s, options[i], NBD_REP_ERR_TLS_REQD);
		expect_error(&s, options[i], NBD_REP_ERR_TLS_REQD);
	}
	expect_ack(&s, NBD_OPT_STARTTLS);
	expect_error(&s, NBD_OPT_LIST, NBD_REP_ERR_INVALID);
	expect_error(&s, 77, NBD_REP_ERR_UNSUP);
	expect_export(&s, NBD_OPT_GO, 4096, 1);
	expect_ack(&s, NBD_OPT_GO);
	expect_nothing(&s);
}

static void test_forced_leave(void **state)
{
	s.config.tls_required = true;
	session_option(&s, NBD_OPT_ABORT, "bye", 3);
	run(NBD_HANDSHAKE_CLOSE);
	expect_ack(&s, NBD_OPT_ABORT);
	expect_nothing(&s);
	s.in_length = 0;
	session_flags(&s, 3);
	session_option(&s, NBD_OPT_EXPORT_NAME, "disk", 4);
	run(NBD_HANDSHAKE_CLOSE);
	expect_nothing(&s);
}

static void test_shutting_down(void **state)
{
	s.shutting_down = true;
	session_option(&s, NBD_OPT_STARTTLS, "", 0);
	run(NBD_HANDSHAKE_MORE);
	expect_error(&s, NBD_OPT_STARTTLS, NBD_REP_ERR_SHUTDOWN);
	expect_nothing(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TLS_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TLS_TEST(test_not_offered),
		TLS_TEST(test_starttls),
		TLS_TEST(test_not_fixed),
		TLS_TEST(test_state_forgotten),
		TLS_TEST(test_contexts_forgotten),
		TLS_TEST(test_selective),
		TLS_TEST(test_selective_inside),
		TLS_TEST(test_nothing_to_hide),
		TLS_TEST(test_selective_export_name),
		TLS_TEST(test_forced),
		TLS_TEST(test_forced_leave),
		TLS_TEST(test_shutting_down),
	};

	return cmocka_run_group_tests_name("nbd-server-tls", tests, NULL, NULL);
}
