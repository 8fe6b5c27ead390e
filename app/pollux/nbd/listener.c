/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * listener: accepting by multishot accepts on one net reactor. The object belongs to the control
 * thread; struct acceptor to the reactor that accepts.
 */
#include "app/pollux/nbd/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/pollux/address.h"
#include "app/pollux/nbd/arrival.h"
#include "app/pollux/nbd/connection.h"
#include "app/pollux/tls/named.h"
#include "lib/base/log.h"
#include "lib/base/why.h"
#include "reactor/control.h"

enum { ACCEPT_PAUSE_US = 100000 /* after running out of descriptors */ };

/* One listening socket. */
struct acceptor {
	struct uring_op op;
	struct timer pause;
	struct listener *listener;
	int fd;
	bool armed, closing;
};

struct listener {
	struct address address;
	struct access *access; /* its uri is the listener's */
	char *name;	       /* of a socket that was handed over, or NULL */
	struct reactor *reactor;
	unsigned count; /* of acceptors */
	_Atomic unsigned open;
	bool closing; /* listener_delete() was called */
	struct acceptor acceptors[ADDRESS_SOCKETS_MAX];
	void (*done)(void *arg);
	void *done_arg;
	TAILQ_ENTRY(listener) link;
};

static TAILQ_HEAD(, listener) listeners = TAILQ_HEAD_INITIALIZER(listeners);

/* ---- TLS credentials: the listener is one of their users as long as it may accept ---- */

static void start_using(struct access *access)
{
	if (access->credentials)
		access->credentials->users++;
}

static void stop_using(struct access *access)
{
	if (access->credentials)
		access->credentials->users--;
}

/* ---- Accepting ---- */

static void closed(void *arg)
{
	struct listener *listener = arg;
	stop_using(listener->access);
	void (*done)(void *) = listener->done;
	void *done_arg = listener->done_arg;
	TAILQ_REMOVE(&listeners, listener, link);
	log_info("nbd", "no longer listening on %s", listener_uri(listener));
	access_put(listener->access);
	free(listener->name);
	free(listener);
	if (done)
		done(done_arg);
}

static void close_acceptor(struct acceptor *acceptor)
{
	struct listener *listener = acceptor->listener;
	reactor_disarm_timer(&acceptor->pause);
	close(acceptor->fd);
	if (atomic_fetch_sub(&listener->open, 1) == 1)
		control_send(closed, listener);
}

static void arm(struct acceptor *acceptor)
{
	struct io_uring_sqe *sqe = uring_get_sqe(&acceptor->listener->reactor->uring);
	io_uring_prep_multishot_accept(sqe, acceptor->fd, NULL, NULL, SOCK_CLOEXEC);
	uring_set_op(sqe, &acceptor->op);
	acceptor->armed = true;
}

static void resume(struct timer *timer)
{
	arm(container_of(timer, struct acceptor, pause));
}

static void warn_accept(void *arg)
{
	log_warning("nbd", "connections can not be accepted: %s", strerror((int)(intptr_t)arg));
}

static void accepted(struct uring_op *op, int result, uint32_t cqe_flags)
{
	struct acceptor *acceptor = container_of(op, struct acceptor, op);
	if (result >= 0)
		arrival_place(acceptor->listener->access, result, result);
	if (cqe_flags & IORING_CQE_F_MORE)
		return;
	acceptor->armed = false;
	if (acceptor->closing) {
		close_acceptor(acceptor);
	} else if (result >= 0 || result == -ECONNABORTED || result == -EINTR) {
		arm(acceptor);
	} else {
		/* out of descriptors or memory: those who wait stay in the backlog */
		control_send(warn_accept, (void *)(intptr_t)-result);
		reactor_arm_timer(&acceptor->pause, ACCEPT_PAUSE_US);
	}
}

static void start_here(void *arg)
{
	struct listener *listener = arg;
	for (unsigned i = 0; i < listener->count; i++)
		arm(&listener->acceptors[i]);
}

static void stop_here(void *arg)
{
	struct listener *listener = arg;
	unsigned count = listener->count;
	for (unsigned i = 0; i < count; i++) {
		struct acceptor *acceptor = &listener->acceptors[i];
		acceptor->closing = true;
		if (!acceptor->armed) {
			close_acceptor(acceptor);
			continue;
		}
		struct io_uring_sqe *sqe = uring_get_sqe(&listener->reactor->uring);
		io_uring_prep_cancel(sqe, &acceptor->op, 0);
		uring_set_op(sqe, NULL);
	}
}

/* ---- Creating: worker, then control thread ---- */

struct creation {
	struct access *access; /* NULL once the listener has it */
	struct address address;
	int fds[ADDRESS_SOCKETS_MAX];
	int count; /* or -errno */
	char why[512];
	void (*created)(void *arg, const struct listener_result *result);
	void *arg;
};

static void bind_on_worker(void *arg)
{
	struct creation *creation = arg;
	creation->count = address_listen(&creation->address, creation->fds, creation->why,
					 sizeof(creation->why));
}

static struct reactor *next_net_reactor(void)
{
	static unsigned next;
	for (;;) {
		struct reactor *reactor = reactors[next++ % reactor_count];
		if (reactor->roles & REACTOR_NET)
			return reactor;
	}
}

/* Takes over the access and the sockets, and starts to accept. NULL: no memory. */
static struct listener *make(const struct address *address, struct access *access, const int *fds,
			     unsigned count)
{
	struct listener *listener = calloc(1, sizeof(*listener));
	if (!listener)
		return NULL;
	listener->address = *address;
	listener->access = access;
	listener->reactor = next_net_reactor();
	listener->count = count;
	atomic_store(&listener->open, count);
	for (unsigned i = 0; i < count; i++) {
		struct acceptor *acceptor = &listener->acceptors[i];
		acceptor->fd = fds[i];
		acceptor->listener = listener;
		acceptor->op.done = accepted;
		acceptor->pause.fire = resume;
	}
	TAILQ_INSERT_TAIL(&listeners, listener, link);
	reactor_send(listener->reactor, start_here, listener);
	log_info("nbd", "listening on %s", listener_uri(listener));
	return listener;
}

/* With the port that was chosen. 0 or -ENOMEM. */
static int settle_uri(struct creation *creation)
{
	char uri[ADDRESS_URI_BYTES];
	char *settled = strdup(address_uri(&creation->address, uri));
	if (!settled)
		return -ENOMEM;
	free(creation->access->uri);
	creation->access->uri = settled;
	return 0;
}

static void bound(void *arg)
{
	struct creation *creation = arg;
	struct listener_result result = {.parameter = "uri", .why = creation->why};
	int count = creation->count;
	if (count < 0)
		result.error = count;
	else if (settle_uri(creation) == 0)
		result.listener = make(&creation->address, creation->access, creation->fds, count);
	if (!result.listener) {
		stop_using(creation->access);
		access_put(creation->access);
		while (count > 0)
			close(creation->fds[--count]);
		if (!result.error) {
			result.error = -ENOMEM;
			result.why = "no memory for a listener";
		}
	}
	creation->created(creation->arg, &result);
	free(creation);
}

/* Allow-lists are for peers that have an IP address. */
static int check_allow(const struct address *address, const struct access_options *options,
		       char *why, size_t why_bytes)
{
	if (!options->allow_count || address->kind == ADDRESS_TCP)
		return 0;
	return why_refuse(why, why_bytes, -EINVAL,
			  "peers of a %s socket have no IP address to be allowed by",
			  address->kind == ADDRESS_UNIX ? "unix" : "vsock");
}

void listener_create(const struct listener_options *options,
		     void (*created)(void *arg, const struct listener_result *result), void *arg)
{
	char why[512];
	struct address address;
	struct access *access = NULL;
	struct listener_result result = {.parameter = "uri", .why = why};
	struct creation *creation = NULL;
	result.error = address_parse(options->uri, &address, why, sizeof(why));
	if (!result.error && listener_find(options->uri)) {
		result.error = -EEXIST;
		snprintf(why, sizeof(why), "there is a listener on %s", options->uri);
	}
	if (!result.error) {
		result.parameter = "allow";
		result.error = check_allow(&address, &options->access, why, sizeof(why));
	}
	if (!result.error)
		result.error = access_create(options->uri, &options->access, &access,
					     &result.parameter, why, sizeof(why));
	if (!result.error) {
		creation = calloc(1, sizeof(*creation));
		if (!creation) {
			access_put(access);
			result.error = -ENOMEM;
			snprintf(why, sizeof(why), "no memory for a listener");
		}
	}
	if (result.error) {
		created(arg, &result);
		return;
	}
	start_using(access);
	creation->access = access;
	creation->address = address;
	creation->created = created;
	creation->arg = arg;
	control_work(bind_on_worker, bound, creation);
}

void listener_adopt(int fd, const char *name, const struct access_options *options,
		    void (*created)(void *arg, const struct listener_result *result), void *arg)
{
	char why[512], uri[ADDRESS_URI_BYTES];
	struct address address;
	struct access *access = NULL;
	struct listener_result result = {.parameter = "uri", .why = why};
	result.error = address_adopt(fd, &address, why, sizeof(why));
	if (!result.error)
		result.error = access_create(address_uri(&address, uri), options, &access,
					     &result.parameter, why, sizeof(why));
	if (!result.error) {
		/* accepting must wait in the ring, not fail where nobody is there yet */
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
		start_using(access);
		result.listener = make(&address, access, &fd, 1);
		if (result.listener && name)
			result.listener->name = strdup(name);
	}
	if (!result.error && !result.listener) {
		stop_using(access);
		access_put(access);
		result.error = -ENOMEM;
		snprintf(why, sizeof(why), "no memory for a listener");
	}
	created(arg, &result);
}

void listener_delete(struct listener *listener, void (*done)(void *arg), void *arg)
{
	listener->done = done;
	listener->done_arg = arg;
	listener->closing = true;
	/* now, not when the sockets are closed: by then the path may be a new listener's */
	address_unlink(&listener->address);
	reactor_send(listener->reactor, stop_here, listener);
}

/* ---- Looking ---- */

struct listener *listener_find(const char *uri)
{
	struct listener *listener;
	TAILQ_FOREACH (listener, &listeners, link) {
		if (!strcmp(listener_uri(listener), uri) && !listener->closing)
			return listener;
	}
	return NULL;
}

struct listener *listener_first(void)
{
	return TAILQ_FIRST(&listeners);
}

struct listener *listener_next(const struct listener *listener)
{
	return TAILQ_NEXT(listener, link);
}

bool listener_is_closing(const struct listener *listener)
{
	return listener->closing;
}

const char *listener_uri(const struct listener *listener)
{
	return listener->access->uri;
}

const char *listener_name(const struct listener *listener)
{
	return listener->name;
}

const struct access *listener_access(const struct listener *listener)
{
	return listener->access;
}

/* Percent-encodes what a URI's path or query can not hold. */
static size_t encode(const char *from, char *to, size_t room)
{
	size_t n = 0;
	for (; *from && n + 4 < room; from++) {
		unsigned char c = *from;
		if (strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/",
			   c))
			to[n++] = c;
		else
			n += snprintf(to + n, room - n, "%%%02X", c);
	}
	to[n] = 0;
	return n;
}

char *listener_nbd_uri(const struct listener *listener, const char *export_name, char *text,
		       size_t bytes)
{
	char name[1024], path[4 * ADDRESS_PATH_BYTES];
	const char *scheme = listener->access->tls == LISTENER_TLS_REQUIRE ? "nbds" : "nbd";
	encode(export_name, name, sizeof(name));
	encode(listener->address.path, path, sizeof(path));
	const char *slash = name[0] ? "/" : "";
	switch (listener->address.kind) {
	case ADDRESS_UNIX:
		snprintf(text, bytes, "%s+unix:///%s?socket=%s", scheme, name, path);
		break;
	case ADDRESS_VSOCK:
		/* any CID: guests know their host by the same number everywhere */
		snprintf(text, bytes, "%s+vsock://%s:%s%s%s", scheme,
			 listener->address.host[0] == '*' ? "2" : listener->address.host,
			 listener->address.port, slash, name);
		break;
	case ADDRESS_TCP:
		snprintf(text, bytes, "%s://%s%s%s", scheme,
			 listener_uri(listener) + strlen("tcp://"), slash, name);
		break;
	}
	return text;
}
