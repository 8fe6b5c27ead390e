/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * listener: a TCP address or unix socket that NBD clients connect to. An object of the control
 * thread; accepting runs on one net reactor, which hands each socket to the net reactor with the
 * fewest connections.
 */
#ifndef POLLUX_APP_NBD_LISTENER_H
#define POLLUX_APP_NBD_LISTENER_H

#include <stdbool.h>
#include <stddef.h>

struct listener;
struct named_credentials;

enum listener_tls {
	LISTENER_TLS_OFF,
	LISTENER_TLS_ON, /* offered: the client decides, and exports may require it */
	LISTENER_TLS_REQUIRE,
};

struct listener_options {
	const char *uri;
	enum listener_tls tls;
	struct named_credentials *credentials; /* used from then on unless tls is off */
};

/*
 * uri: tcp://HOST:PORT, tcp://[ADDRESS]:PORT, unix:///PATH. Resolves and binds on a worker, then
 * listens. created(arg, listener, 0, NULL), or created(arg, NULL, -errno, sentence) - -EINVAL (no
 * such form), -EEXIST (there already), -EADDRINUSE, -EADDRNOTAVAIL, -EACCES, … - runs once, on the
 * control thread.
 */
void listener_create(const struct listener_options *options,
		     void (*created)(void *arg, struct listener *listener, int error,
				     const char *why),
		     void *arg);
/* Stops accepting; done(arg) when the sockets are closed. Connections live on. */
void listener_delete(struct listener *listener, void (*done)(void *arg), void *arg);

struct listener *listener_find(const char *uri);
struct listener *listener_first(void);
struct listener *listener_next(const struct listener *listener);
/* It is being deleted: not to be deleted again. */
bool listener_is_closing(const struct listener *listener);
/* As it was created. */
const char *listener_uri(const struct listener *listener);
enum listener_tls listener_tls(const struct listener *listener);
/* NULL where TLS is off. */
const struct named_credentials *listener_credentials(const struct listener *listener);
/*
 * The NBD URI of an export behind it: nbd://127.0.0.1:10809/name, nbd+unix:///name?socket=/path;
 * nbds:// and nbds+unix:// where TLS is required.
 */
char *listener_nbd_uri(const struct listener *listener, const char *export_name, char *text,
		       size_t bytes);

#endif
