/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server_context: the options LIST_META_CONTEXT and SET_META_CONTEXT, and what was selected until
 * transmission begins. One owner core.
 *
 * What a context's name means is the export's matter; here a query either is a context's name or,
 * with an empty leaf, stands for a whole namespace when contexts are listed. Other queries match
 * nothing, and are no error: the document wants unknown namespaces ignored.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/nbd/server_option.h"

/* A syntactically sound option. */
struct context_ask {
	const char *name; /* of the export */
	uint32_t length;
	uint32_t queries;
	struct nbd_cursor list; /* `queries` strings, all of them sound */
};

void nbd_contexts_forget(struct nbd_handshake *hs)
{
	free(hs->context_export);
	hs->context_export = NULL;
	free(hs->context_names);
	hs->context_names = NULL;
	hs->context_export_length = 0;
	hs->context_count = 0;
}

bool nbd_contexts_selected(const struct nbd_handshake *hs, const char *name, uint32_t length)
{
	return hs->context_count && hs->context_export_length == length &&
	       (!length || !memcmp(hs->context_export, name, length));
}

/* Returns 0 or the option error. */
static uint32_t parse(struct nbd_handshake *hs, struct context_ask *ask, const char **message)
{
	struct nbd_cursor cursor = {hs->data, hs->length};
	const char *query;
	uint32_t length;

	*message = "the option's data is malformed";
	if (!nbd_cursor_string(&cursor, &ask->name, &ask->length) ||
	    !nbd_cursor_u32(&cursor, &ask->queries) || ask->queries > cursor.left / sizeof(length))
		return NBD_REP_ERR_INVALID;
	ask->list = cursor;
	for (uint32_t i = 0; i < ask->queries; i++)
		if (!nbd_cursor_string(&cursor, &query, &length))
			return NBD_REP_ERR_INVALID;
	if (cursor.left)
		return NBD_REP_ERR_INVALID;
	if (ask->queries > NBD_MAX_QUERIES) {
		*message = "too many queries";
		return NBD_REP_ERR_TOO_BIG;
	}
	return 0;
}

static const char *context_at(struct nbd_handshake *hs, const struct nbd_export_info *info,
			      unsigned index)
{
	return hs->ops->context ? hs->ops->context(hs->arg, info, index) : NULL;
}

/* Whether a query stands for a context, as a wildcard too where `wild`. */
static bool matches(const char *query, uint32_t length, const char *context, bool wild)
{
	size_t whole = strlen(context);

	if (length == whole)
		return !memcmp(query, context, whole);
	return wild && length && length < whole &&
	       memchr(query, ':', length) == query + length - 1 && !memcmp(query, context, length);
}

static void send_context(struct nbd_handshake *hs, uint32_t id, const char *name)
{
	size_t length = strlen(name);
	be32 wire = be32_of(id);

	nbd_option_reply(hs, NBD_REP_META_CONTEXT, sizeof(wire) + length);
	hs->ops->send(hs->arg, &wire, sizeof(wire));
	hs->ops->send(hs->arg, name, length);
}

static void list(struct nbd_handshake *hs, const struct context_ask *ask,
		 const struct nbd_export_info *info)
{
	const char *context, *query;
	uint32_t length;

	for (unsigned i = 0; (context = context_at(hs, info, i)); i++) {
		struct nbd_cursor cursor = ask->list;
		bool wanted = !ask->queries;

		for (uint32_t q = 0; q < ask->queries && !wanted; q++) {
			nbd_cursor_string(&cursor, &query, &length);
			wanted = matches(query, length, context, true);
		}
		if (wanted)
			send_context(hs, 0, context);
	}
	nbd_option_ack(hs);
}

static bool is_selected(const struct nbd_handshake *hs, unsigned index)
{
	for (unsigned i = 0; i < hs->context_count; i++)
		if (hs->contexts[i].index == index)
			return true;
	return false;
}

/* Adds what one query names to hs->contexts. Returns false if they are too many. */
static bool select_query(struct nbd_handshake *hs, const struct nbd_export_info *info,
			 const char *query, uint32_t length)
{
	const char *context;

	for (unsigned i = 0; (context = context_at(hs, info, i)); i++) {
		if (!matches(query, length, context, false) || is_selected(hs, i))
			continue;
		if (hs->context_count == NBD_MAX_CONTEXTS)
			return false;
		hs->contexts[hs->context_count] = (struct nbd_context){
			.name = context,
			.index = i,
			.id = hs->context_count + 1,
		};
		hs->context_count++;
	}
	return true;
}

/* Copies the export's name and those of the contexts; false: no memory. */
static bool remember(struct nbd_handshake *hs, const struct context_ask *ask)
{
	size_t total = 0;
	char *at;

	for (unsigned i = 0; i < hs->context_count; i++)
		total += strlen(hs->contexts[i].name) + 1;
	hs->context_export = malloc(ask->length + 1);
	hs->context_names = malloc(total + 1);
	if (!hs->context_export || !hs->context_names)
		return false;
	memcpy(hs->context_export, ask->name, ask->length);
	hs->context_export_length = ask->length;
	at = hs->context_names;
	for (unsigned i = 0; i < hs->context_count; i++)
		at = stpcpy(at, hs->contexts[i].name) + 1;
	return true;
}

static void set(struct nbd_handshake *hs, const struct context_ask *ask,
		const struct nbd_export_info *info)
{
	struct nbd_cursor cursor = ask->list;
	const char *query;
	uint32_t length;

	for (uint32_t q = 0; q < ask->queries; q++) {
		nbd_cursor_string(&cursor, &query, &length);
		if (!select_query(hs, info, query, length)) {
			nbd_contexts_forget(hs);
			nbd_option_error(hs, NBD_REP_ERR_TOO_BIG, "too many metadata contexts");
			return;
		}
	}
	if (!remember(hs, ask)) {
		nbd_contexts_forget(hs);
		nbd_option_error(hs, NBD_REP_ERR_PLATFORM, "no memory");
		return;
	}
	for (unsigned i = 0; i < hs->context_count; i++)
		send_context(hs, hs->contexts[i].id, hs->contexts[i].name);
	nbd_option_ack(hs);
}

void nbd_option_meta_context(struct nbd_handshake *hs, bool setting)
{
	struct nbd_export_info info;
	struct context_ask ask;
	const char *message;
	uint32_t error = parse(hs, &ask, &message);

	if (!error)
		error = nbd_option_find(hs, ask.name, ask.length, false, &info, &message);
	if (error)
		nbd_option_error(hs, error, message);
	else if (setting)
		set(hs, &ask, &info);
	else
		list(hs, &ask, &info);
}

/* Finds a context again by its name. */
static bool relocate(struct nbd_handshake *hs, const struct nbd_export_info *info, const char *name,
		     struct nbd_context *context)
{
	const char *found;

	for (unsigned i = 0; (found = context_at(hs, info, i)); i++) {
		if (!strcmp(found, name)) {
			context->name = found;
			context->index = i;
			return true;
		}
	}
	return false;
}

void nbd_contexts_settle(struct nbd_handshake *hs, const char *name, uint32_t length,
			 const struct nbd_export_info *info)
{
	const char *at = hs->context_names;

	if (!nbd_contexts_selected(hs, name, length)) {
		nbd_contexts_forget(hs);
		return;
	}
	/*
	 * The export may have been replaced since by another of the same name. Where it lacks one
	 * of the contexts, a reply with one chunk for each is not possible: then there are none.
	 */
	for (unsigned i = 0; i < hs->context_count; i++) {
		if (!relocate(hs, info, at, &hs->contexts[i])) {
			nbd_contexts_forget(hs);
			return;
		}
		at += strlen(at) + 1;
	}
}
