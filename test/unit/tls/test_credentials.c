/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_credentials: files to credentials - what is taken, what is refused and with which words, and
 * that no secret is among them.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "test/unit/tls/certificates.h"
#include "test/unit/tls/pair.h"

static struct authority authority;
static const char *directory;

#define KEY "00112233445566778899aabbccddeeff"

static int prepare(void **state)
{
	directory = make_directory();
	fill_directory(directory, &authority);
	return 0;
}

static int clean(void **state)
{
	remove_directory(directory);
	return 0;
}

static int prepare_all(void **state)
{
	authority_make(&authority, "Test Authority");
	return 0;
}

static int clean_all(void **state)
{
	authority_free(&authority);
	return 0;
}

/* Creation fails with this error, and the sentence contains these words. */
static void refused(const struct tls_credentials_config *config, int error, const char *word,
		    const char *other)
{
	struct tls_credentials *credentials;
	struct tls_report report;
	assert_int_equal(tls_credentials_create(config, &credentials, &report), error);
	assert_null(credentials);
	if (!strstr(report.error, word) || !strstr(report.error, other))
		fail_msg("\"%s\" lacks \"%s\" or \"%s\"", report.error, word, other);
	assert_null(strstr(report.error, KEY));
}

/* It succeeds, with these words among the warnings, or with none. */
static struct tls_credentials *taken(const struct tls_credentials_config *config,
				     const char *warning)
{
	struct tls_credentials *credentials;
	struct tls_report report;
	if (tls_credentials_create(config, &credentials, &report) != 0)
		fail_msg("%s", report.error);
	if (!warning)
		assert_string_equal(report.warnings, "");
	else if (!strstr(report.warnings, warning))
		fail_msg("\"%s\" lacks \"%s\"", report.warnings, warning);
	return credentials;
}

/* ---- Certificates ---- */

static void takes_a_directory(void **state)
{
	struct tls_credentials_config config = {.directory = directory};
	struct tls_credentials *server = taken(&config, NULL);
	struct tls_credentials_info info;
	tls_credentials_info(server, &info);
	assert_false(info.psk);
	assert_string_equal(info.subject, "server.example");
	assert_true(info.valid_from < time(NULL) && info.valid_to > time(NULL));
	assert_non_null(strstr(info.priority, "%SERVER_PRECEDENCE"));
	tls_credentials_put(server);
	config.verify_peer = TLS_VERIFY_REQUIRE;
	tls_credentials_put(taken(&config, NULL));
	config.endpoint = TLS_CLIENT;
	struct tls_credentials *client = taken(&config, NULL);
	tls_credentials_info(client, &info);
	assert_string_equal(info.subject, "alice");
	tls_credentials_put(client);
}

static void takes_paths(void **state)
{
	char certificate[4096], key[4096];
	strcpy(certificate, in_directory(directory, "my-cert.pem"));
	strcpy(key, in_directory(directory, "my-key.pem"));
	rename(in_directory(directory, "server-cert.pem"), certificate);
	rename(in_directory(directory, "server-key.pem"), key);
	struct tls_credentials_config config = {.certificate_file = certificate, .key_file = key};
	tls_credentials_put(taken(&config, NULL));
	/* paths before the directory's names */
	config.directory = directory;
	config.verify_peer = TLS_VERIFY_REQUEST;
	tls_credentials_put(taken(&config, NULL));
	config.directory = NULL;
	refused(&config, -EINVAL, "authority", "needed");
	config.ca_file = in_directory(directory, "ca-cert.pem");
	tls_credentials_put(taken(&config, NULL));
	config.key_file = NULL;
	refused(&config, -EINVAL, "only together", "");
}

static void names_the_missing_file(void **state)
{
	static const char *const names[] = {"server-cert.pem", "server-key.pem", "ca-cert.pem"};
	const struct tls_credentials_config config = {
		.directory = directory,
		.verify_peer = TLS_VERIFY_REQUIRE,
	};
	for (unsigned i = 0; i < 3; i++) {
		rename(in_directory(directory, names[i]), in_directory(directory, "away"));
		refused(&config, -ENOENT, names[i], "No such file");
		rename(in_directory(directory, "away"), in_directory(directory, names[i]));
	}
	/* an authority that nobody asks is not needed */
	const struct tls_credentials_config lax = {.directory = directory};
	unlink(in_directory(directory, "ca-cert.pem"));
	tls_credentials_put(taken(&lax, NULL));
}

static void a_client_needs_no_certificate(void **state)
{
	const struct tls_credentials_config config = {.endpoint = TLS_CLIENT,
						      .directory = directory};
	unlink(in_directory(directory, "client-cert.pem"));
	struct tls_credentials *client = taken(&config, NULL);
	struct tls_credentials_info info;
	tls_credentials_info(client, &info);
	assert_string_equal(info.subject, "");
	tls_credentials_put(client);
	/* a certificate without its key is a mistake, not a choice */
	fill_directory(directory, &authority);
	unlink(in_directory(directory, "client-key.pem"));
	refused(&config, -ENOENT, "client-key.pem", "No such file");
	const struct tls_credentials_config only_ca = {
		.endpoint = TLS_CLIENT,
		.ca_file = in_directory(directory, "ca-cert.pem"),
	};
	tls_credentials_put(taken(&only_ca, NULL));
}

static void tells_an_unreadable_key(void **state)
{
	const struct tls_credentials_config config = {.directory = directory};
	const char *key = in_directory(directory, "server-key.pem");
	assert_int_equal(chmod(key, 0), 0);
	uid_t uid = geteuid();
	if (uid == 0)
		assert_int_equal(seteuid(65534), 0);
	struct tls_credentials *credentials;
	struct tls_report report;
	int result = tls_credentials_create(&config, &credentials, &report);
	if (uid == 0)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(result, -EACCES);
	assert_non_null(strstr(report.error, "server-key.pem cannot be read"));
	assert_non_null(strstr(report.error, "mode 0000"));
}

static void warns_of_a_public_key_file(void **state)
{
	const struct tls_credentials_config config = {.directory = directory};
	assert_int_equal(chmod(in_directory(directory, "server-key.pem"), 0644), 0);
	tls_credentials_put(taken(&config, "may be read by everyone (mode 0644)"));
}

static void refuses_what_is_no_pem(void **state)
{
	static const char *const names[] = {"server-cert.pem", "server-key.pem", "ca-cert.pem"};
	static const char *const contents[] = {
		"", "hello\n", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
		"-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"};
	const struct tls_credentials_config config = {
		.directory = directory,
		.verify_peer = TLS_VERIFY_REQUIRE,
	};
	for (unsigned i = 0; i < 3; i++) {
		for (unsigned j = 0; j < 4; j++) {
			write_text(in_directory(directory, names[i]), contents[j]);
			refused(&config, -EINVAL, names[i], "in PEM format");
		}
		fill_directory(directory, &authority);
	}
	write_text(in_directory(directory, "ca-crl.pem"), "hello\n");
	refused(&config, -EINVAL, "ca-crl.pem", "revocation list");
}

static void refuses_what_is_no_file(void **state)
{
	const struct tls_credentials_config config = {.directory = directory};
	const char *key = in_directory(directory, "server-key.pem");
	unlink(key);
	assert_int_equal(mkfifo(key, 0600), 0);
	refused(&config, -EINVAL, "server-key.pem", "not a regular file");
	unlink(key);
	assert_int_equal(mkdir(key, 0700), 0);
	refused(&config, -EINVAL, "server-key.pem", "not a regular file");
	rmdir(key);
	write_text(key, "x");
	assert_int_equal(truncate(key, 1 << 30), 0);
	refused(&config, -EFBIG, "server-key.pem", "longer than");
}

static void refuses_another_certificates_key(void **state)
{
	const struct tls_credentials_config config = {.directory = directory};
	rename(in_directory(directory, "client-key.pem"),
	       in_directory(directory, "server-key.pem"));
	refused(&config, -EINVAL, "server-key.pem does not match", "server-cert.pem");
}

static void refuses_a_key_with_a_password(void **state)
{
	const struct tls_credentials_config config = {.directory = directory};
	gnutls_x509_privkey_t key;
	gnutls_datum_t pem;
	gnutls_x509_privkey_init(&key);
	assert_int_equal(
		gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
					     GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
		0);
	assert_int_equal(gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_PEM, "word",
							   GNUTLS_PKCS_PBES2_AES_256, &pem),
			 0);
	write_file(in_directory(directory, "server-key.pem"), pem.data, pem.size, 0600);
	gnutls_free(pem.data);
	gnutls_x509_privkey_deinit(key);
	refused(&config, -EINVAL, "server-key.pem", "password");
}

static void warns_of_dates(void **state)
{
	const struct tls_credentials_config config = {.directory = directory};
	struct wish wish = {.common_name = "old.example", .from_hours = -48, .to_hours = -24};
	issue(&authority, &wish, in_directory(directory, "server-cert.pem"),
	      in_directory(directory, "server-key.pem"));
	tls_credentials_put(taken(&config, "\"old.example\" in "));
	tls_credentials_put(taken(&config, "expired on 2"));
	wish.from_hours = 24;
	wish.to_hours = 48;
	issue(&authority, &wish, in_directory(directory, "server-cert.pem"),
	      in_directory(directory, "server-key.pem"));
	tls_credentials_put(taken(&config, "is not valid before 2"));
}

/* ---- Contradictions ---- */

static void refuses_contradictions(void **state)
{
	static const char *const names[] = {"alice"};
	const char *psk = in_directory(directory, "keys");
	write_text(psk, "u:" KEY "\n");
	const struct {
		struct tls_credentials_config config;
		const char *word;
	} cases[] = {
		{{0}, "need a certificate directory"},
		{{.directory = directory, .psk_file = psk}, "not both"},
		{{.psk_file = psk, .verify_peer = TLS_VERIFY_REQUIRE}, "no certificates to verify"},
		{{.psk_file = psk, .psk_identity = "u"}, "only by a client"},
		{{.directory = directory, .endpoint = TLS_CLIENT, .psk_identity = "u"},
		 "only by a client"},
		{{.directory = directory, .allowed_names = names, .allowed_count = 1},
		 "names are allowed only"},
		{{.directory = directory,
		  .verify_peer = TLS_VERIFY_REQUEST,
		  .allowed_names = names,
		  .allowed_count = 1},
		 "names are allowed only"},
		{{.directory = directory, .priority = "NORMAL:+NONSENSE"}, "wrong at \"+NONSENSE"},
		{{.directory = directory, .priority = ""}, "priority string"},
		{{.directory = directory, .priority = "NORMAL:-VERS-TLS1.3:-VERS-TLS1.2"},
		 "allows no version"},
		{{.directory = directory,
		  .priority = "NORMAL:-VERS-TLS1.3",
		  .min_version = TLS_VERSION_1_3},
		 "allows no version"},
		{{.directory = directory, .priority = "NORMAL:-VERS-ALL:+VERS-TLS1.1"},
		 "allows nothing"},
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		refused(&cases[i].config, -EINVAL, cases[i].word, "");
}

/* ---- PSK files ---- */

static void takes_keys(void **state)
{
	char path[4096];
	strcpy(path, in_directory(directory, "keys"));
	struct tls_credentials_config config = {.psk_file = path};
	struct tls_credentials_info info;
	write_text(path, "zoe:" KEY "\r\n\nalice:" KEY "00\n#00ff:" KEY);
	struct tls_credentials *server = taken(&config, NULL);
	tls_credentials_info(server, &info);
	assert_true(info.psk);
	assert_int_equal(info.identities, 3);
	tls_credentials_put(server);
	config.endpoint = TLS_CLIENT;
	refused(&config, -EINVAL, "several keys", "");
	config.psk_identity = "alice";
	tls_credentials_put(taken(&config, NULL));
	config.psk_identity = "bob";
	refused(&config, -EINVAL, "no key of the identity \"bob\"", "");
	config.psk_identity = NULL;
	write_text(path, "zoe:" KEY "\n");
	tls_credentials_put(taken(&config, NULL));
}

static void refuses_wrong_keys(void **state)
{
	static const struct {
		const char *text, *line, *what;
	} cases[] = {
		{"u:" KEY "\nabc\n", "line 2", "not of the form"},
		{"u:" KEY "\nv:" KEY "z\n", "line 2", "not hexadecimal"},
		{"u:" KEY "g0\n", "line 1", "the key is not hexadecimal"},
		{"u:\n", "line 1", "the key is empty"},
		{":" KEY "\n", "line 1", "the identity is empty"},
		{"#0:" KEY "\n", "line 1", "behind # is not hexadecimal"},
		{"#zz:" KEY "\n", "line 1", "behind # is not hexadecimal"},
		{"# a comment\n", "line 1", "not of the form"},
		{"u:" KEY "\nv:" KEY "\nu:" KEY "\n", "\"u\"", "twice"},
		{"\n\n", "keys", "holds no keys"},
		{"", "keys", "holds no keys"},
	};
	const char *path = in_directory(directory, "keys");
	const struct tls_credentials_config config = {.psk_file = path};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		write_text(path, cases[i].text);
		refused(&config, -EINVAL, cases[i].line, cases[i].what);
	}
	char longer[2048];
	memset(longer, 'a', sizeof(longer));
	strcpy(longer + 129, ":" KEY);
	write_text(path, longer);
	refused(&config, -EINVAL, "line 1", "longer than 128 bytes");
	memset(longer, 'a', sizeof(longer));
	strcpy(longer + 1026, "\n");
	memcpy(longer, "u:", 2);
	write_text(path, longer);
	tls_credentials_put(taken(&config, NULL));
	strcpy(longer + 1026, "00\n");
	write_text(path, longer);
	refused(&config, -EINVAL, "line 1", "longer than 512 bytes");
	unlink(path);
	refused(&config, -ENOENT, "keys", "No such file");
}

static void warns_of_weak_keys(void **state)
{
	const char *path = in_directory(directory, "keys");
	const struct tls_credentials_config config = {.psk_file = path};
	write_text(path, "u:0011223344\n");
	tls_credentials_put(taken(&config, "line 1: the key has only 5 bytes"));
	write_text(path, "u:" KEY "\n");
	chmod(path, 0644);
	tls_credentials_put(taken(&config, "may be read by everyone"));
	/* both, and more than there is room for */
	char text[20000], *at = text;
	for (unsigned i = 0; i < 500; i++)
		at += sprintf(at, "user%u:%02x\n", i, i % 256);
	write_file(path, text, at - text, 0644);
	tls_credentials_put(taken(&config, "mode 0644); "));
	tls_credentials_put(taken(&config, "only 1 bytes; "));
}

static void takes_many_keys(void **state)
{
	enum { KEYS = 20000 };
	char path[4096];
	strcpy(path, in_directory(directory, "keys"));
	char *text = malloc(KEYS * 64), *at = text;
	for (unsigned i = 0; i < KEYS; i++)
		at += sprintf(at, "user%u:%032x\n", i * 7919 % KEYS, i * 7919 % KEYS + 1);
	write_text(path, text);
	free(text);
	struct tls_credentials_config config = {.psk_file = path};
	struct tls_credentials *server = taken(&config, NULL);
	config.endpoint = TLS_CLIENT;
	for (unsigned i = 0; i < KEYS; i += KEYS / 3) {
		char name[32];
		sprintf(name, "user%u", i);
		config.psk_identity = name;
		struct tls_credentials *client = taken(&config, NULL);
		struct pair pair;
		pair_open(&pair, server, client, NULL);
		pair_connect(&pair);
		pair_close(&pair);
		tls_credentials_put(client);
	}
	tls_credentials_put(server);
}

/* ---- Life ---- */

static void reload_reads_again(void **state)
{
	static const char *const names[] = {"CN=alice,O=Example", "bob"};
	const struct tls_credentials_config config = {
		.directory = directory,
		.verify_peer = TLS_VERIFY_REQUIRE,
		.min_version = TLS_VERSION_1_3,
		.allowed_names = names,
		.allowed_count = 2,
	};
	struct tls_credentials *old = taken(&config, NULL), *fresh;
	struct tls_report report;
	struct wish wish = {.common_name = "new.example"};
	issue(&authority, &wish, in_directory(directory, "server-cert.pem"),
	      in_directory(directory, "server-key.pem"));
	assert_int_equal(tls_credentials_reload(old, &fresh, &report), 0);
	struct tls_credentials_info before, after;
	tls_credentials_info(old, &before);
	tls_credentials_info(fresh, &after);
	assert_string_equal(before.subject, "server.example");
	assert_string_equal(after.subject, "new.example");
	assert_string_equal(before.priority, after.priority);
	assert_null(strstr(after.priority, "TLS1.2"));
	/* what is broken leaves the old ones as they are */
	unlink(in_directory(directory, "server-key.pem"));
	struct tls_credentials *none;
	assert_int_equal(tls_credentials_reload(old, &none, &report), -ENOENT);
	assert_null(none);
	tls_credentials_put(tls_credentials_get(old));
	tls_credentials_put(old);
	tls_credentials_put(fresh);
	tls_credentials_put(NULL);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, prepare, clean)
	const struct CMUnitTest tests[] = {
		CASE(takes_a_directory),
		CASE(takes_paths),
		CASE(names_the_missing_file),
		CASE(a_client_needs_no_certificate),
		CASE(tells_an_unreadable_key),
		CASE(warns_of_a_public_key_file),
		CASE(refuses_what_is_no_pem),
		CASE(refuses_what_is_no_file),
		CASE(refuses_another_certificates_key),
		CASE(refuses_a_key_with_a_password),
		CASE(warns_of_dates),
		CASE(refuses_contradictions),
		CASE(takes_keys),
		CASE(refuses_wrong_keys),
		CASE(warns_of_weak_keys),
		CASE(takes_many_keys),
		CASE(reload_reads_again),
	};
	return cmocka_run_group_tests(tests, prepare_all, clean_all);
}
