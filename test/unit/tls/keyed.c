/* SPDX-License-Identifier: BSD-3-Clause */
/* keyed: the key, the directory it lies in, and the kinds of sessions. */
#include "test/unit/tls/keyed.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "test/unit/tls/certificates.h"

#define KEY "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define PSK ":-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK"

const char *const keyed_priorities[KEYED_KINDS] = {
	[KEYED_TLS_1_3] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM" PSK,
	[KEYED_TLS_1_3_CHACHA20] =
		"NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305" PSK,
	[KEYED_TLS_1_2] = "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-256-GCM" PSK,
	[KEYED_TLS_1_2_CHACHA20] =
		"NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+CHACHA20-POLY1305" PSK,
	[KEYED_TLS_1_2_CBC] = "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-CBC" PSK,
};

static const char *directory;

int keyed_prepare(void **state)
{
	directory = make_directory();
	write_text(in_directory(directory, "keys"), "u:" KEY "\n");
	return 0;
}

int keyed_clean(void **state)
{
	remove_directory(directory);
	return 0;
}

void keyed_open(struct pair *pair, const char *priority)
{
	struct tls_credentials *server = keys_of(TLS_SERVER, directory, "keys", priority),
			       *client = keys_of(TLS_CLIENT, directory, "keys", priority);
	pair_open(pair, server, client, NULL);
	pair_connect(pair);
	tls_credentials_put(server);
	tls_credentials_put(client);
}

static void start_raw(struct pair *pair, const char *server_priority, const char *priority)
{
	struct tls_credentials *server = keys_of(TLS_SERVER, directory, "keys", server_priority);
	pair_open_raw(pair, server, priority, KEY);
	tls_credentials_put(server);
}

void keyed_open_raw(struct pair *pair, const char *priority)
{
	start_raw(pair, priority, priority);
	pair_connect(pair);
}

void keyed_start_raw(struct pair *pair, const char *priority)
{
	start_raw(pair, NULL, priority);
}
