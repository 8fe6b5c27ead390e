/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_records: an open session - all of the data and nothing else, whatever the sizes of buffers,
 * pieces and records; back-pressure; new keys. How sessions end: test_endings.
 */
#include <errno.h>
#include <gnutls/crypto.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/compiler.h"
#include "test/unit/tls/exchange.h"
#include "test/unit/tls/keyed.h"

/* ---- All of the data ---- */

static void large_transfers(void **state)
{
	for (unsigned i = 0; i < KEYED_KINDS; i++) {
		struct pair pair;
		keyed_open(&pair, keyed_priorities[i]);
		exchange(&pair, 1 << 20, false);
		pair_close(&pair);
	}
}

static void tiny_buffers(void **state)
{
	for (unsigned i = 0; i < KEYED_KINDS; i++) {
		struct pair pair;
		keyed_open(&pair, keyed_priorities[i]);
		exchange(&pair, 30000, true);
		pair_close(&pair);
	}
}

/* A receive buffer's worth at a time gives all that is in it with one call. */
static void one_call_takes_all(void **state)
{
	enum { TOTAL = 200000, BUFFER = 32 << 10 };
	struct pair pair;
	uint8_t *bytes = malloc(TOTAL), *plain = malloc(TOTAL + BUFFER);
	size_t at = 0;
	keyed_open(&pair, NULL);
	fill_random(bytes, TOTAL);
	assert_int_equal(send_all(&pair, pair.server, bytes, TOTAL), 0);
	pair.cut = BUFFER;
	while (pair.to_client.count) {
		size_t before = pair.to_client.count, got;
		assert_int_equal(
			side_read(&pair, pair.client, plain + at, BUFFER + TLS_RECORD_BYTES, &got),
			0);
		assert_int_equal(pair.to_client.count, before - MIN_OF(before, (size_t)BUFFER));
		assert_int_equal(tls_session_read_pending(pair.client), 0);
		at += got;
	}
	assert_int_equal(at, TOTAL);
	assert_memory_equal(plain, bytes, TOTAL);
	free(bytes);
	free(plain);
	pair_close(&pair);
}

/* Records are as big as they can be: many small replies are few records. */
static void small_pieces_share_records(void **state)
{
	enum { PIECES = 512, PIECE_BYTES = 128 };
	struct pair pair;
	struct iovec iov[PIECES];
	uint8_t bytes[PIECE_BYTES] = {1};
	keyed_open(&pair, TLS_1_3);
	for (unsigned i = 0; i < PIECES; i++)
		iov[i] = (struct iovec){bytes, PIECE_BYTES};
	struct tls_source source = {iov, PIECES, 0};
	uint8_t *wire = malloc(PIECES * PIECE_BYTES + 1000);
	struct tls_output out = {wire, PIECES * PIECE_BYTES + 1000, 0};
	assert_int_equal(tls_session_write(pair.server, &source, &out), 0);
	unsigned records = 0;
	for (size_t at = 0; at < out.used; at += 5 + (wire[at + 3] << 8 | wire[at + 4]))
		records++;
	assert_int_equal(records, PIECES * PIECE_BYTES / TLS_RECORD_BYTES);
	free(wire);
	pair_close(&pair);
}

static void nothing_to_do(void **state)
{
	struct pair pair;
	char text[4];
	size_t got = 7;
	struct tls_source none = {NULL, 0, 0};
	keyed_open(&pair, NULL);
	assert_int_equal(side_write(&pair, pair.server, &none), 0);
	struct iovec empty[2] = {{text, 0}, {NULL, 0}};
	struct tls_source nothing = {empty, 2, 0};
	assert_int_equal(side_write(&pair, pair.server, &nothing), 0);
	assert_int_equal(pair.to_client.count, 0);
	assert_int_equal(tls_session_read(pair.client, NULL, text, 4, &got, NULL), 0);
	assert_int_equal(got, 0);
	assert_int_equal(side_read(&pair, pair.client, text, 0, &got), 0);
	assert_int_equal(side_flush(&pair, pair.client), 0);
	assert_int_equal(side_handshake(&pair, pair.client), 0);
	pair_close(&pair);
}

/* ---- Back-pressure ---- */

static void a_full_buffer_stops_writing(void **state)
{
	enum { ROOM = 40000, TOTAL = 100000 };
	struct pair pair;
	keyed_open(&pair, NULL);
	uint8_t *bytes = malloc(TOTAL), *wire = malloc(ROOM);
	fill_random(bytes, TOTAL);
	struct iovec iov = {bytes, TOTAL};
	struct tls_source source = {&iov, 1, 0};
	struct tls_output out = {wire, ROOM, 0};
	assert_int_equal(tls_session_write(pair.server, &source, &out), -EAGAIN);
	/* the buffer is used to its end, what was taken is in it, and a second call adds nothing */
	assert_true(out.used > ROOM - 1100);
	assert_true(source.at > ROOM - 1200 && source.at < out.used);
	assert_int_equal(tls_session_output_pending(pair.server), 0);
	size_t taken = source.at, used = out.used;
	assert_int_equal(tls_session_write(pair.server, &source, &out), -EAGAIN);
	assert_int_equal(source.at, taken);
	assert_int_equal(out.used, used);
	queue_put(&pair.to_client, wire, out.used);
	pair_expect(&pair, pair.client, bytes, taken);
	free(bytes);
	free(wire);
	pair_close(&pair);
}

static void a_buffer_below_a_record(void **state)
{
	struct pair pair;
	uint8_t wire[10];
	keyed_open(&pair, NULL);
	struct iovec iov = {"hello, world", 12};
	struct tls_source source = {&iov, 1, 0};
	struct tls_output out = {wire, sizeof(wire), 0};
	assert_int_equal(tls_session_write(pair.server, &source, &out), -EAGAIN);
	assert_int_equal(out.used, sizeof(wire));
	assert_true(tls_session_output_pending(pair.server) > 0);
	unsigned flushes = 0;
	int result;
	do {
		queue_put(&pair.to_client, wire, out.used);
		out.used = 0;
		result = tls_session_flush(pair.server, &out);
		assert_true(++flushes < 20);
	} while (result == -EAGAIN);
	queue_put(&pair.to_client, wire, out.used);
	pair_expect(&pair, pair.client, "hello, world", 12);
	pair_close(&pair);
}

/* Without an output the alert waits. */
static void alerts_wait_for_room(void **state)
{
	struct pair pair;
	char text[4];
	size_t got;
	keyed_open(&pair, NULL);
	uint8_t garbage[40] = {23, 3, 3, 0, 35, 1};
	struct tls_input in = {garbage, sizeof(garbage)};
	assert_int_equal(tls_session_read(pair.server, &in, text, 4, &got, NULL), -EPROTO);
	assert_true(tls_session_output_pending(pair.server) > 0);
	struct tls_record_state record;
	assert_int_equal(tls_session_record_state(pair.server, false, &record), -EINVAL);
	assert_int_equal(side_flush(&pair, pair.server), 0);
	assert_int_equal(tls_session_output_pending(pair.server), 0);
	pair_failed(&pair, pair.server, "the client breaks TLS: ", "Bad record MAC");
	pair_close(&pair);
}

/* ---- New keys, new handshakes ---- */

static void new_keys(void **state)
{
	struct pair pair;
	keyed_open(&pair, TLS_1_3);
	for (unsigned i = 0; i < 6; i++) {
		struct tls_session *asking = i & 1 ? pair.server : pair.client;
		struct tls_session *other = i & 1 ? pair.client : pair.server;
		uint8_t wire[1000];
		struct tls_output out = {wire, i == 5 ? 3 : sizeof(wire), 0};
		assert_int_equal(send_all(&pair, asking, "before", 6), 0);
		assert_int_equal(tls_session_update_keys(asking, i & 2, &out), 0);
		queue_put(i & 1 ? &pair.to_client : &pair.to_server, wire, out.used);
		assert_int_equal(send_all(&pair, asking, "after", 5), 0);
		pair_expect(&pair, other, "beforeafter", 11);
		/* the answer carries the other side's new keys, if asked for */
		assert_int_equal(send_all(&pair, other, "reply", 5), 0);
		pair_expect(&pair, asking, "reply", 5);
	}
	exchange(&pair, 100000, false);
	pair_close(&pair);
	keyed_open(&pair, TLS_1_2);
	assert_int_equal(tls_session_update_keys(pair.server, false, NULL), -EOPNOTSUPP);
	pair_close(&pair);
}

/* ---- What only some peers do ---- */

static void peers_with_small_records(void **state)
{
	struct pair pair;
	enum { TOTAL = 10000 };
	uint8_t bytes[TOTAL], plain[TOTAL];
	fill_random(bytes, TOTAL);
	for (unsigned version = 0; version < 2; version++) {
		keyed_start_raw(&pair, version ? TLS_1_3 : TLS_1_2);
		assert_int_equal(gnutls_record_set_max_recv_size(pair.raw, 600), 0);
		pair_connect(&pair);
		pair.room = version ? 0 : 50;
		assert_int_equal(send_all(&pair, pair.server, bytes, TOTAL), 0);
		while (side_flush(&pair, pair.server) == -EAGAIN)
			;
		size_t at = 0;
		while (at < TOTAL) {
			ssize_t n = gnutls_record_recv(pair.raw, plain + at, TOTAL - at);
			assert_true(n > 0 && n <= 600);
			at += n;
		}
		assert_memory_equal(plain, bytes, TOTAL);
		pair_close(&pair);
	}
}

/* Records with padding, and alerts that are only warnings. */
static void padding_and_warnings(void **state)
{
	struct pair pair;
	char text[10];
	size_t got;
	keyed_open_raw(&pair, TLS_1_3);
	assert_int_equal(gnutls_record_send2(pair.raw, "padded", 6, 1000, 0), 6);
	pair_expect(&pair, pair.server, "padded", 6);
	pair_close(&pair);
	keyed_open_raw(&pair, TLS_1_2);
	gnutls_alert_send(pair.raw, GNUTLS_AL_WARNING, GNUTLS_A_USER_CANCELED);
	gnutls_record_send(pair.raw, "word", 4);
	pair_expect(&pair, pair.server, "word", 4);
	gnutls_alert_send(pair.raw, GNUTLS_AL_FATAL, GNUTLS_A_INTERNAL_ERROR);
	assert_int_equal(receive_all(&pair, pair.server, text, 4, &got), -EPROTO);
	contains(tls_session_reason(pair.server),
		 "the client ended TLS with the alert \"Internal error\"");
	/* an alert is not answered with an alert */
	assert_int_equal(pair.to_client.count, 0);
	pair_close(&pair);
}

/* ---- For kernel TLS ---- */

/* What the record layer says of itself opens the next record by hand. */
static void record_state(void **state)
{
	struct pair pair;
	struct tls_record_state sending, receiving;
	keyed_open(&pair, TLS_1_3);
	send_all(&pair, pair.server, "first", 5);
	pair_expect(&pair, pair.client, "first", 5);
	assert_int_equal(tls_session_record_state(pair.server, false, &sending), 0);
	assert_int_equal(tls_session_record_state(pair.client, true, &receiving), 0);
	assert_int_equal(sending.key_bytes, 16);
	assert_int_equal(sending.iv_bytes, 12);
	assert_memory_equal(&sending, &receiving, sizeof(sending));
	assert_int_equal(sending.sequence[7], 1);
	send_all(&pair, pair.server, "second", 6);
	uint8_t nonce[12], plain[64];
	const uint8_t *wire = pair.to_client.bytes + pair.to_client.at;
	size_t bytes = sizeof(plain);
	memcpy(nonce, sending.iv, 12);
	for (unsigned i = 0; i < 8; i++)
		nonce[4 + i] ^= sending.sequence[i];
	gnutls_datum_t key = {sending.key, 16};
	gnutls_aead_cipher_hd_t cipher;
	assert_int_equal(gnutls_aead_cipher_init(&cipher, GNUTLS_CIPHER_AES_128_GCM, &key), 0);
	assert_int_equal(gnutls_aead_cipher_decrypt(cipher, nonce, 12, wire, 5, 16, wire + 5,
						    pair.to_client.count - 5, plain, &bytes),
			 0);
	assert_memory_equal(plain, "second\x17", 7);
	gnutls_aead_cipher_deinit(cipher);
	/* not while decrypted bytes wait inside */
	char text[2];
	size_t got;
	side_read(&pair, pair.client, text, 2, &got);
	assert_int_equal(tls_session_read_pending(pair.client), 4);
	assert_int_equal(tls_session_record_state(pair.client, true, &receiving), -EBUSY);
	pair_close(&pair);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, keyed_prepare, keyed_clean)
	const struct CMUnitTest tests[] = {
		CASE(large_transfers),
		CASE(tiny_buffers),
		CASE(one_call_takes_all),
		CASE(small_pieces_share_records),
		CASE(nothing_to_do),
		CASE(a_full_buffer_stops_writing),
		CASE(a_buffer_below_a_record),
		CASE(alerts_wait_for_room),
		CASE(new_keys),
		CASE(peers_with_small_records),
		CASE(padding_and_warnings),
		CASE(record_state),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
