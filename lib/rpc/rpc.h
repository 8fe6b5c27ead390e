/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rpc: JSON-RPC 2.0 as SPDK frames it (a stream of JSON values without delimiter, batches allowed),
 * dispatched by tables: one schema table a method names its parameters, their types, ranges, defaults
 * and help. Decoding, error messages, rpc_get_schema, pollux-rpc --help and doc/rpc.md all come from it.
 *
 * Pure: bytes in, bytes out by a callback; no socket, no thread. All calls on the control thread.
 * Source: https://www.jsonrpc.org/specification; SPDK doc/jsonrpc.md for the framing and error codes.
 */
#ifndef POLLUX_LIB_RPC_RPC_H
#define POLLUX_LIB_RPC_RPC_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	RPC_PARSE_ERROR = -32700,
	RPC_INVALID_REQUEST = -32600,
	RPC_METHOD_NOT_FOUND = -32601,
	RPC_INVALID_PARAMS = -32602,
	RPC_INTERNAL_ERROR = -32603,
};

enum {
	RPC_MAX_REQUEST_BYTES = 4 << 20, /* of one JSON value */
	RPC_MAX_DEPTH = 64,
	RPC_MAX_BATCH = 1024,
};

enum rpc_type {
	RPC_STRING,  /* const char *; NULL when left out. min, max: length in bytes */
	RPC_U64,     /* uint64_t; min, max (max 0: INT64_MAX) */
	RPC_I64,     /* int64_t; smin, smax where smin < smax */
	RPC_BOOL,    /* bool */
	RPC_DOUBLE,  /* double */
	RPC_SIZE,    /* uint64_t bytes: a number, or text such as "64M" */
	RPC_ENUM,    /* const char *: one of `values` (NULL-terminated) */
	RPC_UUID,    /* const char *: 36 characters, checked, lower-cased by nobody */
	RPC_STRINGS, /* json_t *: an array of strings, or NULL */
	RPC_OBJECT,  /* json_t *: an object, or NULL */
	RPC_OFF,     /* a parameter of SPDK's that Pollux knows only as off: accepts null, false, 0, "",
			"disable"; refuses anything else by name; stores nothing */
};

struct rpc_param {
	const char *name;
	enum rpc_type type;
	size_t offset; /* in the method's parameter struct: offsetof(struct …, …) */
	bool required;
	uint64_t min, max;
	int64_t smin, smax;
	const char *const *values; /* RPC_ENUM */
	const char *def;	   /* default as JSON text ("4096", "true", "\"x\""), or NULL: zero/NULL */
	const char *unit;	   /* "bytes", "blocks", "us", …, or NULL */
	const char *help;	   /* one line */
	size_t present_offset;	   /* a bool member set when the caller gave the parameter; 0: none */
};

struct rpc_call;

struct rpc_method {
	const char *name;
	const char *help; /* one sentence */
	const struct rpc_param *params;
	unsigned param_count;
	size_t params_bytes; /* of the parameter struct */
	/*
	 * Decoded parameters live until the call is answered. Must lead to exactly one rpc_reply() or
	 * rpc_error(), during the handler or later, on the control thread.
	 */
	void (*handler)(struct rpc_call *call, const void *params);
	const char *result;   /* help: what it returns, one line */
	const char *alias_of; /* the canonical name, or NULL */
};

/* A table of methods; the server is given an array of them, ended by one with methods == NULL. */
struct rpc_table {
	const struct rpc_method *methods;
	unsigned count;
};

/* Answers. `result` is stolen; NULL means true. After it `call` and its parameters are gone. */
void rpc_reply(struct rpc_call *call, json_t *result);
/* code: RPC_* or a negative errno; the message is formatted; data is {"errno": "ENODEV", …}. */
void rpc_error(struct rpc_call *call, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* The same, naming the parameter at fault: data {"parameter": …, "errno": …}. */
void rpc_param_error(struct rpc_call *call, const char *parameter, int code, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* A scratch pointer for the handler's own use while the call is under way. */
void rpc_set_context(struct rpc_call *call, void *context);
void *rpc_context(struct rpc_call *call);
const void *rpc_params(struct rpc_call *call);
/*
 * The texts of an RPC_STRINGS parameter, which live as long as the call; the array is to be freed
 * with free(). NULL where it was left out, or without memory.
 */
const char **rpc_strings(const json_t *array);

struct rpc_server;
struct rpc_session;

/* tables: must outlive the server. Adds rpc_get_methods and rpc_get_schema of its own. NULL: no memory. */
struct rpc_server *rpc_server_create(const struct rpc_table *tables);
void rpc_server_destroy(struct rpc_server *server);
/* The schema of every method, as rpc_get_schema answers it. New reference. */
json_t *rpc_server_schema(const struct rpc_server *server);

/*
 * A client's connection. send() takes bytes for the client, or none where a call that gets no answer
 * has ended: rpc_session_pending() has changed. It may be called during rpc_session_feed() or later,
 * never after rpc_session_close(). Calls under way when the session closes run to their end and their
 * answers are dropped.
 */
struct rpc_session *rpc_session_open(struct rpc_server *server,
				     void (*send)(void *arg, const char *bytes, size_t count),
				     void *arg);
/*
 * Takes received bytes. Returns 0, or -EPROTO after answering a parse error that makes the rest of the
 * stream unreadable: the caller sends what is queued, then closes.
 */
int rpc_session_feed(struct rpc_session *session, const char *bytes, size_t count);
/* Answers not yet given. A front end stops reading while it is high. */
unsigned rpc_session_pending(const struct rpc_session *session);
void rpc_session_close(struct rpc_session *session);

#endif
