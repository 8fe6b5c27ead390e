/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_endings: how an open session ends - by damage, by a peer that does not keep to the rules,
 * cut off, or as it should.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/compiler.h"
#include "test/unit/tls/keyed.h"

/* ---- Damage ---- */

static void damaged_records(void **state)
{
	/* a byte of the header, of the middle, and of the tag */
	for (unsigned i = 0; i < 3 * KEYED_KINDS; i++) {
		struct pair pair;
		char text[100];
		size_t got;
		keyed_open(&pair, keyed_priorities[i / 3]);
		send_all(&pair, pair.client, "good", 4);
		size_t good = pair.to_server.count;
		memset(text, 'x', sizeof(text));
		send_all(&pair, pair.client, text, sizeof(text));
		size_t bad = pair.to_server.count - good;
		size_t at = i % 3 == 0 ? 0 : i % 3 == 1 ? bad / 2 : bad - 1;
		pair.to_server.bytes[pair.to_server.at + good + at] ^= 4;
		/* what came before is delivered, with the same call */
		assert_int_equal(side_read(&pair, pair.server, text, sizeof(text), &got), -EPROTO);
		assert_int_equal(got, 4);
		assert_memory_equal(text, "good", 4);
		pair_failed(&pair, pair.server, "the client breaks TLS: ", "");
		pair_close(&pair);
	}
}

static void records_that_are_none(void **state)
{
	static const struct {
		const char *bytes;
		size_t count;
	} cases[] = {
		{"\x17\x03\x03\x00\x00", 5},		    /* empty */
		{"\x17\x03\x03\x00\x05hello", 10},	    /* shorter than a tag */
		{"\x17\x03\x03\xff\xff", 5},		    /* longer than allowed */
		{"\x17\x03\x03\x41\x01", 5},		    /* by one */
		{"\x16\x03\x03\x00\x05hello", 10},	    /* in the clear */
		{"\x15\x03\x03\x00\x02\x01\x00", 7},	    /* a close_notify in the clear */
		{"\x14\x03\x03\x00\x01\x01", 6},	    /* a change of cipher */
		{"\x18\x03\x03\x00\x05\x01\x00\x02xx", 10}, /* a heartbeat */
		{"GET / HTTP/1.0\r\n\r\n", 18},
	};
	for (unsigned i = 0; i < COUNT_OF(cases); i++) {
		for (unsigned version = 0; version < 2; version++) {
			struct pair pair;
			char text[100];
			size_t got;
			keyed_open(&pair, version ? TLS_1_3 : TLS_1_2);
			queue_put(&pair.to_server, cases[i].bytes, cases[i].count);
			assert_int_equal(receive_all(&pair, pair.server, text, 1, &got), -EPROTO);
			assert_int_equal(got, 0);
			pair_failed(&pair, pair.server, "the client breaks TLS: ", "");
			pair_close(&pair);
		}
	}
}

/* A record sent twice, or out of order, does not decrypt. */
static void replayed_records(void **state)
{
	struct pair pair;
	char text[100];
	size_t got;
	keyed_open(&pair, NULL);
	send_all(&pair, pair.client, "once", 4);
	queue_put(&pair.to_server, pair.to_server.bytes + pair.to_server.at, pair.to_server.count);
	assert_int_equal(side_read(&pair, pair.server, text, sizeof(text), &got), -EPROTO);
	assert_int_equal(got, 4);
	pair_failed(&pair, pair.server, "the client breaks TLS", "Bad record MAC");
	pair_close(&pair);
}

static void truncated_records(void **state)
{
	struct pair pair;
	char text[100];
	size_t got;
	keyed_open(&pair, NULL);
	send_all(&pair, pair.client, "whole", 5);
	send_all(&pair, pair.client, "half", 4);
	pair.to_server.count -= 3;
	assert_int_equal(side_read(&pair, pair.server, text, sizeof(text), &got), 0);
	assert_int_equal(got, 5);
	assert_int_equal(tls_session_end(pair.server), -ECONNRESET);
	contains(tls_session_reason(pair.server), "without TLS's close_notify");
	assert_int_equal(side_read(&pair, pair.server, text, sizeof(text), &got), -ECONNRESET);
	pair_close(&pair);
}

/* ---- The end ---- */

static void closing(void **state)
{
	for (unsigned version = 0; version < 2; version++) {
		struct pair pair;
		char text[100];
		size_t got;
		keyed_open(&pair, version ? TLS_1_3 : TLS_1_2);
		send_all(&pair, pair.client, "last", 4);
		assert_int_equal(side_close(&pair, pair.client), 0);
		assert_int_equal(tls_session_state(pair.client), TLS_CLOSING);
		assert_int_equal(send_all(&pair, pair.client, "x", 1), -EPIPE);
		size_t count = pair.to_server.count;
		assert_int_equal(side_close(&pair, pair.client), 0);
		assert_int_equal(pair.to_server.count, count); /* once is enough */
		/* data and the end in one call, and the end again */
		assert_int_equal(side_read(&pair, pair.server, text, sizeof(text), &got),
				 -ESHUTDOWN);
		assert_int_equal(got, 4);
		assert_int_equal(side_read(&pair, pair.server, text, sizeof(text), &got),
				 -ESHUTDOWN);
		assert_int_equal(got, 0);
		assert_int_equal(tls_session_end(pair.server), 0);
		/* the other half is still open */
		assert_int_equal(tls_session_state(pair.server), TLS_OPEN);
		assert_int_equal(send_all(&pair, pair.server, "reply", 5), 0);
		assert_int_equal(side_close(&pair, pair.server), 0);
		assert_int_equal(side_read(&pair, pair.client, text, sizeof(text), &got),
				 -ESHUTDOWN);
		assert_int_equal(got, 5);
		assert_int_equal(tls_session_end(pair.client), 0);
		assert_string_equal(tls_session_reason(pair.client), "");
		pair_close(&pair);
	}
}

/* A close_notify behind data that found no room keeps its place. */
static void closing_with_bytes_kept(void **state)
{
	struct pair pair;
	char text[100];
	size_t got;
	keyed_open(&pair, NULL);
	pair.room = 7;
	struct iovec iov = {"last words", 10};
	struct tls_source source = {&iov, 1, 0};
	assert_int_equal(side_write(&pair, pair.client, &source), -EAGAIN);
	assert_int_equal(source.count, 0);
	assert_int_equal(side_close(&pair, pair.client), 0);
	while (side_flush(&pair, pair.client) == -EAGAIN)
		;
	assert_int_equal(receive_all(&pair, pair.server, text, sizeof(text), &got), -ESHUTDOWN);
	assert_int_equal(got, 10);
	pair_close(&pair);
}

/* ---- Too much of a good thing ---- */

static void new_keys_without_end(void **state)
{
	struct pair pair;
	char text[4];
	size_t got;
	keyed_open_raw(&pair, TLS_1_3);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(gnutls_session_key_update(pair.raw, 0), 0);
	assert_int_equal(receive_all(&pair, pair.server, text, 4, &got), -EPROTO);
	contains(tls_session_reason(pair.server), "Too many handshake packets");
	pair_close(&pair);
}

static void new_handshakes(void **state)
{
	struct pair pair;
	char text[4];
	size_t got;
	keyed_open_raw(&pair, TLS_1_2);
	assert_int_equal(gnutls_handshake(pair.raw), GNUTLS_E_AGAIN);
	assert_int_equal(receive_all(&pair, pair.server, text, 4, &got), -EPROTO);
	contains(tls_session_reason(pair.server), "asks for a new handshake");
	int code = gnutls_handshake(pair.raw);
	assert_int_equal(code, GNUTLS_E_WARNING_ALERT_RECEIVED);
	assert_int_equal(gnutls_alert_get(pair.raw), GNUTLS_A_NO_RENEGOTIATION);
	pair_close(&pair);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, keyed_prepare, keyed_clean)
	const struct CMUnitTest tests[] = {
		CASE(damaged_records),
		CASE(records_that_are_none),
		CASE(replayed_records),
		CASE(truncated_records),
		CASE(closing),
		CASE(closing_with_bytes_kept),
		CASE(new_keys_without_end),
		CASE(new_handshakes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
