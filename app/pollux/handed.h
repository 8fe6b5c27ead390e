/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * handed: listening sockets that a service manager hands over as it starts the process: systemd's
 * protocol of LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, which libnbd speaks as well. Main thread,
 * before any descriptor is opened or thread made.
 * Source: sd_listen_fds(3).
 */
#ifndef POLLUX_APP_HANDED_H
#define POLLUX_APP_HANDED_H

#include <stddef.h>

enum { HANDED_MAX = 256 };

struct handed {
	unsigned count;
	int fds[HANDED_MAX];
	const char *names[HANDED_MAX]; /* or NULL */
	char *name_text;	       /* that the names stand in */
};

/*
 * Takes what is for this process (count 0: nothing), checks it, marks it close-on-exec, and unsets
 * the variables. Returns 0, or -EINVAL or -ENOMEM with a sentence in `why`.
 */
int handed_take(struct handed *handed, char *why, size_t why_bytes);
/* Frees the names; the descriptors belong to whoever has adopted them. */
void handed_free(struct handed *handed);

#endif
