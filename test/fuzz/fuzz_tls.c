/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz_tls: a TLS server's session fed with anything. The first byte chooses the server (bit 0: PSK
 * or certificates; bit 1: asks for certificates; bit 2: TLS 1.2) and, by bit 3, what the rest is:
 *  - bytes from the network, cut into pieces by the second byte; or
 *  - instructions to two sessions that are connected already, and to somebody between them who
 *    changes, drops and repeats their bytes. Whatever that does, what comes out on one side must be
 *    what went in on the other, from its beginning, or an error; an orderly end only behind it all.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/compiler.h"
#include "lib/tls/credentials.h"
#include "lib/tls/session.h"
#include "test/unit/tls/certificates.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PLAIN_BYTES = 40000, WIRE_BYTES = 4 * PLAIN_BYTES };

/* Without (elliptic) Diffie-Hellman a handshake of keys is cheap. */
#define FAST_1_3 "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+PSK"
#define FAST_1_2 "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+PSK"

static struct tls_credentials *servers[8], *clients[2];

static void must(bool good)
{
	if (!good)
		abort();
}

static struct tls_credentials *make(const struct tls_credentials_config *config)
{
	struct tls_credentials *credentials;
	struct tls_report report;
	if (tls_credentials_create(config, &credentials, &report)) {
		fprintf(stderr, "%s\n", report.error);
		abort();
	}
	return credentials;
}

static void prepare(void)
{
	const char *directory = make_directory();
	struct authority authority;
	authority_make(&authority, "Authority");
	fill_directory(directory, &authority);
	write_text(in_directory(directory, "keys"), "u:00112233445566778899aabbccddeeff\n");
	for (unsigned i = 0; i < 8; i++) {
		struct tls_credentials_config config = {
			.priority = i & 1   ? NULL
				    : i & 4 ? FAST_1_2
					    : FAST_1_3,
			.directory = i & 1 ? directory : NULL,
			.psk_file = i & 1 ? NULL : in_directory(directory, "keys"),
			.verify_peer = (i & 3) == 3 ? TLS_VERIFY_REQUEST : TLS_VERIFY_DEFAULT,
		};
		servers[i] = make(&config);
		config.endpoint = TLS_CLIENT;
		if ((i & 3) == 0)
			clients[i / 4] = make(&config);
	}
	remove_directory(directory);
	authority_free(&authority);
}

/* ---- Bytes from the network ---- */

static void feed(struct tls_credentials *credentials, const uint8_t *data, size_t size, size_t cut)
{
	struct tls_session *session;
	must(tls_session_create(&session, credentials, NULL) == 0);
	for (size_t at = 0; at < size;) {
		uint8_t wire[512], plain[64];
		size_t given = MIN_OF(cut, size - at), got;
		struct tls_input in = {data + at, given};
		struct tls_output out = {wire, cut & 1 ? sizeof(wire) : cut, 0};
		int result = tls_session_handshake(session, &in, &out);
		if (result == 0)
			result = tls_session_read(session, &in, plain, sizeof(plain), &got, &out);
		must(in.bytes + in.count == data + at + given && out.used <= out.room);
		at += given - in.count;
		if (result != 0 && result != -EAGAIN) {
			must(result == -ESHUTDOWN || tls_session_state(session) == TLS_FAILED);
			must(result == -ESHUTDOWN || tls_session_reason(session)[0]);
			break;
		}
		/* nobody gets through by chance */
		must(tls_session_state(session) == TLS_HANDSHAKE && in.count == 0);
	}
	must(tls_session_end(session) < 0);
	tls_session_destroy(session);
}

/* ---- Two sessions and somebody between them ---- */

/* One direction. */
struct way {
	struct tls_session *from, *to;
	uint8_t wire[WIRE_BYTES];
	size_t wire_bytes;
	size_t sent, received; /* plain bytes */
	bool closed, ended;
};

static struct way ways[2]; /* to the server, to the client */
static uint8_t pattern[PLAIN_BYTES], plain[PLAIN_BYTES];

static void consume(struct way *way, size_t bytes)
{
	memmove(way->wire, way->wire + bytes, way->wire_bytes - bytes);
	way->wire_bytes -= bytes;
}

static void shake_hands(void)
{
	int done[2] = {-EAGAIN, -EAGAIN};
	for (unsigned i = 0; i < 8; i++) {
		struct way *in_way = &ways[i % 2 == 0], *out_way = &ways[i % 2];
		struct tls_input in = {in_way->wire, in_way->wire_bytes};
		struct tls_output out = {out_way->wire, WIRE_BYTES, out_way->wire_bytes};
		if (done[i % 2] == -EAGAIN)
			done[i % 2] = tls_session_handshake(out_way->from, &in, &out);
		out_way->wire_bytes = out.used;
		consume(in_way, in.bytes - in_way->wire);
	}
	must(done[0] == 0 && done[1] == 0);
}

static void send_some(struct way *way, size_t bytes, size_t room)
{
	bytes = MIN_OF(bytes, PLAIN_BYTES - way->sent);
	struct iovec iov[3] = {{pattern + way->sent, bytes / 3},
			       {pattern + way->sent + bytes / 3, bytes - bytes / 3},
			       {NULL, 0}};
	struct tls_source source = {iov, 3, 0};
	struct tls_output out = {way->wire, MIN_OF(way->wire_bytes + room, (size_t)WIRE_BYTES),
				 way->wire_bytes};
	int result = tls_session_write(way->from, &source, &out);
	if (way->closed)
		must(result < 0 && source.iov == iov && source.at == 0);
	size_t left = 0;
	for (unsigned i = 0; i < source.count; i++)
		left += source.iov[i].iov_len;
	way->sent += bytes - (left - source.at);
	way->wire_bytes = out.used;
}

static void receive_some(struct way *way, struct way *back, size_t room)
{
	struct tls_input in = {way->wire, way->wire_bytes};
	struct tls_output out = {back->wire, WIRE_BYTES, back->wire_bytes};
	size_t got;
	int result = tls_session_read(way->to, &in, plain, room, &got, &out);
	back->wire_bytes = out.used;
	must(got <= room && way->received + got <= way->sent);
	must(memcmp(plain, pattern + way->received, got) == 0);
	way->received += got;
	consume(way, in.bytes - way->wire);
	if (result == -ESHUTDOWN) {
		must(way->closed && way->received == way->sent);
		way->ended = true;
	} else if (result) {
		must(tls_session_state(way->to) == TLS_FAILED && tls_session_reason(way->to)[0]);
	} else {
		must((!way->ended || !room) && (got == room || !way->wire_bytes));
	}
}

static void close_way(struct way *way)
{
	struct tls_output out = {way->wire, WIRE_BYTES, way->wire_bytes};
	if (tls_session_close(way->from, &out) == 0)
		way->closed = true;
	way->wire_bytes = out.used;
}

static void update_keys(struct way *way, bool both_ways)
{
	struct tls_output out = {way->wire, WIRE_BYTES, way->wire_bytes};
	tls_session_update_keys(way->from, both_ways, &out);
	way->wire_bytes = out.used;
}

/* The one between them. */
static void meddle(struct way *way, unsigned how, size_t value)
{
	if (!way->wire_bytes)
		return;
	size_t at = value * 7 % way->wire_bytes, bytes = way->wire_bytes - at;
	switch (how) {
	case 0:
		way->wire[at] ^= 1 << value % 8;
		break;
	case 1:
		memmove(way->wire + at, way->wire + at + 1, bytes - 1);
		way->wire_bytes--;
		break;
	case 2:
		if (way->wire_bytes + bytes > WIRE_BYTES)
			break;
		memcpy(way->wire + way->wire_bytes, way->wire + at, bytes);
		way->wire_bytes += bytes;
		break;
	default:
		consume(way, at);
	}
}

static void play(unsigned version, const uint8_t *data, size_t size)
{
	static const size_t rooms[] = {0, 1, 7, 64, 1500, 20000, 33000, WIRE_BYTES};
	memset(ways, 0, sizeof(ways));
	must(tls_session_create(&ways[0].from, clients[version], NULL) == 0);
	must(tls_session_create(&ways[1].from, servers[4 * version], NULL) == 0);
	ways[0].to = ways[1].from;
	ways[1].to = ways[0].from;
	shake_hands();
	for (size_t i = 0; i + 1 < size; i += 2) {
		struct way *way = &ways[data[i] & 1], *back = &ways[!(data[i] & 1)];
		size_t value = data[i + 1];
		switch (data[i] >> 1 & 7) {
		case 0:
			send_some(way, value, WIRE_BYTES);
			break;
		case 1:
			send_some(way, value * 100, rooms[data[i] >> 4 & 7]);
			break;
		case 2:
			receive_some(way, back, value);
			break;
		case 3:
			receive_some(way, back, PLAIN_BYTES);
			break;
		case 4:
			update_keys(way, value & 1);
			break;
		case 5:
			close_way(way);
			break;
		default:
			meddle(way, data[i] >> 4 & 3, value);
		}
	}
	tls_session_destroy(ways[0].from);
	tls_session_destroy(ways[1].from);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!servers[0]) {
		prepare();
		for (unsigned i = 0; i < PLAIN_BYTES; i++)
			pattern[i] = i * 31 ^ i >> 8;
	}
	if (size < 2)
		return 0;
	if (data[0] & 8)
		play(data[0] >> 2 & 1, data + 1, size - 1);
	else
		feed(servers[data[0] & 7], data + 2, size - 2, data[1] + 1);
	return 0;
}
