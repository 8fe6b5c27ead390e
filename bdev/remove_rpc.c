/* SPDX-License-Identifier: BSD-3-Clause */
/* remove_rpc: the common parts of the types' RPC handlers: delete, find, and a refused name.
 * Control thread. */
#include "bdev/remove_rpc.h"

#include <errno.h>
#include <string.h>

const struct rpc_param bdev_delete_params[2] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct bdev_delete_params, name),
	 .required = true,
	 .min = 1,
	 .max = BDEV_NAME_MAX_BYTES,
	 .help = "Name or UUID of the bdev"},
	{.name = "force",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct bdev_delete_params, force),
	 .def = "false",
	 .help = "Take it away from the exports and bdevs that use it; else it must be unused"},
};

struct bdev *bdev_rpc_find(struct rpc_call *call, const char *name, const struct bdev_type *type)
{
	struct bdev *bdev = bdev_find(name);
	if (!bdev)
		rpc_param_error(call, "name", -ENODEV, "there is no bdev '%s'", name);
	else if (type && bdev->type != type)
		rpc_param_error(call, "name", -ENODEV, "bdev '%s' is of type %s, not %s", name,
				bdev->type->name, type->name);
	else
		return bdev;
	return NULL;
}

static void removed(void *arg, int error)
{
	struct rpc_call *call = arg;
	const struct bdev_delete_params *params = rpc_params(call);
	if (error)
		rpc_error(call, error, "bdev '%s' could not be removed: %s", params->name,
			  strerror(-error));
	else
		rpc_reply(call, NULL);
}

void bdev_rpc_delete(struct rpc_call *call, const struct bdev_delete_params *params,
		     const struct bdev_type *type)
{
	struct bdev *bdev = bdev_rpc_find(call, params->name, type);
	if (!bdev)
		return;
	if (bdev->removing) {
		rpc_param_error(call, "name", -EBUSY, "bdev '%s' is being removed already",
				params->name);
		return;
	}
	const char *holder = bdev_holder(bdev);
	int error = bdev_remove(bdev, params->force, removed, call);
	if (error == -EBUSY && holder)
		rpc_param_error(call, "name", error, "bdev '%s' is in use by %s", params->name,
				holder);
	else if (error)
		rpc_param_error(call, "name", error, "bdev '%s' could not be removed: %s",
				params->name, strerror(-error));
}

void bdev_rpc_register_error(struct rpc_call *call, const char *name, int error)
{
	if (error == -EEXIST && !bdev_find(name))
		rpc_param_error(call, "uuid", error, "another bdev has this UUID already");
	else if (error == -EEXIST)
		rpc_param_error(call, "name", error, "there is a bdev '%s' already", name);
	else
		rpc_param_error(call, "name", error, "bdev '%s' could not be created: %s", name,
				strerror(-error));
}
