/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * access: what a listener grants to whom - networks that are let in, how many connections, which
 * exports, which of them by default. Made by the control thread with its listener (or for the one
 * connection of --stdio), shared with the listener's connections on their cores, which may outlive
 * the listener; freed with the last of them. Constant but for its counts.
 */
#ifndef POLLUX_APP_NBD_ACCESS_H
#define POLLUX_APP_NBD_ACCESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/net/network.h"

struct named_credentials;

enum listener_tls {
	LISTENER_TLS_OFF,
	LISTENER_TLS_ON, /* offered: the client decides, and exports may require it */
	LISTENER_TLS_REQUIRE,
};

enum {
	ACCESS_NETWORKS_MAX = 1024,
	ACCESS_EXPORTS_MAX = 4096,
	ACCESS_CONNECTIONS_MAX = 1 << 20,
};

struct access_options {
	const char *const *allow; /* networks; none: everybody */
	unsigned allow_count;
	const char *const *exports; /* names; NULL: all exports there are and will be */
	unsigned export_count;
	const char *default_export; /* served for the name ""; NULL: the one of that name */
	uint32_t max_connections;   /* 0: as many as the process takes */
	bool hide_no_zeroes;	    /* NBD_FLAG_NO_ZEROES is not offered */
	enum listener_tls tls;
	struct named_credentials *credentials; /* unless tls is off; the listener is their user */
};

enum access_refusal { ACCESS_REFUSED_ADDRESS, ACCESS_REFUSED_LIMIT, ACCESS_REFUSALS };

struct access {
	char *uri; /* of the listener, for people */
	struct network_list *allow;
	char **exports; /* sorted; NULL: all */
	unsigned export_count;
	char *default_export;
	uint32_t max_connections;
	bool hide_no_zeroes;
	enum listener_tls tls;
	struct named_credentials *credentials; /* valid while the listener accepts */
	/* called by the control thread when the last connection has gone; or NULL */
	void (*idle)(void);
	/* shared */
	_Atomic unsigned holders;
	_Atomic uint32_t connections;
	_Atomic uint64_t refused[ACCESS_REFUSALS];
	_Atomic uint64_t told_at; /* ticks: when a refusal was last logged */
};

/*
 * Control thread. Held by the caller. Returns 0; or -ENOMEM, or -EINVAL with a sentence in `why`
 * and the parameter at fault in *parameter ("allow", "exports", "default_export").
 */
int access_create(const char *uri, const struct access_options *options, struct access **access,
		  const char **parameter, char *why, size_t why_bytes);
void access_put(struct access *access);

/*
 * Any thread. Lets a peer in, which then holds and counts until access_leave(). False: it is
 * counted among the refused, and now and then told in the log.
 */
bool access_enter(struct access *access, const struct network_address *address, const char *peer);
void access_leave(struct access *access);

/* Whether this export is reached here by its own name. */
bool access_shows(const struct access *access, const char *name);
/*
 * Replaces the name that a client asks for by the export's name. False: it is not to be had here.
 */
bool access_resolve(const struct access *access, const char **name, size_t *length);

#endif
