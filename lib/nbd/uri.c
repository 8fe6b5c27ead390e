/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uri: takes an NBD URI apart. The text is copied once; the parts are decoded in place, since
 * decoding never lengthens. Pure; any thread.
 */
#include "lib/nbd/uri.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/compiler.h"
#include "lib/nbd/proto.h"

enum { VSOCK_HOST_CID = 2 };

struct parse {
	struct nbd_uri *uri;
	char *error;
	size_t error_bytes;
};

static int complain(struct parse *parse, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static int complain(struct parse *parse, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(parse->error, parse->error_bytes, format, arguments);
	va_end(arguments);
	return -EINVAL;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Decodes %XX in place, and tells the length; a NUL is for those that can bear one. */
static int decode(struct parse *parse, const char *what, char *text, size_t *length, bool nul)
{
	char *out = text;

	for (const char *in = text; *in; in++) {
		int high, low;

		if (*in != '%') {
			*out++ = *in;
			continue;
		}
		high = hex_digit(in[1]);
		low = high < 0 ? -1 : hex_digit(in[2]);
		if (low < 0)
			return complain(parse, "%s: %% is not followed by two hexadecimal digits",
					what);
		if (!nul && !high && !low)
			return complain(parse, "%s: contains a NUL", what);
		*out++ = (char)(high << 4 | low);
		in += 2;
	}
	*out = '\0';
	*length = out - text;
	return 0;
}

static int decode_string(struct parse *parse, const char *what, char *text, const char **result)
{
	size_t length;
	int rc = decode(parse, what, text, &length, false);

	*result = text;
	return rc;
}

/* A number of at most 32 bits, the whole text. */
static bool parse_number(const char *text, uint32_t most, uint32_t *number)
{
	uint64_t value = 0;

	for (const char *c = text; *c; c++) {
		if (*c < '0' || *c > '9')
			return false;
		value = value * 10 + (uint64_t)(*c - '0');
		if (value > most)
			return false;
	}
	*number = value;
	return *text;
}

static int parse_port(struct parse *parse, const char *text)
{
	/* of vsock all ones is no port, but any */
	uint32_t most = parse->uri->vsock ? UINT32_MAX - 1 : UINT16_MAX;

	/* the standard allows a colon with nothing behind it */
	if (!*text)
		return 0;
	if (parse_number(text, most, &parse->uri->port) && parse->uri->port)
		return 0;
	return complain(parse, "port '%s' is not a number from 1 to %u", text, most);
}

/* [user@]host[:port], of TCP, and of vsock, where the host is a number. */
static int parse_authority(struct parse *parse, char *text)
{
	struct nbd_uri *uri = parse->uri;
	char *at = strrchr(text, '@'), *colon;
	int rc;

	if (at) {
		*at = '\0';
		rc = decode_string(parse, "user", text, &uri->tls_username);
		if (rc)
			return rc;
		text = at + 1;
	}
	if (*text == '[') {
		char *end = strchr(text, ']');

		if (!end || (end[1] && end[1] != ':'))
			return complain(parse, "host: a bracketed address does not end in ']'");
		*end = '\0';
		text++;
		colon = end[1] ? end + 1 : NULL;
	} else {
		colon = strchr(text, ':');
		if (colon && strchr(colon + 1, ':'))
			return complain(parse, "host: an IPv6 address must stand in brackets");
	}
	if (colon) {
		*colon = '\0';
		rc = parse_port(parse, colon + 1);
		if (rc)
			return rc;
	}
	if (uri->vsock) {
		/* nobody named: the machine that this one is a guest of */
		uri->cid = VSOCK_HOST_CID;
		if (!*text || parse_number(text, UINT32_MAX - 1, &uri->cid))
			return 0;
		return complain(parse, "'%s' is no vsock CID (nbd+vsock://CID[:PORT]/EXPORT)",
				text);
	}
	rc = decode_string(parse, "host", text, &uri->host);
	if (!rc && !*uri->host)
		return complain(parse, "host: is missing (nbd://HOST[:PORT]/EXPORT)");
	return rc;
}

static int check_tls_type(struct parse *parse)
{
	static const char *const types[] = {"anon", "x509", "psk"};

	for (size_t i = 0; i < COUNT_OF(types); i++)
		if (!strcmp(parse->uri->tls_type, types[i]))
			return 0;
	return complain(parse, "tls-type: '%s' is not one of anon, x509, psk",
			parse->uri->tls_type);
}

static int parse_verify(struct parse *parse, const char *value)
{
	if (!strcmp(value, "0") || !strcmp(value, "false"))
		parse->uri->tls_verify_peer = false;
	else if (strcmp(value, "1") && strcmp(value, "true"))
		return complain(parse, "tls-verify-peer: '%s' is neither 0 nor 1", value);
	return 0;
}

/* One KEY=VALUE of the query. */
static int parse_parameter(struct parse *parse, char *key)
{
	struct nbd_uri *uri = parse->uri;
	const struct {
		const char *key;
		const char **result;
	} strings[] = {
		{"tls-type", &uri->tls_type},	      {"tls-certificates", &uri->tls_certificates},
		{"tls-psk-file", &uri->tls_psk_file}, {"tls-username", &uri->tls_username},
		{"tls-hostname", &uri->tls_hostname},
	};
	char *value = strchr(key, '=');
	int rc;

	if (!value)
		return complain(parse, "parameter '%s' has no value", key);
	*value++ = '\0';
	if (!strcmp(key, "socket")) {
		uri->socket = value;
		rc = decode(parse, key, value, &uri->socket_length, true);
		/* only as the first byte, which marks an abstract name */
		if (!rc && uri->socket_length && memchr(value + 1, 0, uri->socket_length - 1))
			return complain(parse, "socket: contains a NUL");
		return rc;
	}
	if (!strcmp(key, "tls-verify-peer"))
		return parse_verify(parse, value);
	for (size_t i = 0; i < COUNT_OF(strings); i++) {
		if (strcmp(key, strings[i].key) != 0)
			continue;
		rc = decode_string(parse, key, value, strings[i].result);
		return !rc && !strcmp(key, "tls-type") ? check_tls_type(parse) : rc;
	}
	return complain(parse, "parameter '%s' is unknown", key);
}

static int parse_query(struct parse *parse, char *query)
{
	int rc = 0;

	while (query && !rc) {
		char *next = strpbrk(query, "&;");

		if (next)
			*next++ = '\0';
		if (*query)
			rc = parse_parameter(parse, query);
		query = next;
	}
	return rc;
}

/* The scheme; `rest` is what follows its colon. */
static int parse_scheme(struct parse *parse, char *text, bool *is_unix, char **rest)
{
	static const struct {
		const char *name;
		bool tls, is_unix, vsock;
	} schemes[] = {
		{"nbd", false, false, false},	   {"nbds", true, false, false},
		{"nbd+unix", false, true, false},  {"nbds+unix", true, true, false},
		{"nbd+vsock", false, false, true}, {"nbds+vsock", true, false, true},
	};
	char *colon = strchr(text, ':');

	if (!colon)
		return complain(parse,
				"'%s' is no URI: nbd://HOST[:PORT]/EXPORT or "
				"nbd+unix:///EXPORT?socket=PATH is expected",
				text);
	*colon = '\0';
	*rest = colon + 1;
	for (size_t i = 0; i < COUNT_OF(schemes); i++) {
		if (!strcasecmp(text, schemes[i].name)) {
			parse->uri->tls = schemes[i].tls;
			parse->uri->vsock = schemes[i].vsock;
			*is_unix = schemes[i].is_unix;
			return 0;
		}
	}
	return complain(parse,
			"scheme '%s' is not one of nbd, nbds, nbd+unix, nbds+unix, nbd+vsock, "
			"nbds+vsock",
			text);
}

static int parse_place(struct parse *parse, bool is_unix, char *authority)
{
	struct nbd_uri *uri = parse->uri;

	if (!is_unix) {
		if (uri->socket)
			return complain(parse, "socket: is for nbd+unix only");
		return parse_authority(parse, authority);
	}
	if (*authority) {
		char *at = strrchr(authority, '@');

		if (!at || at[1])
			return complain(parse,
					"host '%s': a unix socket has none (write three "
					"slashes)",
					authority);
		*at = '\0';
		if (decode_string(parse, "user", authority, &uri->tls_username))
			return -EINVAL;
	}
	if (!uri->socket_length)
		return complain(parse, "socket: is missing (nbd+unix:///EXPORT?socket=PATH)");
	return 0;
}

static int parse_whole(struct parse *parse, char *text)
{
	bool is_unix = false;
	char *query, *slash;
	int rc;

	rc = parse_scheme(parse, text, &is_unix, &text);
	if (rc)
		return rc;
	if (strncmp(text, "//", 2) != 0)
		return complain(parse, "the scheme is not followed by '//'");
	text += 2;
	if (strchr(text, '#'))
		return complain(parse, "a fragment ('#') has no meaning here");
	query = strchr(text, '?');
	if (query)
		*query++ = '\0';
	slash = strchr(text, '/');
	if (slash) {
		*slash = '\0';
		rc = decode_string(parse, "export", slash + 1, &parse->uri->export_name);
		if (rc)
			return rc;
	}
	if (strlen(parse->uri->export_name) > NBD_MAX_STRING_BYTES)
		return complain(parse, "export: longer than %d bytes", NBD_MAX_STRING_BYTES);
	/* the query first: it may hold the socket, and a user that the authority overrides */
	rc = parse_query(parse, query);
	return rc ? rc : parse_place(parse, is_unix, text);
}

int nbd_uri_parse(const char *text, struct nbd_uri *uri, char *error, size_t error_bytes)
{
	struct parse parse = {uri, error, error_bytes};
	int rc;

	*uri = (struct nbd_uri){
		.port = NBD_DEFAULT_PORT,
		.export_name = "",
		.tls_verify_peer = true,
	};
	uri->memory = strdup(text);
	if (!uri->memory) {
		complain(&parse, "no memory");
		return -ENOMEM;
	}
	rc = parse_whole(&parse, uri->memory);
	if (rc)
		nbd_uri_free(uri);
	return rc;
}

void nbd_uri_free(struct nbd_uri *uri)
{
	free(uri->memory);
	*uri = (struct nbd_uri){0};
}
