/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * world: what surrounds the file bdev, for its unit tests: two reactors, the control thread, the
 * workers and the bdev registry, all played by one thread that does what is queued when it is told
 * to. Nothing happens by itself, so a test sees every order of events that it wants to see.
 */
#ifndef POLLUX_TEST_FILE_WORLD_H
#define POLLUX_TEST_FILE_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "bdev/file/internal.h"

enum { WORLD_CORES = 2, REQUEST_IOVS = 4 };

/* Counts of what was called since world_reset(). */
struct world {
	unsigned log_lines, resized, destroyed, registered;
	char last_log[512];
};

extern struct world world;
extern struct reactor world_reactors[WORLD_CORES];

void world_reset(void);
/* Runs what is queued for the control thread and the workers, until nothing is. */
void world_run(void);
/* Only the next call; false: there is none. */
bool world_step(void);
/* What comes now runs on this core. */
void world_on_core(unsigned core);

/* A channel of the bdev on a core, as the registry opens it. */
struct bdev_channel *world_open_channel(struct file *file, unsigned core);
void world_close_channel(struct bdev_channel *ch);

/* A file as file_open() would leave it, without one below; 4096 ≤ size for one with a direct part.
 */
struct file *world_make_file(uint64_t size, bool direct);
void world_free_file(struct file *file);

/* A request, and how it ended. */
struct request {
	struct bdev_io io;
	struct iovec iov[REQUEST_IOVS];
	unsigned done; /* calls of done() */
	int status;
};

/* Begins it; the payload is iov[0 … iovcnt-1] where iovcnt > 0. */
void request_submit(struct request *request, struct bdev_channel *ch, enum bdev_op op,
		    unsigned flags, uint64_t offset, uint64_t length);
/* The same with one segment of payload. */
void request_submit_buffer(struct request *request, struct bdev_channel *ch, enum bdev_op op,
			   unsigned flags, uint64_t offset, void *buffer, uint64_t length);

#define assert_pending(request) assert_int_equal((request)->done, 0)
#define assert_done(request, result)                                                               \
	do {                                                                                       \
		assert_int_equal((request)->done, 1);                                              \
		assert_int_equal((request)->status, result);                                       \
	} while (0)

#endif
