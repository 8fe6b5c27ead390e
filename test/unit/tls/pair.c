/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pair: moves bytes between two sessions through queues, in pieces of the size that the test asks
 * for. Pieces are copied to a heap buffer of exactly their size, so that ASan sees any step beyond.
 */
#include "test/unit/tls/pair.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/compiler.h"
#include "test/unit/tls/certificates.h"

enum { OUT_BYTES = 64 << 10, STEPS_MAX = 100000 };

/* ---- Queues ---- */

void queue_put(struct queue *queue, const void *bytes, size_t count)
{
	if (!count)
		return;
	if (queue->at + queue->count + count > queue->room) {
		if (queue->count)
			memmove(queue->bytes, queue->bytes + queue->at, queue->count);
		queue->at = 0;
		if (queue->count + count > queue->room) {
			queue->room = 2 * (queue->count + count);
			queue->bytes = realloc(queue->bytes, queue->room);
			assert_non_null(queue->bytes);
		}
	}
	memcpy(queue->bytes + queue->at + queue->count, bytes, count);
	queue->count += count;
}

void queue_free(struct queue *queue)
{
	free(queue->bytes);
	*queue = (struct queue){0};
}

/* ---- Credentials ---- */

struct tls_credentials *credentials_make(const struct tls_credentials_config *config)
{
	struct tls_credentials *credentials;
	struct tls_report report;
	if (tls_credentials_create(config, &credentials, &report) != 0)
		fail_msg("%s", report.error);
	return credentials;
}

struct tls_credentials *credentials_of(enum tls_endpoint endpoint, const char *directory,
				       enum tls_verify verify)
{
	const struct tls_credentials_config config = {
		.endpoint = endpoint,
		.directory = directory,
		.verify_peer = verify,
	};
	return credentials_make(&config);
}

struct tls_credentials *keys_of(enum tls_endpoint endpoint, const char *directory, const char *file,
				const char *priority)
{
	const struct tls_credentials_config config = {
		.endpoint = endpoint,
		.psk_file = in_directory(directory, file),
		.priority = priority,
	};
	return credentials_make(&config);
}

struct tls_credentials *client_with(const char *directory, const char *certificate, const char *key,
				    const char *priority)
{
	const struct tls_credentials_config config = {
		.endpoint = TLS_CLIENT,
		.ca_file = in_directory(directory, "ca-cert.pem"),
		.certificate_file = in_directory(directory, certificate),
		.key_file = in_directory(directory, key),
		.priority = priority,
	};
	return credentials_make(&config);
}

void contains(const char *text, const char *word)
{
	if (!strstr(text, word))
		fail_msg("\"%s\" lacks \"%s\"", text, word);
}

/* ---- A client that is GnuTLS ---- */

static ssize_t raw_pull(gnutls_transport_ptr_t arg, void *at, size_t count)
{
	struct pair *pair = arg;
	struct queue *queue = &pair->to_client;
	if (!queue->count) {
		gnutls_transport_set_errno(pair->raw, EAGAIN);
		return -1;
	}
	count = MIN_OF(count, queue->count);
	memcpy(at, queue->bytes + queue->at, count);
	queue->at += count;
	queue->count -= count;
	return count;
}

static ssize_t raw_push(gnutls_transport_ptr_t arg, const void *bytes, size_t count)
{
	struct pair *pair = arg;
	queue_put(&pair->to_server, bytes, count);
	return count;
}

static void open_raw(struct pair *pair, const char *priority, const char *psk_hex)
{
	const char *at;
	assert_int_equal(gnutls_init(&pair->raw, GNUTLS_CLIENT | GNUTLS_NONBLOCK), 0);
	int code = gnutls_priority_set_direct(pair->raw, priority, &at);
	if (code < 0)
		fail_msg("%s: %s at %s", gnutls_strerror(code), priority, at);
	if (psk_hex) {
		gnutls_datum_t key = {(unsigned char *)psk_hex, strlen(psk_hex)};
		assert_int_equal(gnutls_psk_allocate_client_credentials(&pair->raw_psk), 0);
		assert_int_equal(gnutls_psk_set_client_credentials(pair->raw_psk, "u", &key,
								   GNUTLS_PSK_KEY_HEX),
				 0);
		gnutls_credentials_set(pair->raw, GNUTLS_CRD_PSK, pair->raw_psk);
	} else {
		assert_int_equal(gnutls_certificate_allocate_credentials(&pair->raw_x509), 0);
		gnutls_credentials_set(pair->raw, GNUTLS_CRD_CERTIFICATE, pair->raw_x509);
	}
	gnutls_transport_set_ptr(pair->raw, pair);
	gnutls_transport_set_pull_function(pair->raw, raw_pull);
	gnutls_transport_set_push_function(pair->raw, raw_push);
}

/* ---- Life ---- */

void pair_open(struct pair *pair, struct tls_credentials *server, struct tls_credentials *client,
	       const char *server_name)
{
	memset(pair, 0, sizeof(*pair));
	assert_int_equal(tls_session_create(&pair->server, server, NULL), 0);
	assert_int_equal(tls_session_create(&pair->client, client, server_name), 0);
}

void pair_open_raw(struct pair *pair, struct tls_credentials *server, const char *priority,
		   const char *psk_hex)
{
	memset(pair, 0, sizeof(*pair));
	assert_int_equal(tls_session_create(&pair->server, server, NULL), 0);
	open_raw(pair, priority, psk_hex);
}

void pair_close(struct pair *pair)
{
	tls_session_destroy(pair->server);
	tls_session_destroy(pair->client);
	if (pair->raw)
		gnutls_deinit(pair->raw);
	if (pair->raw_x509)
		gnutls_certificate_free_credentials(pair->raw_x509);
	if (pair->raw_psk)
		gnutls_psk_free_client_credentials(pair->raw_psk);
	queue_free(&pair->to_server);
	queue_free(&pair->to_client);
	memset(pair, 0, sizeof(*pair));
}

/* ---- Calls ---- */

/* Buffers of one call: the input a copy of the queue's head, the output empty. */
struct call {
	struct queue *from, *to;
	uint8_t *input;
	size_t given;
	struct tls_input in;
	struct tls_output out;
};

static void begin(struct call *call, struct pair *pair, const struct tls_session *session)
{
	bool server = session == pair->server;
	call->from = server ? &pair->to_server : &pair->to_client;
	call->to = server ? &pair->to_client : &pair->to_server;
	call->given = pair->cut ? MIN_OF(pair->cut, call->from->count) : call->from->count;
	call->input = malloc(call->given + !call->given);
	assert_non_null(call->input);
	if (call->given)
		memcpy(call->input, call->from->bytes + call->from->at, call->given);
	call->in = (struct tls_input){call->input, call->given};
	call->out.room = pair->room ? pair->room : OUT_BYTES;
	call->out.bytes = malloc(call->out.room);
	call->out.used = 0;
	assert_non_null(call->out.bytes);
}

static int end(struct call *call, int result)
{
	size_t taken = call->given - call->in.count;
	assert_true(call->in.bytes == call->input + taken);
	assert_true(call->out.used <= call->out.room);
	call->from->at += taken;
	call->from->count -= taken;
	queue_put(call->to, call->out.bytes, call->out.used);
	free(call->input);
	free(call->out.bytes);
	return result;
}

int side_handshake(struct pair *pair, struct tls_session *session)
{
	struct call call;
	begin(&call, pair, session);
	return end(&call, tls_session_handshake(session, &call.in, &call.out));
}

int side_read(struct pair *pair, struct tls_session *session, void *plain, size_t room, size_t *got)
{
	struct call call;
	begin(&call, pair, session);
	return end(&call, tls_session_read(session, &call.in, plain, room, got, &call.out));
}

int side_write(struct pair *pair, struct tls_session *session, struct tls_source *source)
{
	struct call call;
	begin(&call, pair, session);
	return end(&call, tls_session_write(session, source, &call.out));
}

int side_flush(struct pair *pair, struct tls_session *session)
{
	struct call call;
	begin(&call, pair, session);
	return end(&call, tls_session_flush(session, &call.out));
}

int side_close(struct pair *pair, struct tls_session *session)
{
	struct call call;
	begin(&call, pair, session);
	return end(&call, tls_session_close(session, &call.out));
}

/* ---- Several calls ---- */

static void flush_all(struct pair *pair, struct tls_session *session)
{
	unsigned steps = 0;
	while (side_flush(pair, session) == -EAGAIN)
		assert_true(++steps < STEPS_MAX);
	assert_int_equal(tls_session_output_pending(session), 0);
}

/* True if it is over for this side. */
static bool step(struct pair *pair, struct tls_session *session, int *result)
{
	struct queue *from = session == pair->server ? &pair->to_server : &pair->to_client;
	do {
		*result = side_handshake(pair, session);
		flush_all(pair, session);
	} while (*result == -EAGAIN && from->count);
	return *result != -EAGAIN;
}

static bool step_client(struct pair *pair)
{
	if (pair->client)
		return step(pair, pair->client, &pair->client_result);
	pair->client_result = gnutls_handshake(pair->raw);
	return pair->client_result == 0 || gnutls_error_is_fatal(pair->client_result);
}

void pair_handshake(struct pair *pair)
{
	bool server_over = false, client_over = false;
	for (unsigned i = 0; i < 10 && !(server_over && client_over); i++) {
		if (!client_over)
			client_over = step_client(pair);
		if (!server_over)
			server_over = step(pair, pair->server, &pair->server_result);
	}
}

void pair_connect(struct pair *pair)
{
	pair_handshake(pair);
	if (pair->server_result)
		fail_msg("server: %s", tls_session_reason(pair->server));
	if (pair->client_result)
		fail_msg("client: %s", pair->client ? tls_session_reason(pair->client)
						    : gnutls_strerror(pair->client_result));
	assert_int_equal(tls_session_state(pair->server), TLS_OPEN);
}

int send_all(struct pair *pair, struct tls_session *session, const void *bytes, size_t count)
{
	struct iovec iov = {(void *)bytes, count};
	struct tls_source source = {&iov, 1, 0};
	int result;
	unsigned steps = 0;
	do {
		result = side_write(pair, session, &source);
		assert_true(++steps < STEPS_MAX);
	} while (result == -EAGAIN);
	return result;
}

int receive_all(struct pair *pair, struct tls_session *session, void *bytes, size_t count,
		size_t *got)
{
	struct queue *from = session == pair->server ? &pair->to_server : &pair->to_client;
	*got = 0;
	while (*got < count) {
		size_t n;
		int result = side_read(pair, session, (uint8_t *)bytes + *got, count - *got, &n);
		*got += n;
		if (result)
			return result;
		if (!n && !from->count)
			break;
	}
	return 0;
}

void pair_expect(struct pair *pair, struct tls_session *to, const void *bytes, size_t count)
{
	uint8_t *plain = malloc(count + 1);
	size_t got;
	assert_non_null(plain);
	assert_int_equal(receive_all(pair, to, plain, count + 1, &got), 0);
	assert_int_equal(got, count);
	assert_memory_equal(plain, bytes, count);
	free(plain);
}

void pair_failed(struct pair *pair, struct tls_session *session, const char *word,
		 const char *alert)
{
	struct tls_session *other = session == pair->server ? pair->client : pair->server;
	char text[1];
	size_t got;
	assert_int_equal(tls_session_state(session), TLS_FAILED);
	contains(tls_session_reason(session), word);
	assert_int_equal(receive_all(pair, other, text, 1, &got), -EPROTO);
	contains(tls_session_reason(other), alert);
}
