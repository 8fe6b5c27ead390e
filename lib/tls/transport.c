/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * transport: what GnuTLS has for a socket. It pulls from the input of the call under way and pushes
 * into its output; what finds no room there goes to the spill, so that GnuTLS never has to wait in
 * the middle of a record, an alert or a flight. One thread, the session's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/compiler.h"
#include "lib/tls/internal.h"

/* For failure.c, in the handshake. */
static never_inline void remember(struct tls_session *session, const uint8_t *bytes, size_t count)
{
	for (size_t i = 0; session->first_count < sizeof(session->first) && i < count; i++)
		session->first[session->first_count++] = bytes[i];
	size_t n = MIN_OF(count, sizeof(session->last)), kept = sizeof(session->last) - n;
	memmove(session->last, session->last + n, kept);
	memcpy(session->last + kept, bytes + count - n, n);
}

/* Keeps count of records: whether GnuTLS has got the whole of one can not be asked of it. */
static void count_records(struct tls_session *session, const uint8_t *bytes, size_t count)
{
	while (count) {
		size_t n = MIN_OF(count, session->pulled.left);
		session->pulled.left -= n;
		if (!n) {
			uint8_t *header = session->pulled.header;
			header[session->pulled.header_bytes++] = *bytes;
			n = 1;
			if (session->pulled.header_bytes == RECORD_HEADER_BYTES) {
				session->pulled.header_bytes = 0;
				session->pulled.left = header[3] << 8 | header[4];
			}
		}
		bytes += n;
		count -= n;
	}
}

static ssize_t pull(gnutls_transport_ptr_t arg, void *at, size_t count)
{
	struct tls_session *session = arg;
	struct tls_input *in = session->in;
	if (!in || !in->count) {
		gnutls_transport_set_errno(session->tls, EAGAIN);
		return -1;
	}
	count = MIN_OF(count, in->count);
	memcpy(at, in->bytes, count);
	if (session->state == TLS_HANDSHAKE)
		remember(session, in->bytes, count);
	count_records(session, in->bytes, count);
	in->bytes += count;
	in->count -= count;
	return count;
}

static int keep(struct tls_session *session, const void *bytes, size_t count)
{
	size_t needed = session->spill_bytes + count;
	if (needed > session->spill_room) {
		uint8_t *bigger = realloc(session->spill, needed);
		if (!bigger)
			return -ENOMEM;
		session->spill = bigger;
		session->spill_room = needed;
	}
	memcpy(session->spill + session->spill_bytes, bytes, count);
	session->spill_bytes += count;
	return 0;
}

static ssize_t push(gnutls_transport_ptr_t arg, const giovec_t *iov, int count)
{
	struct tls_session *session = arg;
	struct tls_output *out = session->out;
	size_t total = 0;
	for (int i = 0; i < count; i++) {
		const uint8_t *bytes = iov[i].iov_base;
		size_t left = iov[i].iov_len;
		total += left;
		if (likely(out && !session->spill_bytes)) {
			size_t n = MIN_OF(left, out->room - out->used);
			memcpy(out->bytes + out->used, bytes, n);
			out->used += n;
			bytes += n;
			left -= n;
		}
		if (unlikely(left) && keep(session, bytes, left) < 0) {
			gnutls_transport_set_errno(session->tls, ENOMEM);
			return -1;
		}
	}
	return total;
}

void tls_enter(struct tls_session *session, struct tls_input *in, struct tls_output *out)
{
	session->in = in;
	session->out = out;
	if (likely(!session->spill_bytes) || !out)
		return;
	size_t n = MIN_OF(session->spill_bytes - session->spill_at, out->room - out->used);
	memcpy(out->bytes + out->used, session->spill + session->spill_at, n);
	out->used += n;
	session->spill_at += n;
	if (session->spill_at < session->spill_bytes)
		return;
	free(session->spill);
	session->spill = NULL;
	session->spill_at = session->spill_bytes = session->spill_room = 0;
}

int tls_leave(struct tls_session *session, int result)
{
	session->in = NULL;
	session->out = NULL;
	return result;
}

void tls_transport_set(struct tls_session *session)
{
	gnutls_transport_set_ptr(session->tls, session);
	gnutls_transport_set_pull_function(session->tls, pull);
	gnutls_transport_set_vec_push_function(session->tls, push);
}
