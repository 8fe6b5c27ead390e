/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stdio_client: takes standard input and output away from the process, and hands them to a net core
 * as a connection like any other.
 */
#include "app/pollux/stdio_client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/pollux/nbd/arrival.h"
#include "lib/base/why.h"

enum { ABOVE_STANDARD_FD = 3 };

static int rx_fd = -1, tx_fd = -1;

static int check(int fd, const char *name, struct stat *status, char *why, size_t why_bytes)
{
	if (fstat(fd, status))
		return why_refuse(why, why_bytes, -EBADF, "standard %s is closed", name);
	if (!S_ISSOCK(status->st_mode) && !S_ISFIFO(status->st_mode))
		return why_refuse(why, why_bytes, -EINVAL,
				  "standard %s is neither a socket nor a pipe", name);
	return 0;
}

/* A copy out of the way of whatever prints. Waiting is io_uring's: it needs a blocking file. */
static int put_aside(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, ABOVE_STANDARD_FD);
	if (copy >= 0)
		fcntl(copy, F_SETFL, fcntl(copy, F_GETFL) & ~O_NONBLOCK);
	return copy;
}

int stdio_client_take(char *why, size_t why_bytes)
{
	struct stat in, out;
	int error = check(STDIN_FILENO, "input", &in, why, why_bytes);
	if (!error)
		error = check(STDOUT_FILENO, "output", &out, why, why_bytes);
	if (error)
		return error;
	bool one = S_ISSOCK(in.st_mode) && in.st_dev == out.st_dev && in.st_ino == out.st_ino;
	int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
	rx_fd = put_aside(STDIN_FILENO);
	tx_fd = one ? rx_fd : put_aside(STDOUT_FILENO);
	if (nowhere < 0 || rx_fd < 0 || tx_fd < 0 || dup2(nowhere, STDIN_FILENO) < 0) {
		error = -errno;
		snprintf(why, why_bytes, "standard input and output can not be put aside: %s",
			 strerror(-error));
		return error;
	}
	if (dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
		dup2(nowhere, STDOUT_FILENO);
	close(nowhere);
	return 0;
}

int stdio_client_serve(const struct access_options *options, void (*gone)(void))
{
	const char *parameter;
	struct access *access;
	char why[256];
	int error = access_create("stdio", options, &access, &parameter, why, sizeof(why));
	if (error)
		return error;
	access->idle = gone;
	bool placed = arrival_place(access, rx_fd, tx_fd);
	access_put(access);
	return placed ? 0 : -ENOMEM;
}
