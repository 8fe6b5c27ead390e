/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * plain: what the clients in the guest share: NBD in the clear by a unix socket, as its document has
 * it and without the project's own code, which they test. One connection a program.
 */
#ifndef POLLUX_TEST_VM_PLAIN_H
#define POLLUX_TEST_VM_PLAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	CMD_READ = 0,
	CMD_WRITE = 1,
	CMD_FLUSH = 3,
	CMD_TRIM = 4,
	CMD_WRITE_ZEROES = 6,
};

/* Ends the program with 1 and says why, unless it is so. */
void need(bool good, const char *what);

/* Into transmission. */
void plain_connect(const char *path, const char *name);
/* False: the server is gone. */
bool plain_put(const void *bytes, size_t count);
bool plain_get(void *bytes, size_t count);
bool plain_request(uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset, uint32_t bytes);
/* The head of a simple reply. */
bool plain_reply(uint64_t *cookie, uint32_t *error);

#endif
