/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * null_rpc: bdev_null_create, _delete, _resize. Parameters are SPDK's; those that ask for what a
 * null bdev does not have are known as off. Control thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bdev/create.h"
#include "bdev/modules.h"
#include "bdev/null/null.h"
#include "bdev/remove_rpc.h"

enum { WHY_BYTES = 512, MIB_BYTES = 1 << 20 };

/* ---- bdev_null_create ---- */

struct create_params {
	const char *name;
	const char *uuid;
	uint64_t num_blocks;
	uint64_t block_size;
	uint64_t physical_block_size;
};

static const struct rpc_param create_params[] = {
	{.name = "num_blocks",
	 .type = RPC_U64,
	 .offset = offsetof(struct create_params, num_blocks),
	 .required = true,
	 .min = 1,
	 .unit = "blocks",
	 .help = "Size"},
	{.name = "block_size",
	 .type = RPC_U64,
	 .offset = offsetof(struct create_params, block_size),
	 .required = true,
	 .min = BDEV_BLOCK_MIN_BYTES,
	 .max = BDEV_BLOCK_MAX_BYTES,
	 .unit = "bytes",
	 .help = "Block size, a power of two"},
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct create_params, name),
	 .min = 1,
	 .max = BDEV_NAME_MAX_BYTES,
	 .help = "Name; left out, NullN with the lowest N free"},
	{.name = "uuid",
	 .type = RPC_UUID,
	 .offset = offsetof(struct create_params, uuid),
	 .help = "UUID; left out, a random one"},
	{.name = "physical_block_size",
	 .type = RPC_U64,
	 .offset = offsetof(struct create_params, physical_block_size),
	 .max = BDEV_BLOCK_MAX_BYTES,
	 .unit = "bytes",
	 .help = "Reported physical block size; 0: the block size"},
	{.name = "md_size", .type = RPC_OFF, .help = "Metadata"},
	{.name = "dif_type", .type = RPC_OFF, .help = "Protection information"},
	{.name = "dif_is_head_of_md", .type = RPC_OFF, .help = "Protection information"},
	{.name = "dif_pi_format", .type = RPC_OFF, .help = "Protection information"},
	{.name = "preferred_write_granularity", .type = RPC_OFF, .help = "Write hint"},
	{.name = "preferred_write_alignment", .type = RPC_OFF, .help = "Write hint"},
	{.name = "optimal_write_size", .type = RPC_OFF, .help = "Write hint"},
	{.name = "preferred_unmap_granularity", .type = RPC_OFF, .help = "Unmap hint"},
	{.name = "preferred_unmap_alignment", .type = RPC_OFF, .help = "Unmap hint"},
};

static void handle_create(struct rpc_call *call, const void *arg)
{
	const struct create_params *params = arg;
	struct bdev_null_options options = {
		.name = params->name,
		.uuid = params->uuid,
		.size_bytes = params->num_blocks * params->block_size,
		.block_size = (uint32_t)params->block_size,
		.physical_block_size = (uint32_t)params->physical_block_size,
	};
	struct bdev *bdev;
	char why[WHY_BYTES];
	if (params->num_blocks > INT64_MAX / params->block_size) {
		rpc_param_error(call, "num_blocks", -EINVAL,
				"%" PRIu64 " blocks of %" PRIu64 " bytes do not fit 63 bits",
				params->num_blocks, params->block_size);
		return;
	}
	int error = bdev_null_create(&options, &bdev, why, sizeof(why));
	if (error)
		rpc_error(call, error, "%s", why);
	else
		rpc_reply(call, json_string(bdev->name));
}

/* ---- bdev_null_delete ---- */

static void handle_delete(struct rpc_call *call, const void *params)
{
	bdev_rpc_delete(call, params, &bdev_null_type);
}

/* ---- bdev_null_resize ---- */

struct resize_params {
	const char *name;
	uint64_t new_size;
};

static const struct rpc_param resize_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct resize_params, name),
	 .required = true,
	 .min = 1,
	 .max = BDEV_NAME_MAX_BYTES,
	 .help = "Null bdev"},
	{.name = "new_size",
	 .type = RPC_U64,
	 .offset = offsetof(struct resize_params, new_size),
	 .required = true,
	 .min = 1,
	 .max = INT64_MAX / MIB_BYTES,
	 .unit = "MiB",
	 .help = "New size"},
};

static void resized(void *arg, int error)
{
	struct rpc_call *call = arg;
	const struct resize_params *params = rpc_params(call);
	if (error)
		rpc_error(call, error, "cannot resize %s: %s", params->name, strerror(-error));
	else
		rpc_reply(call, NULL);
}

static void handle_resize(struct rpc_call *call, const void *arg)
{
	const struct resize_params *params = arg;
	struct bdev *bdev = bdev_rpc_find(call, params->name, &bdev_null_type);
	if (!bdev)
		return;
	if (bdev->removing)
		rpc_error(call, -ENODEV, "%s is being removed", params->name);
	else
		bdev->type->resize(bdev, params->new_size * MIB_BYTES, resized, call);
}

static const struct rpc_method methods[] = {
	{.name = "bdev_null_create",
	 .help = "Create a bdev that reads as zeros and forgets what is written.",
	 .params = create_params,
	 .param_count = COUNT_OF(create_params),
	 .params_bytes = sizeof(struct create_params),
	 .handler = handle_create,
	 .result = "The bdev's name."},
	{.name = "bdev_null_delete",
	 .help = "Delete a null bdev.",
	 .params = bdev_delete_params,
	 .param_count = COUNT_OF(bdev_delete_params),
	 .params_bytes = sizeof(struct bdev_delete_params),
	 .handler = handle_delete,
	 .result = "true, when it is gone."},
	{.name = "bdev_null_resize",
	 .help = "Grow or shrink a null bdev, in use or not.",
	 .params = resize_params,
	 .param_count = COUNT_OF(resize_params),
	 .params_bytes = sizeof(struct resize_params),
	 .handler = handle_resize,
	 .result = "true."},
};

const struct rpc_table bdev_null_rpc = {methods, COUNT_OF(methods)};
