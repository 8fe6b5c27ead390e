/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * layer: what bdevs that stand on one other bdev share: they hold its write claim, look like it,
 * pass on its events, and open its channel with theirs. Functions marked (core) run on the
 * channel's core, the rest on the control thread.
 */
#ifndef POLLUX_BDEV_LAYER_H
#define POLLUX_BDEV_LAYER_H

#include "bdev/bdev.h"

enum { BDEV_LAYER_HOLDER_BYTES = BDEV_NAME_MAX_BYTES + 8 };

/* First member of the layer's own struct. */
struct bdev_layer {
	struct bdev bdev;
	struct bdev_claim claim; /* on bdev.base */
	char holder[BDEV_LAYER_HOLDER_BYTES];
	unsigned holds; /* work under way that must end before it is destroyed */
	bool doomed;
	void (*free)(struct bdev_layer *layer);
};

struct bdev_layer_options {
	const struct bdev_type *type;
	const char *base_name;
	const char *name;
	const char *uuid; /* NULL: a random one */
	uint32_t io_ctx_bytes;
};

/*
 * Claims the base, takes its geometry and what it can do - but SYNC, which no layer promises - and
 * registers. layer->free is set before. Returns 0, or -errno with a sentence in `why`: -ENODEV (no
 * such base), -EBUSY (another holds it), -EEXIST, -EINVAL.
 */
int bdev_layer_register(struct bdev_layer *layer, const struct bdev_layer_options *options,
			char *why, size_t why_bytes);

/* type->destroy: lets the base go, then calls layer->free; later, while it is held. */
void bdev_layer_destroy(struct bdev *bdev);
void bdev_layer_hold(struct bdev_layer *layer);
void bdev_layer_unhold(struct bdev_layer *layer);

/* (core) type->channel_open, channel_close, release: the same for the base. */
int bdev_layer_channel_open(struct bdev_channel *ch);
void bdev_layer_channel_close(struct bdev_channel *ch);
void bdev_layer_release(struct bdev_channel *ch, struct bdev_io *io);

/* type->context: those of the base. */
const char *bdev_layer_context(const struct bdev *bdev, unsigned index);

/* (core) Asks the base to end what it has of this request, or all that would wait for long. */
void bdev_layer_abort_below(struct bdev_channel *ch, struct bdev_io *io);
void bdev_layer_cancel_below(struct bdev_channel *ch);

/* (core) Gives back what the base lent for this request, which then has no payload. */
void bdev_layer_drop_loan(struct bdev_channel *ch, struct bdev_io *io);

#endif
