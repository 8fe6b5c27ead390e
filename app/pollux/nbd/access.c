/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * access: who is let in at a listener, and to which exports. What changes is atomic: connections
 * come and go on any core.
 */
#include "app/pollux/nbd/access.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/clock.h"
#include "lib/base/compiler.h"
#include "lib/base/log.h"
#include "lib/base/why.h"
#include "reactor/control.h"

enum { TELL_EVERY_US = 1000000 };

static void access_free(struct access *access)
{
	for (unsigned i = 0; i < access->export_count; i++)
		free(access->exports[i]);
	free(access->exports);
	free(access->default_export);
	free(access->allow);
	free(access->uri);
	free(access);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int copy_exports(struct access *access, const struct access_options *options)
{
	access->exports = calloc(options->export_count + 1, sizeof(*access->exports));
	if (!access->exports)
		return -ENOMEM;
	for (unsigned i = 0; i < options->export_count; i++) {
		access->exports[i] = strdup(options->exports[i]);
		if (!access->exports[i])
			return -ENOMEM;
		access->export_count++;
	}
	qsort(access->exports, access->export_count, sizeof(*access->exports), by_name);
	return 0;
}

static bool is_listed(const struct access *access, const char *name)
{
	return !access->exports || bsearch(&name, access->exports, access->export_count,
					   sizeof(*access->exports), by_name);
}

static int fill(struct access *access, const struct access_options *options, const char **parameter,
		char *why, size_t why_bytes)
{
	unsigned wrong;
	int error =
		network_list_parse(options->allow, options->allow_count, &access->allow, &wrong);
	if (error == -EINVAL) {
		*parameter = "allow";
		return why_refuse(why, why_bytes, error,
				  "'%.64s' is no network: ADDRESS/BITS, or an address",
				  options->allow[wrong]);
	}
	if (!error && options->exports)
		error = copy_exports(access, options);
	if (error)
		return error;
	if (options->default_export) {
		access->default_export = strdup(options->default_export);
		if (!access->default_export)
			return -ENOMEM;
		if (!is_listed(access, access->default_export)) {
			*parameter = "default_export";
			return why_refuse(why, why_bytes, -EINVAL,
					  "'%.64s' is not among the listener's exports",
					  access->default_export);
		}
	}
	access->max_connections = options->max_connections;
	access->hide_no_zeroes = options->hide_no_zeroes;
	return 0;
}

int access_create(const char *uri, const struct access_options *options, struct access **access,
		  const char **parameter, char *why, size_t why_bytes)
{
	struct access *made = calloc(1, sizeof(*made));
	int error = -ENOMEM;
	*parameter = "uri";
	snprintf(why, why_bytes, "no memory for a listener");
	if (made && (made->uri = strdup(uri)))
		error = fill(made, options, parameter, why, why_bytes);
	if (error) {
		if (made)
			access_free(made);
		return error;
	}
	made->tls = options->tls;
	made->credentials = options->tls == LISTENER_TLS_OFF ? NULL : options->credentials;
	atomic_store(&made->holders, 1);
	*access = made;
	return 0;
}

void access_put(struct access *access)
{
	if (atomic_fetch_sub(&access->holders, 1) == 1)
		access_free(access);
}

/* ---- Coming and going ---- */

static void log_line(void *arg)
{
	log_warning("nbd", "%s", (const char *)arg);
	free(arg);
}

/* One line a second and listener at most: whoever is refused may come again at once. */
static void tell(struct access *access, enum access_refusal why, const char *peer)
{
	uint64_t refused = atomic_fetch_add(&access->refused[why], 1) + 1;
	uint64_t now = clock_ticks(), before = atomic_load(&access->told_at);
	char *line;
	if ((before && now - before < clock_us_to_ticks(TELL_EVERY_US)) ||
	    !atomic_compare_exchange_strong(&access->told_at, &before, now))
		return;
	int bytes;
	if (why == ACCESS_REFUSED_ADDRESS)
		bytes = asprintf(&line, "%s: %s is not allowed here (%lu refused so far)",
				 access->uri, peer, (unsigned long)refused);
	else
		bytes = asprintf(
			&line, "%s: %s is refused: %u connections are open (%lu refused so far)",
			access->uri, peer, access->max_connections, (unsigned long)refused);
	if (bytes > 0)
		control_send(log_line, line);
}

bool access_enter(struct access *access, const struct network_address *address, const char *peer)
{
	if (!network_list_admits(access->allow, address)) {
		tell(access, ACCESS_REFUSED_ADDRESS, peer);
		return false;
	}
	uint32_t before = atomic_fetch_add(&access->connections, 1);
	if (access->max_connections && before >= access->max_connections) {
		atomic_fetch_sub(&access->connections, 1);
		tell(access, ACCESS_REFUSED_LIMIT, peer);
		return false;
	}
	atomic_fetch_add(&access->holders, 1);
	return true;
}

static void tell_idle(void *arg)
{
	struct access *access = arg;
	access->idle();
	access_put(access);
}

void access_leave(struct access *access)
{
	if (atomic_fetch_sub(&access->connections, 1) == 1 && access->idle)
		control_send(tell_idle, access);
	else
		access_put(access);
}

/* ---- Exports ---- */

bool access_shows(const struct access *access, const char *name)
{
	/* where "" means another export, the one of that name can not be asked for */
	if (!name[0] && access->default_export && access->default_export[0])
		return false;
	return is_listed(access, name);
}

bool access_resolve(const struct access *access, const char **name, size_t *length)
{
	if (!*length && access->default_export) {
		*name = access->default_export;
		*length = strlen(access->default_export);
		return true; /* among the exports: access_create() saw to it */
	}
	if (!access->exports)
		return true;
	unsigned low = 0, high = access->export_count;
	while (low < high) {
		unsigned middle = (low + high) / 2;
		const char *at = access->exports[middle];
		int order = strncmp(at, *name, *length);
		if (!order && !at[*length])
			return true;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}
