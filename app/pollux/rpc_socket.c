/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rpc_socket: clients of the control socket. Nothing here blocks: what a client does not take waits
 * in its buffer, and a client with much waiting is not read from.
 */
#include "app/pollux/rpc_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/pollux/address.h"
#include "lib/base/compiler.h"
#include "lib/base/log.h"
#include "lib/base/why.h"
#include "reactor/control.h"

enum {
	READ_BYTES = 64 << 10,
	OUT_MOST_BYTES = 8 << 20, /* then the client is not read from */
	PENDING_MOST = 256,
	CLIENTS_MOST = 512,
	ACCEPT_PAUSE_US = 100000,
};

struct client {
	struct control_watch watch;
	struct rpc_session *session;
	char *out;
	size_t out_at, out_bytes, out_room;
	uint32_t events;
	bool closing; /* after what is queued has gone */
	bool feeding; /* rpc_session_feed() is on the stack */
	TAILQ_ENTRY(client) link;
};

static struct {
	struct rpc_server *server;
	struct control_watch watch;
	struct address address;
	struct control_timer pause; /* out of descriptors: accepting goes on when it fires */
	bool open;
	unsigned count;
	TAILQ_HEAD(, client) clients;
} front = {.clients = TAILQ_HEAD_INITIALIZER(front.clients)};

static void client_close(struct client *client)
{
	control_watch_remove(&client->watch);
	rpc_session_close(client->session);
	close(client->watch.fd);
	TAILQ_REMOVE(&front.clients, client, link);
	front.count--;
	free(client->out);
	free(client);
}

static void update_events(struct client *client)
{
	size_t waiting = client->out_bytes - client->out_at;
	unsigned pending = rpc_session_pending(client->session);
	uint32_t events = 0;
	if (!client->closing && waiting < OUT_MOST_BYTES && pending < PENDING_MOST)
		events |= EPOLLIN;
	/* nothing waits and nothing will: then it is closed */
	if (waiting || (client->closing && !pending))
		events |= EPOLLOUT;
	if (events != client->events && control_watch_modify(&client->watch, events) == 0)
		client->events = events;
}

/* Writes what it can. False: the client has gone. */
static bool flush(struct client *client)
{
	while (client->out_at < client->out_bytes) {
		ssize_t n = send(client->watch.fd, client->out + client->out_at,
				 client->out_bytes - client->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		client->out_at += n;
	}
	client->out_at = client->out_bytes = 0;
	return !client->closing;
}

static void take_answer(void *arg, const char *bytes, size_t count)
{
	struct client *client = arg;
	if (count && client->out_bytes + count > client->out_room) {
		size_t room = MAX_OF(2 * client->out_room, client->out_bytes + count);
		char *bigger = realloc(client->out, room);
		if (!bigger) {
			client->closing = true;
			return;
		}
		client->out = bigger;
		client->out_room = room;
	}
	if (count)
		memcpy(client->out + client->out_bytes, bytes, count);
	client->out_bytes += count;
	if (!client->feeding)
		update_events(client);
}

static void client_ready(struct control_watch *watch, uint32_t events)
{
	static char bytes[READ_BYTES];
	struct client *client = container_of(watch, struct client, watch);
	if (events & EPOLLIN) {
		ssize_t n = recv(watch->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			client_close(client);
			return;
		}
		if (n == 0) {
			/* it sends nothing more, but may wait for its answers */
			client->closing = true;
			if (!rpc_session_pending(client->session) &&
			    client->out_at == client->out_bytes) {
				client_close(client);
				return;
			}
		}
		client->feeding = true;
		if (n > 0 && rpc_session_feed(client->session, bytes, n))
			client->closing = true;
		client->feeding = false;
	} else if (events & (EPOLLHUP | EPOLLERR)) {
		client_close(client);
		return;
	}
	bool there = flush(client);
	if (!there && client->closing && rpc_session_pending(client->session) &&
	    client->out_at == client->out_bytes)
		there = true;
	if (there)
		update_events(client);
	else
		client_close(client);
}

static void accept_again(struct control_timer *timer)
{
	control_watch_modify(&front.watch, EPOLLIN);
}

static void client_arrives(struct control_watch *watch, uint32_t events)
{
	int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
			return;
		/* it would be ready, and fail, again at once */
		front.pause.fire = accept_again;
		control_watch_modify(&front.watch, 0);
		control_arm_timer(&front.pause, ACCEPT_PAUSE_US);
		return;
	}
	struct client *client = front.count < CLIENTS_MOST ? calloc(1, sizeof(*client)) : NULL;
	if (client)
		client->session = rpc_session_open(front.server, take_answer, client);
	if (!client || !client->session) {
		free(client);
		close(fd);
		return;
	}
	client->watch.fd = fd;
	client->watch.ready = client_ready;
	client->events = EPOLLIN;
	TAILQ_INSERT_TAIL(&front.clients, client, link);
	front.count++;
	control_watch_add(&client->watch, EPOLLIN);
}

/* A private directory under /tmp: made, or found to be ours alone. */
static int own_directory(const char *path, char *why, size_t why_bytes)
{
	struct stat status;
	if (mkdir(path, 0700) && errno != EEXIST) {
		int error = -errno;
		snprintf(why, why_bytes, "'%s' can not be made: %s", path, strerror(-error));
		return error;
	}
	if (lstat(path, &status))
		return -errno;
	if (!S_ISDIR(status.st_mode) || status.st_uid != geteuid() || status.st_mode & 077)
		return why_refuse(
			why, why_bytes, -EACCES,
			"'%s' is not a directory that belongs to this user alone (mode 0700)",
			path);
	return 0;
}

static int default_path(char *path, size_t bytes, char *why, size_t why_bytes)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	if (geteuid() == 0) {
		snprintf(path, bytes, "/run/pollux.sock");
	} else if (runtime && runtime[0] == '/') {
		snprintf(path, bytes, "%s/pollux.sock", runtime);
	} else {
		char directory[64];
		snprintf(directory, sizeof(directory), "/tmp/pollux-%u", geteuid());
		snprintf(path, bytes, "%s/pollux.sock", directory);
		return own_directory(directory, why, why_bytes);
	}
	return 0;
}

int rpc_socket_open(struct rpc_server *server, const char *path, char *why, size_t why_bytes)
{
	struct address address = {.kind = ADDRESS_UNIX};
	int fds[ADDRESS_SOCKETS_MAX];
	if (path && !strcmp(path, "none"))
		return 0;
	if (path && strlen(path) >= sizeof(address.path))
		return why_refuse(why, why_bytes, -EINVAL,
				  "the RPC socket's path is longer than %zu bytes",
				  sizeof(address.path) - 1);
	if (path) {
		strcpy(address.path, path);
	} else {
		int error = default_path(address.path, sizeof(address.path), why, why_bytes);
		if (error)
			return error;
	}
	mode_t mask = umask(0177);
	int count = address_listen(&address, fds, why, why_bytes);
	umask(mask);
	if (count < 0)
		return count;
	front.server = server;
	front.watch.fd = fds[0];
	front.watch.ready = client_arrives;
	front.address = address;
	front.open = true;
	return control_watch_add(&front.watch, EPOLLIN);
}

void rpc_socket_close(void)
{
	if (!front.open)
		return;
	while (!TAILQ_EMPTY(&front.clients)) {
		struct client *client = TAILQ_FIRST(&front.clients);
		flush(client);
		client_close(client);
	}
	control_disarm_timer(&front.pause);
	control_watch_remove(&front.watch);
	close(front.watch.fd);
	address_unlink(&front.address);
	front.open = false;
}

const char *rpc_socket_path(void)
{
	return front.open ? front.address.path : NULL;
}
