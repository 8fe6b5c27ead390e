/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * names: what a peer calls itself, as text that is safe in a log, and whether its certificate is on
 * a list of allowed names. Any thread.
 */
#include <arpa/inet.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "lib/tls/internal.h"

enum {
	CERTIFICATE_NAME_BYTES = 1024, /* a longer name is treated as none */
	ALTERNATIVE_NAMES_MAX = 256,
};

void tls_clean_text(char *text, size_t room, const void *bytes, size_t count)
{
	const unsigned char *from = bytes;
	size_t n = 0;
	for (; n < count && n + 1 < room; n++)
		text[n] = from[n] >= 0x20 && from[n] < 0x7f ? from[n] : '?';
	text[n] = 0;
}

/* ---- A certificate's names ---- */

/* False: it has none, it is too long, or a zero in it would make it seem to be another. */
static bool common_name(gnutls_x509_crt_t certificate, char name[CERTIFICATE_NAME_BYTES])
{
	size_t bytes = CERTIFICATE_NAME_BYTES;
	if (gnutls_x509_crt_get_dn_by_oid(certificate, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name,
					  &bytes) < 0)
		return false;
	/* the size may or may not count a terminating zero */
	if (bytes && !name[bytes - 1])
		bytes--;
	if (bytes == CERTIFICATE_NAME_BYTES || memchr(name, 0, bytes))
		return false;
	name[bytes] = 0;
	return true;
}

/* Returns the type, or -1 if it is of no use; sets *more as long as there are further names. */
static int alternative_name(gnutls_x509_crt_t certificate, unsigned index,
			    char name[CERTIFICATE_NAME_BYTES], bool *more)
{
	char raw[CERTIFICATE_NAME_BYTES];
	size_t bytes = sizeof(raw) - 1;
	int type = gnutls_x509_crt_get_subject_alt_name(certificate, index, raw, &bytes, NULL);
	*more = type != GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE && index < ALTERNATIVE_NAMES_MAX;
	if (type == GNUTLS_SAN_IPADDRESS) {
		int family = bytes == 4 ? AF_INET : bytes == 16 ? AF_INET6 : AF_UNSPEC;
		return inet_ntop(family, raw, name, CERTIFICATE_NAME_BYTES) ? type : -1;
	}
	if (type != GNUTLS_SAN_DNSNAME && type != GNUTLS_SAN_RFC822NAME && type != GNUTLS_SAN_URI)
		return -1;
	if (bytes && !raw[bytes - 1])
		bytes--;
	if (memchr(raw, 0, bytes))
		return -1;
	memcpy(name, raw, bytes);
	name[bytes] = 0;
	return type;
}

/* Allocated by GnuTLS, RFC 4514's form; NULL without one. */
static char *distinguished_name(gnutls_x509_crt_t certificate)
{
	gnutls_datum_t dn = {NULL, 0};
	if (gnutls_x509_crt_get_dn3(certificate, &dn, 0) < 0)
		return NULL;
	if (memchr(dn.data, 0, dn.size)) {
		gnutls_free(dn.data);
		return NULL;
	}
	return (char *)dn.data;
}

void tls_certificate_name(gnutls_x509_crt_t certificate, char *name, size_t room)
{
	char found[CERTIFICATE_NAME_BYTES];
	bool more = true;
	name[0] = 0;
	if (common_name(certificate, found) && found[0]) {
		tls_clean_text(name, room, found, strlen(found));
		return;
	}
	for (unsigned i = 0; more; i++) {
		if (alternative_name(certificate, i, found, &more) < 0)
			continue;
		tls_clean_text(name, room, found, strlen(found));
		return;
	}
	char *dn = distinguished_name(certificate);
	if (dn)
		tls_clean_text(name, room, dn, strlen(dn));
	gnutls_free(dn);
}

/* ---- Allowed names ---- */

/* The bytes up to the next comma that is not escaped, or to the end. */
static size_t part_bytes(const char *at)
{
	size_t n = 0;
	while (at[n] && at[n] != ',')
		n += at[n] == '\\' && at[n + 1] ? 2 : 1;
	return n;
}

/* A part without the blanks before it. False: too long. */
static bool cut_part(const char **at, char part[CERTIFICATE_NAME_BYTES])
{
	while (**at == ' ')
		(*at)++;
	size_t bytes = part_bytes(*at);
	if (bytes >= CERTIFICATE_NAME_BYTES)
		return false;
	memcpy(part, *at, bytes);
	part[bytes] = 0;
	*at += bytes;
	return true;
}

bool tls_pattern_matches_dn(const char *pattern, const char *dn)
{
	char wanted[CERTIFICATE_NAME_BYTES], found[CERTIFICATE_NAME_BYTES];
	for (;;) {
		if (!cut_part(&pattern, wanted) || !cut_part(&dn, found))
			return false;
		/* backslashes are the name's own, and stand in the pattern as in the name */
		if (fnmatch(wanted, found, FNM_NOESCAPE) != 0)
			return false;
		if (!*pattern || !*dn)
			return !*pattern && !*dn;
		pattern++;
		dn++;
	}
}

static bool any_matches(const char *const *patterns, unsigned count, const char *name, int flags)
{
	for (unsigned i = 0; i < count; i++) {
		if (!strchr(patterns[i], '=') && fnmatch(patterns[i], name, flags) == 0)
			return true;
	}
	return false;
}

bool tls_certificate_allowed(gnutls_x509_crt_t certificate, const char *const *patterns,
			     unsigned count)
{
	char name[CERTIFICATE_NAME_BYTES];
	if (common_name(certificate, name) && any_matches(patterns, count, name, FNM_NOESCAPE))
		return true;
	bool more = true;
	for (unsigned i = 0; more; i++) {
		int type = alternative_name(certificate, i, name, &more);
		int flags = FNM_NOESCAPE | (type == GNUTLS_SAN_DNSNAME ? FNM_CASEFOLD : 0);
		if (type >= 0 && any_matches(patterns, count, name, flags))
			return true;
	}
	char *dn = distinguished_name(certificate);
	bool allowed = false;
	for (unsigned i = 0; dn && i < count && !allowed; i++)
		allowed = strchr(patterns[i], '=') && tls_pattern_matches_dn(patterns[i], dn);
	gnutls_free(dn);
	return allowed;
}
