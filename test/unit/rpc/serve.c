/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * serve: the test methods on a unix socket, a client at a time, for the test of scripts/rpc.py.
 * "hold" never answers. Ends when its standard input does.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "test/unit/rpc/harness.h"

static void send_all(void *arg, const char *bytes, size_t count)
{
	const int *fd = arg;
	while (count) {
		ssize_t sent = send(*fd, bytes, count, MSG_NOSIGNAL);
		if (sent <= 0)
			return;
		bytes += sent;
		count -= (size_t)sent;
	}
}

static void serve_client(struct rpc_server *server, int fd)
{
	struct rpc_session *session = rpc_session_open(server, send_all, &fd);
	char bytes[100];
	ssize_t count;
	while (session && (count = read(fd, bytes, sizeof(bytes))) > 0) {
		if (rpc_session_feed(session, bytes, (size_t)count))
			break;
	}
	if (session)
		rpc_session_close(session);
	close(fd);
	while (held_count)
		rpc_reply(held[--held_count], NULL);
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct rpc_server *server = rpc_server_create(test_tables);
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	if (argc != 2 || !server || listener < 0)
		return 1;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", argv[1]);
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 8)) {
		perror(argv[1]);
		return 1;
	}
	puts("ready");
	fflush(stdout);
	struct pollfd polled[] = {{.fd = STDIN_FILENO, .events = POLLIN},
				  {.fd = listener, .events = POLLIN}};
	while (poll(polled, 2, -1) > 0 && !polled[0].revents) {
		int fd = accept(listener, NULL, NULL);
		if (fd >= 0)
			serve_client(server, fd);
	}
	rpc_server_destroy(server);
	close(listener);
	return 0;
}
