/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * address: what a listener's URI means, and binding it. May block (DNS, a busy port): worker
 * threads.
 */
#ifndef POLLUX_APP_ADDRESS_H
#define POLLUX_APP_ADDRESS_H

#include <stddef.h>

enum {
	ADDRESS_SOCKETS_MAX = 8, /* a name may have several addresses */
	ADDRESS_BACKLOG = 4096,
	ADDRESS_HOST_BYTES = 256,
	ADDRESS_PATH_BYTES = 108,
};

struct address {
	char host[ADDRESS_HOST_BYTES]; /* TCP; without brackets */
	char port[16];		       /* TCP */
	unsigned long inode;	       /* of the unix socket's file, once it listens */
	char path[ADDRESS_PATH_BYTES]; /* unix; empty: TCP */
};

/* Returns 0, or -EINVAL with a sentence in `why`. Does not block. */
int address_parse(const char *uri, struct address *address, char *why, size_t why_bytes);

/*
 * Binds and listens on every address of the name. Returns how many sockets are in fds, or -errno
 * with a sentence in `why`. A unix socket that nobody listens on is replaced; one in use is
 * refused. A port 0 is replaced by the one the kernel chose.
 */
int address_listen(struct address *address, int fds[ADDRESS_SOCKETS_MAX], char *why,
		   size_t why_bytes);

/* Removes the unix socket's file, unless it is another socket's by now. TCP: nothing. */
void address_unlink(const struct address *address);

#endif
