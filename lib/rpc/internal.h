/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * internal: what the files of lib/rpc share: the server's method table, decoding by schema, and the
 * built-in methods. Control thread.
 */
#ifndef POLLUX_LIB_RPC_INTERNAL_H
#define POLLUX_LIB_RPC_INTERNAL_H

#include <sys/queue.h>

#include "lib/rpc/rpc.h"

enum { RPC_MESSAGE_BYTES = 512 };

/* A method with what server_create() worked out of it. */
struct rpc_entry {
	const struct rpc_method *method;
	const struct rpc_method
		*implementation; /* of an alias without a handler: the canonical one */
	json_t *defaults;	 /* array by parameter: its default, or null */
};

struct rpc_server {
	struct rpc_entry *entries; /* sorted by name */
	unsigned count;
	json_t *schema; /* of all methods; NULL until it is asked for */
	LIST_HEAD(, rpc_session) sessions;
};

/* Why a request's parameters were refused. */
struct rpc_refusal {
	const char *parameter; /* NULL: none in particular */
	char message[RPC_MESSAGE_BYTES];
};

const struct rpc_entry *rpc_server_find(const struct rpc_server *server, const char *name);

/*
 * Decodes `given` (an object, or NULL: no parameters) into the zeroed struct `params`. What it
 * stores points into `given` and `entry->defaults`, which must outlive it. 0, or -EINVAL with
 * `refusal`.
 */
int rpc_decode(const struct rpc_entry *entry, json_t *given, void *params,
	       struct rpc_refusal *refusal);

/* Decodes one value; parameter->offset within `params`. 0, or -EINVAL with a sentence in `message`.
 */
int rpc_decode_value(const struct rpc_param *parameter, json_t *value, void *params, char *message,
		     size_t message_bytes);

/* "an integer from 1 to 64": what a parameter takes, for messages. Returns `text`. */
char *rpc_describe(const struct rpc_param *parameter, char *text, size_t text_bytes);

const char *rpc_type_name(enum rpc_type type);
/* The range of RPC_U64, RPC_SIZE, and of the lengths of RPC_STRING and RPC_STRINGS. */
uint64_t rpc_max(const struct rpc_param *parameter);

/* New reference. */
json_t *rpc_schema_of(const struct rpc_entry *entry);

struct rpc_server *rpc_call_server(const struct rpc_call *call);

/* From rpc_server_destroy(): the session stays for its owner to close, but takes nothing any more.
 */
void rpc_session_orphan(struct rpc_session *session);

extern const struct rpc_method rpc_builtin_methods[2];

#endif
