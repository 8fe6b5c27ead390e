/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tls_client: an NBD client over TLS that also does what well-behaved ones do not: change keys,
 * send alerts and rubbish, go in the middle, ask for more than it takes.
 *
 * usage: tls-client SCENARIO PRIORITY HEX-KEY [PORT]
 * The identity is "alice", the export "mem". Exits with 0 if all came as it should, else says what
 * did not.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "plain.h"

enum {
	OPT_STARTTLS = 5,
	OPT_GO = 7,
	REP_ACK = 1,
	CMD_DISC = 2,
	REQUEST_BYTES = 28,
	REPLY_BYTES = 16,
	TIMEOUT_MS = 60000,
	MIB = 1 << 20,
};

static const uint64_t option_magic = 0x49484156454f5054;
static int fd;
static gnutls_session_t tls;
/* What GnuTLS sends is kept while `holding`, and goes out by release(). */
static bool holding;
static uint8_t held[1 << 16];
static size_t held_bytes;

static void fail(const char *what, int code)
{
	fprintf(stderr, "tls-client: %s: %s\n", what, gnutls_strerror(code));
	exit(1);
}

/* ---- Bytes ---- */

static void raw_send(const void *bytes, size_t count)
{
	need(send(fd, bytes, count, MSG_NOSIGNAL) == (ssize_t)count, "the socket takes nothing");
}

static void raw_receive(void *bytes, size_t count)
{
	need(recv(fd, bytes, count, MSG_WAITALL) == (ssize_t)count, "the server is gone");
}

static ssize_t push(gnutls_transport_ptr_t arg, const void *bytes, size_t count)
{
	if (!holding)
		return send(fd, bytes, count, MSG_NOSIGNAL);
	need(held_bytes + count <= sizeof(held), "no room");
	memcpy(held + held_bytes, bytes, count);
	held_bytes += count;
	return count;
}

static void put(const void *bytes, size_t count)
{
	for (size_t at = 0; at < count;) {
		ssize_t n = gnutls_record_send(tls, (const uint8_t *)bytes + at, count - at);
		if (n < 0)
			fail("sending", n);
		at += n;
	}
}

static void get(void *bytes, size_t count)
{
	for (size_t at = 0; at < count;) {
		ssize_t n = gnutls_record_recv(tls, (uint8_t *)bytes + at, count - at);
		if (n <= 0)
			fail("receiving", n);
		at += n;
	}
}

/* The server says close_notify, and nothing else. */
static void get_end(void)
{
	uint8_t byte;
	ssize_t n = gnutls_record_recv(tls, &byte, 1);
	if (n)
		fail("no close_notify", n > 0 ? 0 : n);
}

/* The server hangs up, whatever it says before. */
static void get_hung_up(void)
{
	uint8_t byte;
	ssize_t n = gnutls_record_recv(tls, &byte, 1);
	need(n <= 0, "data after the end");
	need(n != GNUTLS_E_TIMEDOUT && n != GNUTLS_E_AGAIN, "the server does not hang up");
}

/* ---- NBD ---- */

static size_t make_option(uint8_t *out, uint32_t option, const void *data, uint32_t bytes)
{
	uint64_t magic = htobe64(option_magic);
	uint32_t fields[] = {htobe32(option), htobe32(bytes)};
	memcpy(out, &magic, 8);
	memcpy(out + 8, fields, 8);
	memcpy(out + 16, data, bytes);
	return 16 + bytes;
}

static void start_tls(const char *port)
{
	uint8_t bytes[64] = {0, 0, 0, 3};
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_port = htons(atoi(port)),
				      .sin_addr = {htonl(INADDR_LOOPBACK)}};
	fd = socket(AF_INET, SOCK_STREAM, 0);
	need(!connect(fd, (struct sockaddr *)&address, sizeof(address)), "no connection");
	raw_send(bytes, 4);
	raw_receive(bytes, 18);
	raw_send(bytes, make_option(bytes, OPT_STARTTLS, "", 0));
	raw_receive(bytes, 20);
	need(bytes[15] == REP_ACK, "no TLS");
}

static void shake_hands(const char *priority, const char *key)
{
	static gnutls_psk_client_credentials_t psk;
	gnutls_datum_t datum = {(unsigned char *)key, strlen(key)};
	gnutls_psk_allocate_client_credentials(&psk);
	gnutls_psk_set_client_credentials(psk, "alice", &datum, GNUTLS_PSK_KEY_HEX);
	gnutls_init(&tls, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL);
	int code = gnutls_priority_set_direct(tls, priority, NULL);
	if (code < 0)
		fail(priority, code);
	gnutls_credentials_set(tls, GNUTLS_CRD_PSK, psk);
	gnutls_transport_set_int2(tls, fd, fd);
	gnutls_transport_set_push_function(tls, push);
	gnutls_handshake_set_timeout(tls, TIMEOUT_MS);
	gnutls_record_set_timeout(tls, TIMEOUT_MS);
	do
		code = gnutls_handshake(tls);
	while (code < 0 && !gnutls_error_is_fatal(code));
	if (code < 0)
		fail("handshake", code);
}

static size_t make_go(uint8_t *out)
{
	static const uint8_t data[] = {0, 0, 0, 3, 'm', 'e', 'm', 0, 0};
	return make_option(out, OPT_GO, data, sizeof(data));
}

/* Replies to GO, up to the ACK. */
static void get_go(void)
{
	uint8_t bytes[256];
	do {
		uint32_t length;
		get(bytes, 20);
		memcpy(&length, bytes + 16, 4);
		need(be32toh(length) <= sizeof(bytes) - 20 && bytes[12] == 0, "GO was refused");
		get(bytes + 20, be32toh(length));
	} while (bytes[15] != REP_ACK);
}

static void go(void)
{
	uint8_t bytes[64];
	put(bytes, make_go(bytes));
	get_go();
}

static size_t make_request(uint8_t *out, uint16_t type, uint64_t cookie, uint64_t offset,
			   uint32_t length)
{
	struct __attribute__((packed)) {
		uint32_t magic;
		uint16_t flags, type;
		uint64_t cookie, offset;
		uint32_t length;
	} request = {htobe32(0x25609513), 0, htobe16(type), htobe64(cookie), htobe64(offset),
		     htobe32(length)};
	memcpy(out, &request, sizeof(request));
	return sizeof(request);
}

static void ask(uint16_t type, uint64_t cookie, uint64_t offset, uint32_t length)
{
	uint8_t bytes[REQUEST_BYTES];
	put(bytes, make_request(bytes, type, cookie, offset, length));
}

static void get_reply(uint64_t cookie)
{
	uint8_t bytes[REPLY_BYTES];
	uint32_t error;
	uint64_t which = htobe64(cookie);
	get(bytes, sizeof(bytes));
	memcpy(&error, bytes + 4, 4);
	need(!memcmp(bytes, "\x67\x44\x66\x98", 4), "no reply");
	need(!memcmp(bytes + 8, &which, 8), "the reply of another request");
	need(!error, "the request failed");
}

static uint8_t *pattern(size_t count, unsigned seed)
{
	uint8_t *bytes = malloc(count + 1);
	for (size_t i = 0; i < count; i++)
		bytes[i] = (seed * 2654435761u + i * 40503u) >> 7;
	return bytes;
}

static void write_and_read(uint64_t offset, size_t count)
{
	uint8_t *bytes = pattern(count, offset), *back = calloc(1, count + 1);
	ask(CMD_WRITE, offset, offset, count);
	put(bytes, count);
	get_reply(offset);
	ask(CMD_READ, offset + 1, offset, count);
	get_reply(offset + 1);
	get(back, count);
	need(!memcmp(bytes, back, count), "what was read is not what was written");
	free(bytes);
	free(back);
}

static void leave(void)
{
	ask(CMD_DISC, 99, 0, 0);
	get_end();
}

/* ---- Scenarios ---- */

static void data(void)
{
	static const size_t sizes[] = {1, 512, 4096, 16383, 70001, MIB, 2 * MIB + 3};
	go();
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		write_and_read(i * 3 * MIB + i, sizes[i]);
	leave();
}

/* A record for every byte. */
static void bytewise(void)
{
	uint8_t bytes[REQUEST_BYTES + 300] = {0}, back[300];
	go();
	make_request(bytes, CMD_WRITE, 7, 1000, 300);
	memset(bytes + REQUEST_BYTES, 0x5a, 300);
	for (unsigned i = 0; i < sizeof(bytes); i++)
		put(bytes + i, 1);
	get_reply(7);
	ask(CMD_READ, 8, 1000, 300);
	get_reply(8);
	get(back, 300);
	need(!memcmp(back, bytes + REQUEST_BYTES, 300), "other bytes");
	leave();
}

/* The first READ does not wait for GO's reply. */
static void early(void)
{
	uint8_t bytes[128], back[4096];
	size_t count = make_go(bytes);
	count += make_request(bytes + count, CMD_READ, 1, 0, sizeof(back));
	put(bytes, count);
	get_go();
	get_reply(1);
	get(back, sizeof(back));
	write_and_read(MIB, MIB);
	leave();
}

/* The first READ's record comes in halves, one before GO's reply. */
static void halves(void)
{
	uint8_t bytes[64], back[4096];
	holding = true;
	put(bytes, make_go(bytes));
	size_t whole = held_bytes;
	ask(CMD_READ, 1, 0, sizeof(back));
	raw_send(held, whole + 11);
	get_go();
	raw_send(held + whole + 11, held_bytes - whole - 11);
	holding = false;
	get_reply(1);
	get(back, sizeof(back));
	write_and_read(MIB, MIB);
	leave();
}

/* Asks for much, says close_notify, and gets all of it. */
static void close_notify(void)
{
	enum { READS = 4 };
	uint8_t *back = malloc(MIB);
	go();
	for (unsigned i = 0; i < READS; i++)
		ask(CMD_READ, i, i * MIB, MIB);
	gnutls_bye(tls, GNUTLS_SHUT_WR);
	for (unsigned i = 0; i < READS; i++) {
		get_reply(i);
		get(back, MIB);
	}
	get_end();
	free(back);
}

/* Asks for more than sockets hold, says that it goes, and takes it only later. */
static void slow(void)
{
	enum { READS = 4 };
	uint8_t *bytes = pattern(4 * MIB, 3), *back = malloc(4 * MIB);
	go();
	ask(CMD_WRITE, 1, 0, 4 * MIB);
	put(bytes, 4 * MIB);
	get_reply(1);
	for (unsigned i = 0; i < READS; i++)
		ask(CMD_READ, i, 0, 4 * MIB);
	ask(CMD_DISC, 99, 0, 0);
	for (unsigned i = 0; i < READS; i++) {
		if (i == 1)
			usleep(1500000);
		get_reply(i);
		get(back, 4 * MIB);
		need(!memcmp(bytes, back, 4 * MIB), "other bytes");
	}
	get_end();
	free(bytes);
	free(back);
}

/* Asks for more than sockets hold and takes nothing, until it is killed. */
static void stubborn(void)
{
	go();
	for (unsigned i = 0; i < 8; i++)
		ask(CMD_READ, i, 0, 4 * MIB);
	for (;;)
		pause();
}

/* Stays until the server ends, which says so. */
static void idle(void)
{
	go();
	write_and_read(0, 4096);
	get_end();
}

/* TLS 1.3: what was asked for before is answered, then it ends. */
static void update(void)
{
	uint8_t back[4096];
	go();
	write_and_read(0, 4096);
	ask(CMD_READ, 5, 0, sizeof(back));
	int code = gnutls_session_key_update(tls, GNUTLS_KU_PEER);
	if (code < 0)
		fail("key update", code);
	get_reply(5);
	get(back, sizeof(back));
	get_end();
}

static void renegotiate(void)
{
	go();
	write_and_read(0, 4096);
	int code = gnutls_handshake(tls);
	need(code < 0 && code != GNUTLS_E_TIMEDOUT, "a second handshake");
	get_hung_up();
}

static void alert(void)
{
	go();
	write_and_read(0, 4096);
	gnutls_alert_send(tls, GNUTLS_AL_FATAL, GNUTLS_A_INTERNAL_ERROR);
	get_hung_up();
}

/* A record that is not genuine. */
static void forged(void)
{
	uint8_t record[5 + 100] = {23, 3, 3, 0, 100}, byte;
	go();
	write_and_read(0, 4096);
	raw_send(record, sizeof(record));
	ssize_t n = gnutls_record_recv(tls, &byte, 1);
	need(n == GNUTLS_E_FATAL_ALERT_RECEIVED && gnutls_alert_get(tls) == GNUTLS_A_BAD_RECORD_MAC,
	     "no alert");
}

static void rubbish(void)
{
	static const char text[] = "GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n";
	go();
	write_and_read(0, 4096);
	raw_send(text, sizeof(text) - 1);
	get_hung_up();
}

/* Gone in the middle of a WRITE, with a reset. */
static void cut(void)
{
	struct linger now = {1, 0};
	uint8_t *bytes = pattern(MIB, 1);
	go();
	ask(CMD_READ, 1, 0, MIB);
	ask(CMD_WRITE, 2, 0, 8 * MIB);
	put(bytes, MIB);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	free(bytes);
}

static const struct {
	const char *name;
	void (*run)(void);
} scenarios[] = {
	{"data", data},		 {"bytewise", bytewise},
	{"early", early},	 {"halves", halves},
	{"close", close_notify}, {"slow", slow},
	{"update", update},	 {"renegotiate", renegotiate},
	{"alert", alert},	 {"forged", forged},
	{"rubbish", rubbish},	 {"cut", cut},
	{"stubborn", stubborn},	 {"idle", idle},
};

int main(int argc, char **argv)
{
	need(argc >= 4, "usage: tls-client SCENARIO PRIORITY HEX-KEY [PORT]");
	for (unsigned i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
		if (strcmp(scenarios[i].name, argv[1]))
			continue;
		start_tls(argc > 4 ? argv[4] : "10809");
		shake_hands(argv[2], argv[3]);
		scenarios[i].run();
		close(fd);
		return 0;
	}
	need(false, "no such scenario");
	return 1;
}
