/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * dial: a non-blocking socket, poll() and a deadline around the pure client of lib/nbd and the
 * session of lib/tls. Main thread.
 */
#include "app/perf/dial.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/compiler.h"
#include "lib/base/why.h"
#include "lib/tls/session.h"

enum {
	OUT_BYTES = 32 << 10, /* options are short: names and contexts */
	IN_BYTES = 64 << 10,
	RETRY_US = 1000,
};

struct call {
	const struct target *target;
	struct line *line;
	struct nbd_client *client;
	uint64_t deadline_ns;
	char *why;
	size_t why_bytes;
	size_t out_used; /* plaintext that waits */
	uint8_t out[OUT_BYTES], wire[OUT_BYTES + 2 * TLS_RECORD_WIRE_BYTES];
	uint8_t in[IN_BYTES], plain[IN_BYTES + TLS_RECORD_BYTES];
};

static int complain(struct call *call, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int complain(struct call *call, int error, const char *format, ...)
{
	va_list args;
	int used = snprintf(call->why, call->why_bytes, "%s: ", call->target->uri_text);
	va_start(args, format);
	if (used >= 0 && (size_t)used < call->why_bytes)
		vsnprintf(call->why + used, call->why_bytes - used, format, args);
	va_end(args);
	return error;
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* Until the socket is ready for `events`, or the deadline. */
static int await(struct call *call, short events, const char *what)
{
	for (;;) {
		uint64_t now = now_ns();
		struct pollfd poll_fd = {.fd = call->line->fd, .events = events};
		if (now >= call->deadline_ns)
			return complain(call, -ETIMEDOUT, "%s: no answer in time (--timeout)",
					what);
		int ready = poll(&poll_fd, 1, (int)((call->deadline_ns - now) / 1000000) + 1);
		if (ready > 0)
			return 0;
		if (ready < 0 && errno != EINTR)
			return complain(call, -errno, "%s: %s", what, strerror(errno));
	}
}

/* ---- Connecting ---- */

static int connect_to(struct call *call, int family, const struct sockaddr *address,
		      socklen_t length)
{
	int error = 0, one = 1;
	socklen_t error_bytes = sizeof(error);
	call->line->fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (call->line->fd < 0)
		return complain(call, -errno, "socket: %s", strerror(errno));
	while (connect(call->line->fd, address, length)) {
		/* a unix socket's queue is full, and there is nothing to wait on */
		if (errno == EAGAIN && now_ns() < call->deadline_ns) {
			usleep(RETRY_US);
			continue;
		}
		if (errno != EINPROGRESS)
			return complain(call, -errno, "connecting: %s", strerror(errno));
		int rc = await(call, POLLOUT, "connecting");
		if (rc)
			return rc;
		getsockopt(call->line->fd, SOL_SOCKET, SO_ERROR, &error, &error_bytes);
		if (error)
			return complain(call, -error, "connecting: %s", strerror(error));
		break;
	}
	if (family == AF_INET || family == AF_INET6)
		setsockopt(call->line->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return 0;
}

static int connect_unix(struct call *call)
{
	const struct nbd_uri *uri = call->target->uri;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (uri->socket_length >= sizeof(address.sun_path))
		return complain(call, -ENAMETOOLONG, "the socket's path is too long");
	memcpy(address.sun_path, uri->socket, uri->socket_length);
	return connect_to(call, AF_UNIX, (const void *)&address,
			  offsetof(struct sockaddr_un, sun_path) + uri->socket_length +
				  (uri->socket[0] != '\0'));
}

static int connect_tcp(struct call *call)
{
	const struct nbd_uri *uri = call->target->uri;
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
	struct addrinfo *list;
	char port[8];
	snprintf(port, sizeof(port), "%u", uri->port);
	int code = getaddrinfo(uri->host, port, &hints, &list), rc = -EHOSTUNREACH;
	if (code)
		return complain(call, -EHOSTUNREACH, "%s: %s", uri->host, gai_strerror(code));
	for (const struct addrinfo *at = list; at; at = at->ai_next) {
		rc = connect_to(call, at->ai_family, at->ai_addr, at->ai_addrlen);
		if (!rc)
			break;
		line_close(call->line);
	}
	freeaddrinfo(list);
	return rc;
}

static int connect_vsock(struct call *call)
{
	const struct nbd_uri *uri = call->target->uri;
	const struct sockaddr_vm address = {
		.svm_family = AF_VSOCK,
		.svm_cid = uri->cid,
		.svm_port = uri->port,
	};
	return connect_to(call, AF_VSOCK, (const void *)&address, sizeof(address));
}

/* ---- Bytes ---- */

static int send_wire(struct call *call, const uint8_t *bytes, size_t count)
{
	while (count) {
		ssize_t sent = send(call->line->fd, bytes, count, MSG_NOSIGNAL);
		if (sent > 0) {
			bytes += sent;
			count -= sent;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return complain(call, -errno, "in the handshake: %s", strerror(errno));
		int rc = await(call, POLLOUT, "in the handshake");
		if (rc)
			return rc;
	}
	return 0;
}

static int receive_wire(struct call *call, size_t *count)
{
	for (;;) {
		ssize_t got = recv(call->line->fd, call->in, sizeof(call->in), 0);
		if (got > 0) {
			*count = got;
			return 0;
		}
		if (!got)
			return complain(call, -ECONNRESET,
					"the server closed the connection in the handshake");
		if (errno != EAGAIN && errno != EINTR)
			return complain(call, -errno, "in the handshake: %s", strerror(errno));
		int rc = await(call, POLLIN, "in the handshake");
		if (rc)
			return rc;
	}
}

static int tls_failed(struct call *call, int error)
{
	return complain(call, error, "TLS: %s", tls_session_reason(call->line->tls));
}

/* What the client said since the last time. */
static int send_out(struct call *call)
{
	struct iovec iov = {call->out, call->out_used};
	struct tls_source source = {&iov, 1, 0};
	struct tls_output wire = {call->wire, sizeof(call->wire), 0};
	size_t count = call->out_used;
	call->out_used = 0;
	if (!count)
		return 0;
	if (!call->line->tls)
		return send_wire(call, call->out, count);
	int rc = tls_session_write(call->line->tls, &source, &wire);
	return rc ? tls_failed(call, rc) : send_wire(call, wire.bytes, wire.used);
}

static int receive_plain(struct call *call, const uint8_t **bytes, size_t *count)
{
	*count = 0;
	while (!*count) {
		size_t got;
		int rc = receive_wire(call, &got);
		*bytes = call->in;
		*count = got;
		if (rc || !call->line->tls)
			return rc;
		struct tls_input in = {call->in, got};
		rc = tls_session_read(call->line->tls, &in, call->plain, sizeof(call->plain), count,
				      NULL);
		*bytes = call->plain;
		if (rc == -ESHUTDOWN && !*count)
			return complain(call, -ECONNRESET,
					"the server closed the connection in the handshake");
		if (rc && rc != -ESHUTDOWN)
			return tls_failed(call, rc);
	}
	return 0;
}

static void keep_out(void *arg, const void *bytes, size_t count)
{
	struct call *call = arg;
	/* a step says less than half of this: names are limited */
	count = MIN_OF(count, sizeof(call->out) - call->out_used);
	memcpy(call->out + call->out_used, bytes, count);
	call->out_used += count;
}

/* ---- Negotiating ---- */

static int start_tls(struct call *call)
{
	int rc = tls_session_create(&call->line->tls, call->target->credentials,
				    call->target->tls_hostname);
	if (rc)
		return complain(call, rc, "TLS: the session can not be set up");
	struct tls_input in = {call->in, 0};
	for (;;) {
		struct tls_output wire = {call->wire, sizeof(call->wire), 0};
		int done = tls_session_handshake(call->line->tls, &in, &wire);
		rc = send_wire(call, wire.bytes, wire.used);
		if (done && done != -EAGAIN)
			return tls_failed(call, done);
		if (rc)
			return rc;
		if (!done)
			break;
		rc = receive_wire(call, &in.count);
		if (rc)
			return rc;
		in.bytes = call->in;
	}
	nbd_client_tls_done(call->client);
	/* a server that spoke first, inside TLS, would break the protocol: nothing to keep */
	if (in.count)
		return complain(call, -EPROTO, "the server spoke out of turn inside TLS");
	return 0;
}

static int negotiate(struct call *call)
{
	for (;;) {
		const uint8_t *bytes;
		size_t count, taken;
		int rc = send_out(call);
		if (!rc)
			rc = receive_plain(call, &bytes, &count);
		if (rc)
			return rc;
		enum nbd_client_result result = nbd_client_feed(call->client, bytes, count, &taken);
		switch (result) {
		case NBD_CLIENT_MORE:
			continue;
		case NBD_CLIENT_FAILED:
			send_out(call); /* takes leave; it has failed already */
			return complain(call, call->client->error, "%s", call->client->reason);
		case NBD_CLIENT_STARTTLS:
			if (taken < count)
				return complain(call, -EPROTO,
						"bytes in the clear follow the agreement on TLS");
			rc = start_tls(call);
			if (rc)
				return rc;
			continue;
		case NBD_CLIENT_TRANSMIT:
			if (taken < count)
				return complain(call, -EPROTO,
						"the server spoke before the first request");
			return 0;
		}
	}
}

static int run(struct call *call)
{
	const struct nbd_uri *uri = call->target->uri;
	int rc = uri->socket  ? connect_unix(call)
		 : uri->vsock ? connect_vsock(call)
			      : connect_tcp(call);
	if (!rc)
		rc = negotiate(call);
	if (rc)
		return rc;
	/* io_uring waits for blocking sockets, and reports EAGAIN of others */
	int flags = fcntl(call->line->fd, F_GETFL);
	if (flags < 0 || fcntl(call->line->fd, F_SETFL, flags & ~O_NONBLOCK))
		return complain(call, -errno, "fcntl: %s", strerror(errno));
	return 0;
}

int dial(const struct target *target, enum nbd_mode mode, uint64_t timeout_ns, struct line *line,
	 struct nbd_client *client, char *why, size_t why_bytes)
{
	const struct nbd_client_config config = {
		.export_name = target->uri->export_name,
		.mode = mode,
		.tls = target->credentials ? NBD_CLIENT_TLS_REQUIRE : NBD_CLIENT_TLS_OFF,
	};
	struct call *call = calloc(1, sizeof(*call));
	*line = (struct line){.fd = -1};
	if (!call)
		return why_refuse(why, why_bytes, -ENOMEM, "%s: no memory", target->uri_text);
	call->target = target;
	call->line = line;
	call->client = client;
	call->deadline_ns = now_ns() + timeout_ns;
	call->why = why;
	call->why_bytes = why_bytes;
	int rc = nbd_client_init(client, &config, keep_out, call);
	rc = rc ? complain(call, rc, "%s", strerror(-rc)) : run(call);
	if (rc)
		line_close(line);
	free(call);
	return rc;
}

void line_close(struct line *line)
{
	tls_session_destroy(line->tls);
	line->tls = NULL;
	if (line->fd >= 0)
		close(line->fd);
	line->fd = -1;
}
