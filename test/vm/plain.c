/* SPDX-License-Identifier: BSD-3-Clause */
/* plain: an NBD client as simple as can be. */
#include "plain.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum {
	OPT_EXPORT_NAME = 1,
	CLIENT_FLAGS = 3, /* fixed newstyle, no zeroes after the answer */
	GREETING_BYTES = 18,
	ANSWER_BYTES = 10,
};

static const uint64_t option_magic = 0x49484156454f5054;
static const uint32_t request_magic = 0x25609513, reply_magic = 0x67446698;

static int fd;

void need(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "%s: %s\n", program_invocation_short_name, what);
	exit(1);
}

bool plain_put(const void *bytes, size_t count)
{
	const uint8_t *from = bytes;
	while (count) {
		ssize_t n = send(fd, from, count, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
		from += n;
		count -= (size_t)n;
	}
	return true;
}

bool plain_get(void *bytes, size_t count)
{
	return recv(fd, bytes, count, MSG_WAITALL) == (ssize_t)count;
}

void plain_connect(const char *path, const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	uint8_t greeting[GREETING_BYTES], answer[ANSWER_BYTES];
	uint32_t flags = htobe32(CLIENT_FLAGS);
	struct {
		uint64_t magic;
		uint32_t option, bytes;
	} head = {htobe64(option_magic), htobe32(OPT_EXPORT_NAME), htobe32(strlen(name))};
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	need(fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof(address)), "no server");
	need(plain_get(greeting, sizeof(greeting)) && plain_put(&flags, sizeof(flags)) &&
		     plain_put(&head, sizeof(head)) && plain_put(name, strlen(name)) &&
		     plain_get(answer, sizeof(answer)),
	     "no export");
}

bool plain_request(uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset, uint32_t bytes)
{
	struct __attribute__((packed)) {
		uint32_t magic;
		uint16_t flags, type;
		uint64_t cookie, offset;
		uint32_t bytes;
	} head = {htobe32(request_magic), htobe16(flags),  htobe16(type),
		  htobe64(cookie),	  htobe64(offset), htobe32(bytes)};
	return plain_put(&head, sizeof(head));
}

bool plain_reply(uint64_t *cookie, uint32_t *error)
{
	struct __attribute__((packed)) {
		uint32_t magic, error;
		uint64_t cookie;
	} reply;
	if (!plain_get(&reply, sizeof(reply)))
		return false;
	need(reply.magic == htobe32(reply_magic), "no reply");
	*cookie = be64toh(reply.cookie);
	*error = be32toh(reply.error);
	return true;
}
