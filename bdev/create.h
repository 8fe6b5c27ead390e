/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * create: what creating a bdev has in common for all types: geometry, name, uuid, and a sentence
 * that says what is wrong with them. Control thread.
 */
#ifndef POLLUX_BDEV_CREATE_H
#define POLLUX_BDEV_CREATE_H

#include "bdev/bdev.h"

enum { BDEV_BLOCK_MIN_BYTES = 512, BDEV_BLOCK_MAX_BYTES = 64 << 10 };

/* Each returns 0, or -errno with a sentence in `why`. */

/*
 * Size not 0, within 63 bits and a multiple of the block; block and physical block (0: not given)
 * powers of two from 512 to 64 KiB. Else -EINVAL.
 */
int bdev_check_geometry(uint64_t size_bytes, uint32_t block_size, uint32_t physical_block_size,
			char *why, size_t why_bytes);

/*
 * Fills bdev->name (NULL: prefix and a number) and bdev->uuid (NULL: left empty). -EINVAL, -EEXIST
 * (the name is taken).
 */
int bdev_set_identity(struct bdev *bdev, const char *prefix, const char *name, const char *uuid,
		      char *why, size_t why_bytes);

/* bdev_register(). */
int bdev_register_why(struct bdev *bdev, char *why, size_t why_bytes);

#endif
