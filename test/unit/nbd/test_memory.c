/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_memory: what happens when there is no memory left, at each allocation in turn. The linker
 * puts the functions below in place of malloc() and strdup().
 */
#include <errno.h>
#include <stdlib.h>

#include "lib/nbd/uri.h"
#include "session.h"

void *__real_malloc(size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t size);
char *__wrap_strdup(const char *text);

static bool armed;
static unsigned until_failure;

static bool fails(void)
{
	return armed && until_failure-- == 0;
}

void *__wrap_malloc(size_t size)
{
	return fails() ? NULL : __real_malloc(size);
}

char *__wrap_strdup(const char *text)
{
	return fails() ? NULL : __real_strdup(text);
}

static struct session s;

/* A handshake whose n-th allocation fails. */
static enum nbd_handshake_result run_short_of(unsigned n)
{
	enum nbd_handshake_result result;

	session_init(&s);
	session_flags(&s, 3);
	session_option(&s, NBD_OPT_STRUCTURED_REPLY, "", 0);
	session_query(&s, NBD_OPT_SET_META_CONTEXT, "disk", 1, "base:allocation");
	session_ask(&s, NBD_OPT_GO, "disk", 0);
	until_failure = n;
	armed = true;
	result = session_feed_once(&s);
	armed = false;
	expect_greeting(&s, 3);
	expect_ack(&s, NBD_OPT_STRUCTURED_REPLY);
	return result;
}

static void test_handshake(void **state)
{
	/* the data of SET_META_CONTEXT */
	assert_int_equal(run_short_of(0), NBD_HANDSHAKE_CLOSE);
	assert_non_null(strstr(s.hs.reason, "memory"));
	expect_nothing(&s);
	session_fini(&s);
	/* what it keeps of it: the export's name, those of the contexts */
	for (unsigned n = 1; n <= 2; n++) {
		assert_int_equal(run_short_of(n), NBD_HANDSHAKE_TRANSMIT);
		expect_error(&s, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_PLATFORM);
		expect_export(&s, NBD_OPT_GO, 1 << 20, 1 | 4 | 8 | 0x80);
		expect_ack(&s, NBD_OPT_GO);
		assert_int_equal(s.hs.context_count, 0);
		session_fini(&s);
	}
	/* the data of GO */
	assert_int_equal(run_short_of(3), NBD_HANDSHAKE_CLOSE);
	session_fini(&s);
	assert_int_equal(run_short_of(4), NBD_HANDSHAKE_TRANSMIT);
	assert_int_equal(s.hs.context_count, 1);
	session_fini(&s);
}

static void test_uri(void **state)
{
	struct nbd_uri uri;
	char error[64] = "";

	until_failure = 0;
	armed = true;
	assert_int_equal(nbd_uri_parse("nbd://h", &uri, error, sizeof(error)), -ENOMEM);
	armed = false;
	assert_non_null(strstr(error, "memory"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_handshake),
		cmocka_unit_test(test_uri),
	};

	return cmocka_run_group_tests_name("nbd-memory", tests, NULL, NULL);
}
