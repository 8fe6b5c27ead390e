/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bench: what TLS costs without a network - GB/s of plaintext in processor time, encrypting and
 * decrypting, for each of our ciphers; a program to run by hand, no test. Buffers are those of a
 * connection: 32 KiB of ciphertext received at a time, 256 KiB sent, from few long or many short
 * pieces. One thread.
 *
 * usage: bench-tls [MEBIBYTES]
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "lib/base/compiler.h"
#include "test/unit/tls/certificates.h"
#include "test/unit/tls/pair.h"

enum {
	RECEIVE_BYTES = 32 << 10,
	PLAIN_BYTES = RECEIVE_BYTES + TLS_RECORD_BYTES,
	SEND_BYTES = 256 << 10,
	MEMORY_BYTES = 64 << 20, /* that replies come from: more than the caches hold */
	PIECES_MAX = 512,
};

static uint8_t *memory, *wire, *plain;
static size_t mebibytes = 256;

static double cpu_seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec + now.tv_nsec * 1e-9;
}

/* Headers of 16 bytes and payloads of payload_bytes, about a send buffer's worth. */
static unsigned make_pieces(struct iovec *iov, size_t payload_bytes, size_t *at)
{
	static uint8_t header[16];
	unsigned pieces = 0;
	size_t total = 0;
	while (pieces + 2 <= PIECES_MAX && total + payload_bytes + 16 <= SEND_BYTES - 1024) {
		if (*at + payload_bytes > MEMORY_BYTES)
			*at = 0;
		iov[pieces++] = (struct iovec){header, sizeof(header)};
		iov[pieces++] = (struct iovec){memory + *at, payload_bytes};
		*at += payload_bytes;
		total += payload_bytes + sizeof(header);
	}
	return pieces;
}

static void decrypt(struct pair *pair, size_t count)
{
	for (size_t at = 0; at < count; at += RECEIVE_BYTES) {
		struct tls_input in = {wire + at, MIN_OF(count - at, (size_t)RECEIVE_BYTES)};
		size_t got;
		if (tls_session_read(pair->client, &in, plain, PLAIN_BYTES, &got, NULL) || in.count)
			fail_msg("%s", tls_session_reason(pair->client));
	}
}

static void measure(struct pair *pair, size_t payload_bytes)
{
	struct iovec iov[PIECES_MAX];
	double encrypting = 0, decrypting = 0;
	size_t total = 0, at = 0, records = 0;
	while (total < mebibytes << 20) {
		struct tls_source source = {iov, make_pieces(iov, payload_bytes, &at), 0};
		struct tls_output out = {wire, SEND_BYTES, 0};
		for (unsigned i = 0; i < source.count; i++)
			total += iov[i].iov_len;
		double start = cpu_seconds();
		if (tls_session_write(pair->server, &source, &out))
			fail_msg("%s", tls_session_reason(pair->server));
		double middle = cpu_seconds();
		decrypt(pair, out.used);
		encrypting += middle - start;
		decrypting += cpu_seconds() - middle;
		for (size_t i = 0; i < out.used; i += 5 + (wire[i + 3] << 8 | wire[i + 4]))
			records++;
	}
	printf("  %6zu B pieces: encrypt %5.2f GB/s, decrypt %5.2f GB/s, %5zu B a record\n",
	       payload_bytes, total / encrypting / 1e9, total / decrypting / 1e9, total / records);
}

static double handshakes(struct tls_credentials *server, struct tls_credentials *client)
{
	enum { COUNT = 50 };
	double start = cpu_seconds();
	for (unsigned i = 0; i < COUNT; i++) {
		struct pair pair;
		pair_open(&pair, server, client, NULL);
		pair_connect(&pair);
		pair_close(&pair);
	}
	return (cpu_seconds() - start) / COUNT;
}

static void run(const char *directory, const char *version, const char *cipher)
{
	char priority[200];
	snprintf(priority, sizeof(priority), "NORMAL:-VERS-ALL:+VERS-%s:-CIPHER-ALL:+%s", version,
		 cipher);
	struct tls_credentials_config config = {.directory = directory, .priority = priority};
	struct tls_credentials *server = credentials_make(&config);
	config.endpoint = TLS_CLIENT;
	struct tls_credentials *client = credentials_make(&config);
	struct pair pair;
	pair_open(&pair, server, client, NULL);
	pair_connect(&pair);
	printf("%s %s\n", version, cipher);
	measure(&pair, 128 << 10);
	measure(&pair, 4096);
	measure(&pair, 512);
	pair_close(&pair);
	tls_credentials_put(server);
	tls_credentials_put(client);
}

int main(int argc, char **argv)
{
	static const char *const ciphers[] = {"AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305"};
	struct authority authority;
	const char *directory = make_directory();
	if (argc > 1)
		mebibytes = strtoul(argv[1], NULL, 0);
	authority_make(&authority, "Authority");
	fill_directory(directory, &authority);
	memory = malloc(MEMORY_BYTES);
	wire = malloc(SEND_BYTES);
	plain = malloc(PLAIN_BYTES);
	memset(memory, 1, MEMORY_BYTES);
	for (unsigned i = 0; i < 3; i++) {
		run(directory, "TLS1.3", ciphers[i]);
		/* keys in TLS 1.2 with AES-256-GCM would need DHE-PSK: the record layer is the same
		 */
		run(directory, "TLS1.2", ciphers[i]);
	}
	struct tls_credentials *server = credentials_of(TLS_SERVER, directory, TLS_VERIFY_REQUIRE);
	struct tls_credentials *client = credentials_of(TLS_CLIENT, directory, TLS_VERIFY_REQUIRE);
	printf("handshake, both sides, elliptic certificates: %.2f ms\n",
	       1e3 * handshakes(server, client));
	tls_credentials_put(server);
	tls_credentials_put(client);
	authority_free(&authority);
	remove_directory(directory);
	free(memory);
	free(wire);
	free(plain);
	return 0;
}
