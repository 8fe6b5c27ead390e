/* SPDX-License-Identifier: BSD-3-Clause */
/* error: a bdev that fails, loses or corrupts requests as it is told. Control thread. */
#ifndef POLLUX_BDEV_ERROR_H
#define POLLUX_BDEV_ERROR_H

#include "bdev/bdev.h"

extern const struct bdev_type bdev_error_type;

enum bdev_error_kind {
	BDEV_ERROR_NONE,
	BDEV_ERROR_FAILURE, /* -EIO, the base never sees it */
	BDEV_ERROR_NOMEM,   /* -ENOMEM, the same */
	BDEV_ERROR_PENDING, /* held until resumed, aborted, or its channel closes */
	BDEV_ERROR_CORRUPT, /* READ and WRITE: one byte of the payload is changed */
};

struct bdev_error_rule {
	enum bdev_error_kind kind;
	uint32_t count;		 /* how many requests it meets */
	uint64_t queue_depth;	 /* only while that many are at the base, on a core */
	uint64_t corrupt_offset; /* bytes from the request's beginning */
	uint8_t corrupt_value;	 /* the byte is xor-ed with it */
};

/* Creates EE_<base>. Returns 0, or -errno with a sentence in `why`: see bdev_layer_register(). */
int bdev_error_create(const char *base_name, const char *uuid, struct bdev **bdev, char *why,
		      size_t why_bytes);

/* Replaces the rule of one operation. */
void bdev_error_set_rule(struct bdev *bdev, enum bdev_op op, const struct bdev_error_rule *rule);

/* Passes on to the base what is held; done(arg) when all cores have. */
void bdev_error_resume(struct bdev *bdev, void (*done)(void *arg), void *arg);

#endif
