/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_gcm: each way of AES-GCM that this build has - the record that RFC 8448 shows, the same
 * bytes as GnuTLS's for any size and any cut in pieces, and nothing but the genuine is opened.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/compiler.h"
#include "lib/tls/gcm.h"
#include "test/unit/tls/exchange.h"

enum { MOST_BYTES = 16384 + 256 };

/* Plain and sealed bytes stand at any alignment, in buffers of exactly their size. */
static void check(const struct tls_gcm *way, size_t key_bytes, size_t bytes, unsigned cuts)
{
	uint8_t raw[32], nonce[GCM_NONCE_BYTES], header[GCM_HEADER_BYTES];
	fill_random(raw, sizeof(raw));
	fill_random(nonce, sizeof(nonce));
	fill_random(header, sizeof(header));
	unsigned shift = random_below(64);
	uint8_t *plain = malloc(bytes + shift), *sealed = malloc(bytes + GCM_TAG_BYTES),
		*expected = malloc(bytes + GCM_TAG_BYTES), *opened = malloc(bytes + shift + 1);
	fill_random(plain, bytes + shift);
	struct iovec pieces[64], one = {plain + shift, bytes};
	unsigned count = 0;
	size_t at = 0;
	while (count < cuts && at < bytes) {
		size_t n = MIN_OF(bytes - at, (size_t)1 + random_below(2 * bytes / cuts + 1));
		pieces[count++] = (struct iovec){plain + shift + at, n};
		at += n;
	}
	if (at < bytes)
		pieces[count++] = (struct iovec){plain + shift + at, bytes - at};
	void *key = way->key_create(raw, key_bytes), *other;
	other = tls_gcm_gnutls.key_create(raw, key_bytes);
	assert_true(way->seal(key, nonce, header, pieces, count, sealed));
	assert_true(tls_gcm_gnutls.seal(other, nonce, header, &one, 1, expected));
	assert_memory_equal(sealed, expected, bytes + GCM_TAG_BYTES);
	assert_true(way->open(key, nonce, header, sealed, bytes, opened + shift));
	assert_memory_equal(opened + shift, plain + shift, bytes);
	/* a bit anywhere */
	sealed[random_below(bytes + GCM_TAG_BYTES)] ^= 1 << random_below(8);
	assert_false(way->open(key, nonce, header, sealed, bytes, opened + shift));
	header[random_below(GCM_HEADER_BYTES)] ^= 1;
	assert_false(way->open(key, nonce, header, expected, bytes, opened + shift));
	way->key_free(key);
	tls_gcm_gnutls.key_free(other);
	free(plain);
	free(sealed);
	free(expected);
	free(opened);
}

static void any_size(void **state)
{
	for (const struct tls_gcm *const *way = tls_gcm_ways; *way; way++) {
		if (!(*way)->usable())
			continue;
		for (size_t bytes = 1; bytes < 600; bytes++)
			check(*way, bytes & 1 ? 16 : 32, bytes, 1 + bytes % 7);
		for (unsigned i = 0; i < 300; i++)
			check(*way, i & 1 ? 16 : 32, 1 + random_below(MOST_BYTES),
			      1 + random_below(60));
	}
}

/* In place, as a record that was kept is opened. */
static void in_place(void **state)
{
	for (const struct tls_gcm *const *way = tls_gcm_ways; *way; way++) {
		uint8_t raw[32] = {1}, nonce[12] = {2}, header[5] = {3}, plain[5000];
		uint8_t bytes[sizeof(plain) + GCM_TAG_BYTES];
		if (!(*way)->usable())
			continue;
		void *key = (*way)->key_create(raw, 32);
		fill_random(plain, sizeof(plain));
		struct iovec iov = {plain, sizeof(plain)};
		assert_true((*way)->seal(key, nonce, header, &iov, 1, bytes));
		assert_true((*way)->open(key, nonce, header, bytes, sizeof(plain), bytes));
		assert_memory_equal(bytes, plain, sizeof(plain));
		(*way)->key_free(key);
	}
}

/*
 * The record that RFC 8448 shows in its section 3: the client's 50 bytes of application data,
 * encrypted in TLS 1.3 with AES-128-GCM.
 */
static void known_record(void **state)
{
	static const uint8_t raw[16] = {0x17, 0x42, 0x2d, 0xda, 0x59, 0x6e, 0xd5, 0xd9,
					0xac, 0xd8, 0x90, 0xe3, 0xc6, 0x3f, 0x50, 0x51};
	static const uint8_t iv[12] = {0x5b, 0x78, 0x92, 0x3d, 0xee, 0x08,
				       0x57, 0x90, 0x33, 0xe5, 0x23, 0xd9};
	static const uint8_t header[5] = {0x17, 0x03, 0x03, 0x00, 0x43};
	static const uint8_t record[67] = {
		0xa2, 0x3f, 0x70, 0x54, 0xb6, 0x2c, 0x94, 0xd0, 0xaf, 0xfa, 0xfe, 0x82, 0x28, 0xba,
		0x55, 0xcb, 0xef, 0xac, 0xea, 0x42, 0xf9, 0x14, 0xaa, 0x66, 0xbc, 0xab, 0x3f, 0x2b,
		0x98, 0x19, 0xa8, 0xa5, 0xb4, 0x6b, 0x39, 0x5b, 0xd5, 0x4a, 0x9a, 0x20, 0x44, 0x1e,
		0x2b, 0x62, 0x97, 0x4e, 0x1f, 0x5a, 0x62, 0x92, 0xa2, 0x97, 0x70, 0x14, 0xbd, 0x1e,
		0x3d, 0xea, 0xe6, 0x3a, 0xee, 0xbb, 0x21, 0x69, 0x49, 0x15, 0xe4};
	for (const struct tls_gcm *const *way = tls_gcm_ways; *way; way++) {
		uint8_t plain[51];
		if (!(*way)->usable())
			continue;
		void *key = (*way)->key_create(raw, 16);
		assert_true((*way)->open(key, iv, header, record, sizeof(plain), plain));
		for (unsigned i = 0; i < 50; i++)
			assert_int_equal(plain[i], i);
		assert_int_equal(plain[50], 23);
		(*way)->key_free(key);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_size),
		cmocka_unit_test(in_place),
		cmocka_unit_test(known_record),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
