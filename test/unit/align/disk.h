/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * disk: a driver in memory for tests of what stands above drivers. It takes whole blocks only and
 * checks that; it completes at once, later in random order, or now one way, now the other; it fails
 * on demand. It runs on the fake reactors and on real ones.
 */
#ifndef POLLUX_TEST_ALIGN_DISK_H
#define POLLUX_TEST_ALIGN_DISK_H

#include "bdev/bdev.h"

enum disk_timing {
	DISK_AT_ONCE,
	DISK_LATER, /* in random order, passes later */
	DISK_MIXED,
};

enum { DISK_PENDING_MOST = 1024 };

struct disk {
	struct bdev bdev;
	uint8_t *data;
	uint64_t room; /* bytes of data */
	enum disk_timing timing;
	bool hold; /* completes nothing that is pending */
	/* Called before a request is taken, or NULL. Returns 0, or the status to fail it with. */
	int (*on_submit)(struct disk *disk, struct bdev_io *io);
	/* channel_open() fails on this reactor, -1: on none */
	int open_fails_on;
	_Atomic uint64_t taken[REACTOR_MAX]; /* writes, by core */
	_Atomic uint64_t reads, aborts, cancels;
	_Atomic unsigned most_pending; /* on one core */
	_Atomic bool destroyed;
};

/* Registers `name`; size_bytes need not be a multiple of align_bytes. */
struct disk *disk_create(const char *name, uint32_t align_bytes, uint64_t size_bytes);
/* After bdev_remove() has ended. */
void disk_free(struct disk *disk);

extern const struct bdev_type disk_type;

#endif
