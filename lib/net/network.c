/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * network: parsing of CIDR notation, and whether an address lies within. Pure; any thread.
 */
#include "lib/net/network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IPV4_BYTES = 4, IPV6_BYTES = 16, MAPPED_BYTES = IPV6_BYTES - IPV4_BYTES };

static unsigned bytes_of(enum network_family family)
{
	return family == NETWORK_IPV4 ? IPV4_BYTES : IPV6_BYTES;
}

/* An IPv6 address as what it means: IPv4 where it is a mapped one. */
static struct network_address of_ipv6(const uint8_t bytes[IPV6_BYTES])
{
	static const uint8_t mapped[MAPPED_BYTES] = {[10] = 0xff, [11] = 0xff};
	struct network_address address = {.family = NETWORK_IPV6};
	if (!memcmp(bytes, mapped, MAPPED_BYTES)) {
		address.family = NETWORK_IPV4;
		memcpy(address.bytes, bytes + MAPPED_BYTES, IPV4_BYTES);
	} else {
		memcpy(address.bytes, bytes, IPV6_BYTES);
	}
	return address;
}

struct network_address network_address_of(const struct sockaddr *from)
{
	struct network_address address = {.family = NETWORK_NONE};
	if (from->sa_family == AF_INET) {
		address.family = NETWORK_IPV4;
		memcpy(address.bytes, &((const struct sockaddr_in *)from)->sin_addr, IPV4_BYTES);
	} else if (from->sa_family == AF_INET6) {
		address = of_ipv6(((const struct sockaddr_in6 *)from)->sin6_addr.s6_addr);
	}
	return address;
}

static void clear_behind(struct network *network)
{
	unsigned bytes = bytes_of(network->address.family), bits = network->prefix_bits;
	for (unsigned i = 0; i < bytes; i++) {
		unsigned kept = bits > 8 * i ? bits - 8 * i : 0;
		if (kept < 8)
			network->address.bytes[i] &= (uint8_t)(0xff00 >> kept);
	}
}

/* Digits only: no sign, no blank, no more of them than a prefix has. */
static bool parse_bits(const char *text, unsigned most, unsigned *bits)
{
	size_t digits = strspn(text, "0123456789");
	if (!digits || digits > 3 || text[digits])
		return false;
	*bits = atoi(text);
	return *bits <= most;
}

int network_parse(const char *text, struct network *network)
{
	char host[INET6_ADDRSTRLEN];
	uint8_t bytes[IPV6_BYTES];
	const char *slash = strchr(text, '/');
	size_t length = slash ? (size_t)(slash - text) : strlen(text);
	memset(network, 0, sizeof(*network));
	if (length >= sizeof(host))
		return -EINVAL;
	memcpy(host, text, length);
	host[length] = 0;
	unsigned bits, most;
	if (inet_pton(AF_INET, host, bytes) == 1) {
		network->address.family = NETWORK_IPV4;
		memcpy(network->address.bytes, bytes, IPV4_BYTES);
		most = 8 * IPV4_BYTES;
	} else if (inet_pton(AF_INET6, host, bytes) == 1) {
		network->address = of_ipv6(bytes);
		most = 8 * IPV6_BYTES;
	} else {
		return -EINVAL;
	}
	bits = most;
	if (slash && !parse_bits(slash + 1, most, &bits))
		return -EINVAL;
	if (most == 8 * IPV6_BYTES && network->address.family == NETWORK_IPV4) {
		/* a prefix that reaches beyond the mapped addresses names no IPv4 network */
		if (bits < 8 * MAPPED_BYTES)
			return -EINVAL;
		bits -= 8 * MAPPED_BYTES;
	}
	network->prefix_bits = bits;
	clear_behind(network);
	return 0;
}

char *network_format(const struct network *network, char text[NETWORK_TEXT_BYTES])
{
	char host[INET6_ADDRSTRLEN];
	inet_ntop(network->address.family == NETWORK_IPV4 ? AF_INET : AF_INET6,
		  network->address.bytes, host, sizeof(host));
	snprintf(text, NETWORK_TEXT_BYTES, "%s/%u", host, network->prefix_bits);
	return text;
}

bool network_holds(const struct network *network, const struct network_address *address)
{
	unsigned whole = network->prefix_bits / 8, rest = network->prefix_bits % 8;
	if (network->address.family != address->family ||
	    memcmp(network->address.bytes, address->bytes, whole))
		return false;
	return !rest ||
	       !((network->address.bytes[whole] ^ address->bytes[whole]) & (0xff00 >> rest) & 0xff);
}

int network_list_parse(const char *const *texts, unsigned count, struct network_list **list,
		       unsigned *wrong)
{
	*list = NULL;
	if (!count)
		return 0;
	struct network_list *made = malloc(sizeof(*made) + count * sizeof(made->networks[0]));
	if (!made)
		return -ENOMEM;
	for (unsigned i = 0; i < count; i++) {
		if (network_parse(texts[i], &made->networks[i])) {
			*wrong = i;
			free(made);
			return -EINVAL;
		}
	}
	made->count = count;
	*list = made;
	return 0;
}

bool network_list_admits(const struct network_list *list, const struct network_address *address)
{
	if (!list)
		return true;
	for (unsigned i = 0; i < list->count; i++) {
		if (network_holds(&list->networks[i], address))
			return true;
	}
	return false;
}
