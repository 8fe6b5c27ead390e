/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * named: the table of TLS credentials. The control thread keeps it; a worker reads files. A reload
 * puts new credentials in the place of the old ones, which are let go of a round of the reactors
 * later, when none can be about to take a reference.
 */
#include "app/pollux/tls/named.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/log.h"
#include "reactor/control.h"

static TAILQ_HEAD(named_list, named_credentials) table = TAILQ_HEAD_INITIALIZER(table);

/* Files being read: by a worker between control_work() and its answer. */
struct loading {
	struct named_credentials *named; /* to be reloaded; NULL: to be made */
	const char *name;
	const struct tls_credentials_config *config;
	struct tls_credentials *old, *made;
	struct tls_report report;
	int error;
	struct named_done done;
};

static void load(void *arg)
{
	struct loading *loading = arg;
	if (loading->named)
		loading->error =
			tls_credentials_reload(loading->old, &loading->made, &loading->report);
	else
		loading->error =
			tls_credentials_create(loading->config, &loading->made, &loading->report);
}

static void finish(struct loading *loading, struct named_credentials *named)
{
	const char *why = loading->error ? loading->report.error : NULL;
	if (loading->report.warnings[0])
		log_warning("tls", "credentials '%s': %s", loading->name, loading->report.warnings);
	loading->done.run(loading->done.arg, named, loading->error, why);
	free(loading);
}

static void refuse(struct named_done done, int error, const char *why)
{
	done.run(done.arg, NULL, error, why);
}

/* ---- Creating ---- */

static struct named_credentials *make(const struct loading *loading)
{
	struct named_credentials *named = calloc(1, sizeof(*named));
	if (!named)
		return NULL;
	named->name = strdup(loading->name);
	if (!named->name) {
		free(named);
		return NULL;
	}
	named->endpoint = loading->config->endpoint;
	atomic_init(&named->current, loading->made);
	named->loaded = time(NULL);
	return named;
}

static void created(void *arg)
{
	struct loading *loading = arg;
	struct named_credentials *named = NULL;
	if (!loading->error && named_credentials_find(loading->name)) {
		loading->error = -EEXIST;
		snprintf(loading->report.error, sizeof(loading->report.error),
			 "TLS credentials named '%s' exist", loading->name);
	}
	if (!loading->error) {
		named = make(loading);
		if (named) {
			TAILQ_INSERT_TAIL(&table, named, link);
		} else {
			loading->error = -ENOMEM;
			strcpy(loading->report.error, "no memory for TLS credentials");
		}
	}
	if (loading->error)
		tls_credentials_put(loading->made);
	finish(loading, named);
}

void named_credentials_create(const char *name, const struct tls_credentials_config *config,
			      struct named_done done)
{
	char why[NAMED_NAME_MAX_BYTES + 64];
	if (named_credentials_find(name)) {
		snprintf(why, sizeof(why), "TLS credentials named '%s' exist", name);
		refuse(done, -EEXIST, why);
		return;
	}
	struct loading *loading = calloc(1, sizeof(*loading));
	if (!loading) {
		refuse(done, -ENOMEM, "no memory for TLS credentials");
		return;
	}
	loading->name = name;
	loading->config = config;
	loading->done = done;
	control_work(load, created, loading);
}

/* ---- Reloading ---- */

static void nothing(void *arg)
{
}

static void let_go(void *arg)
{
	tls_credentials_put(arg);
}

static void reloaded(void *arg)
{
	struct loading *loading = arg;
	struct named_credentials *named = loading->named;
	named->reloading = false;
	if (loading->error) {
		log_warning("tls", "credentials '%s' stay as they were: %s", named->name,
			    loading->report.error);
		tls_credentials_put(loading->old);
	} else {
		/* our own reference stands for the table's: both are old now */
		tls_credentials_put(loading->old);
		atomic_store(&named->current, loading->made);
		named->loaded = time(NULL);
		control_for_each_reactor(0, nothing, let_go, loading->old);
		log_notice("tls", "credentials '%s' are reloaded", named->name);
	}
	finish(loading, named);
}

void named_credentials_reload(struct named_credentials *named, struct named_done done)
{
	if (named->reloading) {
		refuse(done, -EBUSY, "they are being reloaded already");
		return;
	}
	struct loading *loading = calloc(1, sizeof(*loading));
	if (!loading) {
		refuse(done, -ENOMEM, "no memory for TLS credentials");
		return;
	}
	named->reloading = true;
	loading->named = named;
	loading->name = named->name;
	loading->old = tls_credentials_get(atomic_load(&named->current));
	loading->done = done;
	control_work(load, reloaded, loading);
}

/* ---- Deleting ---- */

static void remove_named(struct named_credentials *named)
{
	TAILQ_REMOVE(&table, named, link);
	tls_credentials_put(atomic_load(&named->current));
	free(named->name);
	free(named);
}

int named_credentials_delete(struct named_credentials *named)
{
	if (named->users || named->reloading)
		return -EBUSY;
	remove_named(named);
	return 0;
}

void named_credentials_delete_all(void)
{
	while (!TAILQ_EMPTY(&table))
		remove_named(TAILQ_FIRST(&table));
}

/* ---- Looking ---- */

struct named_credentials *named_credentials_find(const char *name)
{
	struct named_credentials *named;
	TAILQ_FOREACH (named, &table, link) {
		if (!strcmp(named->name, name))
			return named;
	}
	return NULL;
}

struct named_credentials *named_credentials_first(void)
{
	return TAILQ_FIRST(&table);
}

struct named_credentials *named_credentials_next(const struct named_credentials *named)
{
	return TAILQ_NEXT(named, link);
}

struct tls_credentials *named_credentials_take(struct named_credentials *named)
{
	return tls_credentials_get(atomic_load_explicit(&named->current, memory_order_acquire));
}
