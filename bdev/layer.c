/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * layer: the common part of stacked bdevs. A layer goes when its base goes: on BDEV_EVENT_REMOVE it
 * removes itself, and the base's claim is released when it is destroyed.
 */
#include "bdev/layer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bdev/create.h"
#include "lib/base/why.h"

static void base_event(struct bdev_claim *claim, enum bdev_event event)
{
	struct bdev_layer *layer = container_of(claim, struct bdev_layer, claim);
	struct bdev *bdev = &layer->bdev;
	if (event == BDEV_EVENT_RESIZE) {
		atomic_store(&bdev->size_bytes, atomic_load(&bdev->base->size_bytes));
		bdev_resized(bdev);
	} else if (!bdev->removing) {
		bdev_remove(bdev, true, NULL, NULL);
	}
}

static int claim_base(struct bdev_layer *layer, const char *base_name, char *why, size_t why_bytes)
{
	struct bdev *base = bdev_find(base_name);
	if (!base)
		return why_refuse(why, why_bytes, -ENODEV, "there is no bdev %s", base_name);
	snprintf(layer->holder, sizeof(layer->holder), "bdev %s", layer->bdev.name);
	layer->claim.holder = layer->holder;
	layer->claim.write = base->caps & BDEV_CAP_WRITE;
	layer->claim.event = base_event;
	int error = bdev_claim(base, &layer->claim);
	if (error == -EBUSY)
		snprintf(why, why_bytes, "%s is in use by %s", base_name, bdev_holder(base));
	else if (error)
		snprintf(why, why_bytes, "cannot claim %s: %s", base_name, strerror(-error));
	else
		layer->bdev.base = base;
	return error;
}

int bdev_layer_register(struct bdev_layer *layer, const struct bdev_layer_options *options,
			char *why, size_t why_bytes)
{
	struct bdev *bdev = &layer->bdev;
	int error = bdev_set_identity(bdev, "", options->name, options->uuid, why, why_bytes);
	if (!error)
		error = claim_base(layer, options->base_name, why, why_bytes);
	if (error)
		return error;
	const struct bdev *base = bdev->base;
	bdev->type = options->type;
	bdev->size_bytes = atomic_load(&base->size_bytes);
	bdev->block_size = base->block_size;
	bdev->physical_block_size = base->physical_block_size;
	bdev->align_bytes = 1; /* the base's own alignment layer stands below */
	bdev->mem_align_bytes = base->mem_align_bytes;
	bdev->caps = base->caps & ~(uint32_t)BDEV_CAP_SYNC;
	bdev->io_ctx_bytes = options->io_ctx_bytes;
	bdev->numa_id = base->numa_id;
	error = bdev_register_why(bdev, why, why_bytes);
	if (error)
		bdev_release(&layer->claim);
	return error;
}

void bdev_layer_destroy(struct bdev *bdev)
{
	struct bdev_layer *layer = container_of(bdev, struct bdev_layer, bdev);
	if (layer->holds) {
		layer->doomed = true;
		return;
	}
	bdev_release(&layer->claim);
	bdev_destroyed(bdev);
	layer->free(layer);
}

void bdev_layer_hold(struct bdev_layer *layer)
{
	layer->holds++;
}

void bdev_layer_unhold(struct bdev_layer *layer)
{
	if (--layer->holds == 0 && layer->doomed)
		bdev_layer_destroy(&layer->bdev);
}

int bdev_layer_channel_open(struct bdev_channel *ch)
{
	ch->base = bdev_channel_get(ch->bdev->base);
	return ch->base ? 0 : -errno;
}

void bdev_layer_channel_close(struct bdev_channel *ch)
{
	bdev_channel_put(ch->base);
	ch->base = NULL;
}

void bdev_layer_release(struct bdev_channel *ch, struct bdev_io *io)
{
	bdev_io_release(ch->base, io);
}

const char *bdev_layer_context(const struct bdev *bdev, unsigned index)
{
	return bdev_context_name(bdev->base, index);
}

void bdev_layer_abort_below(struct bdev_channel *ch, struct bdev_io *io)
{
	bdev_abort(ch->base, io);
}

void bdev_layer_cancel_below(struct bdev_channel *ch)
{
	if (ch->base->type->cancel)
		ch->base->type->cancel(ch->base);
}

void bdev_layer_drop_loan(struct bdev_channel *ch, struct bdev_io *io)
{
	if (!bdev_io_is_lent(io))
		return;
	bdev_io_release(ch->base, io);
	io->iovcnt = 0;
	io->iov = NULL;
}
