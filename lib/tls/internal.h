/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * internal: what the files of lib/tls share - the credentials' insides, and helpers that turn what
 * strangers send into text. Nobody outside of this folder includes it.
 */
#ifndef POLLUX_LIB_TLS_INTERNAL_H
#define POLLUX_LIB_TLS_INTERNAL_H

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdatomic.h>

#include "lib/tls/credentials.h"
#include "lib/tls/records.h"
#include "lib/tls/session.h"

struct tls_psk {
	uint8_t *identity;
	size_t identity_bytes;
	uint8_t *key;
	size_t key_bytes;
};

struct tls_psk_table {
	struct tls_psk *entries; /* sorted by identity */
	size_t count;
};

struct tls_credentials {
	atomic_uint users;
	struct tls_credentials_config config; /* its strings are ours */
	enum tls_verify verify;		      /* never DEFAULT */
	gnutls_priority_t priority;
	bool kernel;			    /* asked for, and the kernel has TLS */
	gnutls_priority_t priority_tls_1_2; /* what a server turns to then; NULL: the same */
	char *priority_text;
	/* X.509 */
	gnutls_certificate_credentials_t x509;
	char subject[TLS_NAME_BYTES];
	time_t valid_from, valid_to;
	/* PSK: the table on a server; on a client only the one key */
	struct tls_psk_table psks;
	gnutls_psk_server_credentials_t psk_server;
	gnutls_psk_client_credentials_t psk_client;
};

enum { TLS_REASON_BYTES = 384 };

struct tls_gcm;
struct tls_records;

struct tls_session {
	gnutls_session_t tls;
	struct tls_records *records; /* from TLS_OPEN on; NULL: GnuTLS makes all records itself */
	struct tls_credentials *credentials;
	enum tls_state state;
	bool peer_closed; /* its close_notify is in */
	int error;	  /* -errno, in TLS_FAILED */
	/* of the call under way; NULL between calls */
	struct tls_input *in;
	struct tls_output *out;
	/* records that found no room; they go out before anything else */
	uint8_t *spill;
	size_t spill_at, spill_bytes, spill_room;
	size_t record_max; /* plain bytes of a record: what was asked for, or learnt from the peer
			    */
	size_t record_overhead;
	/* cold */
	char *server_name; /* a client's: whom it wants; or NULL */
	uint8_t first[4];  /* the first bytes received */
	unsigned first_count;
	struct {
		uint8_t header[RECORD_HEADER_BYTES];
		unsigned header_bytes; /* of it that are in */
		size_t left;	       /* of its body */
	} pulled;		       /* the record that GnuTLS is taking */
	bool small_records;	       /* the peer wants smaller ones than TLS allows */
	uint8_t last[7]; /* the last bytes received in the handshake: an alert is so long */
	bool psk_asked, psk_unknown; /* the client named an identity; it is not in the table */
	int verify_alert;	     /* what the certificate was refused with, if reason is set */
	char peer[TLS_NAME_BYTES];
	char reason[TLS_REASON_BYTES];
};

/* ---- transport.c ---- */

void tls_transport_set(struct tls_session *session);
/* Every call begins with it: these are its buffers, and what was kept goes out first. */
void tls_enter(struct tls_session *session, struct tls_input *in, struct tls_output *out);
/* And ends with it. Returns `result`. */
int tls_leave(struct tls_session *session, int result);

/* ---- session.c ---- */

/* For tests: records by this way of AES-GCM, or by GnuTLS (NULL), from now on. Not in the midst. */
void tls_session_use(struct tls_session *session, const struct tls_gcm *way);

/* ---- credentials.c ---- */

int tls_report_error(struct tls_report *report, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void tls_report_warning(struct tls_report *report, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* A regular file of at most max_bytes, with a zero behind it; wiped and freed by the next function.
 */
int tls_read_file(const char *path, size_t max_bytes, bool secret, gnutls_datum_t *contents,
		  struct tls_report *report);
void tls_wipe_file(gnutls_datum_t *contents);

/* ---- x509.c ---- */

int tls_x509_load(struct tls_credentials *credentials, struct tls_report *report);
/* GnuTLS asks it in the handshake about the peer's certificate. */
int tls_x509_verify(gnutls_session_t tls);

/* ---- psk.c ---- */

int tls_psk_load(struct tls_credentials *credentials, struct tls_report *report);
void tls_psk_free(struct tls_psk_table *table);

/* ---- names.c ---- */

/* Bytes from a peer as text for a log: what is not printable ASCII becomes "?". */
void tls_clean_text(char *text, size_t room, const void *bytes, size_t count);
/* The common name, or else an alternative name, or else the distinguished name; cleaned. */
void tls_certificate_name(gnutls_x509_crt_t certificate, char *name, size_t room);
bool tls_certificate_allowed(gnutls_x509_crt_t certificate, const char *const *patterns,
			     unsigned count);
bool tls_pattern_matches_dn(const char *pattern, const char *dn);

/* ---- failure.c ---- */

/* The sentence for session->reason, unless it has one; returns the -errno. */
int tls_failure_explain(struct tls_session *session, int code);

#endif
