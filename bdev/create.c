/* SPDX-License-Identifier: BSD-3-Clause */
/* create: checks what a new bdev is asked to be. Control thread. */
#include "bdev/create.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/why.h"

static bool is_block_size(uint32_t bytes)
{
	return bytes >= BDEV_BLOCK_MIN_BYTES && bytes <= BDEV_BLOCK_MAX_BYTES &&
	       (bytes & (bytes - 1)) == 0;
}

int bdev_check_geometry(uint64_t size_bytes, uint32_t block_size, uint32_t physical_block_size,
			char *why, size_t why_bytes)
{
	if (!is_block_size(block_size))
		snprintf(why, why_bytes,
			 "block size %" PRIu32 " is not a power of two from %d to %d", block_size,
			 BDEV_BLOCK_MIN_BYTES, BDEV_BLOCK_MAX_BYTES);
	else if (physical_block_size && !is_block_size(physical_block_size))
		snprintf(why, why_bytes,
			 "physical block size %" PRIu32 " is not a power of two from %d to %d",
			 physical_block_size, BDEV_BLOCK_MIN_BYTES, BDEV_BLOCK_MAX_BYTES);
	else if (physical_block_size && physical_block_size < block_size)
		snprintf(why, why_bytes,
			 "physical block size %" PRIu32 " is less than the block size %" PRIu32,
			 physical_block_size, block_size);
	else if (size_bytes == 0)
		snprintf(why, why_bytes, "the size is 0");
	else if (size_bytes > INT64_MAX)
		snprintf(why, why_bytes, "size %" PRIu64 " does not fit 63 bits", size_bytes);
	else if (size_bytes % block_size)
		snprintf(why, why_bytes,
			 "size %" PRIu64 " is no multiple of the block size %" PRIu32, size_bytes,
			 block_size);
	else
		return 0;
	return -EINVAL;
}

int bdev_set_identity(struct bdev *bdev, const char *prefix, const char *name, const char *uuid,
		      char *why, size_t why_bytes)
{
	int error = name ? bdev_check_name(name) : 0;
	if (error == -EEXIST)
		snprintf(why, why_bytes, "a bdev named %s exists already", name);
	else if (error)
		snprintf(why, why_bytes, "a name has 1 to %d characters, no control characters",
			 BDEV_NAME_MAX_BYTES);
	if (error)
		return error;
	if (uuid && strlen(uuid) >= sizeof(bdev->uuid))
		return why_refuse(why, why_bytes, -EINVAL, "%s is not a UUID", uuid);
	if (name)
		snprintf(bdev->name, sizeof(bdev->name), "%s", name);
	else
		bdev_make_name(prefix, bdev->name);
	if (uuid)
		snprintf(bdev->uuid, sizeof(bdev->uuid), "%s", uuid);
	return 0;
}

int bdev_register_why(struct bdev *bdev, char *why, size_t why_bytes)
{
	int error = bdev_register(bdev);
	if (error == -EEXIST)
		snprintf(why, why_bytes, "a bdev of the name %s or the UUID %s exists already",
			 bdev->name, bdev->uuid);
	else if (error)
		snprintf(why, why_bytes, "cannot register bdev %s: %s", bdev->name,
			 strerror(-error));
	return error;
}
