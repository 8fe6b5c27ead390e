/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * session: GnuTLS between the caller's buffers. Once the session is open, records.h takes the data,
 * if it can, and GnuTLS has its turns with the rest. One thread at a time, any.
 */
#include "lib/tls/session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/compiler.h"
#include "lib/tls/internal.h"
#include "lib/tls/records.h"

enum {
	/* A record for what is left of the output pays only if it is not tiny. */
	RECORD_MIN_BYTES = 1024,
	/* Calls into GnuTLS that neither took input nor failed, before it counts as stuck. */
	IDLE_MAX = 8,
};

const char *const tls_state_names[] = {
	[TLS_HANDSHAKE] = "handshake",
	[TLS_OPEN] = "open",
	[TLS_CLOSING] = "closing",
	[TLS_FAILED] = "failed",
};

/* ---- Life ---- */

static bool is_address(const char *name)
{
	struct in6_addr address;
	return inet_pton(AF_INET, name, &address) == 1 || inet_pton(AF_INET6, name, &address) == 1;
}

/* A server has read the client's hello: the version is settled, the cipher not yet. */
static int after_hello(gnutls_session_t tls)
{
	struct tls_session *session = gnutls_session_get_ptr(tls);
	if (gnutls_protocol_get_version(tls) != GNUTLS_TLS1_2)
		return 0;
	return gnutls_priority_set(tls, session->credentials->priority_tls_1_2);
}

/* An extension of a client's hello. */
static int see_extension(void *arg, unsigned id, const unsigned char *data, unsigned bytes)
{
	enum { MAX_FRAGMENT_LENGTH = 1, RECORD_SIZE_LIMIT = 28 };
	struct tls_session *session = arg;
	if (id == MAX_FRAGMENT_LENGTH ||
	    (id == RECORD_SIZE_LIMIT &&
	     (bytes != 2 || (data[0] << 8 | data[1]) < TLS_RECORD_BYTES)))
		session->small_records = true;
	return 0;
}

/* Only for kernel TLS, whose records are as long as they can be: what becomes of the wish. */
static int see_hello(gnutls_session_t tls, unsigned type, unsigned when, unsigned incoming,
		     const gnutls_datum_t *message)
{
	gnutls_ext_raw_parse(gnutls_session_get_ptr(tls), see_extension, message,
			     GNUTLS_EXT_RAW_FLAG_TLS_CLIENT_HELLO);
	return 0;
}

static int set_up(struct tls_session *session, const char *server_name)
{
	const struct tls_credentials *credentials = session->credentials;
	bool server = credentials->config.endpoint == TLS_SERVER;
	/*
	 * Without tickets: an NBD session is long, and nobody resumes one. A client shows its
	 * certificate even if the server asks for other authorities': the server's log then tells.
	 */
	unsigned flags = GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS |
			 (server ? GNUTLS_SERVER : GNUTLS_CLIENT | GNUTLS_FORCE_CLIENT_CERT);
	int code = gnutls_init(&session->tls, flags);
	if (code < 0)
		return code;
	gnutls_session_set_ptr(session->tls, session);
	tls_transport_set(session);
	code = gnutls_priority_set(session->tls, credentials->priority);
	if (code < 0)
		return code;
	if (credentials->priority_tls_1_2)
		gnutls_handshake_set_post_client_hello_function(session->tls, after_hello);
	if (credentials->kernel)
		gnutls_handshake_set_hook_function(session->tls, GNUTLS_HANDSHAKE_CLIENT_HELLO,
						   GNUTLS_HOOK_POST, see_hello);
	if (credentials->x509)
		code = gnutls_credentials_set(session->tls, GNUTLS_CRD_CERTIFICATE,
					      credentials->x509);
	else
		code = gnutls_credentials_set(session->tls, GNUTLS_CRD_PSK,
					      server ? (void *)credentials->psk_server
						     : (void *)credentials->psk_client);
	if (code < 0)
		return code;
	if (server && credentials->verify != TLS_VERIFY_NONE)
		gnutls_certificate_server_set_request(session->tls,
						      credentials->verify == TLS_VERIFY_REQUIRE
							      ? GNUTLS_CERT_REQUIRE
							      : GNUTLS_CERT_REQUEST);
	if (server || !server_name)
		return 0;
	session->server_name = strdup(server_name);
	if (!session->server_name)
		return GNUTLS_E_MEMORY_ERROR;
	return is_address(server_name) ? 0
				       : gnutls_server_name_set(session->tls, GNUTLS_NAME_DNS,
								server_name, strlen(server_name));
}

int tls_session_create(struct tls_session **session, struct tls_credentials *credentials,
		       const char *server_name)
{
	*session = NULL;
	struct tls_session *made = calloc(1, sizeof(*made));
	if (!made)
		return -ENOMEM;
	made->credentials = tls_credentials_get(credentials);
	made->record_max = TLS_RECORD_BYTES;
	int code = set_up(made, server_name);
	if (code < 0) {
		tls_session_destroy(made);
		return code == GNUTLS_E_MEMORY_ERROR ? -ENOMEM : -EINVAL;
	}
	*session = made;
	return 0;
}

void tls_session_destroy(struct tls_session *session)
{
	if (!session)
		return;
	tls_records_free(session->records);
	if (session->tls)
		gnutls_deinit(session->tls);
	tls_credentials_put(session->credentials);
	free(session->server_name);
	free(session->spill);
	free(session);
}

/* ---- Failing ---- */

/* Alerts that say nothing new to the peer, or that nobody would hear, are not sent. */
static bool deserves_alert(int code)
{
	return code != GNUTLS_E_FATAL_ALERT_RECEIVED && code != GNUTLS_E_PUSH_ERROR &&
	       code != GNUTLS_E_PREMATURE_TERMINATION;
}

static int fail(struct tls_session *session, int code)
{
	int level = GNUTLS_AL_FATAL, alert = gnutls_error_to_alert(code, &level);
	if (code == GNUTLS_E_CERTIFICATE_ERROR && session->verify_alert)
		alert = session->verify_alert;
	session->error = tls_failure_explain(session, code);
	tls_records_lend(session->records);
	if (deserves_alert(code))
		gnutls_alert_send(session->tls, level, alert);
	session->state = TLS_FAILED;
	return session->error;
}

/* GnuTLS asks to be called again; true as long as that leads somewhere. */
static bool may_retry(const struct tls_session *session, size_t count_before, unsigned *idle)
{
	*idle = session->in && session->in->count != count_before ? 0 : *idle + 1;
	return *idle < IDLE_MAX;
}

/* ---- The handshake ---- */

int tls_session_handshake(struct tls_session *session, struct tls_input *in, struct tls_output *out)
{
	if (session->state == TLS_FAILED)
		return session->error;
	if (session->state != TLS_HANDSHAKE)
		return 0;
	tls_enter(session, in, out);
	unsigned idle = 0;
	for (;;) {
		size_t before = in ? in->count : 0;
		int code = gnutls_handshake(session->tls);
		if (code == GNUTLS_E_SUCCESS)
			break;
		if (gnutls_error_is_fatal(code))
			return tls_leave(session, fail(session, code));
		if (!in || !in->count)
			return tls_leave(session, -EAGAIN);
		if (!may_retry(session, before, &idle))
			return tls_leave(session, fail(session, GNUTLS_E_INTERNAL_ERROR));
	}
	session->state = TLS_OPEN;
	session->record_overhead = gnutls_record_overhead_size(session->tls);
	session->records = tls_records_create(session->tls, NULL);
	return tls_leave(session, 0);
}

void tls_session_use(struct tls_session *session, const struct tls_gcm *way)
{
	tls_records_lend(session->records);
	tls_records_free(session->records);
	session->records = way ? tls_records_create(session->tls, way) : NULL;
}

/* ---- GnuTLS's turns ---- */

static void begin_turn(struct tls_session *session)
{
	tls_records_lend(session->records);
}

/* Returns 0, or the session has failed. */
static int end_turn(struct tls_session *session)
{
	int code = tls_records_take_back(session->records);
	return unlikely(code) ? fail(session, code) : 0;
}

/* ---- Receiving ---- */

/* By GnuTLS, from session->in. Returns as tls_session_read() does. */
static int read_by_gnutls(struct tls_session *session, uint8_t *plain, size_t room, size_t *got)
{
	const struct tls_input *in = session->in;
	unsigned idle = 0;
	while (*got < room) {
		size_t before = in ? in->count : 0;
		ssize_t n = gnutls_record_recv(session->tls, plain + *got, room - *got);
		if (likely(n > 0)) {
			*got += n;
			idle = 0;
			continue;
		}
		if (n == 0) {
			session->peer_closed = true;
			return -ESHUTDOWN;
		}
		/* a new handshake counts as harmless in GnuTLS, not here */
		if (gnutls_error_is_fatal(n) || n == GNUTLS_E_REHANDSHAKE)
			return fail(session, n);
		if (!in || !in->count)
			break;
		/* an empty record, or something that GnuTLS dealt with itself */
		if (!may_retry(session, before, &idle))
			return fail(session, GNUTLS_E_INTERNAL_ERROR);
	}
	return 0;
}

/* A record that is no data, or not in order. GnuTLS acts on it, or ends the session. */
static never_inline int read_other(struct tls_session *session, const struct tls_record *record)
{
	struct tls_input in = {record->bytes, record->count}, *outer = session->in;
	uint8_t data[1];
	size_t got = 0;
	session->in = &in;
	begin_turn(session);
	int result = read_by_gnutls(session, data, sizeof(data), &got);
	session->in = outer;
	if (unlikely(got)) /* data after all: records.h and GnuTLS disagree */
		return fail(session, GNUTLS_E_INTERNAL_ERROR);
	if (!session->error && end_turn(session))
		return session->error;
	tls_records_expect_answer(session->records);
	return result;
}

static int code_of(int error)
{
	return error == -ENOMEM	    ? GNUTLS_E_MEMORY_ERROR
	       : error == -EMSGSIZE ? GNUTLS_E_RECORD_OVERFLOW
				    : GNUTLS_E_UNEXPECTED_PACKET;
}

static int read_records(struct tls_session *session, uint8_t *plain, size_t room, size_t *got)
{
	struct tls_records *records = session->records;
	if (unlikely(session->peer_closed))
		return -ESHUTDOWN;
	for (;;) {
		struct tls_record record;
		*got += tls_records_rest(records, plain + *got, room - *got);
		if (unlikely(*got == room))
			return 0;
		int result = tls_records_next(records, session->in, &record);
		if (result == -EAGAIN)
			return 0;
		if (unlikely(result))
			return fail(session, code_of(result));
		ssize_t n = tls_records_open(records, &record, plain + *got, room - *got);
		if (likely(n >= 0)) {
			*got += n;
			continue;
		}
		result = n == -EBADMSG ? read_other(session, &record) : fail(session, code_of(n));
		if (result)
			return result;
	}
}

int tls_session_read(struct tls_session *session, struct tls_input *in, void *plain, size_t room,
		     size_t *got, struct tls_output *out)
{
	*got = 0;
	if (session->state == TLS_FAILED)
		return session->error;
	if (session->state == TLS_HANDSHAKE)
		return -EINVAL;
	tls_enter(session, in, out);
	return tls_leave(session, session->records ? read_records(session, plain, room, got)
						   : read_by_gnutls(session, plain, room, got));
}

size_t tls_session_read_pending(const struct tls_session *session)
{
	if (session->records)
		return tls_records_rest_bytes(session->records);
	return gnutls_record_check_pending(session->tls);
}

/* ---- Sending ---- */

/* Where small pieces are gathered for one record: used only within a call, so once a thread. */
static _Thread_local uint8_t gathered[TLS_RECORD_BYTES] __attribute__((aligned(64)));

static void skip_taken(struct tls_source *source)
{
	while (source->count && source->at == source->iov->iov_len) {
		source->iov++;
		source->count--;
		source->at = 0;
	}
}

static void advance(struct tls_source *source, size_t bytes)
{
	while (bytes) {
		size_t n = MIN_OF(bytes, source->iov->iov_len - source->at);
		source->at += n;
		bytes -= n;
		skip_taken(source);
	}
}

/* The next bytes in one piece, at most *bytes: where they lie, if that are enough, or gathered. */
static const uint8_t *next_piece(const struct tls_source *source, size_t *bytes)
{
	const struct iovec *iov = source->iov, *end = iov + source->count;
	const uint8_t *first = (const uint8_t *)iov->iov_base + source->at;
	size_t have = MIN_OF(*bytes, iov->iov_len - source->at);
	if (have == *bytes || source->count == 1) {
		*bytes = have;
		return first;
	}
	memcpy(gathered, first, have);
	for (iov++; iov < end && have < *bytes; iov++) {
		size_t n = MIN_OF(*bytes - have, iov->iov_len);
		if (likely(n)) /* an empty piece may have no address */
			memcpy(gathered + have, iov->iov_base, n);
		have += n;
	}
	*bytes = have;
	return gathered;
}

/* How many plain bytes the next record may have; 0: send first. */
static size_t record_room(const struct tls_session *session, const struct tls_output *out)
{
	size_t room = out->room - out->used;
	if (likely(room >= session->record_max + session->record_overhead))
		return session->record_max;
	if (room >= RECORD_MIN_BYTES + session->record_overhead)
		return room - session->record_overhead;
	/* an empty buffer and yet no room for a small record: it goes out by way of the spill */
	return out->used ? 0 : MIN_OF(session->record_max, (size_t)RECORD_MIN_BYTES);
}

/* One record of at most that size, by GnuTLS. Returns 0, or the session has failed. */
static int write_by_gnutls(struct tls_session *session, struct tls_source *source, size_t bytes)
{
	const uint8_t *piece = next_piece(source, &bytes);
	begin_turn(session);
	ssize_t sent = gnutls_record_send(session->tls, piece, bytes);
	if (unlikely(sent <= 0))
		return fail(session, sent ? sent : GNUTLS_E_INTERNAL_ERROR);
	if (unlikely((size_t)sent < bytes))
		session->record_max = sent; /* the peer wants smaller ones */
	tls_records_sent(session->records, sent);
	advance(source, sent);
	return end_turn(session);
}

/* TLS 1.3 and a key that has been used for long enough. Returns 0, or the session has failed. */
static never_inline int change_key(struct tls_session *session)
{
	begin_turn(session);
	int code = gnutls_session_key_update(session->tls, 0);
	return code < 0 ? fail(session, code) : end_turn(session);
}

/* One record of at most that size. Returns 0, or the session has failed. */
static int write_record(struct tls_session *session, struct tls_source *source, size_t bytes,
			struct tls_output *out)
{
	bool fits = out->room - out->used >= bytes + RECORD_OVERHEAD_BYTES;
	bytes = tls_records_fit(source, bytes);
	if (unlikely(!fits || !tls_records_may_seal(session->records, bytes)))
		return write_by_gnutls(session, source, bytes);
	size_t made = tls_records_seal(session->records, source, bytes, out->bytes + out->used);
	if (unlikely(!made))
		return fail(session, GNUTLS_E_ENCRYPTION_FAILED);
	out->used += made;
	advance(source, bytes);
	return 0;
}

int tls_session_write(struct tls_session *session, struct tls_source *source,
		      struct tls_output *out)
{
	if (unlikely(session->state != TLS_OPEN))
		return session->state == TLS_FAILED    ? session->error
		       : session->state == TLS_CLOSING ? -EPIPE
						       : -EINVAL;
	tls_enter(session, NULL, out);
	skip_taken(source);
	while (source->count) {
		size_t bytes = record_room(session, out);
		if (unlikely(!bytes || session->spill_bytes))
			return tls_leave(session, -EAGAIN);
		if (unlikely(tls_records_need_key(session->records))) {
			if (change_key(session))
				return tls_leave(session, session->error);
			continue; /* there is less room now */
		}
		if (unlikely(write_record(session, source, bytes, out)))
			return tls_leave(session, session->error);
	}
	return tls_leave(session, unlikely(session->spill_bytes) ? -EAGAIN : 0);
}

int tls_session_flush(struct tls_session *session, struct tls_output *out)
{
	tls_enter(session, NULL, out);
	return tls_leave(session, session->spill_bytes ? -EAGAIN : 0);
}

size_t tls_session_output_pending(const struct tls_session *session)
{
	return session->spill_bytes - session->spill_at;
}

/* ---- The end ---- */

int tls_session_close(struct tls_session *session, struct tls_output *out)
{
	if (session->state == TLS_FAILED)
		return session->error;
	if (session->state == TLS_HANDSHAKE)
		return -EINVAL;
	tls_enter(session, NULL, out);
	if (session->state == TLS_OPEN) {
		begin_turn(session);
		int code = gnutls_bye(session->tls, GNUTLS_SHUT_WR);
		if (code < 0)
			return tls_leave(session, fail(session, code));
		session->state = TLS_CLOSING;
		if (end_turn(session))
			return tls_leave(session, session->error);
	}
	return tls_leave(session, 0);
}

int tls_session_end(struct tls_session *session)
{
	if (session->state == TLS_FAILED)
		return session->error;
	if (session->peer_closed)
		return 0;
	const char *why = session->state == TLS_HANDSHAKE
				  ? "the connection ended in the middle of the TLS handshake"
				  : "the connection ended without TLS's close_notify";
	strcpy(session->reason, why);
	session->state = TLS_FAILED;
	session->error = -ECONNRESET;
	return session->error;
}

/* ---- Keys ---- */

int tls_session_update_keys(struct tls_session *session, bool both_ways, struct tls_output *out)
{
	if (session->state != TLS_OPEN)
		return session->state == TLS_FAILED ? session->error : -EINVAL;
	if (gnutls_protocol_get_version(session->tls) < GNUTLS_TLS1_3)
		return -EOPNOTSUPP;
	tls_enter(session, NULL, out);
	begin_turn(session);
	int code = gnutls_session_key_update(session->tls, both_ways ? GNUTLS_KU_PEER : 0);
	return tls_leave(session, code < 0 ? fail(session, code) : end_turn(session));
}

/* A part of a record is inside. */
static bool in_midst(const struct tls_session *session)
{
	return session->pulled.left || session->pulled.header_bytes ||
	       (session->records && tls_records_in_midst(session->records));
}

int tls_session_record_state(struct tls_session *session, bool receiving,
			     struct tls_record_state *state)
{
	*state = (struct tls_record_state){0};
	if (session->state != TLS_OPEN)
		return -EINVAL;
	if (receiving ? tls_session_read_pending(session) > 0 || in_midst(session)
		      : session->spill_bytes > 0)
		return -EBUSY;
	begin_turn(session);
	gnutls_datum_t mac, iv, key;
	int code =
		gnutls_record_get_state(session->tls, receiving, &mac, &iv, &key, state->sequence);
	bool good = code >= 0 && iv.size <= sizeof(state->iv) && key.size <= sizeof(state->key);
	if (good) {
		memcpy(state->key, key.data, key.size);
		memcpy(state->iv, iv.data, iv.size);
		state->key_bytes = key.size;
		state->iv_bytes = iv.size;
	}
	int error = end_turn(session);
	return error ? error : good ? 0 : -EINVAL;
}

/* ---- Asking ---- */

enum tls_state tls_session_state(const struct tls_session *session)
{
	return session->state;
}

const char *tls_session_reason(const struct tls_session *session)
{
	return session->reason;
}

static const char *or_none(const char *name)
{
	return name ? name : "";
}

void tls_session_info(const struct tls_session *session, struct tls_session_info *info)
{
	*info = (struct tls_session_info){
		.version = "",
		.cipher = "",
		.key_exchange = "",
		.psk = session->credentials->config.psk_file != NULL,
		.peer = session->peer,
	};
	if (session->state != TLS_OPEN && session->state != TLS_CLOSING)
		return;
	gnutls_protocol_t version = gnutls_protocol_get_version(session->tls);
	info->version = or_none(gnutls_protocol_get_name(version));
	info->cipher = or_none(gnutls_cipher_get_name(gnutls_cipher_get(session->tls)));
	info->key_exchange = or_none(gnutls_kx_get_name(gnutls_kx_get(session->tls)));
}
