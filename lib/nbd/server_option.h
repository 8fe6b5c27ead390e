/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server_option: what the two halves of the server's handshake share - server.c, which cuts the
 * bytes into options, and server_option.c and server_context.c, which answer them. Private to
 * lib/nbd.
 */
#ifndef POLLUX_LIB_NBD_SERVER_OPTION_H
#define POLLUX_LIB_NBD_SERVER_OPTION_H

#include "lib/nbd/server.h"

/* What to do with an option whose header is in. */
enum nbd_verdict {
	NBD_VERDICT_COLLECT, /* gather its data, then nbd_option_answer() */
	NBD_VERDICT_SKIP,    /* drop its data, then reply skip_reply */
	NBD_VERDICT_CLOSE,
};

/* A cursor over an option's data. A read past the end fails and leaves it where it was. */
struct nbd_cursor {
	const uint8_t *at;
	size_t left;
};

bool nbd_cursor_u16(struct nbd_cursor *cursor, uint16_t *value);
bool nbd_cursor_u32(struct nbd_cursor *cursor, uint32_t *value);
/* A 32-bit length and as many bytes of a string; false also where no string may be like that. */
bool nbd_cursor_string(struct nbd_cursor *cursor, const char **string, uint32_t *length);
/* Whether bytes may be a string of the protocol: not too long, no NUL. */
bool nbd_string_valid(const void *bytes, size_t length);

/* Judges hs->option and hs->length. SKIP and CLOSE have set what is to be said. */
enum nbd_verdict nbd_option_judge(struct nbd_handshake *hs);
/* Acts on the option whose data is complete. */
enum nbd_handshake_result nbd_option_answer(struct nbd_handshake *hs);

/* Replies to the option under way. */
void nbd_option_reply(struct nbd_handshake *hs, uint32_t type, size_t length);
void nbd_option_ack(struct nbd_handshake *hs);
void nbd_option_error(struct nbd_handshake *hs, uint32_t type, const char *message);
/* Notes why the session ends, and returns CLOSE. */
enum nbd_handshake_result nbd_handshake_end(struct nbd_handshake *hs, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Whether TLS could still be begun on this connection. */
bool nbd_handshake_may_start_tls(const struct nbd_handshake *hs);
/*
 * Finds an export for an option. Returns 0, or the option error to answer with its text. `hide`:
 * TLS-only and unknown exports are told apart by no one in the clear (INFO, GO: TLS_REQD).
 */
uint32_t nbd_option_find(struct nbd_handshake *hs, const char *name, uint32_t length, bool hide,
			 struct nbd_export_info *info, const char **message);

/* LIST_META_CONTEXT and SET_META_CONTEXT. */
void nbd_option_meta_context(struct nbd_handshake *hs, bool set);
/* Nothing is selected any more. */
void nbd_contexts_forget(struct nbd_handshake *hs);
/* Whether contexts were selected for the export of this name. */
bool nbd_contexts_selected(const struct nbd_handshake *hs, const char *name, uint32_t length);
/* Transmission begins with this export: keeps what was selected for it, forgets all else. */
void nbd_contexts_settle(struct nbd_handshake *hs, const char *name, uint32_t length,
			 const struct nbd_export_info *info);

#endif
