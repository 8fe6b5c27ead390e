/* SPDX-License-Identifier: BSD-3-Clause */
/* exchange: random data through a pair, in pieces and buffers of random sizes. One thread. */
#include "test/unit/tls/exchange.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/compiler.h"

static uint64_t seed = 88172645463325252ull;

uint32_t random_below(uint32_t limit)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed >> 16) % limit;
}

void fill_random(uint8_t *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		bytes[i] = random_below(256);
}

/* Writes `count` bytes as pieces of random sizes, empty ones among them. */
static void send_pieces(struct pair *pair, struct tls_session *from, const uint8_t *bytes,
			size_t count)
{
	struct iovec iov[40];
	unsigned pieces = 0;
	size_t at = 0;
	if (random_below(2))
		iov[pieces++] = (struct iovec){NULL, 0};
	while (pieces < COUNT_OF(iov) - 1 && at < count) {
		static const uint32_t most[] = {1, 20, 4097, 40000};
		size_t n = MIN_OF(count - at, (size_t)random_below(most[random_below(4)] + 1));
		iov[pieces++] = (struct iovec){n ? (void *)(bytes + at) : NULL, n};
		at += n;
	}
	iov[pieces++] = (struct iovec){(void *)(bytes + at), count - at};
	struct iovec before[40];
	memcpy(before, iov, sizeof(iov));
	struct tls_source source = {iov, pieces, 0};
	int result;
	do {
		result = side_write(pair, from, &source);
		assert_true(result == 0 || result == -EAGAIN);
	} while (result);
	assert_int_equal(source.count, 0);
	assert_memory_equal(iov, before, pieces * sizeof(iov[0]));
}

void exchange(struct pair *pair, size_t total, bool tiny)
{
	struct tls_session *const from[2] = {pair->server, pair->client};
	uint8_t *bytes = malloc(total), *plain = malloc(total);
	size_t sent[2] = {0}, received[2] = {0};
	fill_random(bytes, total);
	while (received[0] < total || received[1] < total) {
		unsigned way = random_below(2);
		pair->cut = tiny ? 1 + random_below(300) : 1 + random_below(40000);
		pair->room = tiny ? 1 + random_below(100) : 1 + random_below(60000);
		if (sent[way] < total && random_below(2)) {
			size_t n =
				MIN_OF(total - sent[way], (size_t)random_below(tiny ? 900 : 90000));
			send_pieces(pair, from[way], bytes + sent[way], n);
			sent[way] += n;
		} else {
			size_t room = random_below(tiny ? 500 : 70000), got;
			room = MIN_OF(room, total - received[way]);
			assert_int_equal(side_read(pair, from[!way], plain, room, &got), 0);
			assert_memory_equal(plain, bytes + received[way], got);
			received[way] += got;
		}
	}
	free(bytes);
	free(plain);
}
