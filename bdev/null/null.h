/* SPDX-License-Identifier: BSD-3-Clause */
/* null: creating and finding null bdevs. Control thread. */
#ifndef POLLUX_BDEV_NULL_H
#define POLLUX_BDEV_NULL_H

#include "bdev/bdev.h"

extern const struct bdev_type bdev_null_type;

struct bdev_null_options {
	const char *name; /* NULL: one is made */
	const char *uuid; /* NULL: a random one */
	uint64_t size_bytes;
	uint32_t block_size;	      /* 512 or 4096, …; 0: 512 */
	uint32_t physical_block_size; /* 0: block_size */
};

/*
 * Creates and registers. Returns 0, or -errno with a sentence in `why`: -EEXIST, -EINVAL (size 0 or
 * no multiple of the block, block no power of two from 512 to 64 KiB), -ENOMEM.
 */
int bdev_null_create(const struct bdev_null_options *options, struct bdev **bdev, char *why,
		     size_t why_bytes);

#endif
