/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_refusals: who does not get in, in TLS 1.3 and 1.2 - with the words for the log and the alert
 * that the other side hears - and what is no TLS at all.
 */
#include <errno.h>
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

static struct authority authority, stranger;
static const char *directory;

static int prepare(void **state)
{
	authority_make(&authority, "Test Authority");
	authority_make(&stranger, "Strange Authority");
	directory = make_directory();
	fill_directory(directory, &authority);
	write_text(in_directory(directory, "keys"), "u:" KEY "\nv:" OTHER_KEY "\n");
	write_text(in_directory(directory, "u"), "u:" KEY "\n");
	write_text(in_directory(directory, "wrong"), "u:" OTHER_KEY "\n");
	write_text(in_directory(directory, "unknown"), "mallory:" KEY "\n");
	return 0;
}

static int clean(void **state)
{
	remove_directory(directory);
	authority_free(&authority);
	authority_free(&stranger);
	return 0;
}

/*
 * The server refuses with this error and this word, and the client hears this alert: in the
 * handshake, or, as a TLS 1.3 client believes to be done before the server does, when it reads.
 */
static void server_refuses(struct pair *pair, int error, const char *word, const char *alert)
{
	char text[8];
	size_t got;
	pair_handshake(pair);
	assert_int_equal(pair->server_result, error);
	assert_int_equal(tls_session_state(pair->server), TLS_FAILED);
	contains(tls_session_reason(pair->server), word);
	if (pair->client_result == 0)
		pair->client_result = receive_all(pair, pair->client, text, 1, &got);
	assert_int_equal(pair->client_result, -EPROTO);
	contains(tls_session_reason(pair->client), alert);
	/* and it stays so */
	assert_int_equal(side_handshake(pair, pair->server), error);
	assert_int_equal(side_read(pair, pair->server, text, 1, &got), error);
	assert_int_equal(send_all(pair, pair->server, "x", 1), error);
	assert_int_equal(side_close(pair, pair->server), error);
	assert_int_equal(tls_session_end(pair->server), error);
}

static void client_refuses(struct pair *pair, int error, const char *word, const char *alert)
{
	pair_handshake(pair);
	assert_int_equal(pair->client_result, error);
	assert_int_equal(tls_session_state(pair->client), TLS_FAILED);
	contains(tls_session_reason(pair->client), word);
	assert_int_equal(pair->server_result, -EPROTO);
	contains(tls_session_reason(pair->server), alert);
}

/* A client whose certificate is as wished, in both versions, at a server that verifies. */
static void refuses_client(const struct authority *issuer, const struct wish *wish,
			   const struct tls_credentials_config *server_config, const char *word,
			   const char *alert)
{
	issue(issuer, wish, in_directory(directory, "c.pem"), in_directory(directory, "k.pem"));
	struct tls_credentials *server = credentials_make(server_config);
	for (unsigned i = 0; i < 2; i++) {
		struct tls_credentials *client =
			client_with(directory, "c.pem", "k.pem", versions[i]);
		struct pair pair;
		pair_open(&pair, server, client, NULL);
		server_refuses(&pair, -EACCES, word, alert);
		pair_close(&pair);
		tls_credentials_put(client);
	}
	tls_credentials_put(server);
}

static struct tls_credentials_config verifying(enum tls_verify verify)
{
	return (struct tls_credentials_config){.directory = directory, .verify_peer = verify};
}

/* ---- Certificates that are refused ---- */

static void wrong_authority(void **state)
{
	const struct wish wish = {.common_name = "eve", .client = true};
	struct tls_credentials_config config = verifying(TLS_VERIFY_REQUIRE);
	refuses_client(&stranger, &wish, &config,
		       "\"eve\" is refused: its issuer is not one we trust", "CA is unknown");
	/* asked for only, but shown: it has to be right all the same */
	config.verify_peer = TLS_VERIFY_REQUEST;
	refuses_client(&stranger, &wish, &config, "its issuer is not one we trust",
		       "CA is unknown");
}

static void wrong_dates(void **state)
{
	const struct tls_credentials_config config = verifying(TLS_VERIFY_REQUIRE);
	struct wish wish = {.common_name = "eve", .from_hours = -48, .to_hours = -24};
	refuses_client(&authority, &wish, &config, "it has expired", "Certificate is expired");
	wish = (struct wish){.common_name = "eve", .from_hours = 24, .to_hours = 48};
	refuses_client(&authority, &wish, &config, "it is not valid yet", "Certificate is expired");
}

static void wrong_purpose(void **state)
{
	const struct tls_credentials_config config = verifying(TLS_VERIFY_REQUIRE);
	const struct wish wish = {.common_name = "eve", .server = true};
	refuses_client(&authority, &wish, &config, "not meant for this side",
		       "Certificate is not supported");
}

static void revoked(void **state)
{
	const struct tls_credentials_config config = verifying(TLS_VERIFY_REQUIRE);
	struct wish wish = {.common_name = "eve", .serial = 77};
	authority_revoke(&authority, 77, in_directory(directory, "ca-crl.pem"));
	refuses_client(&authority, &wish, &config, "it has been revoked",
		       "Certificate was revoked");
	wish.serial = 78;
	issue(&authority, &wish, in_directory(directory, "c.pem"),
	      in_directory(directory, "k.pem"));
	struct tls_credentials *server = credentials_make(&config);
	struct tls_credentials *client = client_with(directory, "c.pem", "k.pem", NULL);
	struct pair pair;
	pair_open(&pair, server, client, NULL);
	pair_connect(&pair);
	pair_close(&pair);
	tls_credentials_put(server);
	tls_credentials_put(client);
}

static void missing_certificate(void **state)
{
	unlink(in_directory(directory, "client-cert.pem"));
	struct tls_credentials *server = credentials_of(TLS_SERVER, directory, TLS_VERIFY_REQUIRE);
	for (unsigned i = 0; i < 2; i++) {
		const struct tls_credentials_config config = {
			.endpoint = TLS_CLIENT,
			.directory = directory,
			.priority = versions[i],
		};
		struct tls_credentials *client = credentials_make(&config);
		struct pair pair;
		pair_open(&pair, server, client, NULL);
		server_refuses(&pair, -EACCES, "the client shows no certificate",
			       i ? "Certificate is required" : "alert");
		pair_close(&pair);
		tls_credentials_put(client);
	}
	tls_credentials_put(server);
}

static void clients_verify_too(void **state)
{
	struct tls_credentials *server = credentials_of(TLS_SERVER, directory, TLS_VERIFY_NONE);
	struct tls_credentials *client = credentials_of(TLS_CLIENT, directory, TLS_VERIFY_DEFAULT);
	struct pair pair;
	pair_open(&pair, server, client, "other.example");
	client_refuses(&pair, -EACCES, "\"server.example\" is refused: it belongs to another host",
		       "Certificate is bad");
	pair_close(&pair);
	tls_credentials_put(client);

	authority_write(&stranger, in_directory(directory, "ca-cert.pem"));
	client = credentials_of(TLS_CLIENT, directory, TLS_VERIFY_REQUIRE);
	pair_open(&pair, server, client, "server.example");
	client_refuses(&pair, -EACCES, "its issuer is not one we trust", "CA is unknown");
	pair_close(&pair);
	tls_credentials_put(client);

	client = credentials_of(TLS_CLIENT, directory, TLS_VERIFY_NONE);
	pair_open(&pair, server, client, "other.example");
	pair_connect(&pair);
	pair_close(&pair);
	tls_credentials_put(client);
	tls_credentials_put(server);
}

/* ---- Allowed names ---- */

static bool admits(const char *const *names, unsigned count)
{
	const struct tls_credentials_config config = {
		.directory = directory,
		.verify_peer = TLS_VERIFY_REQUIRE,
		.allowed_names = names,
		.allowed_count = count,
	};
	struct tls_credentials *server = credentials_make(&config);
	struct tls_credentials *client = credentials_of(TLS_CLIENT, directory, TLS_VERIFY_REQUIRE);
	struct pair pair;
	pair_open(&pair, server, client, NULL);
	pair_handshake(&pair);
	int result = pair.server_result;
	if (result) {
		assert_int_equal(result, -EACCES);
		contains(tls_session_reason(pair.server),
			 "\"alice\" is refused: its name is not among");
		char text[1];
		size_t got;
		assert_int_equal(receive_all(&pair, pair.client, text, 1, &got), -EPROTO);
		contains(tls_session_reason(pair.client), "Access was denied");
	}
	pair_close(&pair);
	tls_credentials_put(server);
	tls_credentials_put(client);
	return result == 0;
}

static void allowed_names(void **state)
{
	static const char *const in[] = {"alice",
					 "al*",
					 "alice.clients.example",
					 "*.CLIENTS.example",
					 "alice@example.org",
					 "CN=alice,O=Example",
					 "CN=*,O=Example",
					 "CN=alice, O=Exa*"};
	static const char *const out[] = {"bob",
					  "Alice",
					  "lice",
					  "alic",
					  "",
					  "bob.clients.example",
					  "CN=alice",
					  "O=Example",
					  "CN=alice*",
					  "CN=*",
					  "CN=bob,O=Example",
					  "CN=alice,O=Example,C=DE",
					  "O=Example,CN=alice"};
	for (unsigned i = 0; i < sizeof(in) / sizeof(in[0]); i++) {
		if (!admits(&in[i], 1))
			fail_msg("%s", in[i]);
	}
	for (unsigned i = 0; i < sizeof(out) / sizeof(out[0]); i++) {
		if (admits(&out[i], 1))
			fail_msg("%s", out[i]);
	}
	const char *const several[] = {"bob", "CN=carol,O=Example", "alice"};
	assert_true(admits(several, 3));
	assert_false(admits(several, 2));
	/* a comma in a name is the name's, and ends no part of it */
	const struct wish wish = {.common_name = "alice,O=Example", .organization = "Elsewhere"};
	issue(&authority, &wish, in_directory(directory, "client-cert.pem"),
	      in_directory(directory, "client-key.pem"));
	const char *const pattern = "CN=*,O=E*,*";
	const struct tls_credentials_config config = {
		.directory = directory,
		.verify_peer = TLS_VERIFY_REQUIRE,
		.allowed_names = &pattern,
		.allowed_count = 1,
	};
	refuses_client(&authority, &wish, &config, "its name is not among", "Access was denied");
}

/* ---- Keys that are refused ---- */

static void wrong_and_unknown_keys(void **state)
{
	static const char *const alerts[] = {"Bad record MAC", "Illegal parameter"};
	struct tls_credentials *server = keys_of(TLS_SERVER, directory, "keys", NULL);
	for (unsigned i = 0; i < 4; i++) {
		char priority[256];
		snprintf(priority, sizeof(priority), "%s" PSK, versions[i % 2]);
		struct tls_credentials *client =
			keys_of(TLS_CLIENT, directory, i < 2 ? "wrong" : "unknown", priority);
		struct pair pair;
		pair_open(&pair, server, client, NULL);
		/* the client hears the same in both cases, and so learns nothing of who is known */
		server_refuses(&pair, -EACCES,
			       i < 2 ? "the client's key for the PSK identity \"u\" is not ours"
				     : "the client's PSK identity \"mallory\" is unknown",
			       alerts[i % 2]);
		assert_null(strstr(tls_session_reason(pair.server), "0011"));
		pair_close(&pair);
		tls_credentials_put(client);
	}
	tls_credentials_put(server);
}

static void identities_are_cleaned(void **state)
{
	write_text(in_directory(directory, "odd"), "#410a1b5b6d00ffc3a922:" KEY "\n");
	struct tls_credentials *server = keys_of(TLS_SERVER, directory, "keys", NULL);
	struct tls_credentials *client = keys_of(TLS_CLIENT, directory, "odd", NULL);
	struct pair pair;
	pair_open(&pair, server, client, NULL);
	pair_handshake(&pair);
	contains(tls_session_reason(pair.server), "identity \"A??[m????\"\" is unknown");
	pair_close(&pair);
	tls_credentials_put(server);
	/* known as bytes, with a zero among them */
	server = keys_of(TLS_SERVER, directory, "odd", NULL);
	pair_open(&pair, server, client, NULL);
	pair_connect(&pair);
	pair_close(&pair);
	tls_credentials_put(server);
	tls_credentials_put(client);
}

/* ---- Nothing in common ---- */

static void refuses_raw(struct tls_credentials *server, const char *priority, const char *psk,
			const char *word, gnutls_alert_description_t alert)
{
	struct pair pair;
	pair_open_raw(&pair, server, priority, psk);
	pair_handshake(&pair);
	assert_int_equal(pair.server_result, -EPROTO);
	contains(tls_session_reason(pair.server), word);
	if (pair.client_result != GNUTLS_E_FATAL_ALERT_RECEIVED)
		fail_msg("%s: %s", priority, gnutls_strerror(pair.client_result));
	assert_int_equal(gnutls_alert_get(pair.raw), alert);
	pair_close(&pair);
}

static void old_versions(void **state)
{
	struct tls_credentials_config config = {.directory = directory};
	struct tls_credentials *server = credentials_make(&config);
	refuses_raw(server, "NORMAL:-VERS-ALL:+VERS-TLS1.1", NULL,
		    "no TLS version in common with us: ours start at TLS 1.2",
		    GNUTLS_A_PROTOCOL_VERSION);
	refuses_raw(server, "NORMAL:-VERS-ALL:+VERS-TLS1.0", NULL, "ours start at TLS 1.2",
		    GNUTLS_A_PROTOCOL_VERSION);
	tls_credentials_put(server);
	/* a priority string of one's own does not get around it */
	config.priority = "NORMAL:+VERS-TLS1.1:+VERS-TLS1.0";
	server = credentials_make(&config);
	refuses_raw(server, "NORMAL:-VERS-ALL:+VERS-TLS1.1", NULL, "ours start at TLS 1.2",
		    GNUTLS_A_PROTOCOL_VERSION);
	tls_credentials_put(server);
	config.min_version = TLS_VERSION_1_3;
	server = credentials_make(&config);
	refuses_raw(server, TLS_1_2, NULL, "ours start at TLS 1.3", GNUTLS_A_PROTOCOL_VERSION);
	struct tls_credentials *client = credentials_of(TLS_CLIENT, directory, TLS_VERIFY_REQUIRE);
	struct pair pair;
	pair_open(&pair, server, client, "server.example");
	pair_connect(&pair);
	pair_close(&pair);
	tls_credentials_put(client);
	tls_credentials_put(server);
}

static void no_common_cipher(void **state)
{
	struct tls_credentials *x509 = credentials_of(TLS_SERVER, directory, TLS_VERIFY_NONE);
	struct tls_credentials *keys = keys_of(TLS_SERVER, directory, "keys", NULL);
	refuses_raw(x509, TLS_1_2 ":-CIPHER-ALL:+AES-128-CBC", NULL, "no cipher suite in common",
		    GNUTLS_A_HANDSHAKE_FAILURE);
	refuses_raw(x509, TLS_1_3 ":-CIPHER-ALL:+AES-128-CCM", NULL, "no cipher suite in common",
		    GNUTLS_A_HANDSHAKE_FAILURE);
	refuses_raw(x509, TLS_1_2 PSK, KEY, "no cipher suite in common",
		    GNUTLS_A_HANDSHAKE_FAILURE);
	refuses_raw(keys, TLS_1_2, NULL, "(we use pre-shared keys)", GNUTLS_A_HANDSHAKE_FAILURE);
	refuses_raw(keys, TLS_1_3, NULL, "(we use pre-shared keys)", GNUTLS_A_HANDSHAKE_FAILURE);
	tls_credentials_put(x509);
	tls_credentials_put(keys);
}

/* ---- What is no TLS ---- */

static void refuses_bytes(const char *bytes, size_t count, size_t cut, const char *word)
{
	struct tls_credentials *server = keys_of(TLS_SERVER, directory, "keys", NULL);
	struct pair pair;
	pair_open(&pair, server, server, NULL);
	queue_put(&pair.to_server, bytes, count);
	pair.cut = cut;
	int result = -EAGAIN;
	while (result == -EAGAIN && pair.to_server.count)
		result = side_handshake(&pair, pair.server);
	assert_int_equal(result, -EPROTO);
	contains(tls_session_reason(pair.server), word);
	pair_close(&pair);
	tls_credentials_put(server);
}

static void no_tls(void **state)
{
	static const char option[] = "IHAVEOPT\0\0\0\7\0\0\0\0 and more of the kind";
	static const char http[] = "GET / HTTP/1.1\r\nHost: example\r\n\r\n";
	static const char ssl2[80] = "\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80";
	static const char early[] = "\x17\x03\x03\x00\x10 application data";
	static const char huge[] = "\x16\x03\x01\xff\xff\x01\x00\x00 and more";
	static const char empty[] = "\x16\x03\x01\x00\x00";
	char zeroes[64] = {0};
	for (size_t cut = 0; cut < 2; cut++) {
		refuses_bytes(
			option, sizeof(option), cut,
			"the client does not speak TLS: it begins with \"IHAV\" (49 48 41 56)");
		refuses_bytes(http, sizeof(http), cut, "it begins with \"GET \"");
		refuses_bytes(zeroes, sizeof(zeroes), cut, "it begins with \"????\" (00 00 00 00)");
		refuses_bytes(ssl2, sizeof(ssl2), cut, "does not speak TLS");
		refuses_bytes(early, sizeof(early), cut, "does not speak TLS");
		refuses_bytes(huge, sizeof(huge), cut, "breaks TLS in the handshake");
		refuses_bytes(empty, sizeof(empty), cut, "breaks TLS in the handshake");
	}
}

/* A hello with any byte changed is refused, or taken for what it then is: never worse. */
static void damaged_hello(void **state)
{
	struct tls_credentials *server = keys_of(TLS_SERVER, directory, "keys", NULL);
	struct tls_credentials *client = keys_of(TLS_CLIENT, directory, "u", NULL);
	size_t count = 1;
	unsigned refused = 0;
	for (size_t i = 0; i < count; i++) {
		struct pair pair;
		pair_open(&pair, server, client, NULL);
		assert_int_equal(side_handshake(&pair, pair.client), -EAGAIN);
		count = pair.to_server.count;
		pair.to_server.bytes[pair.to_server.at + i] ^= 1 + i % 255;
		int result = side_handshake(&pair, pair.server);
		assert_true(result == -EAGAIN || result == -EPROTO || result == -EACCES);
		if (result != -EAGAIN) {
			refused++;
			assert_true(tls_session_reason(pair.server)[0]);
		}
		assert_int_equal(tls_session_end(pair.server),
				 result == -EAGAIN ? -ECONNRESET : result);
		pair_close(&pair);
	}
	/* the binder covers all of the hello */
	assert_true(count > 100 && refused > count / 2);
	tls_credentials_put(server);
	tls_credentials_put(client);
}

static void the_end_in_between(void **state)
{
	struct tls_credentials *server = keys_of(TLS_SERVER, directory, "keys", NULL);
	struct tls_credentials *client = keys_of(TLS_CLIENT, directory, "u", NULL);
	struct pair pair;
	char text[4];
	size_t got;
	pair_open(&pair, server, client, NULL);
	assert_int_equal(side_read(&pair, pair.server, text, 4, &got), -EINVAL);
	assert_int_equal(send_all(&pair, pair.server, "x", 1), -EINVAL);
	assert_int_equal(side_close(&pair, pair.server), -EINVAL);
	assert_int_equal(tls_session_update_keys(pair.server, true, NULL), -EINVAL);
	side_handshake(&pair, pair.client);
	pair.to_server.count -= 10;
	assert_int_equal(side_handshake(&pair, pair.server), -EAGAIN);
	assert_int_equal(tls_session_end(pair.server), -ECONNRESET);
	contains(tls_session_reason(pair.server), "in the middle of the TLS handshake");
	pair_close(&pair);
	tls_credentials_put(server);
	tls_credentials_put(client);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, prepare, clean)
	const struct CMUnitTest tests[] = {
		CASE(wrong_authority),	      CASE(wrong_dates),
		CASE(wrong_purpose),	      CASE(revoked),
		CASE(missing_certificate),    CASE(clients_verify_too),
		CASE(allowed_names),	      CASE(wrong_and_unknown_keys),
		CASE(identities_are_cleaned), CASE(old_versions),
		CASE(no_common_cipher),	      CASE(no_tls),
		CASE(damaged_hello),	      CASE(the_end_in_between),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
