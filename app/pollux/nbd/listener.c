/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * listener: accepting by multishot accepts on one net reactor, and placing what was accepted. The
 * object belongs to the control thread; struct acceptor to the reactor that accepts.
 */
#include "app/pollux/nbd/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "app/pollux/address.h"
#include "app/pollux/nbd/connection.h"
#include "app/pollux/tls/named.h"
#include "lib/base/log.h"
#include "reactor/control.h"

enum { ACCEPT_PAUSE_US = 100000 /* after running out of descriptors */ };

/* One listening socket. */
struct acceptor {
	struct uring_op op;
	struct timer pause;
	struct listener *listener;
	int fd;
	bool armed, closing, warned;
};

struct listener {
	char *uri;
	struct address address;
	enum listener_tls tls;
	struct named_credentials *credentials; /* NULL where tls is off */
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

/* ---- Placing: on the accepting reactor, then on the connection's ---- */

struct arrival {
	int fd;
	struct nbd_core *core;
	char peer[128];
	char listener[160];
	struct secure_offer offer;
};

static void arrive(void *arg)
{
	struct arrival *arrival = arg;
	connection_open(arrival->core, arrival->fd, arrival->fd, arrival->peer, arrival->listener,
			arrival->offer);
	free(arrival);
}

static void name_peer(int fd, char *text, size_t bytes)
{
	struct sockaddr_storage peer;
	socklen_t length = sizeof(peer);
	char host[INET6_ADDRSTRLEN];
	snprintf(text, bytes, "unknown");
	if (getpeername(fd, (void *)&peer, &length))
		return;
	if (peer.ss_family == AF_INET) {
		const struct sockaddr_in *in = (void *)&peer;
		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(text, bytes, "%s:%u", host, ntohs(in->sin_port));
	} else if (peer.ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (void *)&peer;
		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		snprintf(text, bytes, "[%s]:%u", host, ntohs(in6->sin6_port));
	} else {
		struct ucred user;
		length = sizeof(user);
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &user, &length) == 0)
			snprintf(text, bytes, "unix pid %d uid %u", user.pid, user.uid);
	}
}

static struct nbd_core *emptiest(void)
{
	struct nbd_core *best = NULL;
	for (unsigned i = 0; i < reactor_count; i++) {
		struct nbd_core *core = nbd_cores[i];
		if (core && (!best ||
			     atomic_load(&core->reactor->load) < atomic_load(&best->reactor->load)))
			best = core;
	}
	return best;
}

static void warn_full(void *arg)
{
	log_warning("nbd", "%u connections are open: no more are taken (--max-connections)",
		    nbd_settings.max_connections);
}

static struct secure_offer make_offer(const struct listener *listener)
{
	if (listener->tls == LISTENER_TLS_OFF)
		return (struct secure_offer){0};
	return (struct secure_offer){
		.credentials = named_credentials_take(listener->credentials),
		.required = listener->tls == LISTENER_TLS_REQUIRE,
	};
}

static void place(struct acceptor *acceptor, int fd)
{
	struct arrival *arrival = NULL;
	if (atomic_fetch_add(&nbd_connection_count, 1) >= nbd_settings.max_connections) {
		if (!acceptor->warned)
			control_send(warn_full, NULL);
		acceptor->warned = true;
	} else {
		acceptor->warned = false;
		arrival = malloc(sizeof(*arrival));
	}
	if (!arrival) {
		atomic_fetch_sub(&nbd_connection_count, 1);
		close(fd);
		return;
	}
	arrival->fd = fd;
	arrival->core = emptiest();
	snprintf(arrival->listener, sizeof(arrival->listener), "%s", acceptor->listener->uri);
	name_peer(fd, arrival->peer, sizeof(arrival->peer));
	arrival->offer = make_offer(acceptor->listener);
	atomic_fetch_add(&arrival->core->reactor->load, 1);
	reactor_send(arrival->core->reactor, arrive, arrival);
}

/* ---- Accepting ---- */

static void closed(void *arg)
{
	struct listener *listener = arg;
	void (*done)(void *) = listener->done;
	void *done_arg = listener->done_arg;
	TAILQ_REMOVE(&listeners, listener, link);
	log_info("nbd", "no longer listening on %s", listener->uri);
	if (listener->credentials)
		listener->credentials->users--;
	free(listener->uri);
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
		place(acceptor, result);
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
	char *uri;
	enum listener_tls tls;
	struct named_credentials *credentials;
	struct address address;
	int fds[ADDRESS_SOCKETS_MAX];
	int count; /* or -errno */
	char why[512];
	void (*created)(void *arg, struct listener *listener, int error, const char *why);
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

static struct listener *make(struct creation *creation)
{
	struct listener *listener = calloc(1, sizeof(*listener));
	if (!listener)
		return NULL;
	listener->address = creation->address;
	if (listener->address.path[0])
		listener->uri = strdup(creation->uri);
	else if (asprintf(&listener->uri,
			  strchr(listener->address.host, ':') ? "tcp://[%s]:%s" : "tcp://%s:%s",
			  listener->address.host, listener->address.port) < 0)
		listener->uri = NULL;
	if (!listener->uri) {
		free(listener);
		return NULL;
	}
	listener->tls = creation->tls;
	listener->credentials = creation->credentials;
	listener->reactor = next_net_reactor();
	listener->count = creation->count;
	atomic_store(&listener->open, listener->count);
	for (unsigned i = 0; i < listener->count; i++) {
		struct acceptor *acceptor = &listener->acceptors[i];
		acceptor->fd = creation->fds[i];
		acceptor->listener = listener;
		acceptor->op.done = accepted;
		acceptor->pause.fire = resume;
	}
	return listener;
}

static void bound(void *arg)
{
	struct creation *creation = arg;
	struct listener *listener = NULL;
	int error = creation->count < 0 ? creation->count : 0;
	if (!error) {
		listener = make(creation);
		if (!listener) {
			error = -ENOMEM;
			snprintf(creation->why, sizeof(creation->why), "no memory for a listener");
			for (int i = 0; i < creation->count; i++)
				close(creation->fds[i]);
		}
	}
	if (listener) {
		TAILQ_INSERT_TAIL(&listeners, listener, link);
		reactor_send(listener->reactor, start_here, listener);
		log_info("nbd", "listening on %s", listener->uri);
	} else if (creation->credentials) {
		creation->credentials->users--;
	}
	creation->created(creation->arg, listener, error, error ? creation->why : NULL);
	free(creation->uri);
	free(creation);
}

void listener_create(const struct listener_options *options,
		     void (*created)(void *arg, struct listener *listener, int error,
				     const char *why),
		     void *arg)
{
	char why[512];
	const char *uri = options->uri;
	struct address address;
	int error = address_parse(uri, &address, why, sizeof(why));
	if (!error && listener_find(uri)) {
		error = -EEXIST;
		snprintf(why, sizeof(why), "there is a listener on %s", uri);
	}
	struct creation *creation = error ? NULL : calloc(1, sizeof(*creation));
	if (creation)
		creation->uri = strdup(uri);
	if (!creation || !creation->uri) {
		free(creation);
		created(arg, NULL, error ? error : -ENOMEM,
			error ? why : "no memory for a listener");
		return;
	}
	creation->tls = options->tls;
	if (options->tls != LISTENER_TLS_OFF) {
		creation->credentials = options->credentials;
		creation->credentials->users++;
	}
	creation->address = address;
	creation->created = created;
	creation->arg = arg;
	control_work(bind_on_worker, bound, creation);
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
		if (!strcmp(listener->uri, uri) && !listener->closing)
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
	return listener->uri;
}

enum listener_tls listener_tls(const struct listener *listener)
{
	return listener->tls;
}

const struct named_credentials *listener_credentials(const struct listener *listener)
{
	return listener->credentials;
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
	const char *scheme = listener->tls == LISTENER_TLS_REQUIRE ? "nbds" : "nbd";
	encode(export_name, name, sizeof(name));
	encode(listener->address.path, path, sizeof(path));
	if (path[0])
		snprintf(text, bytes, "%s+unix:///%s?socket=%s", scheme, name, path);
	else
		snprintf(text, bytes, "%s://%s%s%s", scheme, listener->uri + strlen("tcp://"),
			 name[0] ? "/" : "", name);
	return text;
}
