/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * address: parsing of tcp://, unix:// and vsock:// URIs, name resolution, bind and listen. Does not
 * block but for address_listen(), which runs on a worker.
 */
#include "app/pollux/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/base/number.h"
#include "lib/base/why.h"

enum {
	/* A killed process may hold its listener for a moment: the kernel ends its ring later. */
	BIND_TRIES = 20,
	BIND_PAUSE_US = 50000,
};

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
			return why_refuse(
				why, why_bytes, -EINVAL,
				"'%s': an IPv6 address stands in brackets: tcp://[::1]:10809", uri);
	}
	if (!port || !*port)
		return why_refuse(why, why_bytes, -EINVAL, "'%s' has no port: tcp://HOST:PORT",
				  uri);
	if (end == host || (size_t)(end - host) >= sizeof(address->host))
		return why_refuse(why, why_bytes, -EINVAL, "'%s' has no host: tcp://HOST:PORT",
				  uri);
	uint64_t number;
	if (number_parse(port, 0, 65535, &number))
		return why_refuse(why, why_bytes, -EINVAL, "'%s': '%s' is no port (0-65535)", uri,
				  port);
	memcpy(address->host, host, end - host);
	snprintf(address->port, sizeof(address->port), "%" PRIu64, number);
	return 0;
}

/* A number of 32 bits but for the last one, which means "any" to the kernel. */
static bool parse_vsock_number(const char *text, size_t length, uint32_t *number)
{
	uint64_t value = 0;
	if (!length || length > 10 || strspn(text, "0123456789") < length)
		return false;
	for (size_t i = 0; i < length; i++)
		value = 10 * value + (text[i] - '0');
	*number = value;
	return value < UINT32_MAX;
}

static int parse_vsock(const char *uri, const char *rest, struct address *address, char *why,
		       size_t why_bytes)
{
	const char *colon = strchr(rest, ':');
	uint32_t cid, port;
	if (!colon)
		return why_refuse(why, why_bytes, -EINVAL, "'%s' has no port: vsock://CID:PORT",
				  uri);
	bool any = colon == rest + 1 && *rest == '*';
	if (!any && !parse_vsock_number(rest, colon - rest, &cid))
		return why_refuse(why, why_bytes, -EINVAL,
				  "'%s': '%.*s' is no CID (a number, or * for any)", uri,
				  (int)(colon - rest), rest);
	if (!parse_vsock_number(colon + 1, strlen(colon + 1), &port))
		return why_refuse(why, why_bytes, -EINVAL, "'%s': '%s' is no port (0-4294967294)",
				  uri, colon + 1);
	address->kind = ADDRESS_VSOCK;
	if (any)
		strcpy(address->host, "*");
	else
		snprintf(address->host, sizeof(address->host), "%u", cid);
	snprintf(address->port, sizeof(address->port), "%u", port);
	return 0;
}

int address_parse(const char *uri, struct address *address, char *why, size_t why_bytes)
{
	memset(address, 0, sizeof(*address));
	if (!strncmp(uri, "tcp://", 6))
		return parse_tcp(uri, uri + 6, address, why, why_bytes);
	if (!strncmp(uri, "vsock://", 8))
		return parse_vsock(uri, uri + 8, address, why, why_bytes);
	if (strncmp(uri, "unix://", 7))
		return why_refuse(why, why_bytes, -EINVAL,
				  "'%s' is no listener: tcp://HOST:PORT, unix:///PATH or "
				  "vsock://CID:PORT",
				  uri);
	address->kind = ADDRESS_UNIX;
	const char *path = uri + 7;
	if (*path != '/')
		return why_refuse(why, why_bytes, -EINVAL,
				  "'%s': the path is absolute: unix:///PATH", uri);
	if (strlen(path) >= sizeof(address->path))
		return why_refuse(why, why_bytes, -EINVAL,
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
			return why_refuse(why, why_bytes, -EADDRINUSE,
					  "'%s' is there, and is no socket", address->path);
		for (int i = 0; is_live(&un) > 0; i++) {
			if (i == BIND_TRIES)
				return why_refuse(why, why_bytes, -EADDRINUSE,
						  "'%s' is in use by another process",
						  address->path);
			usleep(BIND_PAUSE_US);
		}
		unlink(address->path);
	}
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*fd < 0)
		return why_refuse(why, why_bytes, -errno, "no socket: %s", strerror(errno));
	if (bind(*fd, (void *)&un, sizeof(un)) || listen(*fd, ADDRESS_BACKLOG)) {
		int error = -errno;
		close(*fd);
		return why_refuse(why, why_bytes, error, "'%s' can not be bound: %s", address->path,
				  strerror(-error));
	}
	if (lstat(address->path, &status) == 0)
		address->inode = status.st_ino;
	return 1;
}

void address_unlink(const struct address *address)
{
	struct stat status;
	if (address->path[0] && !address->adopted && lstat(address->path, &status) == 0 &&
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
		return why_refuse(why, why_bytes, -EADDRNOTAVAIL, "'%s' can not be resolved: %s",
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
		return why_refuse(why, why_bytes, error, "port %s of %s can not be bound: %s",
				  address->port, address->host, strerror(-error));
	}
	return count;
}

/* ---- vsock ---- */

static void learn_vsock(const struct sockaddr_vm *vm, struct address *address)
{
	if (vm->svm_cid == VMADDR_CID_ANY)
		strcpy(address->host, "*");
	else
		snprintf(address->host, sizeof(address->host), "%u", vm->svm_cid);
	snprintf(address->port, sizeof(address->port), "%u", vm->svm_port);
}

static int listen_vsock(struct address *address, int *fd, char *why, size_t why_bytes)
{
	bool any = address->host[0] == '*', chosen = !strcmp(address->port, "0");
	struct sockaddr_vm vm = {
		.svm_family = AF_VSOCK,
		.svm_cid = any ? VMADDR_CID_ANY : strtoul(address->host, NULL, 10),
		.svm_port = chosen ? VMADDR_PORT_ANY : strtoul(address->port, NULL, 10),
	};
	socklen_t bytes = sizeof(vm);
	*fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*fd < 0)
		return why_refuse(why, why_bytes, -errno, "no vsock socket: %s%s", strerror(errno),
				  errno == EAFNOSUPPORT ? " (modprobe vhost_vsock on a host)" : "");
	if (bind(*fd, (void *)&vm, sizeof(vm)) || listen(*fd, ADDRESS_BACKLOG) ||
	    getsockname(*fd, (void *)&vm, &bytes)) {
		int error = -errno;
		close(*fd);
		if (error == -EADDRNOTAVAIL)
			return why_refuse(
				why, why_bytes, error, "the vsock CID %s is not this machine's%s",
				address->host,
				vm.svm_cid == VMADDR_CID_LOCAL ? " (modprobe vsock_loopback)" : "");
		return why_refuse(why, why_bytes, error,
				  "vsock port %s of CID %s can not be bound: %s", address->port,
				  address->host, strerror(-error));
	}
	learn_vsock(&vm, address);
	return 1;
}

int address_listen(struct address *address, int fds[ADDRESS_SOCKETS_MAX], char *why,
		   size_t why_bytes)
{
	switch (address->kind) {
	case ADDRESS_UNIX:
		return listen_unix(address, fds, why, why_bytes);
	case ADDRESS_VSOCK:
		return listen_vsock(address, fds, why, why_bytes);
	default:
		return listen_tcp(address, fds, why, why_bytes);
	}
}

/* ---- Sockets handed over ---- */

static void learn_path(const struct sockaddr_un *un, socklen_t bytes, struct address *address)
{
	size_t room = bytes > offsetof(struct sockaddr_un, sun_path)
			      ? bytes - offsetof(struct sockaddr_un, sun_path)
			      : 0;
	bool abstract = room && !un->sun_path[0];
	snprintf(address->path, sizeof(address->path), "%s%.*s", abstract ? "@" : "",
		 (int)room - abstract, un->sun_path + abstract);
}

static int socket_option(int fd, int option)
{
	int value;
	socklen_t bytes = sizeof(value);
	return getsockopt(fd, SOL_SOCKET, option, &value, &bytes) ? -errno : value;
}

int address_adopt(int fd, struct address *address, char *why, size_t why_bytes)
{
	union {
		struct sockaddr any;
		struct sockaddr_storage room;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
		struct sockaddr_vm vm;
	} bound;
	socklen_t bytes = sizeof(bound);
	int type = socket_option(fd, SO_TYPE);
	memset(address, 0, sizeof(*address));
	memset(&bound, 0, sizeof(bound));
	if (type == -EBADF)
		return why_refuse(why, why_bytes, -EINVAL, "descriptor %d is not open", fd);
	if (type < 0 || getsockname(fd, &bound.any, &bytes))
		return why_refuse(why, why_bytes, -EINVAL, "descriptor %d is no socket", fd);
	if (type != SOCK_STREAM || socket_option(fd, SO_ACCEPTCONN) != 1)
		return why_refuse(why, why_bytes, -EINVAL,
				  "descriptor %d is no listening stream socket (ListenStream=, "
				  "Accept=no)",
				  fd);
	address->adopted = true;
	switch (bound.any.sa_family) {
	case AF_INET:
		inet_ntop(AF_INET, &bound.in.sin_addr, address->host, sizeof(address->host));
		learn_port(fd, address);
		return 0;
	case AF_INET6:
		inet_ntop(AF_INET6, &bound.in6.sin6_addr, address->host, sizeof(address->host));
		learn_port(fd, address);
		return 0;
	case AF_UNIX:
		address->kind = ADDRESS_UNIX;
		learn_path(&bound.un, bytes, address);
		return 0;
	case AF_VSOCK:
		address->kind = ADDRESS_VSOCK;
		learn_vsock(&bound.vm, address);
		return 0;
	default:
		return why_refuse(why, why_bytes, -EINVAL,
				  "descriptor %d is a socket of a family that is not known (%d)",
				  fd, bound.any.sa_family);
	}
}

char *address_uri(const struct address *address, char uri[ADDRESS_URI_BYTES])
{
	if (address->kind == ADDRESS_UNIX)
		snprintf(uri, ADDRESS_URI_BYTES, "unix://%s", address->path);
	else
		snprintf(uri, ADDRESS_URI_BYTES,
			 address->kind == ADDRESS_VSOCK ? "vsock://%s:%s"
			 : strchr(address->host, ':')	? "tcp://[%s]:%s"
							: "tcp://%s:%s",
			 address->host, address->port);
	return uri;
}
