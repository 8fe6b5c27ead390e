/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * null: a disk of zeros that forgets every WRITE: what the target costs without a medium.
 * Submitting runs on the channel's core, the rest on the control thread.
 */
#include "bdev/null/null.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/create.h"
#include "lib/base/why.h"

struct null_channel {
	const uint8_t *zeros;
};

/* Lends the same zeros to everybody; whoever brings memory gets it zeroed, never as it was. */
static void read_zeros(const struct null_channel *nc, struct bdev_io *io)
{
	if (io->flags & BDEV_SPARSE) {
		io->flags |= BDEV_ZEROES;
		return;
	}
	if (likely(io->flags & BDEV_LEND && !io->iovcnt && io->length <= REGION_ZEROS_BYTES)) {
		io->lent[0].iov_base = (void *)(uintptr_t)nc->zeros;
		io->lent[0].iov_len = io->length;
		io->iov = io->lent;
		io->iovcnt = 1;
		return;
	}
	for (unsigned i = 0; i < io->iovcnt; i++)
		memset(io->iov[i].iov_base, 0, io->iov[i].iov_len);
}

static int tell_extents(struct bdev_io *io)
{
	io->extents = 0;
	if (io->context)
		return -EINVAL;
	bdev_extents_add(io, io->length, BDEV_EXTENT_HOLE | BDEV_EXTENT_ZERO);
	return 0;
}

static void null_submit(struct bdev_channel *ch, struct bdev_io **ios, unsigned n)
{
	const struct null_channel *nc = (const struct null_channel *)ch->ctx;
	for (unsigned i = 0; i < n; i++) {
		struct bdev_io *io = ios[i];
		int status = 0;
		if (io->op == BDEV_READ)
			read_zeros(nc, io);
		else if (io->op == BDEV_EXTENTS)
			status = tell_extents(io);
		else if (io->op == BDEV_CACHE)
			status = -EOPNOTSUPP;
		bdev_io_complete(io, status);
	}
}

static int null_channel_open(struct bdev_channel *ch)
{
	struct null_channel *nc = (struct null_channel *)ch->ctx;
	nc->zeros = region_zeros();
	return nc->zeros ? 0 : -ENOMEM;
}

static void null_resize(struct bdev *bdev, uint64_t size_bytes, void (*done)(void *arg, int error),
			void *arg)
{
	int error = 0;
	if (!size_bytes || size_bytes > INT64_MAX || size_bytes % bdev->block_size)
		error = -EINVAL;
	if (!error && atomic_exchange(&bdev->size_bytes, size_bytes) != size_bytes)
		bdev_resized(bdev);
	done(arg, error);
}

static void null_destroy(struct bdev *bdev)
{
	bdev_destroyed(bdev);
	free(bdev);
}

const struct bdev_type bdev_null_type = {
	.name = "null",
	.product_name = "Null disk",
	.channel_ctx_bytes = sizeof(struct null_channel),
	.channel_open = null_channel_open,
	.submit = null_submit,
	.destroy = null_destroy,
	.resize = null_resize,
};

int bdev_null_create(const struct bdev_null_options *options, struct bdev **result, char *why,
		     size_t why_bytes)
{
	uint32_t block = options->block_size ? options->block_size : BDEV_BLOCK_MIN_BYTES;
	int error = bdev_check_geometry(options->size_bytes, block, options->physical_block_size,
					why, why_bytes);
	if (error)
		return error;
	struct bdev *bdev = calloc(1, sizeof(*bdev));
	if (!bdev)
		return why_refuse(why, why_bytes, -ENOMEM, "out of memory");
	bdev->type = &bdev_null_type;
	bdev->size_bytes = options->size_bytes;
	bdev->block_size = block;
	bdev->physical_block_size = options->physical_block_size;
	bdev->align_bytes = 1;
	bdev->mem_align_bytes = 1;
	bdev->caps = BDEV_CAP_WRITE | BDEV_CAP_FLUSH | BDEV_CAP_FUA | BDEV_CAP_TRIM |
		     BDEV_CAP_WRITE_ZEROES | BDEV_CAP_FAST_ZERO | BDEV_CAP_LEND | BDEV_CAP_SYNC |
		     BDEV_CAP_EXTENTS;
	bdev->numa_id = REGION_ANY_NODE;
	error = bdev_set_identity(bdev, "Null", options->name, options->uuid, why, why_bytes);
	if (!error)
		error = bdev_register_why(bdev, why, why_bytes);
	if (error)
		free(bdev);
	else
		*result = bdev;
	return error;
}
