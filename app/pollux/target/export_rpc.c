/* SPDX-License-Identifier: BSD-3-Clause */
/* export_rpc: creating, deleting and watching exports. Control thread. */
#include "app/pollux/target/export_rpc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "app/pollux/target/export.h"
#include "lib/base/clock.h"

enum { WHY_BYTES = 512, TIMEOUT_MAX_MS = 3600000 };

/* ---- export_create ---- */

struct create_params {
	struct export_options options;
	json_t *allow;
};

static const struct rpc_param create_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct create_params, options.name),
	 .required = true,
	 .max = EXPORT_NAME_MAX_BYTES,
	 .help = "Name that clients ask for; empty: the default export"},
	{.name = "bdev",
	 .type = RPC_STRING,
	 .offset = offsetof(struct create_params, options.bdev_name),
	 .required = true,
	 .min = 1,
	 .max = BDEV_NAME_MAX_BYTES,
	 .help = "Bdev to serve"},
	{.name = "description",
	 .type = RPC_STRING,
	 .offset = offsetof(struct create_params, options.description),
	 .max = EXPORT_DESCRIPTION_MAX_BYTES,
	 .help = "Text for people, shown by nbdinfo"},
	{.name = "read_only",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct create_params, options.read_only),
	 .help = "Refuse writes; always so on a read-only bdev"},
	{.name = "tls_required",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct export_options, tls_required),
	 .help = "Clients without TLS are neither served nor told that it is there"},
	{.name = "io_timeout_ms",
	 .type = RPC_U64,
	 .offset = offsetof(struct create_params, options.io_timeout_ms),
	 .max = TIMEOUT_MAX_MS,
	 .unit = "ms",
	 .help = "The bdev is asked to end a request that takes longer, with an error; 0: never"},
	{.name = "allow",
	 .type = RPC_STRINGS,
	 .offset = offsetof(struct create_params, allow),
	 .max = EXPORT_NETWORKS_MAX,
	 .help = "Networks (ADDRESS/BITS) and addresses that may know of it; none: everybody. "
		 "Clients without an IP address are in no network"},
	{.name = "max_connections",
	 .type = RPC_U64,
	 .offset = offsetof(struct create_params, options.max_connections),
	 .max = 1 << 20,
	 .help = "More are refused in the handshake; 0: no limit"},
};

static void created(void *arg, struct export *export, int error)
{
	struct rpc_call *call = arg;
	const struct export_options *options =
		&((const struct create_params *)rpc_params(call))->options;
	if (error)
		rpc_error(call, error, "bdev '%s' can not be opened: %s", options->bdev_name,
			  strerror(-error));
	else
		rpc_reply(call, json_string(export->name));
}

/* The parameter that an error of export_create() is about. */
static const char *fault_of(int error)
{
	switch (error) {
	case -EEXIST:
	case -EINVAL:
		return "name";
	case -EDOM:
		return "allow";
	default:
		return "bdev";
	}
}

static void create(struct rpc_call *call, const void *params)
{
	const struct create_params *p = params;
	struct export_options options = p->options;
	const char **allow = rpc_strings(p->allow);
	char why[WHY_BYTES];
	if (p->allow && !allow) {
		rpc_error(call, -ENOMEM, "no memory");
		return;
	}
	options.allow = allow;
	options.allow_count = json_array_size(p->allow);
	int error = export_create(&options, created, call, why, sizeof(why));
	free(allow);
	if (error)
		rpc_param_error(call, fault_of(error), error == -EDOM ? -EINVAL : error, "%s", why);
}

/* ---- export_delete ---- */

struct delete_params {
	const char *name;
	const char *mode;
	uint64_t drain_timeout_ms;
};

static const char *const modes[] = {"drain", "kick", NULL};

static const struct rpc_param delete_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct delete_params, name),
	 .required = true,
	 .max = EXPORT_NAME_MAX_BYTES,
	 .help = "Export to delete"},
	{.name = "mode",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct delete_params, mode),
	 .values = modes,
	 .def = "\"drain\"",
	 .help = "drain: answer what is in flight, then end the connections; kick: end them at "
		 "once"},
	{.name = "drain_timeout_ms",
	 .type = RPC_U64,
	 .offset = offsetof(struct delete_params, drain_timeout_ms),
	 .max = TIMEOUT_MAX_MS,
	 .def = "10000",
	 .unit = "ms",
	 .help = "drain: connections that are not drained by then are kicked"},
};

static void deleted(void *arg, struct export *export, int error)
{
	rpc_reply(arg, NULL);
}

static void delete (struct rpc_call *call, const void *params)
{
	const struct delete_params *p = params;
	struct export *export = export_find(p->name);
	if (!export) {
		rpc_param_error(call, "name", -ENODEV, "there is no export named '%s'", p->name);
		return;
	}
	int error =
		export_delete(export, !strcmp(p->mode, "kick"), p->drain_timeout_ms, deleted, call);
	if (error)
		rpc_param_error(call, "name", error, "export '%s' is being opened or deleted",
				p->name);
}

/* ---- export_get_exports, export_get_iostat ---- */

struct get_params {
	const char *name;
};

static const struct rpc_param get_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct get_params, name),
	 .max = EXPORT_NAME_MAX_BYTES,
	 .help = "Only this export"},
};

json_t *export_rpc_networks(const struct network_list *list)
{
	char text[NETWORK_TEXT_BYTES];
	json_t *array = json_array();
	for (unsigned i = 0; list && i < list->count; i++)
		json_array_append_new(array, json_string(network_format(&list->networks[i], text)));
	return array;
}

static json_t *describe(const struct export *export)
{
	static const char *const states[] = {"opening", "ready", "closing"};
	json_t *object =
		json_pack("{s:s, s:s, s:I, s:b, s:b, s:i, s:i, s:i, s:s}", "name", export->name,
			  "bdev", export->bdev->name, "size_bytes",
			  (json_int_t)atomic_load(&export->bdev->size_bytes), "read_only",
			  export->read_only, "tls_required", export->tls_required, "connections",
			  (int)atomic_load(&export->connections), "preferred_block_size",
			  (int)export->preferred_bytes, "io_timeout_ms", (int)export->io_timeout_ms,
			  "state", states[export->state]);
	if (export->description)
		json_object_set_new(object, "description", json_string(export->description));
	json_object_set_new(object, "allow", export_rpc_networks(export->allow));
	json_object_set_new(object, "max_connections", json_integer(export->max_connections));
	json_object_set_new(object, "refused", json_integer(atomic_load(&export->refused)));
	return object;
}

static json_t *statistics(const struct export *export)
{
	static const char *const names[BDEV_OPS] = {"read",	    "write", "flush",	    "unmap",
						    "write_zeroes", "cache", "block_status"};
	json_t *object = json_pack("{s:s}", "name", export->name);
	for (int op = 0; op < BDEV_OPS; op++) {
		struct export_op_stats sum = {0};
		for (unsigned i = 0; i < reactor_count; i++) {
			const struct export_op_stats *part = &export->stats[i].op[op];
			sum.ops += counter_read(&part->ops);
			sum.bytes += counter_read(&part->bytes);
			sum.errors += counter_read(&part->errors);
			sum.latency_ticks += counter_read(&part->latency_ticks);
			sum.latency_max_ticks = MAX_OF(sum.latency_max_ticks,
						       counter_read(&part->latency_max_ticks));
		}
		json_object_set_new(object, names[op],
				    json_pack("{s:I, s:I, s:I, s:I, s:I}", "ops",
					      (json_int_t)sum.ops, "bytes", (json_int_t)sum.bytes,
					      "errors", (json_int_t)sum.errors, "latency_ticks",
					      (json_int_t)sum.latency_ticks, "max_latency_ticks",
					      (json_int_t)sum.latency_max_ticks));
	}
	int64_t inflight = 0;
	for (unsigned i = 0; i < reactor_count; i++)
		inflight += counter_read(&export->stats[i].inflight);
	json_object_set_new(object, "inflight", json_integer(inflight));
	return object;
}

/* NULL after answering that there is none of that name. */
static json_t *collect(struct rpc_call *call, const char *name,
		       json_t *(*make)(const struct export *export))
{
	json_t *list = json_array();
	if (name) {
		const struct export *export = export_find(name);
		if (!export) {
			json_decref(list);
			rpc_param_error(call, "name", -ENODEV, "there is no export named '%s'",
					name);
			return NULL;
		}
		json_array_append_new(list, make(export));
		return list;
	}
	for (const struct export *export = export_first(); export; export = export_next(export))
		json_array_append_new(list, make(export));
	return list;
}

static void get_exports(struct rpc_call *call, const void *params)
{
	json_t *list = collect(call, ((const struct get_params *)params)->name, describe);
	if (list)
		rpc_reply(call, list);
}

static void get_iostat(struct rpc_call *call, const void *params)
{
	json_t *list = collect(call, ((const struct get_params *)params)->name, statistics);
	if (list)
		rpc_reply(call, json_pack("{s:I, s:I, s:o}", "tick_rate", (json_int_t)clock_hz,
					  "ticks", (json_int_t)clock_ticks(), "exports", list));
}

static const struct rpc_method methods[] = {
	{.name = "export_create",
	 .help = "Serves a bdev under a name; listeners offer it from now on.",
	 .params = create_params,
	 .param_count = COUNT_OF(create_params),
	 .params_bytes = sizeof(struct create_params),
	 .handler = create,
	 .result = "the name"},
	{.name = "export_delete",
	 .help = "Stops serving an export; answers when its last connection has gone and the bdev "
		 "is flushed and closed.",
	 .params = delete_params,
	 .param_count = COUNT_OF(delete_params),
	 .params_bytes = sizeof(struct delete_params),
	 .handler = delete,
	 .result = "true"},
	{.name = "export_get_exports",
	 .help = "The exports.",
	 .params = get_params,
	 .param_count = COUNT_OF(get_params),
	 .params_bytes = sizeof(struct get_params),
	 .handler = get_exports,
	 .result = "[{name, bdev, size_bytes, read_only, connections, allow, max_connections, "
		   "refused, "
		   "…}]"},
	{.name = "export_get_iostat",
	 .help = "What clients did with the exports, from the request's arrival to its reply, "
		 "at the resolution of a reactor's pass.",
	 .params = get_params,
	 .param_count = COUNT_OF(get_params),
	 .params_bytes = sizeof(struct get_params),
	 .handler = get_iostat,
	 .result = "{tick_rate, ticks, exports: [{name, read: {ops, bytes, …}, …, inflight}]}"},
};

const struct rpc_table export_rpc = {methods, COUNT_OF(methods)};
