/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * align: the layer above every driver that needs alignment (align_bytes > 1). Misaligned READs are
 * bounced; misaligned WRITEs and WRITE_ZEROES become read-modify-write; TRIMs shrink to whole
 * blocks.
 *
 * Overlapping blocks are serialised across cores: as long as all writes are aligned they run on any
 * core (free mode). The first misaligned one takes the bdev into serial mode: every core stops
 * submitting writes of its own, finishes those in flight, and from then on sends writes to one
 * owner core, which keeps overlapping ones apart. A second without a misaligned write ends it.
 */
#ifndef POLLUX_BDEV_ALIGN_H
#define POLLUX_BDEV_ALIGN_H

#include "bdev/bdev.h"

/* Control thread: with the bdev's registration. 0 or -ENOMEM; NULL in bdev->align where align is 1.
 */
int align_state_init(struct bdev *bdev);
void align_state_fini(struct bdev *bdev);

/* (core) With the channel. 0 or -ENOMEM. */
int align_channel_init(struct bdev_channel *ch);
void align_channel_fini(struct bdev_channel *ch);

#endif
