/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * address: what a listener's URI means, and binding it or taking over a socket that is bound
 * already. Binding may block (DNS, a busy port): worker threads.
 */
#ifndef POLLUX_APP_ADDRESS_H
#define POLLUX_APP_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

enum {
	ADDRESS_SOCKETS_MAX = 8, /* a name may have several addresses */
	ADDRESS_BACKLOG = 4096,
	ADDRESS_HOST_BYTES = 256,
	ADDRESS_PATH_BYTES = 108,
	ADDRESS_URI_BYTES = ADDRESS_HOST_BYTES + 32,
};

enum address_kind { ADDRESS_TCP, ADDRESS_UNIX, ADDRESS_VSOCK };

struct address {
	enum address_kind kind;
	char host[ADDRESS_HOST_BYTES]; /* TCP: without brackets; vsock: the CID, or "*" */
	char port[16];		       /* TCP, vsock */
	char path[ADDRESS_PATH_BYTES]; /* unix; "@name": an abstract one, of a socket taken over */
	bool adopted;	     /* somebody else bound it: its path stays when it is closed */
	unsigned long inode; /* of the unix socket's file, once it listens */
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

/* Removes the unix socket's file, unless it is another socket's by now. Others, and one taken over:
 * nothing. */
void address_unlink(const struct address *address);

/*
 * What a socket that was handed over listens on. Returns 0, or -EINVAL with a sentence in `why`
 * where it is no listening stream socket of a kind that Pollux knows. Does not block.
 */
int address_adopt(int fd, struct address *address, char *why, size_t why_bytes);

/* The URI in its plain form. Returns `uri`. */
char *address_uri(const struct address *address, char uri[ADDRESS_URI_BYTES]);

#endif
