/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server: the methods by name, checked once when the server is made (so that a broken table is
 * found at start and not by a client), and the two methods every server has: rpc_get_methods and
 * rpc_get_schema. Control thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/log.h"
#include "lib/rpc/internal.h"

static int compare_entries(const void *a, const void *b)
{
	const struct rpc_entry *left = a, *right = b;
	return strcmp(left->method->name, right->method->name);
}

const struct rpc_entry *rpc_server_find(const struct rpc_server *server, const char *name)
{
	struct rpc_method wanted = {.name = name};
	struct rpc_entry key = {.method = &wanted};
	return bsearch(&key, server->entries, server->count, sizeof(key), compare_entries);
}

static struct rpc_server *allocate(const struct rpc_table *tables)
{
	const unsigned builtins = sizeof(rpc_builtin_methods) / sizeof(rpc_builtin_methods[0]);
	struct rpc_server *server = calloc(1, sizeof(*server));
	unsigned count = builtins;
	for (const struct rpc_table *table = tables; table->methods; table++)
		count += table->count;
	if (server)
		server->entries = calloc(count, sizeof(server->entries[0]));
	if (!server || !server->entries) {
		free(server);
		return NULL;
	}
	LIST_INIT(&server->sessions);
	for (unsigned i = 0; i < builtins; i++)
		server->entries[server->count++].method = &rpc_builtin_methods[i];
	for (const struct rpc_table *table = tables; table->methods; table++) {
		for (unsigned i = 0; i < table->count; i++)
			server->entries[server->count++].method = &table->methods[i];
	}
	qsort(server->entries, server->count, sizeof(server->entries[0]), compare_entries);
	return server;
}

/* An alias without a handler of its own is answered by the method it stands for. */
static int resolve(const struct rpc_server *server, struct rpc_entry *entry)
{
	const struct rpc_method *method = entry->method;
	entry->implementation = method;
	if (method->alias_of) {
		const struct rpc_entry *target = rpc_server_find(server, method->alias_of);
		if (!target || target->method->alias_of) {
			log_error("rpc", "%s is an alias of %s, which is no method", method->name,
				  method->alias_of);
			return -EINVAL;
		}
		if (!method->handler)
			entry->implementation = target->method;
	}
	if (!entry->implementation->handler) {
		log_error("rpc", "%s has no handler", method->name);
		return -EINVAL;
	}
	return 0;
}

/* Parses the defaults and decodes each once into a scratch struct. */
static int load_defaults(struct rpc_entry *entry)
{
	const struct rpc_method *method = entry->implementation;
	void *scratch = calloc(1, method->params_bytes + 1);
	entry->defaults = json_array();
	if (!scratch || !entry->defaults) {
		free(scratch);
		return -ENOMEM;
	}
	int error = 0;
	for (unsigned i = 0; i < method->param_count && !error; i++) {
		const struct rpc_param *parameter = &method->params[i];
		char message[RPC_MESSAGE_BYTES] = "is not JSON";
		json_t *def = parameter->def ? json_loads(parameter->def, JSON_DECODE_ANY, NULL)
					     : json_null();
		if (!def || (parameter->def &&
			     rpc_decode_value(parameter, def, scratch, message, sizeof(message)))) {
			log_error("rpc", "%s: default of %s: %s", method->name, parameter->name,
				  message);
			error = -EINVAL;
		}
		if (json_array_append_new(entry->defaults, def) && !error)
			error = -ENOMEM;
	}
	free(scratch);
	return error;
}

struct rpc_server *rpc_server_create(const struct rpc_table *tables)
{
	struct rpc_server *server = allocate(tables);
	if (!server)
		return NULL;
	for (unsigned i = 0; i < server->count; i++) {
		struct rpc_entry *entry = &server->entries[i];
		if (i && !strcmp(entry->method->name, entry[-1].method->name)) {
			log_error("rpc", "two methods are called %s", entry->method->name);
			goto fail;
		}
		if (resolve(server, entry) || load_defaults(entry))
			goto fail;
	}
	return server;
fail:
	rpc_server_destroy(server);
	return NULL;
}

void rpc_server_destroy(struct rpc_server *server)
{
	if (!server)
		return;
	while (!LIST_EMPTY(&server->sessions))
		rpc_session_orphan(LIST_FIRST(&server->sessions));
	for (unsigned i = 0; i < server->count; i++)
		json_decref(server->entries[i].defaults);
	free(server->entries);
	json_decref(server->schema);
	free(server);
}

/*
 * Made at the first asking, then shared by all answers: a batch that asks a thousand times would
 * else take a gigabyte.
 */
static json_t *shared_schema(struct rpc_server *server)
{
	if (!server->schema) {
		json_t *methods = json_array();
		for (unsigned i = 0; i < server->count; i++)
			json_array_append_new(methods, rpc_schema_of(&server->entries[i]));
		server->schema = json_pack("{s:o}", "methods", methods);
	}
	return json_incref(server->schema);
}

json_t *rpc_server_schema(const struct rpc_server *server)
{
	json_t *shared = shared_schema((struct rpc_server *)server);
	json_t *own = json_deep_copy(shared);
	json_decref(shared);
	return own;
}

/* ---- Built-in methods ---- */

struct get_methods_params {
	bool current;
	bool include_aliases;
};

static const struct rpc_param get_methods_params[] = {
	{.name = "current",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct get_methods_params, current),
	 .def = "false",
	 .help = "Only methods that may be called now (all of them may, at any time)"},
	{.name = "include_aliases",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct get_methods_params, include_aliases),
	 .def = "false",
	 .help = "Also list the aliases"},
};

static void get_methods(struct rpc_call *call, const void *decoded)
{
	const struct get_methods_params *params = decoded;
	const struct rpc_server *server = rpc_call_server(call);
	json_t *names = json_array();
	for (unsigned i = 0; i < server->count; i++) {
		const struct rpc_method *method = server->entries[i].method;
		if (params->include_aliases || !method->alias_of)
			json_array_append_new(names, json_string(method->name));
	}
	rpc_reply(call, names);
}

struct get_schema_params {
	const char *method;
};

static const struct rpc_param get_schema_params[] = {
	{.name = "method",
	 .type = RPC_STRING,
	 .offset = offsetof(struct get_schema_params, method),
	 .help = "Only this method or alias"},
};

static void get_schema(struct rpc_call *call, const void *decoded)
{
	const struct get_schema_params *params = decoded;
	struct rpc_server *server = rpc_call_server(call);
	if (!params->method) {
		rpc_reply(call, shared_schema(server));
		return;
	}
	const struct rpc_entry *entry = rpc_server_find(server, params->method);
	if (!entry) {
		rpc_param_error(call, "method", -ENOENT, "there is no method '%.255s'",
				params->method);
		return;
	}
	rpc_reply(call, json_pack("{s:[o]}", "methods", rpc_schema_of(entry)));
}

const struct rpc_method rpc_builtin_methods[2] = {
	{.name = "rpc_get_methods",
	 .help = "Lists the names of all methods.",
	 .params = get_methods_params,
	 .param_count = sizeof(get_methods_params) / sizeof(get_methods_params[0]),
	 .params_bytes = sizeof(struct get_methods_params),
	 .handler = get_methods,
	 .result = "an array of names"},
	{.name = "rpc_get_schema",
	 .help = "Describes the methods: their parameters with type, range, default and help.",
	 .params = get_schema_params,
	 .param_count = sizeof(get_schema_params) / sizeof(get_schema_params[0]),
	 .params_bytes = sizeof(struct get_schema_params),
	 .handler = get_schema,
	 .result = "{methods: [{name, description, alias_of, params: [{name, type, required, min, "
		   "max, "
		   "values, default, unit, description}], result}]}"},
};
