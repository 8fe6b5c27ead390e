/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * records: application data of an open TLS 1.3 session with AES-GCM, encrypted and decrypted here
 * at a third of what GnuTLS's record layer takes. All else stays GnuTLS's: handshakes, key updates,
 * alerts, records that are not in order. For these it is lent the record layer: its sequence
 * numbers are set to ours before, and its keys and numbers read after. So a number is never used
 * twice, and nothing but plain data is dealt with here. One thread, the session's.
 */
#ifndef POLLUX_LIB_TLS_RECORDS_H
#define POLLUX_LIB_TLS_RECORDS_H

#include <gnutls/gnutls.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/tls/session.h"

enum {
	RECORD_HEADER_BYTES = 5,
	/* Header, type and tag: what a record is longer than its data, if it has no padding. */
	RECORD_OVERHEAD_BYTES = RECORD_HEADER_BYTES + 1 + 16,
	/* AES-GCM's limit is 24 million full records a key (RFC 8446, 5.5). */
	RECORDS_BEFORE_NEW_KEY = 1 << 24,
};

struct tls_records;
struct tls_gcm;

/* A record of the peer's, header first. Valid until the next call that takes input. */
struct tls_record {
	const uint8_t *bytes;
	size_t count;
};

/*
 * For a session whose handshake is done. way: NULL: the fastest there is. Returns NULL if it is no
 * TLS 1.3 with AES-GCM, or without memory: then GnuTLS goes on alone.
 */
struct tls_records *tls_records_create(gnutls_session_t tls, const struct tls_gcm *way);
/* Wipes the keys. NULL is allowed. */
void tls_records_free(struct tls_records *records);

/* ---- GnuTLS's turns ---- */

/* GnuTLS takes over, for any number of calls. Nothing if it has it already, or records is NULL. */
void tls_records_lend(struct tls_records *records);
/* After lend: its keys and numbers are ours again. 0 or a code of GnuTLS's, which ends the session.
 */
int tls_records_take_back(struct tls_records *records);
/* GnuTLS has read a record: its next one may have to answer, and goes by GnuTLS. */
void tls_records_expect_answer(struct tls_records *records);
/* GnuTLS may have something to answer, and has sent nothing since. NULL: no. */
bool tls_records_owe_answer(const struct tls_records *records);
/* GnuTLS has sent data in a record of this size: the peer takes such ones. */
void tls_records_sent(struct tls_records *records, size_t bytes);

/* ---- Sending ---- */

/* Whether a record of this size is ours to make, and not GnuTLS's. */
bool tls_records_may_seal(const struct tls_records *records, size_t bytes);
/* As many records are sent as one key is good for. */
bool tls_records_need_key(const struct tls_records *records);
/* For tests, which do not send millions. */
void tls_records_set_key_limit(struct tls_records *records, uint64_t limit);
/* The next `bytes` of the source, which has them, as one record. Returns its length, 0: failed. */
size_t tls_records_seal(struct tls_records *records, const struct tls_source *source, size_t bytes,
			uint8_t *out);
/* How many of the next `bytes` of the source are few enough pieces for one record. */
size_t tls_records_fit(const struct tls_source *source, size_t bytes);

/* ---- Receiving ---- */

/*
 * The next record, from what was kept of it and the input. Returns 0; -EAGAIN: all input is taken,
 * it is not whole yet; -ENOMEM; -EMSGSIZE: longer than records are; -EPROTO: not TLS.
 */
int tls_records_next(struct tls_records *records, struct tls_input *in, struct tls_record *record);
/*
 * Its data. What finds no room is kept for tls_records_rest(). Returns how many bytes, -ENOMEM, or
 * -EBADMSG: it is no data, or not genuine; GnuTLS will know.
 */
ssize_t tls_records_open(struct tls_records *records, const struct tls_record *record,
			 uint8_t *plain, size_t room);
/* What found no room. Returns how many bytes. */
size_t tls_records_rest(struct tls_records *records, uint8_t *plain, size_t room);
size_t tls_records_rest_bytes(const struct tls_records *records);
/* Some of a record has come, and not all of it. */
bool tls_records_in_midst(const struct tls_records *records);

#endif
