/* SPDX-License-Identifier: BSD-3-Clause */
/* tls_rpc: creating, reloading and deleting TLS credentials, looking at them. Control thread. */
#include "app/pollux/tls/tls_rpc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "app/pollux/tls/named.h"
#include "lib/base/compiler.h"

enum { PATH_BYTES = 4096, PRIORITY_BYTES = 4096, PATTERN_BYTES = 1024, PATTERNS_MAX = 1024 };

/* ---- tls_create ---- */

struct create_params {
	const char *name, *endpoint;
	const char *dir, *ca_file, *cert_file, *key_file, *crl_file, *psk_file;
	const char *verify_peer, *min_version, *priority;
	json_t *allowed_names;
	bool kernel;
};

static const char *const endpoints[] = {"server", NULL};
static const char *const verify_modes[] = {"none", "request", "require", NULL};
static const char *const versions[] = {"1.2", "1.3", NULL};

#define FILE_PARAM(field, text)                                                                    \
	{                                                                                          \
		.name = #field, .type = RPC_STRING,                                                \
		.offset = offsetof(struct create_params, field), .min = 1, .max = PATH_BYTES,      \
		.help = text                                                                       \
	}

static const struct rpc_param create_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct create_params, name),
	 .required = true,
	 .min = 1,
	 .max = NAMED_NAME_MAX_BYTES,
	 .help = "Name that listeners refer to"},
	{.name = "endpoint",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct create_params, endpoint),
	 .values = endpoints,
	 .def = "\"server\"",
	 .help = "Which side of a session they are for"},
	FILE_PARAM(dir, "Directory with server-cert.pem, server-key.pem, ca-cert.pem, ca-crl.pem"),
	FILE_PARAM(ca_file, "Authorities that clients' certificates must come from, PEM; read only "
			    "if they are verified"),
	FILE_PARAM(cert_file, "Our certificate, or a chain with ours first, PEM"),
	FILE_PARAM(key_file, "Its private key, PEM"),
	FILE_PARAM(crl_file, "Certificates that were revoked, PEM"),
	FILE_PARAM(psk_file, "In place of certificates: pre-shared keys, lines of identity:hexkey "
			     "as psktool writes them"),
	{.name = "verify_peer",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct create_params, verify_peer),
	 .values = verify_modes,
	 .def = "\"none\"",
	 .help = "Clients' certificates: none: not asked for; request: checked if shown; require: "
		 "who shows none is refused"},
	{.name = "min_version",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct create_params, min_version),
	 .values = versions,
	 .def = "\"1.2\"",
	 .help = "Oldest version of TLS that is spoken"},
	{.name = "priority",
	 .type = RPC_STRING,
	 .offset = offsetof(struct create_params, priority),
	 .min = 1,
	 .max = PRIORITY_BYTES,
	 .help = "GnuTLS priority string in place of ours, which prefers what the processor is "
		 "fast at"},
	{.name = "allowed_names",
	 .type = RPC_STRINGS,
	 .offset = offsetof(struct create_params, allowed_names),
	 .help = "Shell patterns: only clients whose certificate's common name, alternative name "
		 "or (with '=') distinguished name matches one"},
	{.name = "kernel",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct create_params, kernel),
	 .def = "false",
	 .help = "Let the kernel make the records of TCP connections (module tls); where it does "
		 "not they are made here"},
};

/* The patterns as an array, which is the caller's; NULL: none, or *error is not 0. */
static const char **patterns_of(const json_t *list, unsigned *count, const char **error)
{
	*count = json_array_size(list);
	*error = NULL;
	if (!*count)
		return NULL;
	const char **patterns = NULL;
	if (*count > PATTERNS_MAX)
		*error = "more than 1024 patterns";
	else
		patterns = calloc(*count, sizeof(*patterns));
	if (!patterns && !*error)
		*error = "no memory";
	for (unsigned i = 0; patterns && i < *count; i++) {
		patterns[i] = json_string_value(json_array_get(list, i));
		size_t length = strlen(patterns[i]);
		if (!length || length > PATTERN_BYTES)
			*error = "a pattern has 1 to 1024 bytes";
	}
	if (*error) {
		free(patterns);
		return NULL;
	}
	return patterns;
}

struct creation {
	struct rpc_call *call;
	struct tls_credentials_config config;
	const char **patterns;
};

static void created(void *arg, struct named_credentials *named, int error, const char *why)
{
	struct creation *creation = arg;
	if (error == -EEXIST)
		rpc_param_error(creation->call, "name", error, "%s", why);
	else if (error)
		rpc_error(creation->call, error, "%s", why);
	else
		rpc_reply(creation->call, json_string(named->name));
	free(creation->patterns);
	free(creation);
}

static enum tls_verify verify_of(const char *text)
{
	if (!strcmp(text, "require"))
		return TLS_VERIFY_REQUIRE;
	return strcmp(text, "request") ? TLS_VERIFY_NONE : TLS_VERIFY_REQUEST;
}

static void create(struct rpc_call *call, const void *params)
{
	const struct create_params *p = params;
	const char *wrong;
	struct creation *creation = calloc(1, sizeof(*creation));
	if (!creation) {
		rpc_error(call, -ENOMEM, "no memory");
		return;
	}
	creation->call = call;
	creation->config = (struct tls_credentials_config){
		.endpoint = TLS_SERVER,
		.directory = p->dir,
		.ca_file = p->ca_file,
		.crl_file = p->crl_file,
		.certificate_file = p->cert_file,
		.key_file = p->key_file,
		.psk_file = p->psk_file,
		.verify_peer = verify_of(p->verify_peer),
		.min_version = !strcmp(p->min_version, "1.3") ? TLS_VERSION_1_3 : TLS_VERSION_1_2,
		.priority = p->priority,
		.kernel = p->kernel,
	};
	creation->patterns = patterns_of(p->allowed_names, &creation->config.allowed_count, &wrong);
	if (wrong) {
		free(creation);
		rpc_param_error(call, "allowed_names", -EINVAL, "%s", wrong);
		return;
	}
	creation->config.allowed_names = creation->patterns;
	named_credentials_create(p->name, &creation->config,
				 (struct named_done){created, creation});
}

/* ---- tls_reload, tls_delete ---- */

struct name_params {
	const char *name;
};

static const struct rpc_param name_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct name_params, name),
	 .required = true,
	 .min = 1,
	 .max = NAMED_NAME_MAX_BYTES,
	 .help = "As it was created"},
};

/* NULL after answering that there are none. */
static struct named_credentials *find(struct rpc_call *call, const char *name)
{
	struct named_credentials *named = named_credentials_find(name);
	if (!named)
		rpc_param_error(call, "name", -ENODEV, "there are no TLS credentials named '%s'",
				name);
	return named;
}

static void reloaded(void *arg, struct named_credentials *named, int error, const char *why)
{
	if (error)
		rpc_error(arg, error, "the credentials stay as they were: %s", why);
	else
		rpc_reply(arg, NULL);
}

static void reload(struct rpc_call *call, const void *params)
{
	struct named_credentials *named = find(call, ((const struct name_params *)params)->name);
	if (named)
		named_credentials_reload(named, (struct named_done){reloaded, call});
}

static void delete (struct rpc_call *call, const void *params)
{
	struct named_credentials *named = find(call, ((const struct name_params *)params)->name);
	if (!named)
		return;
	if (named_credentials_delete(named))
		rpc_param_error(call, "name", -EBUSY, "TLS credentials '%s' are %s", named->name,
				named->users ? "used by a listener" : "being reloaded");
	else
		rpc_reply(call, NULL);
}

/* ---- tls_get_credentials ---- */

static const struct rpc_param get_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct name_params, name),
	 .max = NAMED_NAME_MAX_BYTES,
	 .help = "Only these"},
};

static void add_time(json_t *object, const char *key, time_t time)
{
	char text[32];
	struct tm parts;
	if (!time || !gmtime_r(&time, &parts))
		return;
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
	json_object_set_new(object, key, json_string(text));
}

static json_t *describe(const struct named_credentials *named)
{
	struct tls_credentials_info info;
	tls_credentials_info(atomic_load(&named->current), &info);
	json_t *object =
		json_pack("{s:s, s:s, s:s, s:i, s:s, s:b}", "name", named->name, "endpoint",
			  endpoints[0], "type", info.psk ? "psk" : "x509", "listeners",
			  (int)named->users, "priority", info.priority, "kernel", info.kernel);
	if (info.psk) {
		json_object_set_new(object, "identities", json_integer(info.identities));
	} else {
		json_object_set_new(object, "subject", json_string(info.subject));
		add_time(object, "valid_from", info.valid_from);
		add_time(object, "valid_to", info.valid_to);
	}
	add_time(object, "loaded", named->loaded);
	return object;
}

static void get_credentials(struct rpc_call *call, const void *params)
{
	const char *name = ((const struct name_params *)params)->name;
	const struct named_credentials *named = NULL;
	if (name) {
		named = find(call, name);
		if (named)
			rpc_reply(call, json_pack("[o]", describe(named)));
		return;
	}
	json_t *list = json_array();
	for (named = named_credentials_first(); named; named = named_credentials_next(named))
		json_array_append_new(list, describe(named));
	rpc_reply(call, list);
}

static const struct rpc_method methods[] = {
	{.name = "tls_create",
	 .help = "Reads TLS credentials, certificates or pre-shared keys, for listeners.",
	 .params = create_params,
	 .param_count = COUNT_OF(create_params),
	 .params_bytes = sizeof(struct create_params),
	 .handler = create,
	 .result = "the name"},
	{.name = "tls_reload",
	 .help = "Reads the files again, for connections made from then on; if that fails, what "
		 "was there stays in force.",
	 .params = name_params,
	 .param_count = COUNT_OF(name_params),
	 .params_bytes = sizeof(struct name_params),
	 .handler = reload,
	 .result = "true"},
	{.name = "tls_delete",
	 .help = "Deletes TLS credentials that no listener uses.",
	 .params = name_params,
	 .param_count = COUNT_OF(name_params),
	 .params_bytes = sizeof(struct name_params),
	 .handler = delete,
	 .result = "true"},
	{.name = "tls_get_credentials",
	 .help = "The TLS credentials: what they are, never the keys.",
	 .params = get_params,
	 .param_count = COUNT_OF(get_params),
	 .params_bytes = sizeof(struct name_params),
	 .handler = get_credentials,
	 .result = "[{name, endpoint, type, listeners, priority, kernel, loaded, identities | "
		   "subject, "
		   "valid_from, valid_to}]"},
};

const struct rpc_table tls_rpc = {methods, COUNT_OF(methods)};
