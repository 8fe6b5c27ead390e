/* SPDX-License-Identifier: BSD-3-Clause */
/* delay_rpc: bdev_delay_create, _delete, _update_latency, as SPDK has them. Control thread. */
#include <string.h>

#include "bdev/delay/delay.h"
#include "bdev/modules.h"
#include "bdev/remove_rpc.h"

enum { WHY_BYTES = 512 };

/* ---- bdev_delay_create ---- */

struct create_params {
	const char *base_name;
	const char *name;
	const char *uuid;
	uint64_t latency_us[BDEV_DELAY_CLASSES];
};

#define LATENCY_PARAM(param_name, class, text)                                                     \
	{                                                                                          \
		.name = param_name, .type = RPC_U64,                                               \
		.offset = offsetof(struct create_params, latency_us[class]), .required = true,     \
		.max = BDEV_DELAY_MOST_US, .unit = "us", .help = text                              \
	}

static const struct rpc_param create_params[] = {
	{.name = "base_bdev_name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct create_params, base_name),
	 .required = true,
	 .min = 1,
	 .max = BDEV_NAME_MAX_BYTES,
	 .help = "Bdev to stand on"},
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct create_params, name),
	 .required = true,
	 .min = 1,
	 .max = BDEV_NAME_MAX_BYTES,
	 .help = "Name"},
	{.name = "uuid",
	 .type = RPC_UUID,
	 .offset = offsetof(struct create_params, uuid),
	 .help = "UUID; left out, a random one"},
	LATENCY_PARAM("avg_read_latency", BDEV_DELAY_AVG_READ, "Delay of 99 READs in 100"),
	LATENCY_PARAM("p99_read_latency", BDEV_DELAY_P99_READ, "Delay of one READ in 100"),
	LATENCY_PARAM("avg_write_latency", BDEV_DELAY_AVG_WRITE,
		      "Delay of 99 in 100 of all other requests"),
	LATENCY_PARAM("p99_write_latency", BDEV_DELAY_P99_WRITE,
		      "Delay of one in 100 of all other requests"),
};

static void handle_create(struct rpc_call *call, const void *arg)
{
	const struct create_params *params = arg;
	struct bdev_delay_options options = {
		.base_name = params->base_name,
		.name = params->name,
		.uuid = params->uuid,
	};
	struct bdev *bdev;
	char why[WHY_BYTES];
	memcpy(options.latency_us, params->latency_us, sizeof(options.latency_us));
	int error = bdev_delay_create(&options, &bdev, why, sizeof(why));
	if (error)
		rpc_error(call, error, "%s", why);
	else
		rpc_reply(call, json_string(bdev->name));
}

/* ---- bdev_delay_delete ---- */

static void handle_delete(struct rpc_call *call, const void *params)
{
	bdev_rpc_delete(call, params, &bdev_delay_type);
}

/* ---- bdev_delay_update_latency ---- */

static const char *const class_names[] = {
	[BDEV_DELAY_AVG_READ] = "avg_read",   [BDEV_DELAY_P99_READ] = "p99_read",
	[BDEV_DELAY_AVG_WRITE] = "avg_write", [BDEV_DELAY_P99_WRITE] = "p99_write",
	[BDEV_DELAY_CLASSES] = NULL,
};

struct update_params {
	const char *name;
	const char *class;
	uint64_t latency_us;
};

static const struct rpc_param update_params[] = {
	{.name = "delay_bdev_name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct update_params, name),
	 .required = true,
	 .min = 1,
	 .max = BDEV_NAME_MAX_BYTES,
	 .help = "Delay bdev"},
	{.name = "latency_type",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct update_params, class),
	 .required = true,
	 .values = class_names,
	 .help = "Which latency"},
	{.name = "latency_us",
	 .type = RPC_U64,
	 .offset = offsetof(struct update_params, latency_us),
	 .required = true,
	 .max = BDEV_DELAY_MOST_US,
	 .unit = "us",
	 .help = "New value; requests that wait already keep the old one"},
};

static void handle_update(struct rpc_call *call, const void *arg)
{
	const struct update_params *params = arg;
	struct bdev *bdev = bdev_rpc_find(call, params->name, &bdev_delay_type);
	if (!bdev)
		return;
	for (unsigned class = 0; class < BDEV_DELAY_CLASSES; class ++) {
		if (!strcmp(class_names[class], params->class))
			bdev_delay_set_latency(bdev, class, params->latency_us);
	}
	rpc_reply(call, NULL);
}

static const struct rpc_method methods[] = {
	{.name = "bdev_delay_create",
	 .help = "Create a bdev that answers later than the one it stands on.",
	 .params = create_params,
	 .param_count = COUNT_OF(create_params),
	 .params_bytes = sizeof(struct create_params),
	 .handler = handle_create,
	 .result = "The bdev's name."},
	{.name = "bdev_delay_delete",
	 .help = "Delete a delay bdev; the one below stays.",
	 .params = bdev_delete_params,
	 .param_count = COUNT_OF(bdev_delete_params),
	 .params_bytes = sizeof(struct bdev_delete_params),
	 .handler = handle_delete,
	 .result = "true, when it is gone."},
	{.name = "bdev_delay_update_latency",
	 .help = "Change one latency of a delay bdev.",
	 .params = update_params,
	 .param_count = COUNT_OF(update_params),
	 .params_bytes = sizeof(struct update_params),
	 .handler = handle_update,
	 .result = "true."},
};

const struct rpc_table bdev_delay_rpc = {methods, COUNT_OF(methods)};
