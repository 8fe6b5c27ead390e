/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * remove_rpc: what every bdev_<type>_delete does: find by name, check the type, remove, answer.
 * Control thread.
 */
#ifndef POLLUX_BDEV_REMOVE_RPC_H
#define POLLUX_BDEV_REMOVE_RPC_H

#include "bdev/bdev.h"
#include "lib/rpc/rpc.h"

struct bdev_delete_params {
	const char *name;
	bool force;
};

/* The schema of { name, force }. */
extern const struct rpc_param bdev_delete_params[2];

/* Answers the call, now or when the bdev is gone. type NULL: any type. */
void bdev_rpc_delete(struct rpc_call *call, const struct bdev_delete_params *params,
		     const struct bdev_type *type);

/* The bdev of that name and type, or NULL after answering -ENODEV. */
struct bdev *bdev_rpc_find(struct rpc_call *call, const char *name, const struct bdev_type *type);

/* Answers bdev_register()'s error for a bdev of this name (-17 for a duplicate). */
void bdev_rpc_register_error(struct rpc_call *call, const char *name, int error);

#endif
