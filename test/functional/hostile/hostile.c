/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hostile: clients that no server wants, many at a time, on one thread.
 *
 * usage: hostile ADDRESS sessions|resets COUNT SEED EXPORT SIZE [PSK-FILE]
 *
 * ADDRESS is the path of a unix socket, or a TCP port of 127.0.0.1. `sessions`: valid sessions of
 * all three modes with some bytes changed, taken out, repeated, put in, or cut off; one in 16 is
 * left as it is, and must end well. `resets`: sessions of large READs and WRITEs that break off in
 * the middle, by a reset or by close. With a file of one key, every fourth is in TLS, spoiled in
 * what is encrypted or in what is on the wire. Ends with 0 if each whole session was served.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "session.h"

enum {
	AT_A_TIME = 48,
	IDLE_MS = 40,	       /* then nothing more is waited for */
	WHOLE_IDLE_MS = 20000, /* but for a session that must end well */
	GREETING_AND_ACK_BYTES = 18 + 20,
	REPLY_BYTES = 16,
};

enum phase { PLAIN, START_TLS, HANDSHAKE, TLS };
enum ending { WAIT, HALF_CLOSE, CLOSE, RESET, ENDINGS };

struct client {
	int fd;
	struct session session;
	enum phase phase;
	enum ending ending;
	bool whole;   /* nothing was changed: must be served to its end */
	bool reads;   /* takes replies */
	bool ended;   /* the server has closed in order */
	bool wire;    /* ciphertext is what is changed */
	bool shut;    /* our side is */
	uint8_t *out; /* what goes to the socket next */
	size_t out_at, out_bytes, out_room;
	size_t limit; /* breaks off when so many bytes have been sent */
	size_t sent, received;
	int64_t active_ms;
	gnutls_session_t tls;
};

static struct client clients[AT_A_TIME];
static const char *address, *export;
static uint64_t size_bytes, random_state;
static bool resets;
static gnutls_psk_client_credentials_t key;
static int poll_fd;
static unsigned whole_count, whole_failed, refused, in_tls, by_phase[4];

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ll + now.tv_nsec / 1000000;
}

static void die(const char *what)
{
	perror(what);
	exit(2);
}

/* ---- Bytes ---- */

static void queue(struct client *client, const void *bytes, size_t count)
{
	if (client->out_bytes + count > client->out_room) {
		client->out_room = 2 * (client->out_bytes + count);
		client->out = realloc(client->out, client->out_room);
		if (!client->out)
			die("hostile: memory");
	}
	memcpy(client->out + client->out_bytes, bytes, count);
	client->out_bytes += count;
}

static ssize_t push(gnutls_transport_ptr_t pointer, const void *bytes, size_t count)
{
	struct client *client = pointer;
	size_t at = client->out_bytes;
	queue(client, bytes, count);
	if (client->wire && count && !random_below(&random_state, 3))
		mutate_bytes(client->out + at, count, &random_state);
	return count;
}

static ssize_t pull(gnutls_transport_ptr_t pointer, void *bytes, size_t room)
{
	struct client *client = pointer;
	ssize_t got = recv(client->fd, bytes, room, MSG_DONTWAIT);
	if (got < 0)
		gnutls_transport_set_errno(client->tls, errno);
	return got;
}

static void queue_start_tls(struct client *client)
{
	static const uint8_t bytes[] = {0,   0,	  0, 3, 'I', 'H', 'A', 'V', 'E', 'O',
					'P', 'T', 0, 0, 0,   5,	  0,   0,   0,	 0};
	queue(client, bytes, sizeof(bytes));
}

static void queue_in_tls(struct client *client)
{
	for (size_t at = 0; at < client->session.count;) {
		ssize_t n = gnutls_record_send(client->tls, client->session.bytes + at,
					       client->session.count - at);
		if (n <= 0)
			break;
		at += n;
	}
}

/* ---- Coming and going ---- */

static int open_socket(void)
{
	struct sockaddr_un local = {.sun_family = AF_UNIX};
	struct sockaddr_in inet = {.sin_family = AF_INET};
	bool is_path = address[0] == '/';
	int fd = socket(is_path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), failed;
	if (fd < 0)
		die("hostile: socket");
	strncpy(local.sun_path, address, sizeof(local.sun_path) - 1);
	inet.sin_port = htons(atoi(address));
	inet.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	/* blocking: the server's backlog is full at times */
	failed = is_path ? connect(fd, (struct sockaddr *)&local, sizeof(local))
			 : connect(fd, (struct sockaddr *)&inet, sizeof(inet));
	if (failed) {
		close(fd);
		return -1;
	}
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

static void begin_tls(struct client *client)
{
	client->phase = START_TLS;
	in_tls++;
	if (gnutls_init(&client->tls, GNUTLS_CLIENT | GNUTLS_NONBLOCK) ||
	    gnutls_priority_set_direct(client->tls, "NORMAL:-KX-ALL:+ECDHE-PSK:+PSK", NULL) ||
	    gnutls_credentials_set(client->tls, GNUTLS_CRD_PSK, key))
		die("hostile: TLS");
	gnutls_transport_set_ptr(client->tls, client);
	gnutls_transport_set_push_function(client->tls, push);
	gnutls_transport_set_pull_function(client->tls, pull);
	queue_start_tls(client);
}

static void begin(struct client *client)
{
	bool tls = key && !random_below(&random_state, 4);
	memset(client, 0, sizeof(*client));
	while ((client->fd = open_socket()) < 0) {
		if (refused++ > 100000)
			die("hostile: connect");
		usleep(100);
	}
	session_make(&client->session, &random_state, export, size_bytes, tls, resets);
	client->whole = !resets && !random_below(&random_state, 16);
	client->reads = client->whole || random_below(&random_state, 8);
	client->ending = client->whole ? WAIT
			 : resets      ? (random_below(&random_state, 2) ? CLOSE : RESET)
				       : random_below(&random_state, ENDINGS);
	client->limit = SIZE_MAX;
	client->wire = tls && !client->whole && random_below(&random_state, 2);
	if (resets)
		client->limit = 200 + random_below(&random_state, (uint32_t)client->session.count);
	else if (!client->whole && !client->wire)
		session_mutate(&client->session, &random_state);
	client->active_ms = now_ms();
	if (tls)
		begin_tls(client);
	else
		queue(client, client->session.bytes, client->session.count);
	struct epoll_event event = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.ptr = client}};
	if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, client->fd, &event))
		die("hostile: epoll");
}

static void end(struct client *client)
{
	struct linger at_once = {1, 0};
	size_t least = 18 + REPLY_BYTES * (size_t)client->session.requests;
	by_phase[client->phase]++;
	if (client->whole) {
		whole_count++;
		if (!client->ended || client->received < least) {
			whole_failed++;
			fprintf(stderr,
				"hostile: a whole session (mode %u, %u requests, phase %d) "
				"was not served: %zu of %zu bytes sent, %zu received%s\n",
				client->session.mode, client->session.requests, client->phase,
				client->sent, client->out_bytes, client->received,
				client->ended ? "" : ", no end");
		}
	}
	if (client->ending == RESET)
		setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(client->fd);
	if (client->tls)
		gnutls_deinit(client->tls);
	session_free(&client->session);
	free(client->out);
	client->fd = -1;
}

/* ---- Going on ---- */

/* False: nothing more can be sent, or is to be. */
static bool send_some(struct client *client)
{
	while (client->out_at < client->out_bytes) {
		size_t left = client->out_bytes - client->out_at;
		size_t piece = random_below(&random_state, 3)
				       ? left
				       : 1 + random_below(&random_state, 3000);
		piece = piece < left ? piece : left;
		if (client->sent + piece > client->limit)
			piece = client->limit - client->sent;
		if (!piece)
			return false;
		ssize_t n = send(client->fd, client->out + client->out_at, piece, MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN)
			return true;
		if (n < 0)
			return client->reads;
		client->out_at += n;
		client->sent += n;
		client->active_ms = now_ms();
	}
	bool all = client->phase == PLAIN || client->phase == TLS;
	if (!all || client->ending == WAIT)
		return true;
	if (client->ending == HALF_CLOSE) {
		if (!client->shut)
			shutdown(client->fd, SHUT_WR);
		client->shut = true;
		return true;
	}
	return false;
}

/* False: the server has ended it. */
static bool receive_tls(struct client *client)
{
	static uint8_t bytes[64 << 10];
	int result;
	if (client->phase == HANDSHAKE) {
		result = gnutls_handshake(client->tls);
		if (result == GNUTLS_E_SUCCESS) {
			client->phase = TLS;
			queue_in_tls(client);
		} else if (gnutls_error_is_fatal(result)) {
			return false;
		}
	}
	while (client->phase == TLS) {
		ssize_t n = gnutls_record_recv(client->tls, bytes, sizeof(bytes));
		if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
			return true;
		client->ended = n == 0;
		if (n <= 0)
			return false;
		client->received += n;
		client->active_ms = now_ms();
	}
	return true;
}

static bool receive_plain(struct client *client)
{
	static uint8_t bytes[256 << 10];
	for (;;) {
		size_t room = sizeof(bytes);
		if (client->phase == START_TLS)
			room = GREETING_AND_ACK_BYTES - client->received;
		if (!room)
			break;
		ssize_t n = recv(client->fd, bytes, room, MSG_DONTWAIT);
		if (n < 0)
			return errno == EAGAIN;
		client->ended = n == 0;
		if (!n)
			return false;
		client->received += n;
		client->active_ms = now_ms();
	}
	client->phase = HANDSHAKE;
	return receive_tls(client);
}

/* False: the session is over. */
static bool go_on(struct client *client)
{
	bool alive = true;
	if (client->reads || client->phase == START_TLS || client->phase == HANDSHAKE) {
		if (client->phase == PLAIN || client->phase == START_TLS)
			alive = receive_plain(client);
		else
			alive = receive_tls(client);
	}
	return alive && send_some(client);
}

static bool is_idle(const struct client *client, int64_t now)
{
	return now - client->active_ms > (client->whole ? WHOLE_IDLE_MS : IDLE_MS);
}

static void run(unsigned count)
{
	struct epoll_event events[AT_A_TIME];
	unsigned begun = 0, open = 0;
	for (unsigned i = 0; i < AT_A_TIME; i++)
		clients[i].fd = -1;
	do {
		int64_t now = now_ms();
		for (unsigned i = 0; i < AT_A_TIME; i++) {
			if (clients[i].fd >= 0 && is_idle(&clients[i], now)) {
				end(&clients[i]);
				open--;
			}
			if (clients[i].fd < 0 && begun < count) {
				begin(&clients[i]);
				begun++;
				open++;
			}
		}
		int ready = epoll_wait(poll_fd, events, AT_A_TIME, 10);
		for (int i = 0; i < ready; i++) {
			struct client *client = events[i].data.ptr;
			if (client->fd < 0 || go_on(client))
				continue;
			end(client);
			open--;
		}
	} while (open || begun < count);
}

static void read_key(const char *path)
{
	char line[512];
	FILE *file = fopen(path, "r");
	if (!file || !fgets(line, sizeof(line), file))
		die(path);
	fclose(file);
	char *hex = strchr(line, ':');
	if (!hex)
		die(path);
	*hex++ = 0;
	hex[strcspn(hex, "\n")] = 0;
	gnutls_datum_t datum = {(unsigned char *)hex, strlen(hex)};
	if (gnutls_psk_allocate_client_credentials(&key) ||
	    gnutls_psk_set_client_credentials(key, line, &datum, GNUTLS_PSK_KEY_HEX))
		die("hostile: key");
}

int main(int argc, char **argv)
{
	if (argc < 7 || argc > 8) {
		fprintf(stderr, "usage: hostile ADDRESS sessions|resets COUNT SEED EXPORT SIZE "
				"[PSK-FILE]\n");
		return 2;
	}
	address = argv[1];
	resets = !strcmp(argv[2], "resets");
	random_state = strtoull(argv[4], NULL, 10) * 0x9E3779B97F4A7C15ull + 1;
	export = argv[5];
	size_bytes = strtoull(argv[6], NULL, 10);
	if (argc == 8)
		read_key(argv[7]);
	poll_fd = epoll_create1(EPOLL_CLOEXEC);
	int64_t began = now_ms();
	run(atoi(argv[3]));
	printf("%s %s, %u in TLS (%u of them got through), %u whole, in %.1f s\n", argv[3], argv[2],
	       in_tls, by_phase[TLS], whole_count, (now_ms() - began) / 1000.0);
	return whole_failed ? 1 : 0;
}
