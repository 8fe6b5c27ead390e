/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * named: TLS credentials under a name that listeners refer to. The table belongs to the control
 * thread; files are read on a worker; reactors only take references to the immutable credentials in
 * force.
 */
#ifndef POLLUX_APP_TLS_NAMED_H
#define POLLUX_APP_TLS_NAMED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/queue.h>
#include <time.h>

#include "lib/tls/credentials.h"

enum { NAMED_NAME_MAX_BYTES = 255 };

struct named_credentials {
	char *name;
	enum tls_endpoint endpoint;
	/* replaced by a reload; the old ones are let go of when every reactor has passed its loop
	 */
	struct tls_credentials *_Atomic current;
	/* the control thread's */
	time_t loaded;	/* when the current ones were read */
	unsigned users; /* listeners */
	bool reloading;
	TAILQ_ENTRY(named_credentials) link;
};

/* Runs once, on the control thread. error: 0, or -errno and a sentence in `why`. */
struct named_done {
	void (*run)(void *arg, struct named_credentials *named, int error, const char *why);
	void *arg;
};

/*
 * Control thread. `name` and `config`, with all that it points to, stay valid until done has run:
 * -EEXIST, or what tls_credentials_create() returns.
 */
void named_credentials_create(const char *name, const struct tls_credentials_config *config,
			      struct named_done done);
/*
 * Control thread: reads the files again, for sessions that begin from then on. Where that fails,
 * what was there stays in force. -EBUSY: a reload is under way.
 */
void named_credentials_reload(struct named_credentials *named, struct named_done done);
/* Control thread. Returns 0, or -EBUSY: a listener uses them, or a reload is under way. */
int named_credentials_delete(struct named_credentials *named);
/* Control thread, at the end. */
void named_credentials_delete_all(void);

struct named_credentials *named_credentials_find(const char *name);
struct named_credentials *named_credentials_first(void);
struct named_credentials *named_credentials_next(const struct named_credentials *named);

/* A reactor, while `named` has users: a reference to those in force. */
struct tls_credentials *named_credentials_take(struct named_credentials *named);

#endif
