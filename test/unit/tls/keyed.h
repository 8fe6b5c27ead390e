/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * keyed: open sessions by a pre-shared key, in each kind of version and cipher, for the tests of
 * what comes after the handshake. One thread.
 */
#ifndef POLLUX_TEST_TLS_KEYED_H
#define POLLUX_TEST_TLS_KEYED_H

#include "test/unit/tls/pair.h"

enum keyed_kind {
	KEYED_TLS_1_3,
	KEYED_TLS_1_3_CHACHA20,
	KEYED_TLS_1_2,
	KEYED_TLS_1_2_CHACHA20,
	KEYED_TLS_1_2_CBC, /* with its odd overhead */
	KEYED_KINDS,
};

extern const char *const keyed_priorities[KEYED_KINDS];
#define TLS_1_3 keyed_priorities[KEYED_TLS_1_3]
#define TLS_1_2 keyed_priorities[KEYED_TLS_1_2]

/* The group's set-up and tear-down: a directory with the file of keys. */
int keyed_prepare(void **state);
int keyed_clean(void **state);

/* Connected, ours on both sides; priority NULL: the default. */
void keyed_open(struct pair *pair, const char *priority);
/* The same, and the client is GnuTLS. */
void keyed_open_raw(struct pair *pair, const char *priority);
/* The server takes what it takes by default, the client offers this; not connected yet. */
void keyed_start_raw(struct pair *pair, const char *priority);

#endif
