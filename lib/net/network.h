/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * network: addresses of peers, networks in CIDR notation, and lists of networks that are let in.
 * Pure; any thread.
 *
 * An IPv4 address that comes mapped into IPv6 (::ffff:192.0.2.1) is that IPv4 address; a network
 * within ::ffff:0:0/96 is an IPv4 network. No other IPv6 network holds an IPv4 address.
 */
#ifndef POLLUX_LIB_NET_NETWORK_H
#define POLLUX_LIB_NET_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum { NETWORK_TEXT_BYTES = 64 };

enum network_family { NETWORK_NONE, NETWORK_IPV4, NETWORK_IPV6 };

struct network_address {
	enum network_family family; /* NONE: the peer has no IP address (unix, vsock, a pipe) */
	uint8_t bytes[16];	    /* network byte order; IPv4: the first 4 */
};

struct network {
	struct network_address address; /* bits behind the prefix are 0 */
	unsigned prefix_bits;
};

/* Networks that are let in. Constant once parsed. */
struct network_list {
	unsigned count;
	struct network networks[];
};

/* The address in a socket address; NETWORK_NONE where it is neither IPv4 nor IPv6. */
struct network_address network_address_of(const struct sockaddr *from);

/*
 * ADDRESS/BITS, or ADDRESS alone: that host. Bits behind the prefix are dropped. Returns 0 or
 * -EINVAL.
 */
int network_parse(const char *text, struct network *network);
/* As it is parsed: always with the prefix. Returns `text`. */
char *network_format(const struct network *network, char text[NETWORK_TEXT_BYTES]);
bool network_holds(const struct network *network, const struct network_address *address);

/*
 * Parses `count` texts. *list is NULL where there are none, else to be freed with free(). Returns
 * 0, -ENOMEM, or -EINVAL with the index of the first wrong text in *wrong.
 */
int network_list_parse(const char *const *texts, unsigned count, struct network_list **list,
		       unsigned *wrong);
/* list NULL: everybody is let in; else a peer without an IP address never is. */
bool network_list_admits(const struct network_list *list, const struct network_address *address);

#endif
