/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * address: parsing of tcp:// and unix:// URIs, name resolution, bind and listen. Pure but for
 * address_listen(), which runs on a worker.
 */
#include "app/pollux/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
	/* A killed process may hold its listener for a moment: the kernel ends its ring later. */
	BIND_TRIES = 20,
	BIND_PAUSE_US = 50000,
};

static int refuse(int error, char *why, size_t why_bytes, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static int refuse(int error, char *why, size_t why_bytes, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(why, why_bytes, format, args);
	va_end(args);
	return error;
}

static int parse_tcp(const char *uri, const char *rest, struct address *address, char *why,
		     size_t why_bytes)
{
	const char *host = rest, *end, *port;
	if (*rest == '[') {
		host = rest + 1;
		end = strchr(host, ']');
		port = end && end[1] == ':' ? end + 2 : NULL;
	} else {
		end = strrchr(rest, ':');
		port = end ? end + 1 : NULL;
		if (end && memchr(rest, ':', end - rest))
			return refuse(-EINVAL, why, why_bytes,
				      "'%s': an IPv6 address stands in brackets: tcp://[::1]:10809",
				      uri);
	}
	if (!port || !*port)
		return refuse(-EINVAL, why, why_bytes, "'%s' has no port: tcp://HOST:PORT", uri);
	if (end == host || (size_t)(end - host) >= sizeof(address->host))
		return refuse(-EINVAL, why, why_bytes, "'%s' has no host: tcp://HOST:PORT", uri);
	char *stop;
	unsigned long number = strtoul(port, &stop, 10);
	if (*stop || *port == '-' || *port == '+' || number > 65535)
		return refuse(-EINVAL, why, why_bytes, "'%s': '%s' is no port (0-65535)", uri,
			      port);
	memcpy(address->host, host, end - host);
	snprintf(address->port, sizeof(address->port), "%lu", number);
	return 0;
}

int address_parse(const char *uri, struct address *address, char *why, size_t why_bytes)
{
	memset(address, 0, sizeof(*address));
	if (!strncmp(uri, "tcp://", 6))
		return parse_tcp(uri, uri + 6, address, why, why_bytes);
	if (strncmp(uri, "unix://", 7))
		return refuse(-EINVAL, why, why_bytes,
			      "'%s' is no listener: tcp://HOST:PORT or unix:///PATH", uri);
	const char *path = uri + 7;
	if (*path != '/')
		return refuse(-EINVAL, why, why_bytes, "'%s': the path is absolute: unix:///PATH",
			      uri);
	if (strlen(path) >= sizeof(address->path))
		return refuse(-EINVAL, why, why_bytes,
			      "'%s': a unix socket's path has at most %zu bytes", uri,
			      sizeof(address->path) - 1);
	strcpy(address->path, path);
	return 0;
}

/* ---- unix ---- */

static int is_live(const struct sockaddr_un *un)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	int error = connect(fd, (const void *)un, sizeof(*un)) ? errno : 0;
	close(fd);
	return error != ECONNREFUSED && error != ENOENT;
}

static int listen_unix(struct address *address, int *fd, char *why, size_t why_bytes)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct stat status;
	strcpy(un.sun_path, address->path);
	if (lstat(address->path, &status) == 0) {
		if (!S_ISSOCK(status.st_mode))
			return refuse(-EADDRINUSE, why, why_bytes,
				      "'%s' is there, and is no socket", address->path);
		for (int i = 0; is_live(&un) > 0; i++) {
			if (i == BIND_TRIES)
				return refuse(-EADDRINUSE, why, why_bytes,
					      "'%s' is in use by another process", address->path);
			usleep(BIND_PAUSE_US);
		}
		unlink(address->path);
	}
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*fd < 0)
		return refuse(-errno, why, why_bytes, "no socket: %s", strerror(errno));
	if (bind(*fd, (void *)&un, sizeof(un)) || listen(*fd, ADDRESS_BACKLOG)) {
		int error = -errno;
		close(*fd);
		return refuse(error, why, why_bytes, "'%s' can not be bound: %s", address->path,
			      strerror(-error));
	}
	if (lstat(address->path, &status) == 0)
		address->inode = status.st_ino;
	return 1;
}

void address_unlink(const struct address *address)
{
	struct stat status;
	if (address->path[0] && lstat(address->path, &status) == 0 &&
	    status.st_ino == address->inode)
		unlink(address->path);
}

/* ---- TCP ---- */

static void set_port(struct sockaddr *address, in_port_t port)
{
	if (address->sa_family == AF_INET6)
		((struct sockaddr_in6 *)address)->sin6_port = port;
	else if (address->sa_family == AF_INET)
		((struct sockaddr_in *)address)->sin_port = port;
}

static int bind_one(const struct addrinfo *info)
{
	int one = 1, error = 0;
	int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (info->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	for (int i = 0; i < BIND_TRIES; i++) {
		/* with SO_REUSEADDR a live listener may show only in listen() */
		error = bind(fd, info->ai_addr, info->ai_addrlen) || listen(fd, ADDRESS_BACKLOG)
				? -errno
				: 0;
		if (error != -EADDRINUSE)
			break;
		usleep(BIND_PAUSE_US);
	}
	if (error) {
		close(fd);
		return error;
	}
	return fd;
}

static void learn_port(int fd, struct address *address)
{
	struct sockaddr_storage bound;
	socklen_t bytes = sizeof(bound);
	if (getsockname(fd, (void *)&bound, &bytes))
		return;
	in_port_t port = bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
						     : ((struct sockaddr_in *)&bound)->sin_port;
	snprintf(address->port, sizeof(address->port), "%u", ntohs(port));
}

static int listen_tcp(struct address *address, int *fds, char *why, size_t why_bytes)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list, *info;
	int count = 0, error = 0;
	int failed = getaddrinfo(address->host, address->port, &hints, &list);
	if (failed)
		return refuse(-EADDRNOTAVAIL, why, why_bytes, "'%s' can not be resolved: %s",
			      address->host, gai_strerror(failed));
	for (info = list; info && count < ADDRESS_SOCKETS_MAX && !error; info = info->ai_next) {
		/* where the kernel chose the port, all addresses of the name take the same */
		set_port(info->ai_addr, htons(atoi(address->port)));
		int fd = bind_one(info);
		if (fd >= 0) {
			fds[count++] = fd;
			if (count == 1)
				learn_port(fd, address);
		} else if (fd != -EAFNOSUPPORT && (fd != -EADDRNOTAVAIL || !info->ai_next)) {
			error = fd;
		}
	}
	freeaddrinfo(list);
	if (!error && !count)
		error = -EADDRNOTAVAIL;
	if (error) {
		while (count)
			close(fds[--count]);
		return refuse(error, why, why_bytes, "port %s of %s can not be bound: %s",
			      address->port, address->host, strerror(-error));
	}
	return count;
}

int address_listen(struct address *address, int fds[ADDRESS_SOCKETS_MAX], char *why,
		   size_t why_bytes)
{
	return address->path[0] ? listen_unix(address, fds, why, why_bytes)
				: listen_tcp(address, fds, why, why_bytes);
}
