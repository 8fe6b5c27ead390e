/* SPDX-License-Identifier: BSD-3-Clause */
/* delay: a bdev that answers later than the one below it. Control thread. */
#ifndef POLLUX_BDEV_DELAY_H
#define POLLUX_BDEV_DELAY_H

#include "bdev/bdev.h"

extern const struct bdev_type bdev_delay_type;

/* READs take the read latencies, all else the write latencies; one in a hundred that of p99. */
enum bdev_delay_class {
	BDEV_DELAY_AVG_READ,
	BDEV_DELAY_P99_READ,
	BDEV_DELAY_AVG_WRITE,
	BDEV_DELAY_P99_WRITE,
	BDEV_DELAY_CLASSES,
};

#define BDEV_DELAY_MOST_US (3600ull * 1000 * 1000)

struct bdev_delay_options {
	const char *base_name;
	const char *name;
	const char *uuid;			 /* NULL: a random one */
	uint64_t latency_us[BDEV_DELAY_CLASSES]; /* at most BDEV_DELAY_MOST_US */
};

/* Returns 0, or -errno with a sentence in `why`: see bdev_layer_register(). */
int bdev_delay_create(const struct bdev_delay_options *options, struct bdev **bdev, char *why,
		      size_t why_bytes);

/* Requests that wait already keep their time, and later ones of the class do not overtake them. */
void bdev_delay_set_latency(struct bdev *bdev, enum bdev_delay_class class, uint64_t latency_us);

#endif
