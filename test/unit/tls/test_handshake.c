/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_handshake: who gets in and who does not, in TLS 1.3 and 1.2 - with the words for the log,
 * the alert that the other side hears, and in pieces of any size.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "test/unit/tls/certificates.h"
#include "test/unit/tls/pair.h"

#define KEY	  "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define OTHER_KEY "ff112233445566778899aabbccddeeff00112233445566778899aabbccddee00"

#define TLS_1_2 "NORMAL:-VERS-ALL:+VERS-TLS1.2"
#define TLS_1_3 "NORMAL:-VERS-ALL:+VERS-TLS1.3"
#define PSK	":-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK"

static const char *const versions[] = {TLS_1_2, TLS_1_3};

static struct authority authority;
static const char *directory;

static int prepare(void **state)
{
	authority_make(&authority, "Test Authority");
	directory = make_directory();
	fill_directory(directory, &authority);
	write_text(in_directory(directory, "keys"), "u:" KEY "\nv:" OTHER_KEY "\n");
	write_text(in_directory(directory, "u"), "u:" KEY "\n");
	return 0;
}

static int clean(void **state)
{
	remove_directory(directory);
	authority_free(&authority);
	return 0;
}

/* Both are open, and two words get through. */
static void talk(struct pair *pair)
{
	char text[8];
	size_t got;
	assert_int_equal(send_all(pair, pair->client, "ping", 4), 0);
	assert_int_equal(receive_all(pair, pair->server, text, 4, &got), 0);
	assert_memory_equal(text, "ping", 4);
	assert_int_equal(send_all(pair, pair->server, "pong", 4), 0);
	assert_int_equal(receive_all(pair, pair->client, text, 4, &got), 0);
	assert_memory_equal(text, "pong", 4);
}

/* ---- Who gets in ---- */

static void defaults(void **state)
{
	struct tls_credentials *server = credentials_of(TLS_SERVER, directory, TLS_VERIFY_DEFAULT);
	struct tls_credentials *client = credentials_of(TLS_CLIENT, directory, TLS_VERIFY_DEFAULT);
	struct pair pair;
	struct tls_session_info info;
	pair_open(&pair, server, client, "server.example");
	tls_session_info(pair.server, &info);
	assert_string_equal(info.version, "");
	assert_int_equal(tls_session_state(pair.server), TLS_HANDSHAKE);
	pair_connect(&pair);
	tls_session_info(pair.server, &info);
	assert_string_equal(info.version, "TLS1.3");
	assert_string_equal(info.cipher, tls_aes_is_fast() ? "AES-128-GCM" : "CHACHA20-POLY1305");
	assert_false(info.psk);
	assert_string_equal(info.peer, ""); /* was not asked for */
	tls_session_info(pair.client, &info);
	assert_string_equal(info.peer, "server.example");
	talk(&pair);
	pair_close(&pair);
	tls_credentials_put(server);
	tls_credentials_put(client);
}

static void the_server_prefers(void **state)
{
	static const char *const kinds[][2] = {
		{TLS_1_2 ":-CIPHER-ALL:+CHACHA20-POLY1305:+AES-256-GCM:+AES-128-GCM", "TLS1.2"},
		{TLS_1_3 ":-CIPHER-ALL:+CHACHA20-POLY1305:+AES-256-GCM:+AES-128-GCM", "TLS1.3"}};
	struct tls_session_info info;
	struct pair pair;
	/* the last ones offer certificates' suites too, as some clients with keys do */
	for (unsigned i = 0; i < 6; i++) {
		char priority[256];
		bool psk = i >= 2;
		snprintf(priority, sizeof(priority), "%s%s", kinds[i % 2][0],
			 i >= 4 ? ":+ECDHE-PSK:+DHE-PSK:+PSK"
			 : psk	? PSK
				: "");
		struct tls_credentials *server =
			psk ? keys_of(TLS_SERVER, directory, "keys", NULL)
			    : credentials_of(TLS_SERVER, directory, TLS_VERIFY_NONE);
		pair_open_raw(&pair, server, priority, psk ? KEY : NULL);
		pair_connect(&pair);
		tls_session_info(pair.server, &info);
		assert_string_equal(info.version, kinds[i % 2][1]);
		assert_string_equal(info.cipher,
				    tls_aes_is_fast() ? "AES-128-GCM" : "CHACHA20-POLY1305");
		/* never without forward secrecy */
		contains(info.key_exchange, "DHE");
		if (psk && i % 2)
			assert_string_equal(info.key_exchange, "ECDHE-PSK");
		pair_close(&pair);
		tls_credentials_put(server);
	}
}

static void verified_clients(void **state)
{
	static const enum tls_verify verify[] = {TLS_VERIFY_REQUEST, TLS_VERIFY_REQUIRE};
	for (unsigned i = 0; i < 4; i++) {
		struct tls_credentials *server =
			credentials_of(TLS_SERVER, directory, verify[i / 2]);
		struct tls_credentials *client = client_with(directory, "client-cert.pem",
							     "client-key.pem", versions[i % 2]);
		struct pair pair;
		struct tls_session_info info;
		pair_open(&pair, server, client, "server.example");
		pair_connect(&pair);
		tls_session_info(pair.server, &info);
		assert_string_equal(info.peer, "alice");
		talk(&pair);
		pair_close(&pair);
		tls_credentials_put(server);
		tls_credentials_put(client);
	}
}

static void requested_certificates_may_be_missing(void **state)
{
	unlink(in_directory(directory, "client-cert.pem"));
	struct tls_credentials *server = credentials_of(TLS_SERVER, directory, TLS_VERIFY_REQUEST);
	for (unsigned i = 0; i < 2; i++) {
		const struct tls_credentials_config config = {
			.endpoint = TLS_CLIENT,
			.directory = directory,
			.priority = versions[i],
		};
		struct tls_credentials *client = credentials_make(&config);
		struct pair pair;
		pair_open(&pair, server, client, NULL);
		pair_connect(&pair);
		talk(&pair);
		pair_close(&pair);
		tls_credentials_put(client);
	}
	tls_credentials_put(server);
}

static void pre_shared_keys(void **state)
{
	struct tls_credentials *server = keys_of(TLS_SERVER, directory, "keys", NULL);
	for (unsigned i = 0; i < 2; i++) {
		char priority[256];
		snprintf(priority, sizeof(priority), "%s" PSK, versions[i]);
		struct tls_credentials *client = keys_of(TLS_CLIENT, directory, "u", priority);
		struct pair pair;
		struct tls_session_info info;
		pair_open(&pair, server, client, "ignored.example");
		pair_connect(&pair);
		tls_session_info(pair.server, &info);
		assert_true(info.psk);
		assert_string_equal(info.peer, "u");
		contains(info.key_exchange, "PSK");
		talk(&pair);
		pair_close(&pair);
		tls_credentials_put(client);
	}
	tls_credentials_put(server);
}

/* Every way to cut the bytes, to one at a time, with outputs down to a byte. */
static void any_pieces(void **state)
{
	static const size_t sizes[] = {1, 2, 3, 5, 7, 16, 100, 1000, 5000};
	struct tls_credentials *server = credentials_of(TLS_SERVER, directory, TLS_VERIFY_REQUIRE);
	struct tls_credentials *keys = keys_of(TLS_SERVER, directory, "keys", NULL);
	for (unsigned i = 0; i < 36; i++) {
		char priority[256];
		bool psk = i & 1;
		snprintf(priority, sizeof(priority), "%s%s", versions[i / 2 % 2], psk ? PSK : "");
		struct tls_credentials *client =
			psk ? keys_of(TLS_CLIENT, directory, "u", priority)
			    : client_with(directory, "client-cert.pem", "client-key.pem", priority);
		struct pair pair;
		pair_open(&pair, psk ? keys : server, client, psk ? NULL : "server.example");
		pair.cut = sizes[i % 9];
		pair.room = sizes[(i + i / 9) % 9];
		pair_connect(&pair);
		talk(&pair);
		pair_close(&pair);
		tls_credentials_put(client);
	}
	tls_credentials_put(server);
	tls_credentials_put(keys);
}

/* ---- Reload ---- */

static void reload_leaves_sessions_alone(void **state)
{
	struct tls_credentials *old = credentials_of(TLS_SERVER, directory, TLS_VERIFY_NONE),
			       *fresh;
	struct tls_credentials *client = credentials_of(TLS_CLIENT, directory, TLS_VERIFY_REQUIRE);
	struct tls_report report;
	struct tls_session_info info;
	struct pair before, between, after;
	pair_open(&before, old, client, "server.example");
	pair_connect(&before);
	pair_open(&between, old, client, "server.example");
	side_handshake(&between, between.client);
	const struct wish wish = {.common_name = "new", .dns = "server.example"};
	issue(&authority, &wish, in_directory(directory, "server-cert.pem"),
	      in_directory(directory, "server-key.pem"));
	assert_int_equal(tls_credentials_reload(old, &fresh, &report), 0);
	tls_credentials_put(old); /* the sessions hold it */
	talk(&before);
	pair_connect(&between);
	tls_session_info(between.client, &info);
	assert_string_equal(info.peer, "server.example");
	pair_open(&after, fresh, client, "server.example");
	pair_connect(&after);
	tls_session_info(after.client, &info);
	assert_string_equal(info.peer, "new");
	pair_close(&before);
	pair_close(&between);
	pair_close(&after);
	tls_credentials_put(fresh);
	tls_credentials_put(client);
}

/* ---- Several threads ---- */

enum { THREADS = 3, CONNECTIONS = 12 };

struct shared {
	struct tls_credentials *server, *client, *keys, *key;
};

static void *connect_often(void *arg)
{
	struct shared *shared = arg;
	unsigned long good = 0;
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		struct pair pair;
		bool psk = i & 1;
		pair_open(&pair, psk ? shared->keys : shared->server,
			  psk ? shared->key : shared->client, NULL);
		pair_handshake(&pair);
		good += pair.server_result == 0 && pair.client_result == 0;
		pair_close(&pair);
	}
	return (void *)good;
}

static void threads_share_credentials(void **state)
{
	struct shared shared = {
		credentials_of(TLS_SERVER, directory, TLS_VERIFY_REQUIRE),
		credentials_of(TLS_CLIENT, directory, TLS_VERIFY_REQUIRE),
		keys_of(TLS_SERVER, directory, "keys", NULL),
		keys_of(TLS_CLIENT, directory, "u", NULL),
	};
	pthread_t threads[THREADS];
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, connect_often, &shared), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		void *good;
		pthread_join(threads[i], &good);
		assert_int_equal((unsigned long)good, CONNECTIONS);
	}
	tls_credentials_put(shared.server);
	tls_credentials_put(shared.client);
	tls_credentials_put(shared.keys);
	tls_credentials_put(shared.key);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, prepare, clean)
	const struct CMUnitTest tests[] = {
		CASE(defaults),
		CASE(the_server_prefers),
		CASE(verified_clients),
		CASE(requested_certificates_may_be_missing),
		CASE(pre_shared_keys),
		CASE(any_pieces),
		CASE(reload_leaves_sessions_alone),
		CASE(threads_share_credentials),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
