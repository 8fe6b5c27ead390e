/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * session: a client's stream. Cuts it into requests (scan.c), checks each against JSON-RPC 2.0,
 * calls the handler, and turns its answer - now, later, or after the client has gone - into at most
 * one JSON value sent. Owns the calls under way; a call holds its session, so that an answer that
 * comes after rpc_session_close() finds it and is dropped. Control thread. Source:
 * https://www.jsonrpc.org/specification.
 */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/rpc/internal.h"
#include "lib/rpc/scan.h"

enum {
	BUFFER_BYTES_MIN = 4096,
	BUFFER_BYTES_KEPT = 64 << 10, /* a larger one is given back after its request */
};

struct rpc_session {
	struct rpc_server *server;				  /* NULL once it is destroyed */
	void (*send)(void *arg, const char *bytes, size_t count); /* NULL once closed */
	void *arg;
	unsigned refs;	  /* the owner's, one a call and a batch, one while fed */
	unsigned pending; /* calls under way */
	bool broken;	  /* after garbage: takes nothing any more */
	struct rpc_scan scan;
	char *buffer; /* of a request that came in part */
	size_t buffered, buffer_bytes;
	LIST_ENTRY(rpc_session) link; /* only valid while there is a server */
};

/* The requests that came as one array, and go back as one. */
struct rpc_batch {
	struct rpc_session *session;
	json_t *answers;  /* by request; null: none (yet, or for a notification) */
	unsigned awaited; /* requests without an answer, and one while the batch is being read */
};

struct rpc_call {
	struct rpc_session *session;
	struct rpc_batch *batch; /* NULL: a request of its own */
	unsigned index;		 /* in the batch */
	json_t *id;		 /* NULL: a notification, nothing is sent */
	json_t *given;		 /* the parameters as they came: the decoded ones point into it */
	json_t *defaults;
	void *context;
	_Alignas(16) unsigned char params[];
};

/* ---- Life ---- */

static void session_put(struct rpc_session *session)
{
	if (--session->refs)
		return;
	if (session->server)
		LIST_REMOVE(session, link);
	free(session->buffer);
	free(session);
}

struct rpc_session *rpc_session_open(struct rpc_server *server,
				     void (*send)(void *arg, const char *bytes, size_t count),
				     void *arg)
{
	struct rpc_session *session = calloc(1, sizeof(*session));
	if (!session)
		return NULL;
	session->server = server;
	session->send = send;
	session->arg = arg;
	session->refs = 1;
	rpc_scan_init(&session->scan);
	LIST_INSERT_HEAD(&server->sessions, session, link);
	return session;
}

void rpc_session_orphan(struct rpc_session *session)
{
	LIST_REMOVE(session, link);
	session->server = NULL;
}

void rpc_session_close(struct rpc_session *session)
{
	session->send = NULL;
	session_put(session);
}

unsigned rpc_session_pending(const struct rpc_session *session)
{
	return session->pending;
}

/* ---- Answers ---- */

/* A line a value: JSON needs no delimiter, people reading with nc do. */
static void send_value(struct rpc_session *session, json_t *value)
{
	static char no_memory[] = "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32603,"
				  "\"message\":\"out of memory\",\"data\":{\"errno\":\"ENOMEM\"}}}";
	if (!session->send)
		return;
	char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
	char *line = text ? text : no_memory;
	size_t length = strlen(line);
	line[length] = '\n'; /* in the place of the NUL */
	session->send(session->arg, line, length + 1);
	line[length] = '\0';
	free(text);
}

static void batch_put(struct rpc_batch *batch)
{
	if (--batch->awaited)
		return;
	for (size_t i = json_array_size(batch->answers); i-- > 0;) {
		if (json_is_null(json_array_get(batch->answers, i)))
			json_array_remove(batch->answers, i);
	}
	if (json_array_size(batch->answers))
		send_value(batch->session, batch->answers);
	json_decref(batch->answers);
	session_put(batch->session);
	free(batch);
}

/* Steals the answer; NULL: no memory for it, which is told in its place. */
static void deliver(struct rpc_session *session, struct rpc_batch *batch, unsigned index,
		    json_t *answer)
{
	if (!batch) {
		send_value(session, answer);
		json_decref(answer);
		return;
	}
	if (json_array_set_new(batch->answers, index, answer))
		send_value(session, NULL);
	batch_put(batch);
}

/* A text that is not UTF-8 (cut in the middle, or a file's name) loses its foreign bytes. */
static json_t *message_string(char *message)
{
	json_t *string = json_string(message);
	if (string)
		return string;
	for (char *at = message; *at; at++) {
		if ((unsigned char)*at >= 0x80)
			*at = '?';
	}
	return json_string(message);
}

static json_t *error_data(int code, const char *parameter)
{
	const char *name = NULL;
	if (code < 0 && code > -4096)
		name = strerrorname_np(-code);
	else if (code == RPC_INVALID_PARAMS)
		name = "EINVAL";
	if (!name && !parameter)
		return NULL;
	json_t *data = json_object();
	if (parameter)
		json_object_set_new(data, "parameter", json_string(parameter));
	if (name)
		json_object_set_new(data, "errno", json_string(name));
	return data;
}

/*
 * The id as it goes back, a new reference; NULL: null. A whole number stays one where parse() had
 * to make reals of integers.
 */
static json_t *answer_id(json_t *id)
{
	double real = json_real_value(id);
	if (json_is_real(id) && fabs(real) < 0x1p53 && real == floor(real))
		return json_integer((json_int_t)real);
	return id ? json_incref(id) : json_null();
}

/* The error answer to a request of this id (NULL: null). The message may be changed. */
static json_t *error_answer(json_t *id, int code, const char *parameter, char *message)
{
	json_t *error = json_pack("{s:i, s:o}", "code", code, "message", message_string(message));
	json_t *data = error_data(code, parameter);
	if (error && data)
		json_object_set_new(error, "data", data);
	else
		json_decref(data);
	return json_pack("{s:s, s:o, s:o}", "jsonrpc", "2.0", "id", answer_id(id), "error", error);
}

/* Ends the call. `answer` is stolen; NULL where it is a notification or memory is short. */
static void finish(struct rpc_call *call, json_t *answer)
{
	struct rpc_session *session = call->session;
	session->pending--;
	if (call->id)
		deliver(session, call->batch, call->index, answer);
	else if (call->batch)
		batch_put(call->batch);
	if (!call->id && session->send)
		session->send(session->arg, "", 0);
	json_decref(call->id);
	json_decref(call->given);
	json_decref(call->defaults);
	free(call);
	session_put(session);
}

void rpc_reply(struct rpc_call *call, json_t *result)
{
	if (!result)
		result = json_true();
	if (!call->id) {
		json_decref(result);
		finish(call, NULL);
		return;
	}
	finish(call, json_pack("{s:s, s:o, s:o}", "jsonrpc", "2.0", "id", answer_id(call->id),
			       "result", result));
}

static void finish_error(struct rpc_call *call, const char *parameter, int code, char *message)
{
	if (code >= 0)
		code = code ? -code : RPC_INTERNAL_ERROR;
	finish(call, call->id ? error_answer(call->id, code, parameter, message) : NULL);
}

void rpc_error(struct rpc_call *call, int code, const char *format, ...)
{
	char message[RPC_MESSAGE_BYTES];
	va_list args;
	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	finish_error(call, NULL, code, message);
}

void rpc_param_error(struct rpc_call *call, const char *parameter, int code, const char *format,
		     ...)
{
	char message[RPC_MESSAGE_BYTES];
	va_list args;
	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	finish_error(call, parameter, code, message);
}

void rpc_set_context(struct rpc_call *call, void *context)
{
	call->context = context;
}

void *rpc_context(struct rpc_call *call)
{
	return call->context;
}

const void *rpc_params(struct rpc_call *call)
{
	return call->params;
}

struct rpc_server *rpc_call_server(const struct rpc_call *call)
{
	return call->session->server;
}

/* ---- Requests ---- */

/* A request as it came; all borrowed. */
struct request {
	const char *method;
	json_t *id; /* NULL: a notification */
	json_t *params;
};

static void refuse(struct rpc_session *session, struct rpc_batch *batch, unsigned index, json_t *id,
		   int code, const char *format, ...) __attribute__((format(printf, 6, 7)));

static void refuse(struct rpc_session *session, struct rpc_batch *batch, unsigned index, json_t *id,
		   int code, const char *format, ...)
{
	char message[RPC_MESSAGE_BYTES];
	va_list args;
	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	deliver(session, batch, index, error_answer(id, code, NULL, message));
}

/* What makes it no request, or NULL. */
static const char *read_request(json_t *value, struct request *request)
{
	if (!json_is_object(value))
		return "a request is an object";
	const char *version = json_string_value(json_object_get(value, "jsonrpc"));
	size_t members = 2;
	request->id = json_object_get(value, "id");
	request->params = json_object_get(value, "params");
	request->method = json_string_value(json_object_get(value, "method"));
	if (request->id && !json_is_string(request->id) && !json_is_number(request->id) &&
	    !json_is_null(request->id)) {
		request->id = NULL;
		return "id must be a string, a number or null";
	}
	if (!version || strcmp(version, "2.0"))
		return "jsonrpc must be \"2.0\"";
	if (!request->method)
		return "method must be a string";
	members += (request->id != NULL) + (request->params != NULL);
	if (json_object_size(value) != members)
		return "a request has no members but jsonrpc, method, params and id";
	if (json_is_null(request->params))
		request->params = NULL; /* as if left out, as SPDK takes it */
	if (request->params && !json_is_object(request->params) && !json_is_array(request->params))
		return "params must be an object";
	return NULL;
}

static struct rpc_call *make_call(struct rpc_session *session, struct rpc_batch *batch,
				  unsigned index, const struct request *request,
				  const struct rpc_entry *entry)
{
	struct rpc_call *call = calloc(1, sizeof(*call) + entry->implementation->params_bytes);
	if (!call)
		return NULL;
	call->session = session;
	call->batch = batch;
	call->index = index;
	call->id = json_incref(request->id);
	call->given = json_incref(request->params);
	call->defaults = json_incref(entry->defaults);
	session->refs++;
	session->pending++;
	return call;
}

/* A request that came without id gets no answer, not even an error. */
static void refuse_request(struct rpc_session *session, struct rpc_batch *batch, unsigned index,
			   const struct request *request, int code, const char *message)
{
	if (request->id)
		refuse(session, batch, index, request->id, code, "%s", message);
	else if (batch)
		batch_put(batch);
}

static void take_request(struct rpc_session *session, struct rpc_batch *batch, unsigned index,
			 json_t *value)
{
	struct request request = {0};
	char message[RPC_MESSAGE_BYTES];
	const char *wrong = read_request(value, &request);
	if (wrong) {
		refuse(session, batch, index, request.id, RPC_INVALID_REQUEST,
		       "invalid request: %s", wrong);
		return;
	}
	const struct rpc_entry *entry = rpc_server_find(session->server, request.method);
	if (!entry) {
		snprintf(message, sizeof(message), "there is no method '%.255s'", request.method);
		refuse_request(session, batch, index, &request, RPC_METHOD_NOT_FOUND, message);
		return;
	}
	if (json_is_array(request.params)) {
		refuse_request(session, batch, index, &request, RPC_INVALID_PARAMS,
			       "parameters go by name: params must be an object, not an array");
		return;
	}
	struct rpc_call *call = make_call(session, batch, index, &request, entry);
	if (!call) {
		refuse_request(session, batch, index, &request, -ENOMEM, "out of memory");
		return;
	}
	struct rpc_refusal refusal = {0};
	if (rpc_decode(entry, call->given, call->params, &refusal))
		finish_error(call, refusal.parameter, RPC_INVALID_PARAMS, refusal.message);
	else
		entry->implementation->handler(call, call->params);
}

static void take_batch(struct rpc_session *session, json_t *value)
{
	unsigned count = (unsigned)json_array_size(value);
	if (!count || count > RPC_MAX_BATCH) {
		refuse(session, NULL, 0, NULL, RPC_INVALID_REQUEST,
		       "invalid request: a batch has 1 to %d requests, not %u", RPC_MAX_BATCH,
		       count);
		return;
	}
	struct rpc_batch *batch = calloc(1, sizeof(*batch));
	if (batch)
		batch->answers = json_array();
	for (unsigned i = 0; batch && batch->answers && i < count; i++) {
		if (json_array_append_new(batch->answers, json_null())) {
			json_decref(batch->answers);
			batch->answers = NULL;
		}
	}
	if (!batch || !batch->answers) {
		free(batch);
		send_value(session, NULL);
		return;
	}
	batch->session = session;
	batch->awaited = count + 1;
	session->refs++;
	for (unsigned i = 0; i < count; i++) {
		/* a handler's answer may have made the owner close, or the server go */
		if (session->server)
			take_request(session, batch, i, json_array_get(value, i));
		else
			batch_put(batch);
	}
	batch_put(batch);
}

/* ---- The stream ---- */

/*
 * Integers beyond 64 bits are read as reals, in a second try only, for that makes reals of all of
 * them: so the parameter at fault can be named rather than the request refused as a whole.
 */
static json_t *parse(const char *bytes, size_t count, json_error_t *error)
{
	json_t *value = json_loadb(bytes, count, JSON_REJECT_DUPLICATES, error);
	if (!value && json_error_code(error) == json_error_numeric_overflow)
		value = json_loadb(bytes, count, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL,
				   error);
	return value;
}

/*
 * One whole value. What the scan found whole but the JSON library refuses (a name twice, bytes that
 * are no UTF-8, a number that is none) is answered, and the stream stays readable.
 */
static void take_value(struct rpc_session *session, const char *bytes, size_t count)
{
	json_error_t error;
	json_t *value = parse(bytes, count, &error);
	if (!value)
		refuse(session, NULL, 0, NULL, RPC_PARSE_ERROR, "parse error: %s", error.text);
	else if (json_is_array(value))
		take_batch(session, value);
	else
		take_request(session, NULL, 0, value);
	json_decref(value);
}

static int keep(struct rpc_session *session, const char *bytes, size_t count)
{
	size_t need = session->buffered + count;
	if (!count)
		return 0;
	if (need > session->buffer_bytes) {
		size_t size = session->buffer_bytes ? session->buffer_bytes : BUFFER_BYTES_MIN;
		while (size < need)
			size *= 2;
		char *buffer = realloc(session->buffer, size);
		if (!buffer)
			return -ENOMEM;
		session->buffer = buffer;
		session->buffer_bytes = size;
	}
	memcpy(session->buffer + session->buffered, bytes, count);
	session->buffered = need;
	return 0;
}

/* The value's end has come: its last part is `bytes`. */
static int take_last_part(struct rpc_session *session, const char *bytes, size_t count)
{
	rpc_scan_init(&session->scan);
	if (!session->buffered) {
		take_value(session, bytes, count);
		return 0;
	}
	if (keep(session, bytes, count))
		return -ENOMEM;
	size_t whole = session->buffered;
	session->buffered = 0;
	take_value(session, session->buffer, whole);
	if (session->buffer_bytes > BUFFER_BYTES_KEPT) {
		free(session->buffer);
		session->buffer = NULL;
		session->buffer_bytes = 0;
	}
	return 0;
}

static int refuse_stream(struct rpc_session *session, enum rpc_scan_result result)
{
	switch (result) {
	case RPC_SCAN_TOO_DEEP:
		refuse(session, NULL, 0, NULL, RPC_PARSE_ERROR,
		       "parse error: nested deeper than %d levels", RPC_MAX_DEPTH);
		break;
	case RPC_SCAN_TOO_MANY:
		refuse(session, NULL, 0, NULL, RPC_PARSE_ERROR,
		       "parse error: a request of more than %d values", RPC_MAX_VALUES);
		break;
	case RPC_SCAN_TOO_LONG:
		refuse(session, NULL, 0, NULL, RPC_PARSE_ERROR,
		       "parse error: a request of more than %d bytes", RPC_MAX_REQUEST_BYTES);
		break;
	case RPC_SCAN_GARBAGE:
		refuse(session, NULL, 0, NULL, RPC_PARSE_ERROR,
		       "parse error: not JSON at byte %zu of the request", session->scan.bytes);
		break;
	default:
		send_value(session, NULL);
	}
	session->broken = true;
	free(session->buffer);
	session->buffer = NULL;
	session->buffered = session->buffer_bytes = 0;
	return -EPROTO;
}

/* As rpc_session_feed(), while the session is held. */
static int feed(struct rpc_session *session, const char *bytes, size_t count)
{
	while (count && session->send && session->server) {
		size_t used;
		size_t before = session->scan.bytes;
		enum rpc_scan_result result = rpc_scan_feed(&session->scan, bytes, count, &used);
		size_t part = session->scan.bytes - before; /* the rest is white space before it */
		if (result > RPC_SCAN_DONE)
			return refuse_stream(session, result);
		int error = result == RPC_SCAN_DONE
				    ? take_last_part(session, bytes + used - part, part)
				    : keep(session, bytes + used - part, part);
		if (error)
			return refuse_stream(session, RPC_SCAN_MORE);
		bytes += used;
		count -= used;
	}
	return 0;
}

int rpc_session_feed(struct rpc_session *session, const char *bytes, size_t count)
{
	if (session->broken)
		return -EPROTO;
	session->refs++;
	int error = feed(session, bytes, count);
	session_put(session);
	return error;
}
