/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_ways: our records and GnuTLS's are the same. Both sides of a session make theirs in every
 * pair of ways, and change it in the middle; with new keys, limits, alerts and small records, which
 * is where the two take turns.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/compiler.h"
#include "lib/tls/gcm.h"
#include "lib/tls/internal.h"
#include "lib/tls/records.h"
#include "test/unit/tls/certificates.h"
#include "test/unit/tls/exchange.h"

#define AES_128 "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM"
#define AES_256 "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-256-GCM"

static const char *directory;
static const struct tls_gcm *ways[4]; /* NULL first: GnuTLS's own records */
static unsigned way_count = 1;

static int prepare(void **state)
{
	struct authority authority;
	authority_make(&authority, "Authority");
	directory = make_directory();
	fill_directory(directory, &authority);
	authority_free(&authority);
	for (const struct tls_gcm *const *way = tls_gcm_ways; *way; way++) {
		if ((*way)->usable())
			ways[way_count++] = *way;
	}
	return 0;
}

static int clean(void **state)
{
	remove_directory(directory);
	return 0;
}

static void open_with(struct pair *pair, const char *priority)
{
	struct tls_credentials_config config = {.directory = directory, .priority = priority};
	struct tls_credentials *server = credentials_make(&config), *client;
	config.endpoint = TLS_CLIENT;
	client = credentials_make(&config);
	pair_open(pair, server, client, NULL);
	pair_connect(pair);
	tls_credentials_put(server);
	tls_credentials_put(client);
}

static void pass_on(struct pair *pair, struct tls_session *from)
{
	struct tls_session *to = from == pair->server ? pair->client : pair->server;
	uint8_t bytes[3000];
	fill_random(bytes, sizeof(bytes));
	assert_int_equal(send_all(pair, from, bytes, sizeof(bytes)), 0);
	pair_expect(pair, to, bytes, sizeof(bytes));
}

/* The fastest way is what sessions take by themselves. */
static void taken_by_default(void **state)
{
	struct pair pair;
	open_with(&pair, AES_256);
	assert_non_null(pair.server->records);
	assert_non_null(pair.client->records);
	pair_close(&pair);
	open_with(&pair, "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305");
	assert_null(pair.server->records);
	pair_close(&pair);
	open_with(&pair, "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-GCM");
	assert_null(pair.server->records);
	pair_close(&pair);
}

static void every_pair(void **state)
{
	for (unsigned i = 0; i < 2 * way_count * way_count; i++) {
		struct pair pair;
		open_with(&pair, i & 1 ? AES_128 : AES_256);
		tls_session_use(pair.server, ways[i / 2 / way_count]);
		tls_session_use(pair.client, ways[i / 2 % way_count]);
		exchange(&pair, 300000, false);
		exchange(&pair, 5000, true);
		pair.cut = pair.room = 0;
		assert_int_equal(side_close(&pair, pair.client), 0);
		uint8_t byte;
		size_t got;
		assert_int_equal(side_read(&pair, pair.server, &byte, 1, &got), -ESHUTDOWN);
		pass_on(&pair, pair.server);
		pair_close(&pair);
	}
}

/* Ways change, keys change, and there is data in between. */
static void in_the_middle(void **state)
{
	struct pair pair;
	open_with(&pair, AES_128);
	for (unsigned i = 0; i < 200; i++) {
		struct tls_session *from = random_below(2) ? pair.server : pair.client;
		switch (random_below(i % 40 ? 3 : 4)) {
		case 0:
			tls_session_use(from, ways[random_below(way_count)]);
			break;
		case 3: /* GnuTLS takes only so many a second */
			assert_int_equal(tls_session_update_keys(from, random_below(2), NULL), 0);
			assert_int_equal(side_flush(&pair, from), 0);
			break;
		default:
			pass_on(&pair, from);
		}
	}
	pass_on(&pair, pair.server);
	pass_on(&pair, pair.client);
	pair_close(&pair);
}

static uint64_t sequence_of(struct tls_session *session)
{
	struct tls_record_state record;
	uint64_t sequence = 0;
	assert_int_equal(tls_session_record_state(session, false, &record), 0);
	for (unsigned i = 0; i < 8; i++)
		sequence = sequence << 8 | record.sequence[i];
	return sequence;
}

/* A key is used for so many records, and then there is another one. */
static void key_limit(void **state)
{
	enum { LIMIT = 50, RECORDS = 3 * LIMIT + 10 };
	struct pair pair;
	struct tls_record_state before, after;
	open_with(&pair, AES_128);
	pass_on(&pair, pair.server);
	tls_session_record_state(pair.server, false, &before);
	tls_records_set_key_limit(pair.server->records, LIMIT);
	uint64_t most = 0;
	for (unsigned i = 0; i < RECORDS; i++) {
		pair.room = i % 3 ? 0 : 60; /* the announcement itself may find no room */
		assert_int_equal(send_all(&pair, pair.server, "some data", 9), 0);
		while (side_flush(&pair, pair.server) == -EAGAIN)
			;
		pair_expect(&pair, pair.client, "some data", 9);
		most = MAX_OF(most, sequence_of(pair.server));
	}
	assert_int_equal(most, LIMIT);
	tls_session_record_state(pair.server, false, &after);
	assert_memory_not_equal(before.key, after.key, 16);
	/* and the other way the old one holds */
	pass_on(&pair, pair.client);
	pair_close(&pair);
}

/* Until GnuTLS has sent a record of that size, nobody knows that the peer takes it. */
static void size_is_proven_first(void **state)
{
	struct pair pair;
	open_with(&pair, AES_128);
	assert_false(tls_records_may_seal(pair.server->records, 1));
	send_all(&pair, pair.server, "0123456789", 10);
	assert_true(tls_records_may_seal(pair.server->records, 10));
	assert_false(tls_records_may_seal(pair.server->records, 11));
	pair_expect(&pair, pair.client, "0123456789", 10);
	pair_close(&pair);
}

/* Half a record, and data that found no room, show: kernel TLS could not go on there. */
static void state_in_the_midst(void **state)
{
	struct pair pair;
	struct tls_record_state record;
	char text[2];
	size_t got;
	open_with(&pair, AES_128);
	send_all(&pair, pair.client, "word", 4);
	pair.cut = 10;
	assert_int_equal(side_read(&pair, pair.server, text, 2, &got), 0);
	assert_int_equal(tls_session_record_state(pair.server, true, &record), -EBUSY);
	pair.cut = 0;
	assert_int_equal(side_read(&pair, pair.server, text, 2, &got), 0);
	assert_int_equal(got, 2);
	assert_int_equal(tls_session_read_pending(pair.server), 2);
	assert_int_equal(tls_session_record_state(pair.server, true, &record), -EBUSY);
	assert_int_equal(side_read(&pair, pair.server, text, 2, &got), 0);
	assert_int_equal(tls_session_record_state(pair.server, true, &record), 0);
	assert_int_equal(record.sequence[7], 1);
	pair_close(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(taken_by_default),	cmocka_unit_test(every_pair),
		cmocka_unit_test(in_the_middle),	cmocka_unit_test(key_limit),
		cmocka_unit_test(size_is_proven_first), cmocka_unit_test(state_in_the_midst),
	};
	return cmocka_run_group_tests(tests, prepare, clean);
}
