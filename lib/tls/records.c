/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * records: TLS 1.3's record layer for application data (RFC 8446, 5.2 and 5.3). What is not plain
 * data in order is told apart here and left to GnuTLS. One thread, the session's.
 */
#include "lib/tls/records.h"

#include <assert.h>
#include <errno.h>
#include <gnutls/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/be.h"
#include "lib/base/compiler.h"
#include "lib/tls/gcm.h"

enum {
	APPLICATION_DATA = 23,
	PIECES_MAX = 256, /* of a record, with its type: 64 bytes each, or it is shorter */
	SEALED_MIN_BYTES = 1 + GCM_TAG_BYTES,
	SEALED_MAX_BYTES = TLS_RECORD_BYTES + 256, /* of a record without its header */
};

/* One way. The sequence number is that of its next record. */
struct direction {
	void *key;
	uint8_t raw[GCM_KEY_MAX_BYTES]; /* what `key` was made of */
	uint8_t iv[GCM_NONCE_BYTES];
	uint64_t sequence;
};

struct tls_records {
	gnutls_session_t tls;
	const struct tls_gcm *gcm;
	size_t key_bytes;
	struct direction reading, writing;
	bool lent;	     /* GnuTLS has the record layer: our numbers are old */
	bool answer_due;     /* the next record is GnuTLS's to send */
	size_t proven_bytes; /* GnuTLS has sent a record of so much data in one piece */
	uint64_t key_limit;  /* records sent, before there must be a new key */
	/* made when first needed: a record of which a part has come, and data that found no room */
	struct kept {
		uint8_t record[RECORD_HEADER_BYTES + SEALED_MAX_BYTES], data[SEALED_MAX_BYTES];
	} * kept;
	size_t kept_bytes, rest_at, rest_end; /* of the record; of the data */
};

/* ---- GnuTLS's turns ---- */

/* Takes over what GnuTLS has. The key itself only if it is another one. */
static int read_direction(struct tls_records *records, struct direction *direction, bool reading)
{
	gnutls_datum_t mac, iv, key;
	be64 sequence;
	int code = gnutls_record_get_state(records->tls, reading, &mac, &iv, &key,
					   (unsigned char *)&sequence);
	if (code < 0)
		return code;
	if (iv.size != GCM_NONCE_BYTES || key.size != records->key_bytes)
		return GNUTLS_E_INTERNAL_ERROR;
	direction->sequence = be64_get(sequence);
	memcpy(direction->iv, iv.data, iv.size);
	if (direction->key && !memcmp(direction->raw, key.data, key.size))
		return 0;
	memcpy(direction->raw, key.data, key.size);
	records->gcm->key_free(direction->key);
	direction->key = records->gcm->key_create(key.data, key.size);
	return direction->key ? 0 : GNUTLS_E_MEMORY_ERROR;
}

static void write_direction(const struct tls_records *records, const struct direction *direction,
			    bool reading)
{
	be64 sequence = be64_of(direction->sequence);
	gnutls_record_set_state(records->tls, reading, (unsigned char *)&sequence);
}

void tls_records_lend(struct tls_records *records)
{
	if (!records || records->lent)
		return;
	write_direction(records, &records->reading, true);
	write_direction(records, &records->writing, false);
	records->lent = true;
}

int tls_records_take_back(struct tls_records *records)
{
	if (!records)
		return 0;
	int code = read_direction(records, &records->reading, true);
	if (!code)
		code = read_direction(records, &records->writing, false);
	records->lent = code != 0;
	return code;
}

void tls_records_expect_answer(struct tls_records *records)
{
	records->answer_due = true;
}

bool tls_records_owe_answer(const struct tls_records *records)
{
	return records && records->answer_due;
}

void tls_records_sent(struct tls_records *records, size_t bytes)
{
	if (!records)
		return;
	records->answer_due = false;
	records->proven_bytes = MAX_OF(records->proven_bytes, bytes);
}

/* ---- Life ---- */

static size_t key_bytes_of(gnutls_session_t tls)
{
	if (gnutls_protocol_get_version(tls) != GNUTLS_TLS1_3)
		return 0;
	switch (gnutls_cipher_get(tls)) {
	case GNUTLS_CIPHER_AES_128_GCM:
		return 16;
	case GNUTLS_CIPHER_AES_256_GCM:
		return 32;
	default:
		return 0;
	}
}

struct tls_records *tls_records_create(gnutls_session_t tls, const struct tls_gcm *way)
{
	size_t key_bytes = key_bytes_of(tls);
	struct tls_records *made = key_bytes ? calloc(1, sizeof(*made)) : NULL;
	if (!made)
		return NULL;
	const struct tls_gcm *const *next = tls_gcm_ways;
	while (!way && *next) {
		if ((*next)->usable())
			way = *next;
		next++;
	}
	made->tls = tls;
	made->gcm = way;
	made->key_bytes = key_bytes;
	made->key_limit = RECORDS_BEFORE_NEW_KEY;
	if (tls_records_take_back(made)) {
		tls_records_free(made);
		return NULL;
	}
	return made;
}

void tls_records_free(struct tls_records *records)
{
	if (!records)
		return;
	records->gcm->key_free(records->reading.key);
	records->gcm->key_free(records->writing.key);
	free(records->kept);
	explicit_bzero(records, sizeof(*records));
	free(records);
}

/* ---- Sending ---- */

static void make_nonce(const struct direction *direction, uint8_t *nonce)
{
	be64 sequence = be64_of(direction->sequence);
	const uint8_t *bytes = (const uint8_t *)&sequence;
	memcpy(nonce, direction->iv, GCM_NONCE_BYTES);
	for (unsigned i = 0; i < sizeof(sequence); i++)
		nonce[GCM_NONCE_BYTES - sizeof(sequence) + i] ^= bytes[i];
}

bool tls_records_may_seal(const struct tls_records *records, size_t bytes)
{
	return records && likely(bytes <= records->proven_bytes && !records->answer_due);
}

bool tls_records_need_key(const struct tls_records *records)
{
	return records && unlikely(records->writing.sequence >= records->key_limit);
}

void tls_records_set_key_limit(struct tls_records *records, uint64_t limit)
{
	records->key_limit = limit;
}

size_t tls_records_fit(const struct tls_source *source, size_t bytes)
{
	size_t have = source->iov->iov_len - source->at;
	unsigned most = MIN_OF(source->count, (unsigned)PIECES_MAX - 1);
	for (unsigned i = 1; i < most && have < bytes; i++)
		have += source->iov[i].iov_len;
	return MIN_OF(have, bytes);
}

size_t tls_records_seal(struct tls_records *records, const struct tls_source *source, size_t bytes,
			uint8_t *out)
{
	struct iovec pieces[PIECES_MAX];
	uint8_t nonce[GCM_NONCE_BYTES], type = APPLICATION_DATA;
	unsigned count = 0;
	size_t left = bytes, at = source->at, sealed = bytes + SEALED_MIN_BYTES;
	for (const struct iovec *iov = source->iov; left; iov++, at = 0) {
		size_t n = MIN_OF(left, iov->iov_len - at);
		if (likely(n)) /* an empty piece may have no address */
			pieces[count++] = (struct iovec){(uint8_t *)iov->iov_base + at, n};
		left -= n;
	}
	pieces[count++] = (struct iovec){&type, 1};
	out[0] = APPLICATION_DATA;
	out[1] = out[2] = 3; /* TLS 1.2, as all of them say */
	out[3] = sealed >> 8;
	out[4] = sealed;
	assert(!records->lent);
	make_nonce(&records->writing, nonce);
	records->writing.sequence++;
	return records->gcm->seal(records->writing.key, nonce, out, pieces, count,
				  out + RECORD_HEADER_BYTES)
		       ? RECORD_HEADER_BYTES + sealed
		       : 0;
}

/* ---- Receiving ---- */

static size_t sealed_bytes(const uint8_t *header)
{
	return header[3] << 8 | header[4];
}

static int make_room(struct tls_records *records)
{
	if (!records->kept)
		records->kept = malloc(sizeof(*records->kept));
	return records->kept ? 0 : -ENOMEM;
}

/* Moves input to what is kept until that is `bytes` long. True if it is. */
static bool keep(struct tls_records *records, struct tls_input *in, size_t bytes)
{
	size_t n = MIN_OF(bytes - records->kept_bytes, in->count);
	memcpy(records->kept->record + records->kept_bytes, in->bytes, n);
	records->kept_bytes += n;
	in->bytes += n;
	in->count -= n;
	return records->kept_bytes == bytes;
}

/* What is no record at all is told from its header, as its length may never come. */
static int check_header(const uint8_t *header)
{
	if (unlikely(header[1] != 3))
		return -EPROTO;
	return unlikely(sealed_bytes(header) > SEALED_MAX_BYTES) ? -EMSGSIZE : 0;
}

int tls_records_next(struct tls_records *records, struct tls_input *in, struct tls_record *record)
{
	if (!in || !in->count)
		return -EAGAIN;
	if (likely(!records->kept_bytes && in->count >= RECORD_HEADER_BYTES)) {
		size_t count = RECORD_HEADER_BYTES + sealed_bytes(in->bytes);
		int error = check_header(in->bytes);
		if (unlikely(error))
			return error;
		if (likely(in->count >= count)) {
			*record = (struct tls_record){in->bytes, count};
			in->bytes += count;
			in->count -= count;
			return 0;
		}
	}
	if (make_room(records))
		return -ENOMEM;
	if (records->kept_bytes < RECORD_HEADER_BYTES && !keep(records, in, RECORD_HEADER_BYTES))
		return -EAGAIN;
	const uint8_t *kept = records->kept->record;
	int error = check_header(kept);
	if (error)
		return error;
	*record = (struct tls_record){kept, RECORD_HEADER_BYTES + sealed_bytes(kept)};
	if (!keep(records, in, record->count))
		return -EAGAIN;
	records->kept_bytes = 0;
	return 0;
}

/* Decrypts it to `out`. Returns how much of that is data, or -EBADMSG. */
static ssize_t decrypt(struct tls_records *records, const struct tls_record *record, uint8_t *out)
{
	uint8_t nonce[GCM_NONCE_BYTES];
	size_t bytes = record->count - RECORD_HEADER_BYTES - GCM_TAG_BYTES;
	assert(!records->lent);
	make_nonce(&records->reading, nonce);
	if (unlikely(!records->gcm->open(records->reading.key, nonce, record->bytes,
					 record->bytes + RECORD_HEADER_BYTES, bytes, out)))
		return -EBADMSG;
	while (bytes && unlikely(!out[bytes - 1])) /* padding */
		bytes--;
	if (unlikely(!bytes || out[bytes - 1] != APPLICATION_DATA || bytes - 1 > TLS_RECORD_BYTES))
		return -EBADMSG;
	records->reading.sequence++;
	return bytes - 1;
}

ssize_t tls_records_open(struct tls_records *records, const struct tls_record *record,
			 uint8_t *plain, size_t room)
{
	const uint8_t *header = record->bytes;
	size_t sealed = record->count - RECORD_HEADER_BYTES;
	if (unlikely(header[0] != APPLICATION_DATA || header[1] != 3 || header[2] != 3 ||
		     sealed < SEALED_MIN_BYTES))
		return -EBADMSG;
	if (likely(room >= sealed - GCM_TAG_BYTES))
		return decrypt(records, record, plain);
	if (make_room(records))
		return -ENOMEM;
	ssize_t got = decrypt(records, record, records->kept->data);
	if (got < 0)
		return got;
	records->rest_at = 0;
	records->rest_end = got;
	return tls_records_rest(records, plain, room);
}

size_t tls_records_rest(struct tls_records *records, uint8_t *plain, size_t room)
{
	size_t n = MIN_OF(room, records->rest_end - records->rest_at);
	if (likely(!n))
		return 0;
	memcpy(plain, records->kept->data + records->rest_at, n);
	records->rest_at += n;
	return n;
}

size_t tls_records_rest_bytes(const struct tls_records *records)
{
	return records->rest_end - records->rest_at;
}

bool tls_records_in_midst(const struct tls_records *records)
{
	return records->kept_bytes > 0;
}
