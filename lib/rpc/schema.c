/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * schema: a method's table as JSON, for rpc_get_schema and all that is made from it (pollux-rpc's
 * sub-commands and help, doc/rpc.md). Pure.
 */
#include "lib/rpc/internal.h"

const char *rpc_type_name(enum rpc_type type)
{
	static const char *const names[] = {
		[RPC_STRING] = "string", [RPC_U64] = "integer",	  [RPC_I64] = "integer",
		[RPC_BOOL] = "boolean",	 [RPC_DOUBLE] = "number", [RPC_SIZE] = "size",
		[RPC_ENUM] = "enum",	 [RPC_UUID] = "uuid",	  [RPC_STRINGS] = "strings",
		[RPC_OBJECT] = "object", [RPC_OFF] = "off",
	};
	return names[type];
}

static void set_text(json_t *object, const char *key, const char *text)
{
	if (text)
		json_object_set_new(object, key, json_string(text));
}

static void set_range(json_t *object, const struct rpc_param *parameter)
{
	bool bounded = parameter->min || parameter->max;
	switch (parameter->type) {
	case RPC_I64:
		if (parameter->smin < parameter->smax) {
			json_object_set_new(object, "min", json_integer(parameter->smin));
			json_object_set_new(object, "max", json_integer(parameter->smax));
		}
		break;
	case RPC_DOUBLE:
	case RPC_STRING:
	case RPC_STRINGS:
		if (!bounded)
			break;
		/* fall through */
	case RPC_U64:
	case RPC_SIZE:
		json_object_set_new(object, "min", json_integer((json_int_t)parameter->min));
		if (parameter->max || parameter->type == RPC_U64)
			json_object_set_new(object, "max",
					    json_integer((json_int_t)rpc_max(parameter)));
		break;
	default:
		break;
	}
}

static json_t *param_schema(const struct rpc_param *parameter, json_t *def)
{
	json_t *object = json_object();
	set_text(object, "name", parameter->name);
	set_text(object, "type", rpc_type_name(parameter->type));
	json_object_set_new(object, "required", json_boolean(parameter->required));
	set_range(object, parameter);
	if (parameter->type == RPC_ENUM) {
		json_t *values = json_array();
		for (unsigned i = 0; parameter->values[i]; i++)
			json_array_append_new(values, json_string(parameter->values[i]));
		json_object_set_new(object, "values", values);
	}
	if (!json_is_null(def))
		json_object_set(object, "default", def);
	set_text(object, "unit", parameter->unit);
	set_text(object, "description", parameter->help);
	return object;
}

json_t *rpc_schema_of(const struct rpc_entry *entry)
{
	const struct rpc_method *method = entry->implementation;
	json_t *object = json_object();
	json_t *params = json_array();
	set_text(object, "name", entry->method->name);
	set_text(object, "description", entry->method->help ? entry->method->help : method->help);
	set_text(object, "alias_of", entry->method->alias_of);
	for (unsigned i = 0; i < method->param_count; i++)
		json_array_append_new(params, param_schema(&method->params[i],
							   json_array_get(entry->defaults, i)));
	json_object_set_new(object, "params", params);
	set_text(object, "result", entry->method->result ? entry->method->result : method->result);
	return object;
}
