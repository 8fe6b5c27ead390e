/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * error_rpc: bdev_error_create, _delete, _inject_error, _resume_pending, as SPDK has them, without
 * the errors that only NVMe knows. Control thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bdev/error/error.h"
#include "bdev/modules.h"
#include "bdev/remove_rpc.h"

enum { WHY_BYTES = 512 };

/* ---- bdev_error_create ---- */

struct create_params {
	const char *base_name;
	const char *uuid;
};

static const struct rpc_param create_params[] = {
	{.name = "base_name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct create_params, base_name),
	 .required = true,
	 .min = 1,
	 .max = BDEV_NAME_MAX_BYTES,
	 .help = "Bdev to stand on; the new one is named EE_ and that name"},
	{.name = "uuid",
	 .type = RPC_UUID,
	 .offset = offsetof(struct create_params, uuid),
	 .help = "UUID; left out, a random one"},
};

static void handle_create(struct rpc_call *call, const void *arg)
{
	const struct create_params *params = arg;
	struct bdev *bdev;
	char why[WHY_BYTES];
	int error = bdev_error_create(params->base_name, params->uuid, &bdev, why, sizeof(why));
	if (error)
		rpc_error(call, error, "%s", why);
	else
		rpc_reply(call, NULL);
}

/* ---- bdev_error_delete ---- */

static void handle_delete(struct rpc_call *call, const void *params)
{
	bdev_rpc_delete(call, params, &bdev_error_type);
}

/* ---- bdev_error_inject_error ---- */

static const struct {
	const char *name;
	unsigned ops; /* a bit each */
} io_types[] = {
	{"read", 1 << BDEV_READ},
	{"write", 1 << BDEV_WRITE},
	{"flush", 1 << BDEV_FLUSH},
	{"unmap", 1 << BDEV_TRIM},
	{"write_zeroes", 1 << BDEV_WRITE_ZEROES},
	{"all", (1 << BDEV_OPS) - 1},
	{"clear", (1 << BDEV_OPS) - 1},
};

static const char *const io_type_names[] = {
	"clear", "read", "write", "flush", "unmap", "write_zeroes", "all", NULL,
};

static const struct {
	const char *name;
	enum bdev_error_kind kind;
} error_types[] = {
	{"failure", BDEV_ERROR_FAILURE},
	{"pending", BDEV_ERROR_PENDING},
	{"corrupt_data", BDEV_ERROR_CORRUPT},
	{"nomem", BDEV_ERROR_NOMEM},
};

static const char *const error_type_names[] = {"failure", "pending", "corrupt_data", "nomem", NULL};

struct inject_params {
	const char *name;
	const char *io_type;
	const char *error_type;
	uint64_t num;
	uint64_t queue_depth;
	uint64_t corrupt_offset;
	uint64_t corrupt_value;
};

static const struct rpc_param inject_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct inject_params, name),
	 .required = true,
	 .min = 1,
	 .max = BDEV_NAME_MAX_BYTES,
	 .help = "Error bdev"},
	{.name = "io_type",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct inject_params, io_type),
	 .required = true,
	 .values = io_type_names,
	 .help = "Which requests; clear: takes all errors back, and lets go what is held"},
	{.name = "error_type",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct inject_params, error_type),
	 .required = true,
	 .values = error_type_names,
	 .help = "What happens to them"},
	{.name = "num",
	 .type = RPC_U64,
	 .offset = offsetof(struct inject_params, num),
	 .max = UINT32_MAX,
	 .def = "1",
	 .unit = "requests",
	 .help = "How many; 0: none any more"},
	{.name = "queue_depth",
	 .type = RPC_U64,
	 .offset = offsetof(struct inject_params, queue_depth),
	 .unit = "requests",
	 .help = "Only while that many are in flight at the base, on one core"},
	{.name = "corrupt_offset",
	 .type = RPC_U64,
	 .offset = offsetof(struct inject_params, corrupt_offset),
	 .unit = "bytes",
	 .help = "corrupt_data: which byte of a request"},
	{.name = "corrupt_value",
	 .type = RPC_U64,
	 .offset = offsetof(struct inject_params, corrupt_value),
	 .max = UINT8_MAX,
	 .help = "corrupt_data: what that byte is xor-ed with, 1 to 255"},
	{.name = "nvme_sct", .type = RPC_OFF, .help = "NVMe status code type"},
	{.name = "nvme_sc", .type = RPC_OFF, .help = "NVMe status code"},
};

static void set_rules(struct bdev *bdev, const struct inject_params *params)
{
	struct bdev_error_rule rule = {
		.count = (uint32_t)params->num,
		.queue_depth = params->queue_depth,
		.corrupt_offset = params->corrupt_offset,
		.corrupt_value = (uint8_t)params->corrupt_value,
	};
	unsigned ops = 0;
	for (unsigned i = 0; i < COUNT_OF(error_types); i++) {
		if (!strcmp(error_types[i].name, params->error_type))
			rule.kind = error_types[i].kind;
	}
	for (unsigned i = 0; i < COUNT_OF(io_types); i++) {
		if (!strcmp(io_types[i].name, params->io_type))
			ops = io_types[i].ops;
	}
	if (!strcmp(params->io_type, "clear"))
		rule = (struct bdev_error_rule){.kind = BDEV_ERROR_NONE};
	for (unsigned op = 0; op < BDEV_OPS; op++) {
		if (ops & 1u << op)
			bdev_error_set_rule(bdev, op, &rule);
	}
}

static void resumed(void *arg)
{
	rpc_reply(arg, NULL);
}

static void handle_inject(struct rpc_call *call, const void *arg)
{
	const struct inject_params *params = arg;
	struct bdev *bdev = bdev_rpc_find(call, params->name, &bdev_error_type);
	if (!bdev)
		return;
	if (!strcmp(params->error_type, "corrupt_data") && !params->corrupt_value &&
	    strcmp(params->io_type, "clear")) {
		rpc_param_error(call, "corrupt_value", -EINVAL,
				"corrupt_data needs a corrupt_value from 1 to 255");
		return;
	}
	set_rules(bdev, params);
	if (!strcmp(params->io_type, "clear"))
		bdev_error_resume(bdev, resumed, call);
	else
		rpc_reply(call, NULL);
}

/* ---- bdev_error_resume_pending ---- */

struct resume_params {
	const char *name;
};

static const struct rpc_param resume_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct resume_params, name),
	 .required = true,
	 .min = 1,
	 .max = BDEV_NAME_MAX_BYTES,
	 .help = "Error bdev"},
};

static void handle_resume(struct rpc_call *call, const void *arg)
{
	const struct resume_params *params = arg;
	struct bdev *bdev = bdev_rpc_find(call, params->name, &bdev_error_type);
	if (bdev)
		bdev_error_resume(bdev, resumed, call);
}

static const struct rpc_method methods[] = {
	{.name = "bdev_error_create",
	 .help = "Create a bdev that can be told to fail requests to the one it stands on.",
	 .params = create_params,
	 .param_count = COUNT_OF(create_params),
	 .params_bytes = sizeof(struct create_params),
	 .handler = handle_create,
	 .result = "true."},
	{.name = "bdev_error_delete",
	 .help = "Delete an error bdev; the one below stays.",
	 .params = bdev_delete_params,
	 .param_count = COUNT_OF(bdev_delete_params),
	 .params_bytes = sizeof(struct bdev_delete_params),
	 .handler = handle_delete,
	 .result = "true, when it is gone."},
	{.name = "bdev_error_inject_error",
	 .help = "Have the next requests fail, hang or be corrupted.",
	 .params = inject_params,
	 .param_count = COUNT_OF(inject_params),
	 .params_bytes = sizeof(struct inject_params),
	 .handler = handle_inject,
	 .result = "true."},
	{.name = "bdev_error_resume_pending",
	 .help = "Let requests go on that an injected error holds.",
	 .params = resume_params,
	 .param_count = COUNT_OF(resume_params),
	 .params_bytes = sizeof(struct resume_params),
	 .handler = handle_resume,
	 .result = "true."},
};

const struct rpc_table bdev_error_rpc = {methods, COUNT_OF(methods)};
