/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nbd_rpc: creating and deleting listeners, looking at connections and ending them. Connections
 * belong to their cores: a round over the net cores collects what is asked for.
 */
#include "app/pollux/nbd/nbd_rpc.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "app/pollux/nbd/connection.h"
#include "app/pollux/nbd/listener.h"
#include "app/pollux/target/export_rpc.h"
#include "app/pollux/tls/named.h"
#include "lib/base/clock.h"
#include "lib/tls/session.h"
#include "reactor/control.h"

enum { URI_MAX_BYTES = 512 };

/* ---- listener_create, _delete, _get_listeners ---- */

struct create_params {
	const char *uri;
	json_t *allow, *exports;
	const char *default_export;
	uint64_t max_connections;
	bool no_zeroes;
	const char *tls;
	const char *credentials;
};

static const char *const tls_modes[] = {
	[LISTENER_TLS_OFF] = "off",
	[LISTENER_TLS_ON] = "on",
	[LISTENER_TLS_REQUIRE] = "require",
	NULL,
};

static const struct rpc_param create_params[] = {
	{.name = "uri",
	 .type = RPC_STRING,
	 .offset = offsetof(struct create_params, uri),
	 .required = true,
	 .min = 1,
	 .max = URI_MAX_BYTES,
	 .help = "tcp://HOST:PORT (port 0: one is chosen), unix:///PATH, or vsock://CID:PORT (CID "
		 "*: any)"},
	{.name = "allow",
	 .type = RPC_STRINGS,
	 .offset = offsetof(struct create_params, allow),
	 .max = ACCESS_NETWORKS_MAX,
	 .help = "Networks (ADDRESS/BITS) and addresses that may connect over TCP; none: "
		 "everybody"},
	{.name = "max_connections",
	 .type = RPC_U64,
	 .offset = offsetof(struct create_params, max_connections),
	 .max = ACCESS_CONNECTIONS_MAX,
	 .help = "More are closed at once; 0: as many as the process takes"},
	{.name = "exports",
	 .type = RPC_STRINGS,
	 .offset = offsetof(struct create_params, exports),
	 .min = 1,
	 .max = ACCESS_EXPORTS_MAX,
	 .help = "Exports to be had here, whether they are there yet or not; left out: all"},
	{.name = "default_export",
	 .type = RPC_STRING,
	 .offset = offsetof(struct create_params, default_export),
	 .max = EXPORT_NAME_MAX_BYTES,
	 .help = "Export for clients that give no name; left out: the one whose name is empty"},
	{.name = "no_zeroes",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct create_params, no_zeroes),
	 .def = "true",
	 .help = "Offer NBD_FLAG_NO_ZEROES: false for clients that can not bear it"},
	{.name = "tls",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct create_params, tls),
	 .values = tls_modes,
	 .help = "on: clients may use TLS; require: they must. Without it: require if "
		 "tls_credentials are given, else off"},
	{.name = "tls_credentials",
	 .type = RPC_STRING,
	 .offset = offsetof(struct create_params, credentials),
	 .min = 1,
	 .max = NAMED_NAME_MAX_BYTES,
	 .help = "Name of the credentials (tls_create)"},
};

static void listening(void *arg, const struct listener_result *result)
{
	if (result->error)
		rpc_param_error(arg, result->parameter, result->error, "%s", result->why);
	else
		rpc_reply(arg, json_string(listener_uri(result->listener)));
}

static enum listener_tls tls_mode(const struct create_params *p)
{
	enum listener_tls mode = LISTENER_TLS_OFF;
	if (!p->tls)
		return p->credentials ? LISTENER_TLS_REQUIRE : LISTENER_TLS_OFF;
	while (strcmp(tls_modes[mode], p->tls))
		mode++;
	return mode;
}

static void create_listener(struct rpc_call *call, const void *params)
{
	const struct create_params *p = params;
	struct listener_options options = {
		.uri = p->uri,
		.access = {.allow_count = json_array_size(p->allow),
			   .export_count = json_array_size(p->exports),
			   .default_export = p->default_export,
			   .max_connections = p->max_connections,
			   .hide_no_zeroes = !p->no_zeroes,
			   .tls = tls_mode(p)},
	};
	if (p->credentials)
		options.access.credentials = named_credentials_find(p->credentials);
	if (p->credentials && !options.access.credentials) {
		rpc_param_error(call, "tls_credentials", -ENODEV,
				"there are no TLS credentials named '%s'", p->credentials);
		return;
	}
	if (options.access.tls != LISTENER_TLS_OFF && !options.access.credentials) {
		rpc_param_error(call, "tls_credentials", -EINVAL, "tls '%s' needs tls_credentials",
				p->tls);
		return;
	}
	const char **allow = rpc_strings(p->allow), **exports = rpc_strings(p->exports);
	options.access.allow = allow;
	options.access.exports = exports;
	if ((p->allow && !allow) || (p->exports && !exports))
		rpc_error(call, -ENOMEM, "no memory");
	else
		listener_create(&options, listening, call);
	free(allow);
	free(exports);
}

struct delete_params {
	const char *uri;
};

static const struct rpc_param delete_params[] = {
	{.name = "uri",
	 .type = RPC_STRING,
	 .offset = offsetof(struct delete_params, uri),
	 .required = true,
	 .min = 1,
	 .max = URI_MAX_BYTES,
	 .help = "As listener_get_listeners tells it"},
};

static void listener_gone(void *arg)
{
	rpc_reply(arg, NULL);
}

static void delete_listener(struct rpc_call *call, const void *params)
{
	const struct delete_params *p = params;
	struct listener *listener = listener_find(p->uri);
	if (listener)
		listener_delete(listener, listener_gone, call);
	else
		rpc_param_error(call, "uri", -ENODEV, "there is no listener on '%s'", p->uri);
}

static json_t *describe_listener(const struct listener *listener)
{
	char nbd_uri[2048];
	const struct access *access = listener_access(listener);
	json_t *object = json_pack(
		"{s:s, s:s, s:o, s:i, s:i, s:{s:I, s:I}, s:b}", "uri", listener_uri(listener),
		"nbd_uri", listener_nbd_uri(listener, "", nbd_uri, sizeof(nbd_uri)), "allow",
		export_rpc_networks(access->allow), "max_connections", (int)access->max_connections,
		"connections", (int)atomic_load(&access->connections), "refused", "address",
		(json_int_t)atomic_load(&access->refused[ACCESS_REFUSED_ADDRESS]), "limit",
		(json_int_t)atomic_load(&access->refused[ACCESS_REFUSED_LIMIT]), "no_zeroes",
		!access->hide_no_zeroes);
	json_object_set_new(object, "tls", json_string(tls_modes[access->tls]));
	if (access->credentials)
		json_object_set_new(object, "tls_credentials",
				    json_string(access->credentials->name));
	if (access->exports) {
		json_t *names = json_array();
		for (unsigned i = 0; i < access->export_count; i++)
			json_array_append_new(names, json_string(access->exports[i]));
		json_object_set_new(object, "exports", names);
	}
	if (access->default_export)
		json_object_set_new(object, "default_export", json_string(access->default_export));
	if (listener_name(listener))
		json_object_set_new(object, "name", json_string(listener_name(listener)));
	return object;
}

static void get_listeners(struct rpc_call *call, const void *params)
{
	json_t *list = json_array();
	for (const struct listener *at = listener_first(); at; at = listener_next(at))
		json_array_append_new(list, describe_listener(at));
	rpc_reply(call, list);
}

/* ---- connection_get_connections ---- */

struct connection_params {
	const char *export_name;
	uint64_t id;
	bool by_id;
};

static const struct rpc_param connections_params[] = {
	{.name = "export",
	 .type = RPC_STRING,
	 .offset = offsetof(struct connection_params, export_name),
	 .max = EXPORT_NAME_MAX_BYTES,
	 .help = "Only those to this export"},
	{.name = "id",
	 .type = RPC_U64,
	 .offset = offsetof(struct connection_params, id),
	 .present_offset = offsetof(struct connection_params, by_id),
	 .help = "Only this one"},
};

/* Collected by the net cores under the lock. */
struct collection {
	struct rpc_call *call;
	struct connection_params filter;
	pthread_mutex_t lock;
	json_t *list;
	unsigned kicked;
};

static bool matches(const struct connection *conn, const struct connection_params *filter)
{
	if (filter->by_id && conn->id != filter->id)
		return false;
	return !filter->export_name ||
	       (conn->export && !strcmp(conn->export->name, filter->export_name));
}

static json_t *describe_tls(const struct connection *conn)
{
	struct tls_session_info info;
	if (!secure_info(conn, &info))
		return json_object();
	return json_pack("{s:s, s:s, s:s, s:s, s:b}", "version", info.version, "cipher",
			 info.cipher, "key_exchange", info.key_exchange, "client", info.peer,
			 "kernel", conn->kernel_tls != NULL);
}

static json_t *describe(const struct connection *conn)
{
	static const char *const modes[] = {"simple", "structured", "extended"};
	uint64_t age = conn->core->reactor->now - conn->connected_at;
	json_t *object = json_pack(
		"{s:I, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:I, s:I, s:I}", "id",
		(json_int_t)conn->id, "peer", conn->peer, "listener", conn->access->uri, "state",
		connection_state_names[conn->state], "lcore", conn->core->reactor->cpu,
		"storage_lcore", conn->storage ? conn->storage->cpu : -1, "inflight",
		(int)conn->inflight, "requests", (json_int_t)conn->requests, "bytes_received",
		(json_int_t)conn->bytes_in, "bytes_read", (json_int_t)conn->bytes_out, "age_us",
		(json_int_t)clock_ticks_to_us(age));
	if (conn->export) {
		json_object_set_new(object, "export", json_string(conn->export->name));
		json_object_set_new(object, "replies", json_string(modes[conn->limits.mode]));
	}
	if (conn->zero_copy_sends)
		json_object_set_new(object, "zerocopy",
				    json_pack("{s:I, s:I}", "sends",
					      (json_int_t)conn->zero_copy_sends, "copied",
					      (json_int_t)conn->zero_copy_copied));
	if (conn->tls || conn->kernel_tls)
		json_object_set_new(object, "tls", describe_tls(conn));
	return object;
}

static void collect_here(void *arg)
{
	struct collection *collection = arg;
	struct connection *conn;
	pthread_mutex_lock(&collection->lock);
	TAILQ_FOREACH (conn, &nbd_core_here()->connections, link) {
		if (matches(conn, &collection->filter))
			json_array_append_new(collection->list, describe(conn));
	}
	pthread_mutex_unlock(&collection->lock);
}

static struct collection *new_collection(struct rpc_call *call)
{
	struct collection *collection = calloc(1, sizeof(*collection));
	if (!collection) {
		rpc_error(call, -ENOMEM, "no memory");
		return NULL;
	}
	collection->call = call;
	collection->filter = *(const struct connection_params *)rpc_params(call);
	pthread_mutex_init(&collection->lock, NULL);
	collection->list = json_array();
	return collection;
}

static void free_collection(struct collection *collection)
{
	json_decref(collection->list);
	pthread_mutex_destroy(&collection->lock);
	free(collection);
}

static void collected(void *arg)
{
	struct collection *collection = arg;
	rpc_reply(collection->call, json_incref(collection->list));
	free_collection(collection);
}

static void get_connections(struct rpc_call *call, const void *params)
{
	struct collection *collection = new_collection(call);
	if (collection)
		control_for_each_reactor(REACTOR_NET, collect_here, collected, collection);
}

/* ---- connection_kick ---- */

static const struct rpc_param kick_params[] = {
	{.name = "id",
	 .type = RPC_U64,
	 .offset = offsetof(struct connection_params, id),
	 .present_offset = offsetof(struct connection_params, by_id),
	 .required = true,
	 .help = "As connection_get_connections tells it"},
};

static void kick_here(void *arg)
{
	struct collection *collection = arg;
	struct connection *conn, *next;
	for (conn = TAILQ_FIRST(&nbd_core_here()->connections); conn; conn = next) {
		next = TAILQ_NEXT(conn, link);
		if (conn->state == CONN_DEAD || !matches(conn, &collection->filter))
			continue;
		connection_kill(conn, "kicked");
		pthread_mutex_lock(&collection->lock);
		collection->kicked++;
		pthread_mutex_unlock(&collection->lock);
	}
}

static void kicked(void *arg)
{
	struct collection *collection = arg;
	if (collection->kicked)
		rpc_reply(collection->call, NULL);
	else
		rpc_param_error(collection->call, "id", -ENODEV, "there is no connection %lu",
				(unsigned long)collection->filter.id);
	free_collection(collection);
}

static void kick(struct rpc_call *call, const void *params)
{
	struct collection *collection = new_collection(call);
	if (collection)
		control_for_each_reactor(REACTOR_NET, kick_here, kicked, collection);
}

/* ---- The end of an export ---- */

void nbd_end_export_here(struct export *export)
{
	struct connection *conn, *next;
	for (conn = TAILQ_FIRST(&nbd_core_here()->connections); conn; conn = next) {
		next = TAILQ_NEXT(conn, link);
		if (conn->export != export)
			continue;
		if (export->kick)
			connection_kill(conn, "its export is deleted");
		else
			connection_drain(conn, "its export is deleted");
		if (export->answer && !export->kick)
			connection_answer_all(conn);
	}
}

static const struct rpc_method methods[] = {
	{.name = "listener_create",
	 .help = "Listens for NBD clients. What it grants counts for its own clients only.",
	 .params = create_params,
	 .param_count = COUNT_OF(create_params),
	 .params_bytes = sizeof(struct create_params),
	 .handler = create_listener,
	 .result = "the URI, with the port that was chosen"},
	{.name = "listener_delete",
	 .help = "Stops listening; connections live on.",
	 .params = delete_params,
	 .param_count = COUNT_OF(delete_params),
	 .params_bytes = sizeof(struct delete_params),
	 .handler = delete_listener,
	 .result = "true"},
	{.name = "listener_get_listeners",
	 .help = "The listeners.",
	 .handler = get_listeners,
	 .result = "[{uri, nbd_uri, allow, max_connections, connections, refused: {address, "
		   "limit}, no_zeroes, exports, default_export, name, tls, tls_credentials}]"},
	{.name = "connection_get_connections",
	 .help = "The connections of NBD clients.",
	 .params = connections_params,
	 .param_count = COUNT_OF(connections_params),
	 .params_bytes = sizeof(struct connection_params),
	 .handler = get_connections,
	 .result = "[{id, peer, listener, state, export, lcore, inflight, requests, tls, …}]"},
	{.name = "connection_kick",
	 .help = "Ends a connection at once.",
	 .params = kick_params,
	 .param_count = COUNT_OF(kick_params),
	 .params_bytes = sizeof(struct connection_params),
	 .handler = kick,
	 .result = "true"},
};

const struct rpc_table nbd_rpc = {methods, COUNT_OF(methods)};
