/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * listener: a TCP address, unix socket or vsock port that NBD clients connect to. An object of the
 * control thread; accepting runs on one net reactor, which hands each socket to the net reactor
 * with the fewest connections. What its clients may do is access.h's.
 */
#ifndef POLLUX_APP_NBD_LISTENER_H
#define POLLUX_APP_NBD_LISTENER_H

#include <stdbool.h>
#include <stddef.h>

#include "app/pollux/nbd/access.h"

struct listener;

struct listener_options {
	const char *uri;
	struct access_options access;
};

/* How a creation ended. */
struct listener_result {
	struct listener *listener; /* or NULL */
	int error;
	const char *parameter; /* where one is at fault; as `why`, valid during the call */
	const char *why;
};

/*
 * options->uri: tcp://HOST:PORT, tcp://[ADDRESS]:PORT, unix:///PATH, vsock://CID:PORT. Resolves and
 * binds on a worker, then listens. created(arg, result) runs once, on the
 * control thread; errors: -EINVAL (no such form, no network, …), -EEXIST (there already),
 * -EADDRINUSE, -EADDRNOTAVAIL, -EACCES, … The options are copied.
 */
void listener_create(const struct listener_options *options,
		     void (*created)(void *arg, const struct listener_result *result), void *arg);
/*
 * The same on a socket that somebody else has bound and listens on; it is taken over. name: what it
 * was called when it was handed over, or NULL.
 */
void listener_adopt(int fd, const char *name, const struct access_options *options,
		    void (*created)(void *arg, const struct listener_result *result), void *arg);
/* Stops accepting; done(arg) when the sockets are closed. Connections live on. */
void listener_delete(struct listener *listener, void (*done)(void *arg), void *arg);

struct listener *listener_find(const char *uri);
struct listener *listener_first(void);
struct listener *listener_next(const struct listener *listener);
/* It is being deleted: not to be deleted again. */
bool listener_is_closing(const struct listener *listener);
/* As it was created. */
const char *listener_uri(const struct listener *listener);
/* What it was called when it was handed over, or NULL. */
const char *listener_name(const struct listener *listener);
const struct access *listener_access(const struct listener *listener);
/*
 * The NBD URI of an export behind it: nbd://127.0.0.1:10809/name, nbd+unix:///name?socket=/path,
 * nbd+vsock://2:10809/name; nbds://, … where TLS is required.
 */
char *listener_nbd_uri(const struct listener *listener, const char *export_name, char *text,
		       size_t bytes);

#endif
