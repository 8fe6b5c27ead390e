/* SPDX-License-Identifier: BSD-3-Clause */
/* client: the other ends of the fuzzed connections, in the clear or in TLS by a key of both. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "app/pollux/nbd/connection.h"
#include "fake/reactor.h"
#include "lib/tls/credentials.h"
#include "lib/tls/session.h"
#include "test/fuzz/connection/internal.h"
#include "test/unit/tls/certificates.h"

enum {
	WIRE_BYTES = 256 << 10,
	STEP_BYTES = 256 << 10, /* a client that reads takes so much at a time */
	SEND_TRIES = 200,	/* a server that takes nothing for so long takes nothing */
	SEND_BUFFER_BYTES = 16 << 10,
	HANDSHAKE_STEPS = 8,
	GREETING_BYTES = 18,
	OPTION_REPLY_BYTES = 20,
};

/* Without (elliptic) Diffie-Hellman a handshake of keys is cheap. */
#define FAST "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+PSK"

struct client world_clients[WORLD_CLIENTS];

static struct tls_credentials *server_credentials, *client_credentials;
static uint8_t wire[WIRE_BYTES], plain[WIRE_BYTES];

static struct tls_credentials *make(const struct tls_credentials_config *config)
{
	struct tls_credentials *credentials;
	struct tls_report report;
	must(!tls_credentials_create(config, &credentials, &report));
	return credentials;
}

void clients_start(void)
{
	const char *directory = make_directory();
	struct tls_credentials_config config = {
		.priority = FAST,
		.psk_file = in_directory(directory, "keys"),
	};
	write_text(config.psk_file, "u:00112233445566778899aabbccddeeff\n");
	server_credentials = make(&config);
	config.endpoint = TLS_CLIENT;
	client_credentials = make(&config);
	remove_directory(directory);
}

/* ---- Coming and going ---- */

static void make_descriptors(struct client *client, struct connection_options *options, bool pipes)
{
	int ends[2][2], bytes = SEND_BUFFER_BYTES;
	if (!pipes) {
		must(!socketpair(AF_UNIX, SOCK_STREAM, 0, ends[0]));
		/* small ones, so that sends are cut */
		setsockopt(ends[0][1], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
		client->rx_fd = client->tx_fd = ends[0][0];
		options->rx_fd = options->tx_fd = ends[0][1];
		return;
	}
	must(!pipe2(ends[0], O_NONBLOCK) && !pipe2(ends[1], O_NONBLOCK));
	client->rx_fd = ends[0][0];
	options->tx_fd = ends[0][1];
	options->rx_fd = ends[1][0];
	client->tx_fd = ends[1][1];
}

void client_open(struct client *client, unsigned core, enum world_tls rule, bool pipes)
{
	struct connection_options options = {.peer = "fuzzer", .access = world_access[rule]};
	*client = (struct client){.is_open = true, .reads = true};
	make_descriptors(client, &options, pipes);
	if (rule != WORLD_TLS_OFF)
		options.offer.credentials = tls_credentials_get(server_credentials);
	options.offer.required = rule == WORLD_TLS_REQUIRED;
	must(access_enter(options.access, &options.address, options.peer));
	atomic_fetch_add(&nbd_connection_count, 1);
	atomic_fetch_add(&reactors[core]->load, 1);
	fake_become(core);
	must(connection_open(nbd_cores[core], &options) != NULL);
	fake_become(0);
}

void client_close(struct client *client)
{
	if (!client->is_open)
		return;
	client->is_open = false;
	close(client->rx_fd);
	if (client->tx_fd != client->rx_fd && !client->half_closed)
		close(client->tx_fd);
	tls_session_destroy(client->tls);
	client->tls = NULL;
}

void client_half_close(struct client *client)
{
	if (client->half_closed)
		return;
	client->half_closed = true;
	if (client->tx_fd == client->rx_fd)
		shutdown(client->tx_fd, SHUT_WR);
	else
		close(client->tx_fd);
}

/* ---- Bytes ---- */

static ssize_t read_wire(struct client *client, size_t most)
{
	most = MIN_OF(most, sizeof(wire));
	if (client->tx_fd == client->rx_fd)
		return recv(client->rx_fd, wire, most, MSG_DONTWAIT);
	return read(client->rx_fd, wire, most);
}

void client_receive(struct client *client, size_t most)
{
	ssize_t got = read_wire(client, most);
	size_t bytes;
	if (got <= 0 || !client->tls)
		return;
	struct tls_input in = {wire, got};
	if (tls_session_state(client->tls) == TLS_OPEN)
		tls_session_read(client->tls, &in, plain, sizeof(plain), &bytes, NULL);
}

bool clients_receive(void)
{
	bool any = false;
	for (unsigned i = 0; i < WORLD_CLIENTS; i++) {
		struct client *client = &world_clients[i];
		if (!client->is_open || !client->reads)
			continue;
		ssize_t got = read_wire(client, STEP_BYTES);
		size_t bytes;
		any |= got > 0;
		struct tls_input in = {wire, got > 0 ? got : 0};
		if (client->tls && tls_session_state(client->tls) == TLS_OPEN)
			tls_session_read(client->tls, &in, plain, sizeof(plain), &bytes, NULL);
	}
	return any;
}

static void send_wire(struct client *client, const uint8_t *bytes, size_t count)
{
	bool is_socket = client->tx_fd == client->rx_fd;
	for (unsigned tries = 0; count && tries < SEND_TRIES && !client->half_closed;) {
		ssize_t sent = is_socket ? send(client->tx_fd, bytes, count, MSG_DONTWAIT)
					 : write(client->tx_fd, bytes, count);
		if (sent < 0 && errno != EAGAIN)
			return;
		if (sent < 0) {
			tries++;
			fake_pass();
			clients_receive();
			continue;
		}
		bytes += sent;
		count -= sent;
	}
}

static void send_encrypted(struct client *client, const uint8_t *bytes, size_t count)
{
	static uint8_t cipher[TLS_RECORD_WIRE_BYTES * 4];
	struct iovec iov = {(void *)(uintptr_t)bytes, count};
	struct tls_source source = {&iov, 1, 0};
	int result;
	do {
		struct tls_output out = {cipher, sizeof(cipher), 0};
		result = tls_session_write(client->tls, &source, &out);
		send_wire(client, cipher, out.used);
	} while (result == -EAGAIN);
}

void client_send(struct client *client, const uint8_t *bytes, size_t count)
{
	if (client->tls && !client->clear)
		send_encrypted(client, bytes, count);
	else
		send_wire(client, bytes, count);
}

/* ---- TLS ---- */

/* Skips so many bytes, which must come in the clear. */
static bool skip(struct client *client, size_t count)
{
	for (unsigned tries = 0; count && tries < SEND_TRIES; tries++) {
		ssize_t got = read_wire(client, count);
		if (got > 0)
			count -= got;
		else
			fake_pass();
	}
	return !count;
}

void client_start_tls(struct client *client)
{
	static const uint8_t start[] = {0,   0,	  0, 3, 'I', 'H', 'A', 'V', 'E', 'O',
					'P', 'T', 0, 0, 0,   5,	  0,   0,   0,	 0};
	bool reads = client->reads;
	client->reads = false;
	send_wire(client, start, sizeof(start));
	if (skip(client, GREETING_BYTES + OPTION_REPLY_BYTES))
		must(!tls_session_create(&client->tls, client_credentials, NULL));
	for (unsigned i = 0; client->tls && i < HANDSHAKE_STEPS; i++) {
		uint8_t cipher[4096];
		ssize_t got = i ? read_wire(client, sizeof(wire)) : 0;
		struct tls_input in = {wire, got > 0 ? got : 0};
		struct tls_output out = {cipher, sizeof(cipher), 0};
		if (tls_session_state(client->tls) == TLS_HANDSHAKE)
			tls_session_handshake(client->tls, &in, &out);
		send_wire(client, cipher, out.used);
		fake_settle();
	}
	client->reads = reads;
}

static void say(struct client *client, int (*what)(struct tls_session *, struct tls_output *))
{
	uint8_t cipher[1024];
	struct tls_output out = {cipher, sizeof(cipher), 0};
	if (client->tls && tls_session_state(client->tls) == TLS_OPEN)
		what(client->tls, &out);
	send_wire(client, cipher, out.used);
}

static int new_keys(struct tls_session *session, struct tls_output *out)
{
	return tls_session_update_keys(session, true, out);
}

void client_close_tls(struct client *client)
{
	say(client, tls_session_close);
}

void client_update_keys(struct client *client)
{
	say(client, new_keys);
}
