/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * dial: connects to a target and negotiates, TLS included, until transmission begins. Blocks, at
 * most until a deadline (but for DNS). Main thread.
 */
#ifndef POLLUX_APP_PERF_DIAL_H
#define POLLUX_APP_PERF_DIAL_H

#include "app/perf/target.h"

struct tls_session;

struct line {
	int fd;			 /* blocking again once it is open; TCP_NODELAY */
	struct tls_session *tls; /* NULL: in the clear */
};

/*
 * Returns 0 and what the server told in *client; or -errno with a sentence in `why`, in which the
 * server's own words are where it gave any. Nothing stays open then.
 */
int dial(const struct target *target, enum nbd_mode mode, uint64_t timeout_ns, struct line *line,
	 struct nbd_client *client, char *why, size_t why_bytes);

/* Closes at once. */
void line_close(struct line *line);

#endif
