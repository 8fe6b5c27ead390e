/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * failure: why a session failed, as a sentence for the log that an operator can act on. Never a
 * secret in it; what the peer sent only as cleaned text. On the session's thread.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/tls/internal.h"

enum { TLS_HANDSHAKE_BYTE = 22, TLS_ALERT_BYTE = 21 };

static int say(struct tls_session *session, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int say(struct tls_session *session, int error, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(session->reason, sizeof(session->reason), format, args);
	va_end(args);
	return error;
}

static const char *the_peer(const struct tls_session *session)
{
	return session->credentials->config.endpoint == TLS_SERVER ? "the client" : "the server";
}

/* Something else than TLS: its first bytes tell what, so they are shown. */
static int not_tls(struct tls_session *session)
{
	char text[8], hex[16];
	size_t at = 0;
	tls_clean_text(text, sizeof(text), session->first, session->first_count);
	for (unsigned i = 0; i < session->first_count; i++)
		at += snprintf(hex + at, sizeof(hex) - at, "%s%02x", i ? " " : "",
			       session->first[i]);
	return say(session, -EPROTO, "%s does not speak TLS: it begins with \"%s\" (%s)",
		   the_peer(session), text, hex);
}

static bool looks_like_tls(const struct tls_session *session)
{
	if (!session->first_count)
		return true;
	return (session->first[0] == TLS_HANDSHAKE_BYTE || session->first[0] == TLS_ALERT_BYTE) &&
	       (session->first_count < 2 || session->first[1] == 3);
}

static int no_version(struct tls_session *session)
{
	bool only_1_3 = session->credentials->config.min_version == TLS_VERSION_1_3;
	return say(session, -EPROTO,
		   "%s has no TLS version in common with us: ours start at TLS 1.%d",
		   the_peer(session), only_1_3 ? 3 : 2);
}

/* What is said of a certificate by those who do not like it. */
static bool is_distrust(int alert)
{
	switch (alert) {
	case GNUTLS_A_BAD_CERTIFICATE:
	case GNUTLS_A_UNSUPPORTED_CERTIFICATE:
	case GNUTLS_A_CERTIFICATE_REVOKED:
	case GNUTLS_A_CERTIFICATE_EXPIRED:
	case GNUTLS_A_CERTIFICATE_UNKNOWN:
	case GNUTLS_A_UNKNOWN_CA:
		return true;
	default:
		return false;
	}
}

static int refused_by_peer(struct tls_session *session, int alert)
{
	const char *name = gnutls_alert_get_name(alert);
	return say(session, -EPROTO, "%s ended TLS with the alert \"%s\"%s", the_peer(session),
		   name ? name : "unknown",
		   is_distrust(alert) ? ": it does not trust our certificate" : "");
}

/*
 * A fatal alert in the clear, though all is encrypted by then: so OpenSSL says what it thinks of
 * our certificate, and GnuTLS only that it does not decrypt. Anybody on the way could have written
 * it; but the session is over anyway. 0: there is none.
 */
static int alert_in_clear(const struct tls_session *session)
{
	static const uint8_t head[] = {TLS_ALERT_BYTE, 3, 3, 0, 2, GNUTLS_AL_FATAL};
	return memcmp(session->last, head, sizeof(head)) ? 0 : session->last[sizeof(head)];
}

/* A wrong key shows as something that does not decrypt: tell what was probably the matter. */
static int in_psk_handshake(struct tls_session *session, int code)
{
	if (session->psk_unknown)
		return say(session, -EACCES, "the client's PSK identity \"%s\" is unknown",
			   session->peer);
	if (code == GNUTLS_E_DECRYPTION_FAILED || code == GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER ||
	    code == GNUTLS_E_ERROR_IN_FINISHED_PACKET)
		return say(session, -EACCES,
			   "the client's key for the PSK identity \"%s\" is not ours",
			   session->peer);
	return 0;
}

static int in_handshake(struct tls_session *session, int code)
{
	bool psk = session->credentials->config.psk_file != NULL;
	switch (code) {
	case GNUTLS_E_CERTIFICATE_REQUIRED:
	case GNUTLS_E_NO_CERTIFICATE_FOUND:
		return say(session, -EACCES,
			   "%s shows no certificate, or none of an authority we trust, and must",
			   the_peer(session));
	case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
	case GNUTLS_E_INAPPROPRIATE_FALLBACK:
		return no_version(session);
	case GNUTLS_E_NO_CIPHER_SUITES:
	case GNUTLS_E_UNKNOWN_CIPHER_SUITE:
	case GNUTLS_E_INSUFFICIENT_CREDENTIALS:
	case GNUTLS_E_NO_COMMON_KEY_SHARE:
	case GNUTLS_E_UNWANTED_ALGORITHM:
	case GNUTLS_E_MISSING_EXTENSION:
		/* GnuTLS misses ciphers, not versions, where ours begin with TLS 1.3 */
		if (session->credentials->config.min_version == TLS_VERSION_1_3 &&
		    gnutls_protocol_get_version(session->tls) != GNUTLS_TLS1_3)
			return no_version(session);
		return say(session, -EPROTO, "no cipher suite in common with %s (we use %s): %s",
			   the_peer(session), psk ? "pre-shared keys" : "certificates",
			   gnutls_strerror(code));
	default:
		return session->psk_asked ? in_psk_handshake(session, code) : 0;
	}
}

int tls_failure_explain(struct tls_session *session, int code)
{
	if (session->reason[0]) /* the certificate's judge has spoken */
		return -EACCES;
	if (code == GNUTLS_E_MEMORY_ERROR || code == GNUTLS_E_PUSH_ERROR)
		return say(session, -ENOMEM, "no memory for TLS");
	if (session->state == TLS_HANDSHAKE && !looks_like_tls(session))
		return not_tls(session);
	if (code == GNUTLS_E_FATAL_ALERT_RECEIVED)
		return refused_by_peer(session, gnutls_alert_get(session->tls));
	if (session->state == TLS_HANDSHAKE && code == GNUTLS_E_DECRYPTION_FAILED) {
		int alert = alert_in_clear(session);
		if (alert)
			return refused_by_peer(session, alert);
	}
	if (session->state == TLS_HANDSHAKE) {
		int error = in_handshake(session, code);
		if (error)
			return error;
	}
	if (code == GNUTLS_E_REHANDSHAKE)
		return say(session, -EPROTO, "%s asks for a new handshake in the middle",
			   the_peer(session));
	return say(session, -EPROTO, "%s breaks TLS%s: %s", the_peer(session),
		   session->state == TLS_HANDSHAKE ? " in the handshake" : "",
		   gnutls_strerror(code));
}
