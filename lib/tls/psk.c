/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * psk: pre-shared keys. The file is read into a sorted table when credentials are made; handshakes
 * look identities up in it, on any thread, and change nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/compiler.h"
#include "lib/tls/internal.h"

/* ---- The table ---- */

void tls_psk_free(struct tls_psk_table *table)
{
	for (size_t i = 0; i < table->count; i++) {
		struct tls_psk *psk = &table->entries[i];
		if (psk->key)
			explicit_bzero(psk->key, psk->key_bytes);
		free(psk->key);
		free(psk->identity);
	}
	free(table->entries);
	*table = (struct tls_psk_table){NULL, 0};
}

static int compare_bytes(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
	int order = memcmp(a, b, MIN_OF(a_bytes, b_bytes));
	return order ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static int compare(const void *a, const void *b)
{
	const struct tls_psk *left = a, *right = b;
	return compare_bytes(left->identity, left->identity_bytes, right->identity,
			     right->identity_bytes);
}

static const struct tls_psk *find(const struct tls_psk_table *table, const void *identity,
				  size_t bytes)
{
	const struct tls_psk wanted = {.identity = (uint8_t *)identity, .identity_bytes = bytes};
	return table->count
		       ? bsearch(&wanted, table->entries, table->count, sizeof(wanted), compare)
		       : NULL;
}

/* ---- Reading ---- */

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* 0, -EINVAL (no hexadecimal) or -ENOMEM. */
static int decode_hex(const char *text, size_t count, uint8_t **bytes, size_t *bytes_count)
{
	if (!count || count % 2)
		return -EINVAL;
	uint8_t *out = malloc(count / 2);
	if (!out)
		return -ENOMEM;
	for (size_t i = 0; i < count / 2; i++) {
		int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
		if (high < 0 || low < 0) {
			explicit_bzero(out, i);
			free(out);
			return -EINVAL;
		}
		out[i] = high << 4 | low;
	}
	*bytes = out;
	*bytes_count = count / 2;
	return 0;
}

struct reader {
	const char *path;
	unsigned line;
	struct tls_psk_table *table;
	size_t room; /* entries allocated */
	struct tls_report *report;
};

/* Never with the line itself: a key may stand in it. */
static int wrong(const struct reader *reader, const char *what)
{
	return tls_report_error(reader->report, -EINVAL, "%s, line %u: %s", reader->path,
				reader->line, what);
}

static int no_memory(const struct reader *reader)
{
	return tls_report_error(reader->report, -ENOMEM, "no memory for the keys of %s",
				reader->path);
}

static int read_identity(const struct reader *reader, const char *text, size_t count,
			 struct tls_psk *psk)
{
	if (count > 1 && text[0] == '#') {
		int error = decode_hex(text + 1, count - 1, &psk->identity, &psk->identity_bytes);
		if (error)
			return error == -ENOMEM
				       ? no_memory(reader)
				       : wrong(reader, "the identity behind # is not hexadecimal");
	} else {
		psk->identity = malloc(count + 1);
		if (!psk->identity)
			return no_memory(reader);
		memcpy(psk->identity, text, count);
		psk->identity_bytes = count;
	}
	if (!psk->identity_bytes)
		return wrong(reader, "the identity is empty");
	if (psk->identity_bytes > TLS_PSK_IDENTITY_MAX_BYTES)
		return wrong(reader, "the identity is longer than 128 bytes");
	return 0;
}

static int read_key(const struct reader *reader, const char *text, size_t count,
		    struct tls_psk *psk)
{
	if (!count)
		return wrong(reader, "the key is empty");
	if (count > 2 * TLS_PSK_KEY_MAX_BYTES)
		return wrong(reader, "the key is longer than 512 bytes");
	int error = decode_hex(text, count, &psk->key, &psk->key_bytes);
	if (error)
		return error == -ENOMEM ? no_memory(reader)
					: wrong(reader, "the key is not hexadecimal");
	if (psk->key_bytes < TLS_PSK_KEY_WEAK_BYTES)
		tls_report_warning(reader->report, "%s, line %u: the key has only %zu bytes",
				   reader->path, reader->line, psk->key_bytes);
	return 0;
}

static int read_line(struct reader *reader, const char *line, size_t count)
{
	struct tls_psk_table *table = reader->table;
	const char *colon = memchr(line, ':', count);
	if (!colon)
		return wrong(reader, "not of the form identity:hexkey");
	if (table->count == reader->room) {
		size_t room = reader->room ? 2 * reader->room : 16;
		struct tls_psk *bigger = realloc(table->entries, room * sizeof(*bigger));
		if (!bigger)
			return no_memory(reader);
		table->entries = bigger;
		reader->room = room;
	}
	struct tls_psk *psk = &table->entries[table->count++];
	*psk = (struct tls_psk){0};
	int error = read_identity(reader, line, colon - line, psk);
	if (!error)
		error = read_key(reader, colon + 1, line + count - (colon + 1), psk);
	return error;
}

static int read_table(struct reader *reader, const gnutls_datum_t *file)
{
	const char *at = (const char *)file->data, *end = at + file->size;
	int error = 0;
	while (at < end && !error) {
		const char *newline = memchr(at, '\n', end - at);
		const char *stop = newline ? newline : end;
		size_t count = stop - at;
		reader->line++;
		while (count && (at[count - 1] == '\r' || at[count - 1] == ' '))
			count--;
		if (count)
			error = read_line(reader, at, count);
		at = newline ? newline + 1 : end;
	}
	if (error)
		return error;
	struct tls_psk_table *table = reader->table;
	if (!table->count)
		return tls_report_error(reader->report, -EINVAL, "%s holds no keys", reader->path);
	qsort(table->entries, table->count, sizeof(table->entries[0]), compare);
	for (size_t i = 1; i < table->count; i++) {
		if (compare(&table->entries[i - 1], &table->entries[i]) == 0) {
			char name[TLS_NAME_BYTES];
			tls_clean_text(name, sizeof(name), table->entries[i].identity,
				       table->entries[i].identity_bytes);
			return tls_report_error(reader->report, -EINVAL,
						"%s names the identity \"%s\" twice", reader->path,
						name);
		}
	}
	return 0;
}

/* ---- Credentials ---- */

/* GnuTLS asks it for an identity's key. 1: it may go on with a random one, and fail like a wrong
 * key, so that a client does not learn which identities there are. */
static int look_up(gnutls_session_t tls, const gnutls_datum_t *identity, gnutls_datum_t *key)
{
	struct tls_session *session = gnutls_session_get_ptr(tls);
	const struct tls_psk *psk =
		find(&session->credentials->psks, identity->data, identity->size);
	tls_clean_text(session->peer, sizeof(session->peer), identity->data, identity->size);
	session->psk_asked = true;
	session->psk_unknown = !psk;
	if (!psk)
		return 1;
	key->data = gnutls_malloc(psk->key_bytes);
	if (!key->data)
		return -1;
	memcpy(key->data, psk->key, psk->key_bytes);
	key->size = psk->key_bytes;
	return 0;
}

static int load_server(struct tls_credentials *credentials, struct tls_report *report)
{
	if (gnutls_psk_allocate_server_credentials(&credentials->psk_server) < 0)
		return tls_report_error(report, -ENOMEM, "no memory for keys");
	gnutls_psk_set_server_credentials_function2(credentials->psk_server, look_up);
	gnutls_psk_set_server_known_dh_params(credentials->psk_server, GNUTLS_SEC_PARAM_MEDIUM);
	return 0;
}

static int load_client(struct tls_credentials *credentials, struct tls_report *report)
{
	const char *path = credentials->config.psk_file, *wanted = credentials->config.psk_identity;
	const struct tls_psk_table *table = &credentials->psks;
	if (!wanted && table->count > 1)
		return tls_report_error(report, -EINVAL,
					"%s holds several keys: the identity to use must be named",
					path);
	const struct tls_psk *psk =
		wanted ? find(table, wanted, strlen(wanted)) : &table->entries[0];
	if (!psk)
		return tls_report_error(report, -EINVAL, "%s holds no key of the identity \"%s\"",
					path, wanted);
	gnutls_datum_t identity = {psk->identity, psk->identity_bytes},
		       key = {psk->key, psk->key_bytes};
	if (gnutls_psk_allocate_client_credentials(&credentials->psk_client) < 0 ||
	    gnutls_psk_set_client_credentials2(credentials->psk_client, &identity, &key,
					       GNUTLS_PSK_KEY_RAW) < 0)
		return tls_report_error(report, -ENOMEM, "no memory for keys");
	return 0;
}

int tls_psk_load(struct tls_credentials *credentials, struct tls_report *report)
{
	struct reader reader = {
		.path = credentials->config.psk_file,
		.table = &credentials->psks,
		.report = report,
	};
	gnutls_datum_t file;
	int error = tls_read_file(reader.path, TLS_PSK_FILE_MAX_BYTES, true, &file, report);
	if (error)
		return error;
	error = read_table(&reader, &file);
	tls_wipe_file(&file);
	if (error)
		return error;
	return credentials->config.endpoint == TLS_SERVER ? load_server(credentials, report)
							  : load_client(credentials, report);
}
