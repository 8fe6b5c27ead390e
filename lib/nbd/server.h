/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server: the server's side of the handshake as a state machine - bytes in, replies and actions
 * out. Pure: no socket, no clock; it allocates only what holds one option's data, and gives it
 * back. One owner core; nbd_handshake_feed() is not reentrant. Source: proto.md, "Fixed newstyle
 * negotiation", "Option types", "Metadata querying".
 */
#ifndef POLLUX_LIB_NBD_SERVER_H
#define POLLUX_LIB_NBD_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/nbd/proto.h"

enum {
	NBD_MAX_OPTION_BYTES = 64 << 10, /* of one option's data; more is skipped, ERR_TOO_BIG */
	NBD_MAX_OPTIONS = 4096,		 /* of one handshake; then the session ends */
	NBD_MAX_CONTEXTS = 16,		 /* selected by one SET_META_CONTEXT */
	NBD_MAX_QUERIES = 1024,
};

/* What an export is to the protocol. Strings are the owner's, valid during the callback's caller.
 */
struct nbd_export_info {
	void *export;		 /* the owner's handle, handed back in nbd_handshake.selected */
	const char *name;	 /* canonical */
	const char *description; /* or NULL */
	uint64_t size;		 /* bytes */
	uint16_t flags;		 /* enum nbd_transmission_flags for a client with simple replies;
				    SEND_DF and BLOCK_STATUS_PAYLOAD are added by the handshake */
	uint32_t min_block, preferred_block, max_payload; /* bytes */
	bool needs_block_size; /* clients that do not ask for BLOCK_SIZE are refused */
	bool needs_tls;	       /* in the clear: not listed, TLS_REQD */
};

struct nbd_server_ops {
	/*
	 * Finds an export by its name (not NUL-terminated; "" is the default one). Returns 0,
	 * -ENOENT, -EACCES (policy), -EMFILE (too many connections), -ESHUTDOWN. `opening`: GO or
	 * EXPORT_NAME, whose client is counted in from here on; else only asking.
	 */
	int (*find)(void *arg, const char *name, size_t length, bool opening,
		    struct nbd_export_info *info);
	/* The index-th export a client may see, or -ENOENT past the last. */
	int (*list)(void *arg, unsigned index, struct nbd_export_info *info);
	/*
	 * The index-th metadata context of an export ("base:allocation"), or NULL past the last.
	 * The string lives as long as the export does. May be NULL: no contexts.
	 */
	const char *(*context)(void *arg, const struct nbd_export_info *info, unsigned index);
	/* Bytes for the client, copied by the callee. A failure is remembered by the callee. */
	void (*send)(void *arg, const void *bytes, size_t count);
};

struct nbd_server_config {
	bool no_zeroes;	   /* offer NBD_FLAG_NO_ZEROES */
	bool structured;   /* offer structured replies (and with them metadata contexts) */
	bool extended;	   /* offer extended headers */
	bool tls_offered;  /* STARTTLS is answered */
	bool tls_required; /* nothing but STARTTLS (and ABORT) in the clear: FORCEDTLS */
};

enum nbd_mode { NBD_MODE_SIMPLE, NBD_MODE_STRUCTURED, NBD_MODE_EXTENDED };

enum nbd_handshake_result {
	NBD_HANDSHAKE_MORE,	/* all input taken, more is needed */
	NBD_HANDSHAKE_TRANSMIT, /* transmission begins with the next byte not taken */
	NBD_HANDSHAKE_STARTTLS, /* the ACK was sent: TLS begins with the next byte not taken; then
				   nbd_handshake_tls_done() */
	NBD_HANDSHAKE_CLOSE,	/* deliver what was sent, then close */
};

enum nbd_handshake_state {
	NBD_HS_CLIENT_FLAGS, /* from start: the greeting is out; leaves when 4 bytes are in */
	NBD_HS_OPTION,	     /* between options; leaves when a header is in */
	NBD_HS_DATA,	     /* collecting an option's data; leaves when it is complete */
	NBD_HS_SKIP,	     /* dropping the data of an option already refused */
	NBD_HS_TLS,	     /* STARTTLS was accepted; leaves by nbd_handshake_tls_done() */
	NBD_HS_DONE,	     /* TRANSMIT or CLOSE was returned */
};

struct nbd_context {
	const char *name; /* as the export offers it */
	unsigned index;	  /* of the context in ops->context's order */
	uint32_t id;	  /* what BLOCK_STATUS replies carry */
};

/* What the INFO right before a GO told: the same GO must tell the same, resized or not. */
struct nbd_told {
	uint64_t digest; /* of what INFO asked for */
	uint64_t size;
	uint16_t flags;
	bool valid;
};

struct nbd_handshake {
	const struct nbd_server_ops *ops;
	void *arg;
	struct nbd_server_config config;
	enum nbd_handshake_state state;
	bool no_zeroes;			 /* both sides agreed */
	bool fixed;			 /* the client knows fixed newstyle */
	bool tls;			 /* inside TLS */
	enum nbd_mode mode;		 /* what was negotiated */
	unsigned options;		 /* seen so far */
	struct nbd_export_info selected; /* after TRANSMIT (its strings are no longer valid) */
	bool asked_block_size; /* after TRANSMIT: it promised to keep to the block sizes */
	bool shutting_down;    /* the owner's to set: all but ABORT is answered ERR_SHUTDOWN */
	bool tls_missed;       /* in the clear, something was refused that is there inside TLS */
	/* after TRANSMIT: what SET_META_CONTEXT selected for this export */
	struct nbd_context contexts[NBD_MAX_CONTEXTS];
	unsigned context_count;
	char reason[128]; /* after CLOSE: why, for the log */
	/* ---- private ---- */
	uint32_t option, length;  /* of the option under way */
	uint32_t have;		  /* bytes of header or data so far */
	uint32_t skip_reply;	  /* reply owed after NBD_HS_SKIP */
	const char *skip_message; /* and its text */
	bool transmit;		  /* NBD_HS_DONE was reached by TRANSMIT */
	uint8_t header[16];
	uint8_t *data;
	char *context_export; /* the name SET_META_CONTEXT was for */
	uint32_t context_export_length;
	char *context_names; /* of contexts[], each with its NUL, should the export vanish */
	struct nbd_told told;
};

/* Sends the greeting. */
void nbd_handshake_init(struct nbd_handshake *hs, const struct nbd_server_config *config,
			const struct nbd_server_ops *ops, void *arg);
/* Takes up to `count` bytes; *taken tells how many. May be called again after MORE and after TLS.
 */
enum nbd_handshake_result nbd_handshake_feed(struct nbd_handshake *hs, const uint8_t *bytes,
					     size_t count, size_t *taken);
/* TLS is up: all negotiated state but the client's flags is forgotten, as the document says. */
void nbd_handshake_tls_done(struct nbd_handshake *hs);
/* Frees what it holds; may be called at any time, and twice. */
void nbd_handshake_fini(struct nbd_handshake *hs);

#endif
