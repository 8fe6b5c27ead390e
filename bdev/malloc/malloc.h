/* SPDX-License-Identifier: BSD-3-Clause */
/* malloc: creating and finding malloc bdevs. Control thread. */
#ifndef POLLUX_BDEV_MALLOC_H
#define POLLUX_BDEV_MALLOC_H

#include "bdev/bdev.h"

extern const struct bdev_type bdev_malloc_type;

struct bdev_malloc_options {
	const char *name; /* NULL: one is made */
	const char *uuid; /* NULL: a random one */
	uint64_t size_bytes;
	uint32_t block_size;	      /* 512 or 4096, …; 0: 512 */
	uint32_t physical_block_size; /* 0: block_size */
	int numa_id;		      /* REGION_ANY_NODE: of the first storage core */
};

/*
 * Creates and registers. Returns 0, or -errno with a sentence in `why`: -EEXIST, -EINVAL (size 0 or
 * no multiple of the block, block no power of two from 512 to 64 KiB, a node that is not there),
 * -ENOMEM.
 */
int bdev_malloc_create(const struct bdev_malloc_options *options, struct bdev **bdev, char *why,
		       size_t why_bytes);

/*
 * Any thread: what lies at `offset`. *length: in: how far to look (0: to the end); out: how far it
 * is the same. *hole: reads as zeros and takes no memory. -EINVAL: offset is beyond the end.
 */
int bdev_malloc_extent(const struct bdev *bdev, uint64_t offset, uint64_t *length, bool *hole);

#endif
