/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * params: decodes a request's parameters into a method's struct, as its schema table says, and
 * words the refusal of what does not fit: which parameter, what it takes, what was given. Pure.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/size.h"
#include "lib/rpc/internal.h"

enum {
	GOT_BYTES = 64,	      /* of a refused value, as the message quotes it */
	DESCRIBE_BYTES = 320, /* of what a parameter takes */
};

uint64_t rpc_max(const struct rpc_param *parameter)
{
	return parameter->max ? parameter->max : INT64_MAX;
}

/* Appends to a text that is cut where it is full. */
static void __attribute__((format(printf, 3, 4)))
append(char *text, size_t text_bytes, const char *format, ...)
{
	size_t length = strlen(text);
	va_list args;
	va_start(args, format);
	vsnprintf(text + length, text_bytes - length, format, args);
	va_end(args);
}

static void append_range(const struct rpc_param *parameter, const char *what, char *text,
			 size_t text_bytes)
{
	const char *gap = *what ? " " : "";
	bool counts = parameter->type == RPC_U64 || parameter->min;
	if (counts && parameter->max)
		append(text, text_bytes, " from %" PRIu64 " to %" PRIu64 "%s%s", parameter->min,
		       parameter->max, gap, what);
	else if (parameter->max)
		append(text, text_bytes, " up to %" PRIu64 "%s%s", parameter->max, gap, what);
	else if (parameter->min)
		append(text, text_bytes, " of at least %" PRIu64 "%s%s", parameter->min, gap, what);
}

static void append_values(const struct rpc_param *parameter, char *text, size_t text_bytes)
{
	for (unsigned i = 0; parameter->values[i]; i++)
		append(text, text_bytes, "%s%s", i ? ", " : " ", parameter->values[i]);
}

char *rpc_describe(const struct rpc_param *parameter, char *text, size_t text_bytes)
{
	static const char *const nouns[] = {
		[RPC_STRING] = "a string",
		[RPC_U64] = "an integer",
		[RPC_I64] = "an integer",
		[RPC_BOOL] = "true or false",
		[RPC_DOUBLE] = "a number",
		[RPC_SIZE] = "a size (a number of bytes, or text such as \"64M\")",
		[RPC_ENUM] = "one of",
		[RPC_UUID] = "a UUID (8-4-4-4-12 hexadecimal digits)",
		[RPC_STRINGS] = "an array of strings",
		[RPC_OBJECT] = "an object",
		[RPC_OFF] = "null, false, 0, \"\" or \"disable\" (Pollux does not have it)",
	};
	snprintf(text, text_bytes, "%s", nouns[parameter->type]);
	switch (parameter->type) {
	case RPC_STRING:
		append_range(parameter, "bytes", text, text_bytes);
		break;
	case RPC_U64:
		if (!parameter->min && !parameter->max)
			append(text, text_bytes, " of at least 0");
		append_range(parameter, "", text, text_bytes);
		break;
	case RPC_I64:
		if (parameter->smin < parameter->smax)
			append(text, text_bytes, " from %" PRIi64 " to %" PRIi64, parameter->smin,
			       parameter->smax);
		break;
	case RPC_DOUBLE:
	case RPC_SIZE:
		append_range(parameter, "", text, text_bytes);
		break;
	case RPC_STRINGS:
		append_range(parameter, "entries", text, text_bytes);
		break;
	case RPC_ENUM:
		append_values(parameter, text, text_bytes);
		break;
	default:
		break;
	}
	return text;
}

/* The refused value as the message quotes it: scalars as they are, containers by their kind. */
static char *quote_value(json_t *value, char *text)
{
	if (json_is_object(value) || json_is_array(value)) {
		snprintf(text, GOT_BYTES, json_is_object(value) ? "an object" : "an array");
		return text;
	}
	/* ASCII, so that cutting it does not split a character */
	char *json = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
	bool cut = json && strlen(json) >= GOT_BYTES;
	text[0] = '\0';
	append(text, GOT_BYTES, "%s", json ? json : "?");
	if (cut)
		memcpy(text + GOT_BYTES - 4, "...", 4);
	free(json);
	return text;
}

/*
 * A whole number, however it was written: 5.0 is 5. Beyond 2^63 and with a fraction it is none.
 * Numbers too large for an integer come as reals (session.c), so they end here as well.
 */
static bool whole_number(json_t *value, int64_t *number)
{
	if (json_is_integer(value)) {
		*number = json_integer_value(value);
		return true;
	}
	double real = json_real_value(value);
	if (!json_is_real(value) || real != floor(real) || !(fabs(real) < 0x1p63))
		return false;
	*number = (int64_t)real;
	return true;
}

static bool in_range(const struct rpc_param *parameter, uint64_t number)
{
	return number >= parameter->min && number <= rpc_max(parameter);
}

static bool is_uuid(const char *text)
{
	for (unsigned i = 0; i < 36; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;
		if (dash ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
			return false;
	}
	return !text[36];
}

static bool is_strings(const struct rpc_param *parameter, json_t *value)
{
	if (!json_is_array(value) || !in_range(parameter, json_array_size(value)))
		return false;
	size_t index;
	json_t *entry;
	json_array_foreach(value, index, entry)
	{
		if (!json_is_string(entry))
			return false;
	}
	return true;
}

static bool is_off(json_t *value)
{
	if (json_is_string(value))
		return !*json_string_value(value) || !strcmp(json_string_value(value), "disable");
	return json_is_null(value) || json_is_false(value) ||
	       (json_is_number(value) && json_number_value(value) == 0);
}

static bool decode_size(const struct rpc_param *parameter, json_t *value, uint64_t *bytes)
{
	int64_t number;
	if (json_is_string(value)) {
		if (size_parse(json_string_value(value), bytes))
			return false;
	} else if (whole_number(value, &number) && number >= 0) {
		*bytes = (uint64_t)number;
	} else {
		return false;
	}
	return in_range(parameter, *bytes);
}

static bool decode_double(const struct rpc_param *parameter, json_t *value, double *number)
{
	if (!json_is_number(value))
		return false;
	*number = json_number_value(value);
	return (!parameter->min || *number >= (double)parameter->min) &&
	       (!parameter->max || (*number >= 0 && *number <= (double)parameter->max));
}

/* The entry of the table itself, so that a handler may keep it and compare by address. */
static const char *find_enum(const struct rpc_param *parameter, json_t *value)
{
	for (unsigned i = 0; json_is_string(value) && parameter->values[i]; i++) {
		if (!strcmp(parameter->values[i], json_string_value(value)))
			return parameter->values[i];
	}
	return NULL;
}

static bool decode_number(const struct rpc_param *parameter, json_t *value, void *at)
{
	int64_t number;
	switch (parameter->type) {
	case RPC_U64:
		if (!whole_number(value, &number) || number < 0 ||
		    !in_range(parameter, (uint64_t)number))
			return false;
		*(uint64_t *)at = (uint64_t)number;
		return true;
	case RPC_I64:
		if (!whole_number(value, &number))
			return false;
		if (parameter->smin < parameter->smax &&
		    (number < parameter->smin || number > parameter->smax))
			return false;
		*(int64_t *)at = number;
		return true;
	case RPC_SIZE:
		return decode_size(parameter, value, at);
	default:
		return decode_double(parameter, value, at);
	}
}

static bool decode_text(const struct rpc_param *parameter, json_t *value, const char **at)
{
	if (parameter->type == RPC_ENUM) {
		*at = find_enum(parameter, value);
		return *at != NULL;
	}
	if (!json_is_string(value))
		return false;
	*at = json_string_value(value);
	return parameter->type == RPC_UUID ? is_uuid(*at)
					   : in_range(parameter, json_string_length(value));
}

static bool decode(const struct rpc_param *parameter, json_t *value, void *at)
{
	switch (parameter->type) {
	case RPC_STRING:
	case RPC_ENUM:
	case RPC_UUID:
		return decode_text(parameter, value, at);
	case RPC_BOOL:
		*(bool *)at = json_is_true(value);
		return json_is_boolean(value);
	case RPC_STRINGS:
		*(json_t **)at = value;
		return is_strings(parameter, value);
	case RPC_OBJECT:
		*(json_t **)at = value;
		return json_is_object(value);
	case RPC_OFF:
		return is_off(value);
	default:
		return decode_number(parameter, value, at);
	}
}

int rpc_decode_value(const struct rpc_param *parameter, json_t *value, void *params, char *message,
		     size_t message_bytes)
{
	if (decode(parameter, value, (char *)params + parameter->offset)) {
		if (parameter->present_offset)
			*(bool *)((char *)params + parameter->present_offset) = true;
		return 0;
	}
	char takes[DESCRIBE_BYTES];
	char got[GOT_BYTES];
	snprintf(message, message_bytes, "parameter '%s': expected %s, got %s", parameter->name,
		 rpc_describe(parameter, takes, sizeof(takes)), quote_value(value, got));
	return -EINVAL;
}

static int refuse_unknown(const struct rpc_method *method, json_t *given,
			  struct rpc_refusal *refusal)
{
	const char *name;
	json_t *value;
	json_object_foreach(given, name, value)
	{
		unsigned i = 0;
		while (i < method->param_count && strcmp(method->params[i].name, name))
			i++;
		if (i < method->param_count)
			continue;
		refusal->parameter = name;
		snprintf(refusal->message, sizeof(refusal->message), "unknown parameter '%.255s'",
			 name);
		return -EINVAL;
	}
	return 0;
}

int rpc_decode(const struct rpc_entry *entry, json_t *given, void *params,
	       struct rpc_refusal *refusal)
{
	const struct rpc_method *method = entry->implementation;
	if (refuse_unknown(method, given, refusal))
		return -EINVAL;
	for (unsigned i = 0; i < method->param_count; i++) {
		const struct rpc_param *parameter = &method->params[i];
		json_t *value = json_object_get(given, parameter->name);
		refusal->parameter = parameter->name;
		if (value) {
			if (rpc_decode_value(parameter, value, params, refusal->message,
					     sizeof(refusal->message)))
				return -EINVAL;
			continue;
		}
		if (parameter->required) {
			snprintf(refusal->message, sizeof(refusal->message),
				 "missing parameter '%s'", parameter->name);
			return -EINVAL;
		}
		/* tried when the server was made: it fits */
		json_t *def = json_array_get(entry->defaults, i);
		if (!json_is_null(def))
			decode(parameter, def, (char *)params + parameter->offset);
	}
	return 0;
}

const char **rpc_strings(const json_t *array)
{
	size_t count = json_array_size(array);
	const char **texts = array ? calloc(count + 1, sizeof(*texts)) : NULL;
	for (size_t i = 0; texts && i < count; i++)
		texts[i] = json_string_value(json_array_get(array, i));
	return texts;
}
