/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_memory: each allocation of lib/tls fails in turn. It says -ENOMEM, leaks nothing (the
 * sanitizer build looks), and what was there goes on. GnuTLS's own allocations are not touched.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test/unit/tls/certificates.h"
#include "test/unit/tls/pair.h"

#define KEY "00112233445566778899aabbccddeeff"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
char *__wrap_strdup(const char *text);

static unsigned until_failure; /* allocations until one fails; 0: none does */

static bool fails_now(void)
{
	return until_failure && --until_failure == 0;
}

void *__wrap_malloc(size_t size)
{
	return fails_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
	return fails_now() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
	return fails_now() ? NULL : __real_realloc(old, size);
}

char *__wrap_strdup(const char *text)
{
	return fails_now() ? NULL : __real_strdup(text);
}

static const char *directory;

static int prepare(void **state)
{
	struct authority authority;
	char keys[4000] = "", *at = keys;
	authority_make(&authority, "Test Authority");
	directory = make_directory();
	fill_directory(directory, &authority);
	authority_free(&authority);
	for (unsigned i = 0; i < 20; i++) {
		*at++ = 'a' + i;
		strcpy(at, ":" KEY "\n");
		at += strlen(at);
	}
	strcpy(at, "#ff:" KEY "\n");
	write_text(in_directory(directory, "keys"), keys);
	return 0;
}

static int clean(void **state)
{
	remove_directory(directory);
	return 0;
}

/* Fails the first allocation, then the second, … until all go well; that many must fail. */
static void create_with_failures(const struct tls_credentials_config *config, unsigned least)
{
	struct tls_credentials *credentials = NULL;
	struct tls_report report;
	unsigned i = 0;
	for (;; i++) {
		until_failure = i + 1;
		int result = tls_credentials_create(config, &credentials, &report);
		bool failed = until_failure == 0;
		until_failure = 0;
		if (!failed) {
			assert_int_equal(result, 0);
			break;
		}
		assert_int_equal(result, -ENOMEM);
		assert_null(credentials);
		assert_non_null(strstr(report.error, "no memory"));
	}
	assert_true(i >= least);
	tls_credentials_put(credentials);
}

static void credentials(void **state)
{
	static const char *const names[] = {"alice", "bob"};
	struct tls_credentials_config config = {
		.directory = directory,
		.verify_peer = TLS_VERIFY_REQUIRE,
		.allowed_names = names,
		.allowed_count = 2,
		.priority = "NORMAL",
	};
	create_with_failures(&config, 9);
	config = (struct tls_credentials_config){.psk_file = in_directory(directory, "keys")};
	create_with_failures(&config, 40);
	config.endpoint = TLS_CLIENT;
	config.psk_identity = "b";
	create_with_failures(&config, 40);
}

static void sessions(void **state)
{
	struct tls_credentials *client = credentials_of(TLS_CLIENT, directory, TLS_VERIFY_REQUIRE);
	struct tls_session *session;
	for (unsigned i = 1; i <= 2; i++) {
		until_failure = i;
		assert_int_equal(tls_session_create(&session, client, "server.example"), -ENOMEM);
		assert_null(session);
	}
	until_failure = 3;
	assert_int_equal(tls_session_create(&session, client, "server.example"), 0);
	until_failure = 0;
	/* no room in the output, and none to keep what should go there */
	until_failure = 1;
	assert_int_equal(tls_session_handshake(session, NULL, NULL), -ENOMEM);
	assert_int_equal(tls_session_state(session), TLS_FAILED);
	assert_string_equal(tls_session_reason(session), "no memory for TLS");
	assert_int_equal(tls_session_output_pending(session), 0);
	tls_session_destroy(session);
	tls_credentials_put(client);
}

static void open_sessions(void **state)
{
	struct tls_credentials *server = credentials_of(TLS_SERVER, directory, TLS_VERIFY_NONE),
			       *client = credentials_of(TLS_CLIENT, directory, TLS_VERIFY_REQUIRE);
	struct pair pair;
	pair_open(&pair, server, client, NULL);
	pair_connect(&pair);
	uint8_t wire[4];
	struct tls_output out = {wire, sizeof(wire), 0};
	struct iovec iov = {"word", 4};
	struct tls_source source = {&iov, 1, 0};
	until_failure = 1;
	assert_int_equal(tls_session_write(pair.server, &source, &out), -ENOMEM);
	assert_int_equal(until_failure, 0);
	assert_int_equal(tls_session_state(pair.server), TLS_FAILED);
	until_failure = 1;
	assert_int_equal(tls_session_close(pair.client, NULL), -ENOMEM);
	assert_int_equal(tls_session_state(pair.client), TLS_FAILED);
	pair_close(&pair);
	tls_credentials_put(server);
	tls_credentials_put(client);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(credentials),
		cmocka_unit_test(sessions),
		cmocka_unit_test(open_sessions),
	};
	return cmocka_run_group_tests(tests, prepare, clean);
}
