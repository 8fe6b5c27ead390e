/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * file_rpc: bdev_file_create, _delete, _resize, _rescan, and the same under the names and
 * parameters that SPDK has for its file bdevs (bdev_uring_*, bdev_aio_*). Control thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bdev/file/internal.h"
#include "bdev/modules.h"
#include "bdev/remove_rpc.h"

/* ---- Create ---- */

struct create_params {
	const char *name;
	const char *uuid;
	const char *filename;
	const char *direct;
	bool read_only;
	bool fallocate;
	uint64_t block_size;
};

static const char *const direct_values[] = {"auto", "on", "off", NULL};

#define PARAM_FILENAME                                                                             \
	{                                                                                          \
		.name = "filename", .type = RPC_STRING,                                            \
		.offset = offsetof(struct create_params, filename), .required = true, .min = 1,    \
		.max = 4095, .help = "Path of the regular file or block device"                    \
	}
#define PARAM_NAME(must, text)                                                                     \
	{                                                                                          \
		.name = "name", .type = RPC_STRING,                                                \
		.offset = offsetof(struct create_params, name), .required = must, .min = 1,        \
		.max = BDEV_NAME_MAX_BYTES, .help = text                                           \
	}
#define PARAM_BLOCK_SIZE                                                                           \
	{                                                                                          \
		.name = "block_size", .type = RPC_U64,                                             \
		.offset = offsetof(struct create_params, block_size), .max = BDEV_MAX_ALIGN_BYTES, \
		.unit = "bytes",                                                                   \
		.help = "Reported block size, a power of two; 0: what direct I/O on it needs"      \
	}
#define PARAM_UUID                                                                                 \
	{                                                                                          \
		.name = "uuid", .type = RPC_UUID, .offset = offsetof(struct create_params, uuid),  \
		.help = "UUID; left out, a random one"                                             \
	}
#define PARAM_READ_ONLY(called)                                                                    \
	{                                                                                          \
		.name = called, .type = RPC_BOOL,                                                  \
		.offset = offsetof(struct create_params, read_only), .def = "false",               \
		.help = "Open for reading only"                                                    \
	}

static const struct rpc_param file_create_params[] = {
	PARAM_FILENAME,
	PARAM_NAME(false, "Name; left out, FileN with the lowest N free"),
	{.name = "direct",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct create_params, direct),
	 .values = direct_values,
	 .def = "\"auto\"",
	 .help = "O_DIRECT: on, off (through the page cache), or wherever the file system takes "
		 "it"},
	PARAM_READ_ONLY("read_only"),
	PARAM_BLOCK_SIZE,
	PARAM_UUID,
};

static const struct rpc_param uring_create_params[] = {
	PARAM_FILENAME,
	PARAM_NAME(true, "Name"),
	PARAM_BLOCK_SIZE,
	PARAM_UUID,
};

static const struct rpc_param aio_create_params[] = {
	PARAM_FILENAME,
	PARAM_NAME(true, "Name"),
	PARAM_BLOCK_SIZE,
	PARAM_READ_ONLY("readonly"),
	{.name = "fallocate",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct create_params, fallocate),
	 .def = "false",
	 .help = "Taken for SPDK's sake: unmap and zeroing use fallocate wherever it works"},
	PARAM_UUID,
	{.name = "nowait", .type = RPC_OFF, .help = "RWF_NOWAIT"},
};

static void created(void *arg, struct bdev *bdev, int error, const char *why)
{
	struct rpc_call *call = arg;
	if (error)
		rpc_error(call, error, "%s", why);
	else
		rpc_reply(call, json_string(bdev->name));
}

static enum bdev_file_direct direct_of(const char *text)
{
	if (text && !strcmp(text, "on"))
		return BDEV_FILE_DIRECT_ON;
	return text && !strcmp(text, "off") ? BDEV_FILE_DIRECT_OFF : BDEV_FILE_DIRECT_AUTO;
}

static void handle_create(struct rpc_call *call, const void *arg)
{
	const struct create_params *params = arg;
	struct bdev_file_options options = {
		.name = params->name,
		.uuid = params->uuid,
		.path = params->filename,
		.direct = direct_of(params->direct),
		.read_only = params->read_only,
		.block_size = (uint32_t)params->block_size,
	};
	bdev_file_create(&options, created, call);
}

/* ---- Delete ---- */

static void handle_delete(struct rpc_call *call, const void *params)
{
	bdev_rpc_delete(call, params, &bdev_file_type);
}

/* ---- Resize and rescan ---- */

/* Rescan has only the name. */
struct resize_params {
	const char *name;
	uint64_t new_size;
};

#define PARAM_BDEV                                                                                 \
	{                                                                                          \
		.name = "name", .type = RPC_STRING,                                                \
		.offset = offsetof(struct resize_params, name), .required = true, .min = 1,        \
		.max = BDEV_NAME_MAX_BYTES, .help = "Name or UUID of the file bdev"                \
	}

static const struct rpc_param resize_params[] = {
	PARAM_BDEV,
	{.name = "new_size",
	 .type = RPC_SIZE,
	 .offset = offsetof(struct resize_params, new_size),
	 .required = true,
	 .min = 1,
	 .unit = "bytes",
	 .help = "New size; what lies beyond a smaller one is lost. A block device's must be its "
		 "own"},
};

static const struct rpc_param rescan_params[] = {PARAM_BDEV};

static void resized(void *arg, int error)
{
	struct rpc_call *call = arg;
	const struct resize_params *params = rpc_params(call);
	switch (error) {
	case 0:
		rpc_reply(call, NULL);
		break;
	case -EBUSY:
		rpc_error(call, error, "bdev '%s' is being resized already", params->name);
		break;
	case -ENODEV:
		rpc_error(call, error, "bdev '%s' is being removed", params->name);
		break;
	case -EPERM:
		rpc_error(call, error, "bdev '%s' is read-only, or its file may not be resized",
			  params->name);
		break;
	case -EINVAL:
		rpc_error(call, error,
			  "bdev '%s': a file can not have this size, a block device has its own",
			  params->name);
		break;
	default:
		rpc_error(call, error, "bdev '%s' could not be resized: %s", params->name,
			  strerror(-error));
	}
}

static void handle_resize(struct rpc_call *call, const void *arg)
{
	const struct resize_params *params = arg;
	struct bdev *bdev = bdev_rpc_find(call, params->name, &bdev_file_type);
	if (bdev)
		file_resize(bdev, params->new_size, resized, call);
}

static void rescanned(void *arg, int error)
{
	struct rpc_call *call = arg;
	const struct resize_params *params = rpc_params(call);
	if (error == -EINVAL)
		rpc_error(call, error, "bdev '%s': its file is empty", params->name);
	else
		resized(arg, error);
}

static void handle_rescan(struct rpc_call *call, const void *arg)
{
	const struct resize_params *params = arg;
	struct bdev *bdev = bdev_rpc_find(call, params->name, &bdev_file_type);
	if (bdev)
		file_rescan(bdev, rescanned, call);
}

/* ---- Methods ---- */

#define METHOD_CREATE(called, schema, text, alias)                                                 \
	{                                                                                          \
		.name = called, .help = text, .params = schema, .param_count = COUNT_OF(schema),   \
		.params_bytes = sizeof(struct create_params), .handler = handle_create,            \
		.result = "The bdev's name.", .alias_of = alias                                    \
	}
#define METHOD_DELETE(called, alias)                                                               \
	{                                                                                          \
		.name = called, .help = "Delete a file bdev; the file stays.",                     \
		.params = bdev_delete_params, .param_count = COUNT_OF(bdev_delete_params),         \
		.params_bytes = sizeof(struct bdev_delete_params), .handler = handle_delete,       \
		.result = "true, when it is gone.", .alias_of = alias                              \
	}
#define METHOD_RESCAN(called, alias)                                                               \
	{                                                                                          \
		.name = called,                                                                    \
		.help = "Take over the size that a file or block device has come to have.",        \
		.params = rescan_params, .param_count = COUNT_OF(rescan_params),                   \
		.params_bytes = sizeof(struct resize_params), .handler = handle_rescan,            \
		.result = "true.", .alias_of = alias                                               \
	}

static const struct rpc_method methods[] = {
	METHOD_CREATE("bdev_file_create", file_create_params,
		      "Create a bdev on a regular file or block device.", NULL),
	METHOD_CREATE("bdev_uring_create", uring_create_params,
		      "SPDK's name: create a bdev on a file.", "bdev_file_create"),
	METHOD_CREATE("bdev_aio_create", aio_create_params, "SPDK's name: create a bdev on a file.",
		      "bdev_file_create"),
	METHOD_DELETE("bdev_file_delete", NULL),
	METHOD_DELETE("bdev_uring_delete", "bdev_file_delete"),
	METHOD_DELETE("bdev_aio_delete", "bdev_file_delete"),
	{.name = "bdev_file_resize",
	 .help = "Grow or shrink the file of a file bdev, in use or not.",
	 .params = resize_params,
	 .param_count = COUNT_OF(resize_params),
	 .params_bytes = sizeof(struct resize_params),
	 .handler = handle_resize,
	 .result = "true."},
	METHOD_RESCAN("bdev_file_rescan", NULL),
	METHOD_RESCAN("bdev_uring_rescan", "bdev_file_rescan"),
	METHOD_RESCAN("bdev_aio_rescan", "bdev_file_rescan"),
};

const struct rpc_table bdev_file_rpc = {methods, COUNT_OF(methods)};
