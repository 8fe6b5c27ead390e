/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * handed: reads the environment that a service manager sets for sockets it hands over. Variables
 * that are meant for another process (LISTEN_PID) are inherited by accident, and mean nothing.
 */
#include "app/pollux/handed.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/pollux/address.h"
#include "lib/base/number.h"
#include "lib/base/why.h"

enum { FIRST_FD = 3 };

static const char *const variables[] = {"LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS",
					"LISTEN_FDNAMES"};

/* The names are as many as the sockets, with ':' between them. */
static int take_names(struct handed *handed, const char *names, char *why, size_t why_bytes)
{
	handed->name_text = strdup(names);
	if (!handed->name_text)
		return why_refuse(why, why_bytes, -ENOMEM, "no memory for LISTEN_FDNAMES");
	char *rest = handed->name_text;
	unsigned count = 0;
	for (const char *name; (name = strsep(&rest, ":")); count++) {
		if (count < handed->count)
			handed->names[count] = name;
	}
	if (count != handed->count)
		return why_refuse(why, why_bytes, -EINVAL,
				  "LISTEN_FDNAMES has %u names for %u sockets", count,
				  handed->count);
	return 0;
}

static int take_sockets(struct handed *handed, const char *fds, const char *names, char *why,
			size_t why_bytes)
{
	uint64_t count;
	if (number_parse(fds, 0, UINT32_MAX, &count))
		return why_refuse(why, why_bytes, -EINVAL, "LISTEN_FDS='%.64s' is no number", fds);
	if (count > HANDED_MAX)
		return why_refuse(why, why_bytes, -EINVAL,
				  "LISTEN_FDS=%" PRIu64 ": at most %d sockets are taken", count,
				  HANDED_MAX);
	for (unsigned i = 0; i < count; i++) {
		struct address address;
		char reason[256];
		int fd = FIRST_FD + i;
		if (address_adopt(fd, &address, reason, sizeof(reason)))
			return why_refuse(why, why_bytes, -EINVAL, "LISTEN_FDS=%" PRIu64 ": %s",
					  count, reason);
		fcntl(fd, F_SETFD, FD_CLOEXEC);
		handed->fds[handed->count++] = fd;
	}
	return names && count ? take_names(handed, names, why, why_bytes) : 0;
}

static int take(struct handed *handed, char *why, size_t why_bytes)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	uint64_t number;
	if (!pid || !fds)
		return 0;
	if (number_parse(pid, 0, UINT32_MAX, &number))
		return why_refuse(why, why_bytes, -EINVAL, "LISTEN_PID='%.64s' is no process id",
				  pid);
	if (number != (uint64_t)getpid())
		return 0;
	return take_sockets(handed, fds, getenv("LISTEN_FDNAMES"), why, why_bytes);
}

int handed_take(struct handed *handed, char *why, size_t why_bytes)
{
	memset(handed, 0, sizeof(*handed));
	int error = take(handed, why, why_bytes);
	for (unsigned i = 0; i < sizeof(variables) / sizeof(variables[0]); i++)
		unsetenv(variables[i]);
	return error;
}

void handed_free(struct handed *handed)
{
	free(handed->name_text);
}
