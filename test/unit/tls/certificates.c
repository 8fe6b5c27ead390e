/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * certificates: made with GnuTLS itself, so that the tests need no program. One thread.
 */
#include "test/unit/tls/certificates.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- Files ---- */

const char *make_directory(void)
{
	const char *base = getenv("TMPDIR");
	char *path;
	assert_true(asprintf(&path, "%s/pollux-tls-XXXXXX", base ? base : "/tmp") > 0);
	assert_non_null(mkdtemp(path));
	/* a test may act as somebody else to be refused a file, not the directory */
	assert_int_equal(chmod(path, 0755), 0);
	return path;
}

void remove_directory(const char *directory)
{
	DIR *dir = opendir(directory);
	assert_non_null(dir);
	for (struct dirent *entry; (entry = readdir(dir));) {
		if (entry->d_name[0] != '.')
			unlinkat(dirfd(dir), entry->d_name, 0);
	}
	closedir(dir);
	assert_int_equal(rmdir(directory), 0);
	free((char *)directory);
}

const char *in_directory(const char *directory, const char *name)
{
	static char paths[8][4096];
	static unsigned next;
	char *path = paths[next++ % 8];
	assert_true(snprintf(path, sizeof(paths[0]), "%s/%s", directory, name) < 4096);
	return path;
}

void write_file(const char *path, const void *bytes, size_t count, unsigned mode)
{
	unlink(path);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	assert_true(fd >= 0);
	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(write(fd, bytes, count), count);
	close(fd);
}

void write_text(const char *path, const char *text)
{
	write_file(path, text, strlen(text), 0600);
}

/* ---- Certificates ---- */

static gnutls_x509_privkey_t make_key(void)
{
	gnutls_x509_privkey_t key;
	assert_int_equal(gnutls_x509_privkey_init(&key), 0);
	assert_int_equal(
		gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
					     GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
		0);
	return key;
}

static void put_text(gnutls_x509_crt_t certificate, const char *oid, const char *text)
{
	if (text)
		assert_int_equal(
			gnutls_x509_crt_set_dn_by_oid(certificate, oid, 0, text, strlen(text)), 0);
}

static void put_alternative(gnutls_x509_crt_t certificate, gnutls_x509_subject_alt_name_t type,
			    const char *text)
{
	if (text)
		assert_int_equal(gnutls_x509_crt_set_subject_alt_name(
					 certificate, type, text, strlen(text), GNUTLS_FSAN_APPEND),
				 0);
}

static gnutls_x509_crt_t begin_certificate(gnutls_x509_privkey_t key, const struct wish *wish)
{
	static unsigned serials = 1000;
	gnutls_x509_crt_t certificate;
	uint32_t number = __builtin_bswap32(wish->serial ? wish->serial : ++serials);
	time_t now = time(NULL);
	bool dated = wish->from_hours || wish->to_hours;
	assert_int_equal(gnutls_x509_crt_init(&certificate), 0);
	assert_int_equal(gnutls_x509_crt_set_version(certificate, 3), 0);
	assert_int_equal(gnutls_x509_crt_set_key(certificate, key), 0);
	assert_int_equal(gnutls_x509_crt_set_serial(certificate, &number, sizeof(number)), 0);
	gnutls_x509_crt_set_activation_time(certificate,
					    now + (dated ? wish->from_hours : -1) * 3600);
	gnutls_x509_crt_set_expiration_time(certificate,
					    now + (dated ? wish->to_hours : 24) * 3600);
	put_text(certificate, GNUTLS_OID_X520_ORGANIZATION_NAME, wish->organization);
	put_text(certificate, GNUTLS_OID_X520_COMMON_NAME, wish->common_name);
	put_alternative(certificate, GNUTLS_SAN_DNSNAME, wish->dns);
	put_alternative(certificate, GNUTLS_SAN_RFC822NAME, wish->email);
	put_alternative(certificate, GNUTLS_SAN_URI, wish->uri);
	if (wish->ip) {
		uint8_t address[16];
		bool four = inet_pton(AF_INET, wish->ip, address) == 1;
		assert_true(four || inet_pton(AF_INET6, wish->ip, address) == 1);
		assert_int_equal(gnutls_x509_crt_set_subject_alt_name(
					 certificate, GNUTLS_SAN_IPADDRESS, address, four ? 4 : 16,
					 GNUTLS_FSAN_APPEND),
				 0);
	}
	if (wish->server)
		gnutls_x509_crt_set_key_purpose_oid(certificate, GNUTLS_KP_TLS_WWW_SERVER, 0);
	if (wish->client)
		gnutls_x509_crt_set_key_purpose_oid(certificate, GNUTLS_KP_TLS_WWW_CLIENT, 0);
	return certificate;
}

static void write_certificate(gnutls_x509_crt_t certificate, const char *path)
{
	gnutls_datum_t pem;
	assert_int_equal(gnutls_x509_crt_export2(certificate, GNUTLS_X509_FMT_PEM, &pem), 0);
	write_file(path, pem.data, pem.size, 0644);
	gnutls_free(pem.data);
}

void authority_make(struct authority *authority, const char *name)
{
	const struct wish wish = {.common_name = name};
	authority->key = make_key();
	authority->certificate = begin_certificate(authority->key, &wish);
	gnutls_x509_crt_set_basic_constraints(authority->certificate, 1, -1);
	gnutls_x509_crt_set_key_usage(authority->certificate,
				      GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN);
	assert_int_equal(gnutls_x509_crt_sign2(authority->certificate, authority->certificate,
					       authority->key, GNUTLS_DIG_SHA256, 0),
			 0);
}

void authority_free(struct authority *authority)
{
	gnutls_x509_crt_deinit(authority->certificate);
	gnutls_x509_privkey_deinit(authority->key);
}

void authority_write(const struct authority *authority, const char *path)
{
	write_certificate(authority->certificate, path);
}

void authority_revoke(const struct authority *authority, unsigned serial, const char *path)
{
	uint32_t number = __builtin_bswap32(serial);
	gnutls_x509_crl_t list;
	gnutls_datum_t pem;
	time_t now = time(NULL);
	assert_int_equal(gnutls_x509_crl_init(&list), 0);
	gnutls_x509_crl_set_version(list, 2);
	gnutls_x509_crl_set_this_update(list, now - 3600);
	gnutls_x509_crl_set_next_update(list, now + 24 * 3600);
	assert_int_equal(gnutls_x509_crl_set_crt_serial(list, &number, sizeof(number), now - 60),
			 0);
	assert_int_equal(gnutls_x509_crl_sign2(list, authority->certificate, authority->key,
					       GNUTLS_DIG_SHA256, 0),
			 0);
	assert_int_equal(gnutls_x509_crl_export2(list, GNUTLS_X509_FMT_PEM, &pem), 0);
	write_file(path, pem.data, pem.size, 0644);
	gnutls_free(pem.data);
	gnutls_x509_crl_deinit(list);
}

void issue(const struct authority *authority, const struct wish *wish, const char *certificate_path,
	   const char *key_path)
{
	gnutls_x509_privkey_t key = make_key();
	gnutls_x509_crt_t certificate = begin_certificate(key, wish);
	gnutls_x509_crt_set_key_usage(certificate, GNUTLS_KEY_DIGITAL_SIGNATURE);
	assert_int_equal(gnutls_x509_crt_sign2(certificate, authority->certificate, authority->key,
					       GNUTLS_DIG_SHA256, 0),
			 0);
	if (certificate_path)
		write_certificate(certificate, certificate_path);
	if (key_path) {
		gnutls_datum_t pem;
		assert_int_equal(gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &pem), 0);
		write_file(key_path, pem.data, pem.size, 0600);
		gnutls_free(pem.data);
	}
	gnutls_x509_crt_deinit(certificate);
	gnutls_x509_privkey_deinit(key);
}

void fill_directory(const char *directory, const struct authority *authority)
{
	const struct wish server = {.common_name = "server.example",
				    .organization = "Example",
				    .dns = "server.example",
				    .server = true},
			  client = {.common_name = "alice",
				    .organization = "Example",
				    .dns = "Alice.Clients.example",
				    .email = "alice@example.org",
				    .client = true};
	authority_write(authority, in_directory(directory, "ca-cert.pem"));
	issue(authority, &server, in_directory(directory, "server-cert.pem"),
	      in_directory(directory, "server-key.pem"));
	issue(authority, &client, in_directory(directory, "client-cert.pem"),
	      in_directory(directory, "client-key.pem"));
}
