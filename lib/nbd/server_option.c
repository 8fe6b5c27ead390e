/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server_option: the server's answers to the options of the handshake, except for metadata contexts
 * (server_context.c). Options that are refused for what they are, and not for their data, never
 * have their data kept: nbd_option_judge() knows from the header. One owner core.
 */
#include "lib/nbd/server_option.h"

#include <errno.h>
#include <string.h>

#include "lib/base/compiler.h"

enum {
	EXPORT_NAME_ZEROES_BYTES = 124,
	/* what a client assumes that was told no block sizes */
	DEFAULT_MIN_BLOCK_BYTES = 1,
	DEFAULT_MAX_PAYLOAD_BYTES = 32 << 20,
};

bool nbd_string_valid(const void *bytes, size_t length)
{
	return length <= NBD_MAX_STRING_BYTES && (!length || !memchr(bytes, 0, length));
}

bool nbd_cursor_u16(struct nbd_cursor *cursor, uint16_t *value)
{
	be16 wire;

	if (cursor->left < sizeof(wire))
		return false;
	memcpy(&wire, cursor->at, sizeof(wire));
	*value = be16_get(wire);
	cursor->at += sizeof(wire);
	cursor->left -= sizeof(wire);
	return true;
}

bool nbd_cursor_u32(struct nbd_cursor *cursor, uint32_t *value)
{
	be32 wire;

	if (cursor->left < sizeof(wire))
		return false;
	memcpy(&wire, cursor->at, sizeof(wire));
	*value = be32_get(wire);
	cursor->at += sizeof(wire);
	cursor->left -= sizeof(wire);
	return true;
}

bool nbd_cursor_string(struct nbd_cursor *cursor, const char **string, uint32_t *length)
{
	if (!nbd_cursor_u32(cursor, length) || *length > cursor->left ||
	    !nbd_string_valid(cursor->at, *length))
		return false;
	*string = (const char *)cursor->at;
	cursor->at += *length;
	cursor->left -= *length;
	return true;
}

void nbd_option_reply(struct nbd_handshake *hs, uint32_t type, size_t length)
{
	struct nbd_option_reply_header header = {
		.magic = be64_of(NBD_MAGIC_OPTION_REPLY),
		.option = be32_of(hs->option),
		.type = be32_of(type),
		.length = be32_of(length),
	};

	hs->ops->send(hs->arg, &header, sizeof(header));
}

void nbd_option_ack(struct nbd_handshake *hs)
{
	nbd_option_reply(hs, NBD_REP_ACK, 0);
}

void nbd_option_error(struct nbd_handshake *hs, uint32_t type, const char *message)
{
	size_t length = strlen(message);

	nbd_option_reply(hs, type, length);
	hs->ops->send(hs->arg, message, length);
}

bool nbd_handshake_may_start_tls(const struct nbd_handshake *hs)
{
	return hs->fixed && !hs->tls && (hs->config.tls_offered || hs->config.tls_required);
}

static enum nbd_verdict refuse(struct nbd_handshake *hs, uint32_t error, const char *message)
{
	hs->skip_reply = error;
	hs->skip_message = message;
	return NBD_VERDICT_SKIP;
}

static enum nbd_verdict close_for(struct nbd_handshake *hs, const char *why)
{
	nbd_handshake_end(hs, "%s", why);
	return NBD_VERDICT_CLOSE;
}

/* EXPORT_NAME can not be answered with an error: what is not granted ends the session. */
static enum nbd_verdict judge_export_name(struct nbd_handshake *hs)
{
	if (hs->config.tls_required && !hs->tls) {
		hs->tls_missed = true;
		return close_for(hs, "EXPORT_NAME in the clear, but TLS is required");
	}
	if (hs->mode == NBD_MODE_EXTENDED)
		return close_for(hs, "EXPORT_NAME after extended headers");
	if (hs->length > NBD_MAX_STRING_BYTES)
		return close_for(hs, "EXPORT_NAME with too long a name");
	if (hs->shutting_down)
		return close_for(hs, "EXPORT_NAME while shutting down");
	return NBD_VERDICT_COLLECT;
}

/* Whether the option is one that this server and configuration know. */
static bool option_offered(const struct nbd_handshake *hs)
{
	switch (hs->option) {
	case NBD_OPT_LIST:
	case NBD_OPT_STARTTLS:
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		return true;
	case NBD_OPT_STRUCTURED_REPLY:
		return hs->config.structured;
	case NBD_OPT_EXTENDED_HEADERS:
		return hs->config.extended;
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		return hs->config.structured || hs->config.extended;
	default:
		return false;
	}
}

/* The options that carry no data. */
static enum nbd_verdict judge_bare(struct nbd_handshake *hs)
{
	if (hs->option == NBD_OPT_STARTTLS && hs->tls)
		return refuse(hs, NBD_REP_ERR_INVALID, "TLS is in use already");
	if (hs->option == NBD_OPT_STARTTLS && !nbd_handshake_may_start_tls(hs))
		return refuse(hs, NBD_REP_ERR_POLICY, "this server offers no TLS here");
	if (hs->length)
		return refuse(hs, NBD_REP_ERR_INVALID, "this option carries no data");
	if (hs->option == NBD_OPT_STRUCTURED_REPLY && hs->mode == NBD_MODE_EXTENDED)
		return refuse(hs, NBD_REP_ERR_EXT_HEADER_REQD,
			      "extended headers were negotiated and take precedence");
	return NBD_VERDICT_COLLECT;
}

enum nbd_verdict nbd_option_judge(struct nbd_handshake *hs)
{
	if (hs->option != NBD_OPT_GO)
		hs->told.valid = false;
	/* whatever becomes of it, this option replaces what was selected before */
	if (hs->option == NBD_OPT_SET_META_CONTEXT)
		nbd_contexts_forget(hs);
	if (hs->option == NBD_OPT_ABORT)
		return NBD_VERDICT_SKIP;
	if (hs->option == NBD_OPT_EXPORT_NAME)
		return judge_export_name(hs);
	if (!hs->fixed)
		return close_for(hs, "an option other than EXPORT_NAME without fixed newstyle");
	if (hs->config.tls_required && !hs->tls && hs->option != NBD_OPT_STARTTLS) {
		hs->tls_missed = true;
		return refuse(hs, NBD_REP_ERR_TLS_REQD, "this server requires TLS");
	}
	if (hs->shutting_down)
		return refuse(hs, NBD_REP_ERR_SHUTDOWN, "the server is shutting down");
	if (!option_offered(hs))
		return refuse(hs, NBD_REP_ERR_UNSUP, "this server does not know the option");
	switch (hs->option) {
	case NBD_OPT_LIST:
	case NBD_OPT_STARTTLS:
	case NBD_OPT_STRUCTURED_REPLY:
	case NBD_OPT_EXTENDED_HEADERS:
		return judge_bare(hs);
	default:
		break;
	}
	if (hs->length > NBD_MAX_OPTION_BYTES)
		return refuse(hs, NBD_REP_ERR_TOO_BIG, "the option's data is too long");
	if ((hs->option == NBD_OPT_LIST_META_CONTEXT || hs->option == NBD_OPT_SET_META_CONTEXT) &&
	    hs->mode == NBD_MODE_SIMPLE)
		return refuse(hs, NBD_REP_ERR_INVALID,
			      "metadata contexts need structured replies or extended headers");
	return NBD_VERDICT_COLLECT;
}

/* The option error for what ops->find or ops->list returned. */
static uint32_t error_of_find(int rc, const char **message)
{
	switch (rc) {
	case -ENOENT:
		*message = "there is no export of this name";
		return NBD_REP_ERR_UNKNOWN;
	case -EMFILE:
		*message = "the export has as many connections as it may";
		return NBD_REP_ERR_POLICY;
	case -ESHUTDOWN:
		*message = "the server is shutting down";
		return NBD_REP_ERR_SHUTDOWN;
	case -EACCES:
		*message = "access to this export is denied";
		return NBD_REP_ERR_POLICY;
	default:
		*message = "the export cannot be used now";
		return NBD_REP_ERR_PLATFORM;
	}
}

/* Whether there are exports that a client in the clear shall learn nothing of. */
static bool hides_exports(struct nbd_handshake *hs)
{
	struct nbd_export_info info;

	for (unsigned i = 0; hs->ops->list(hs->arg, i, &info) == 0; i++)
		if (info.needs_tls)
			return true;
	return false;
}

uint32_t nbd_option_find(struct nbd_handshake *hs, const char *name, uint32_t length, bool hide,
			 struct nbd_export_info *info, const char **message)
{
	bool secret;
	int rc;

	memset(info, 0, sizeof(*info));
	rc = hs->ops->find(hs->arg, name, length, false, info);
	secret = !rc && info->needs_tls && !hs->tls;
	if (!rc && !secret)
		return 0;
	hs->tls_missed |= secret && nbd_handshake_may_start_tls(hs);
	hide = hide && nbd_handshake_may_start_tls(hs);
	if (hide && (secret || (rc == -ENOENT && hides_exports(hs)))) {
		*message = "TLS is required before anything is told about this export";
		return NBD_REP_ERR_TLS_REQD;
	}
	return error_of_find(secret ? -ENOENT : rc, message);
}

/* The transmission flags for this client. */
static uint16_t flags_for(const struct nbd_handshake *hs, const char *name, uint32_t length,
			  const struct nbd_export_info *info)
{
	uint16_t flags = info->flags | NBD_FLAG_HAS_FLAGS;

	flags &= ~(NBD_FLAG_SEND_DF | NBD_FLAG_BLOCK_STATUS_PAYLOAD);
	if (hs->mode != NBD_MODE_SIMPLE)
		flags |= NBD_FLAG_SEND_DF;
	if (hs->mode == NBD_MODE_EXTENDED && nbd_contexts_selected(hs, name, length))
		flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
	return flags;
}

static void answer_list(struct nbd_handshake *hs)
{
	struct nbd_export_info info = {0};
	const char *message;
	unsigned i;
	int rc;

	for (i = 0; (rc = hs->ops->list(hs->arg, i, &info)) == 0; i++) {
		size_t name = strlen(info.name);
		size_t description = info.description ? strlen(info.description) : 0;
		be32 length = be32_of(name);

		if (!info.needs_tls || hs->tls) {
			nbd_option_reply(hs, NBD_REP_SERVER, sizeof(length) + name + description);
			hs->ops->send(hs->arg, &length, sizeof(length));
			hs->ops->send(hs->arg, info.name, name);
			if (description)
				hs->ops->send(hs->arg, info.description, description);
		}
		memset(&info, 0, sizeof(info));
	}
	if (rc == -ENOENT) {
		nbd_option_ack(hs);
		return;
	}
	uint32_t error = error_of_find(rc, &message);

	nbd_option_error(hs, error,
			 error == NBD_REP_ERR_POLICY ? "listing exports is not allowed" : message);
}

/* What INFO and GO ask for. */
struct info_request {
	const char *name;
	uint32_t length;
	bool want_name, want_description, want_block_size;
};

static bool parse_info(struct nbd_handshake *hs, struct info_request *ask)
{
	struct nbd_cursor cursor = {hs->data, hs->length};
	uint16_t count, info;

	memset(ask, 0, sizeof(*ask));
	if (!nbd_cursor_string(&cursor, &ask->name, &ask->length) ||
	    !nbd_cursor_u16(&cursor, &count) || cursor.left != count * sizeof(info))
		return false;
	while (nbd_cursor_u16(&cursor, &info)) {
		ask->want_name |= info == NBD_INFO_NAME;
		ask->want_description |= info == NBD_INFO_DESCRIPTION;
		ask->want_block_size |= info == NBD_INFO_BLOCK_SIZE;
	}
	return true;
}

static void send_info_string(struct nbd_handshake *hs, uint16_t type, const char *string)
{
	size_t length = strlen(string);
	be16 wire = be16_of(type);

	nbd_option_reply(hs, NBD_REP_INFO, sizeof(wire) + length);
	hs->ops->send(hs->arg, &wire, sizeof(wire));
	hs->ops->send(hs->arg, string, length);
}

static void send_block_size(struct nbd_handshake *hs, const struct nbd_export_info *info)
{
	struct NBD_PACKED {
		be16 type;
		be32 min_block, preferred_block, max_payload;
	} wire = {
		.type = be16_of(NBD_INFO_BLOCK_SIZE),
		.min_block = be32_of(info->min_block),
		.preferred_block = be32_of(info->preferred_block),
		.max_payload = be32_of(info->max_payload),
	};

	nbd_option_reply(hs, NBD_REP_INFO, sizeof(wire));
	hs->ops->send(hs->arg, &wire, sizeof(wire));
}

static void send_infos(struct nbd_handshake *hs, const struct info_request *ask,
		       const struct nbd_export_info *info)
{
	struct NBD_PACKED {
		be16 type;
		be64 size;
		be16 flags;
	} wire = {
		.type = be16_of(NBD_INFO_EXPORT),
		.size = be64_of(info->size),
		.flags = be16_of(info->flags),
	};

	nbd_option_reply(hs, NBD_REP_INFO, sizeof(wire));
	hs->ops->send(hs->arg, &wire, sizeof(wire));
	if (ask->want_name)
		send_info_string(hs, NBD_INFO_NAME, info->name);
	if (ask->want_description && info->description)
		send_info_string(hs, NBD_INFO_DESCRIPTION, info->description);
	/* a client may heed sizes that it did not ask for; those it assumes anyway are no news */
	if (ask->want_block_size || info->min_block > DEFAULT_MIN_BLOCK_BYTES ||
	    info->max_payload < DEFAULT_MAX_PAYLOAD_BYTES)
		send_block_size(hs, info);
}

static uint64_t digest_of(const uint8_t *bytes, size_t count)
{
	uint64_t digest = 0xcbf29ce484222325;

	for (size_t i = 0; i < count; i++)
		digest = (digest ^ bytes[i]) * 0x100000001b3;
	return digest;
}

/*
 * INFO's answer is kept, and GO's made the same: a client whose export was resized in between is
 * bounded by what it was told, as if it had been in transmission already. If the flags differ too,
 * it is another export.
 */
static void tell_the_same(struct nbd_handshake *hs, struct nbd_export_info *info)
{
	uint64_t digest = digest_of(hs->data, hs->length);

	if (hs->option == NBD_OPT_INFO)
		hs->told = (struct nbd_told){digest, info->size, info->flags, true};
	else if (hs->told.valid && hs->told.digest == digest && hs->told.flags == info->flags)
		info->size = hs->told.size;
}

/* Transmission begins. */
static enum nbd_handshake_result enter(struct nbd_handshake *hs, const char *name, uint32_t length,
				       const struct nbd_export_info *info)
{
	nbd_contexts_settle(hs, name, length, info);
	hs->selected = *info;
	return NBD_HANDSHAKE_TRANSMIT;
}

static enum nbd_handshake_result answer_info(struct nbd_handshake *hs)
{
	struct nbd_export_info info;
	struct info_request ask;
	const char *message;
	uint32_t error;
	int rc;

	if (!parse_info(hs, &ask)) {
		nbd_option_error(hs, NBD_REP_ERR_INVALID, "the option's data is malformed");
		return NBD_HANDSHAKE_MORE;
	}
	error = nbd_option_find(hs, ask.name, ask.length, true, &info, &message);
	if (!error && info.needs_block_size && !ask.want_block_size) {
		send_block_size(hs, &info);
		error = NBD_REP_ERR_BLOCK_SIZE_REQD;
		message = "this export is for clients that ask for its block sizes";
	}
	if (!error && hs->option == NBD_OPT_GO) {
		/* only now may the owner count the client in: nothing of ours can fail any more */
		rc = hs->ops->find(hs->arg, ask.name, ask.length, true, &info);
		if (rc)
			error = error_of_find(rc, &message);
	}
	if (error) {
		hs->told.valid = false;
		nbd_option_error(hs, error, message);
		return NBD_HANDSHAKE_MORE;
	}
	info.flags = flags_for(hs, ask.name, ask.length, &info);
	tell_the_same(hs, &info);
	send_infos(hs, &ask, &info);
	nbd_option_ack(hs);
	if (hs->option == NBD_OPT_INFO)
		return NBD_HANDSHAKE_MORE;
	hs->asked_block_size = ask.want_block_size;
	return enter(hs, ask.name, ask.length, &info);
}

static enum nbd_handshake_result answer_export_name(struct nbd_handshake *hs)
{
	static const uint8_t zeroes[EXPORT_NAME_ZEROES_BYTES];
	const char *name = hs->length ? (const char *)hs->data : "", *message;
	struct nbd_export_info info;
	struct NBD_PACKED {
		be64 size;
		be16 flags;
	} wire;
	int rc;

	if (!nbd_string_valid(name, hs->length))
		return nbd_handshake_end(hs, "EXPORT_NAME with a NUL in the name");
	if (nbd_option_find(hs, name, hs->length, false, &info, &message))
		return nbd_handshake_end(hs, "EXPORT_NAME: %s", message);
	if (info.needs_block_size)
		return nbd_handshake_end(hs, "EXPORT_NAME of an export that needs block sizes");
	rc = hs->ops->find(hs->arg, name, hs->length, true, &info);
	if (rc) {
		error_of_find(rc, &message);
		return nbd_handshake_end(hs, "EXPORT_NAME: %s", message);
	}
	info.flags = flags_for(hs, name, hs->length, &info);
	wire.size = be64_of(info.size);
	wire.flags = be16_of(info.flags);
	hs->ops->send(hs->arg, &wire, sizeof(wire));
	if (!hs->no_zeroes)
		hs->ops->send(hs->arg, zeroes, sizeof(zeroes));
	return enter(hs, name, hs->length, &info);
}

enum nbd_handshake_result nbd_option_answer(struct nbd_handshake *hs)
{
	switch (hs->option) {
	case NBD_OPT_EXPORT_NAME:
		return answer_export_name(hs);
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		return answer_info(hs);
	case NBD_OPT_LIST:
		answer_list(hs);
		break;
	case NBD_OPT_STARTTLS:
		nbd_option_ack(hs);
		return NBD_HANDSHAKE_STARTTLS;
	case NBD_OPT_STRUCTURED_REPLY:
		hs->mode = NBD_MODE_STRUCTURED;
		nbd_option_ack(hs);
		break;
	case NBD_OPT_EXTENDED_HEADERS:
		hs->mode = NBD_MODE_EXTENDED;
		nbd_option_ack(hs);
		break;
	default: /* nbd_option_judge() lets nothing else through */
		nbd_option_meta_context(hs, hs->option == NBD_OPT_SET_META_CONTEXT);
		break;
	}
	return NBD_HANDSHAKE_MORE;
}
