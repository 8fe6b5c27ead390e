/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * certificates: what the TLS tests need on disk - a temporary directory, authorities, certificates
 * and keys (elliptic, so that they are made in no time), and PSK files. A failure ends the test.
 */
#ifndef POLLUX_TEST_TLS_CERTIFICATES_H
#define POLLUX_TEST_TLS_CERTIFICATES_H

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdbool.h>

struct authority {
	gnutls_x509_privkey_t key;
	gnutls_x509_crt_t certificate;
};

/* What a certificate says; zero: a name without alternatives, valid from an hour ago for a day. */
struct wish {
	const char *common_name, *organization, *dns, *email, *uri, *ip;
	int from_hours, to_hours; /* from now, if not both 0 */
	bool server, client;	  /* key purposes; none: any */
	unsigned serial;
};

/* A new directory below $TMPDIR or /tmp; its path lives until remove_directory(). */
const char *make_directory(void);
void remove_directory(const char *directory);
/* directory/name in one of eight buffers used in turn. */
const char *in_directory(const char *directory, const char *name);
void write_file(const char *path, const void *bytes, size_t count, unsigned mode);
void write_text(const char *path, const char *text);

void authority_make(struct authority *authority, const char *name);
void authority_free(struct authority *authority);
void authority_write(const struct authority *authority, const char *path);
/* A list, written to `path`, that revokes the certificate with that serial number. */
void authority_revoke(const struct authority *authority, unsigned serial, const char *path);
/* Certificate and key to two files; either path may be NULL. */
void issue(const struct authority *authority, const struct wish *wish, const char *certificate_path,
	   const char *key_path);

/* ca-cert.pem, and server-cert.pem, server-key.pem for "server.example", and the client's. */
void fill_directory(const char *directory, const struct authority *authority);

#endif
