/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * kernel: keys to sockets, and records that are no data. A socket that has been given a direction
 * can not give it back: so all that may be wrong is looked at before, and receiving, which may be
 * refused, goes first. Any thread, the session's.
 */
#include "lib/tls/kernel.h"

#include <errno.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/compiler.h"
#include "lib/tls/internal.h"
#include "lib/tls/records.h"

enum {
	RECORD_ALERT = 21,
	RECORD_HANDSHAKE = 22,
	HANDSHAKE_KEY_UPDATE = 24,
	SALT_BYTES = 4,	  /* of AES-GCM's nonce: what TLS 1.2 does not send along */
	NONCE_BYTES = 12, /* of all three */
};

/* How the kernel wants a cipher: the parts of its structures, in the order in which they stand. */
struct cipher {
	gnutls_cipher_algorithm_t algorithm;
	uint16_t type;
	size_t iv_bytes, key_bytes, salt_bytes;
};

static const struct cipher ciphers[] = {
	{GNUTLS_CIPHER_AES_128_GCM, TLS_CIPHER_AES_GCM_128, TLS_CIPHER_AES_GCM_128_IV_SIZE,
	 TLS_CIPHER_AES_GCM_128_KEY_SIZE, TLS_CIPHER_AES_GCM_128_SALT_SIZE},
	{GNUTLS_CIPHER_AES_256_GCM, TLS_CIPHER_AES_GCM_256, TLS_CIPHER_AES_GCM_256_IV_SIZE,
	 TLS_CIPHER_AES_GCM_256_KEY_SIZE, TLS_CIPHER_AES_GCM_256_SALT_SIZE},
	{GNUTLS_CIPHER_CHACHA20_POLY1305, TLS_CIPHER_CHACHA20_POLY1305,
	 TLS_CIPHER_CHACHA20_POLY1305_IV_SIZE, TLS_CIPHER_CHACHA20_POLY1305_KEY_SIZE,
	 TLS_CIPHER_CHACHA20_POLY1305_SALT_SIZE},
};

/* One direction, as setsockopt() takes it. */
struct crypto {
	uint8_t bytes[sizeof(struct tls12_crypto_info_aes_gcm_256)];
	size_t count;
};

_Static_assert(sizeof(struct tls12_crypto_info_chacha20_poly1305) <=
		       sizeof(struct tls12_crypto_info_aes_gcm_256),
	       "the largest of the three");

static void add(struct crypto *crypto, const void *bytes, size_t count)
{
	memcpy(crypto->bytes + crypto->count, bytes, count);
	crypto->count += count;
}

/* iv, key, salt and the number of the next record: bytes without gaps in all of them. */
static void fill(struct crypto *crypto, const struct cipher *cipher, uint16_t version,
		 const struct tls_record_state *state)
{
	/* TLS 1.2 sends half of AES-GCM's nonce along; the sequence number is never the same twice
	 */
	bool sent_along = version == TLS_1_2_VERSION && cipher->salt_bytes;
	struct tls_crypto_info info = {.version = version, .cipher_type = cipher->type};
	crypto->count = 0;
	add(crypto, &info, sizeof(info));
	add(crypto, sent_along ? state->sequence : state->iv + cipher->salt_bytes,
	    cipher->iv_bytes);
	add(crypto, state->key, cipher->key_bytes);
	add(crypto, state->iv, cipher->salt_bytes);
	add(crypto, state->sequence, sizeof(state->sequence));
}

/* ---- The probe ---- */

static int set_ulp(int fd)
{
	return setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) ? -errno : 0;
}

static int give(int fd, int direction, const struct crypto *crypto)
{
	return setsockopt(fd, SOL_TLS, direction, crypto->bytes, crypto->count) ? -errno : 0;
}

/* Two ends of a connection over loopback. */
static bool connect_ends(int *one, int *other)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t bytes = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*one = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*other = -1;
	if (listener >= 0 && *one >= 0 &&
	    !bind(listener, (struct sockaddr *)&address, sizeof(address)) && !listen(listener, 1) &&
	    !getsockname(listener, (struct sockaddr *)&address, &bytes) &&
	    !connect(*one, (struct sockaddr *)&address, sizeof(address)))
		*other = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (listener >= 0)
		close(listener);
	return *other >= 0;
}

/* The first use of a cipher may load modules, which takes its time. */
static void warm_up(const struct cipher *cipher)
{
	static const struct tls_record_state zeroes;
	struct crypto crypto;
	int one, other;
	if (connect_ends(&one, &other) && !set_ulp(one)) {
		fill(&crypto, cipher, TLS_1_3_VERSION, &zeroes);
		give(one, TLS_RX, &crypto);
		give(one, TLS_TX, &crypto);
	}
	if (one >= 0)
		close(one);
	if (other >= 0)
		close(other);
}

int tls_kernel_probe(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int error = set_ulp(fd);
	close(fd);
	/* it is there, and wants a socket that is connected */
	if (error && error != -ENOTCONN)
		return error;
	for (unsigned i = 0; i < COUNT_OF(ciphers); i++)
		warm_up(&ciphers[i]);
	return 0;
}

/* ---- Handing over ---- */

static bool is_tcp(int fd)
{
	int protocol = 0;
	socklen_t bytes = sizeof(protocol);
	return !getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &bytes) &&
	       protocol == IPPROTO_TCP;
}

static const struct cipher *cipher_of(gnutls_session_t tls)
{
	for (unsigned i = 0; i < COUNT_OF(ciphers); i++) {
		if (ciphers[i].algorithm == gnutls_cipher_get(tls))
			return &ciphers[i];
	}
	return NULL;
}

static uint16_t version_of(gnutls_session_t tls)
{
	switch (gnutls_protocol_get_version(tls)) {
	case GNUTLS_TLS1_2:
		return TLS_1_2_VERSION;
	case GNUTLS_TLS1_3:
		return TLS_1_3_VERSION;
	default:
		return 0;
	}
}

static int unfit(char *why, const char *what)
{
	snprintf(why, TLS_KERNEL_WHY_BYTES, "%s", what);
	return -EPROTONOSUPPORT;
}

static int get_crypto(struct tls_session *session, bool receiving, const struct cipher *cipher,
		      uint16_t version, struct crypto *crypto)
{
	struct tls_record_state state;
	size_t iv_bytes =
		version == TLS_1_2_VERSION && cipher->salt_bytes ? SALT_BYTES : NONCE_BYTES;
	int error = tls_session_record_state(session, receiving, &state);
	if (!error && (state.iv_bytes != iv_bytes || state.key_bytes != cipher->key_bytes))
		error = -EPROTONOSUPPORT;
	if (!error)
		fill(crypto, cipher, version, &state);
	explicit_bzero(&state, sizeof(state));
	return error;
}

static int hand_over(int fd, const struct crypto *receiving, const struct crypto *sending,
		     char *why)
{
	int error = set_ulp(fd);
	if (error) {
		snprintf(why, TLS_KERNEL_WHY_BYTES, "TCP_ULP: %s", strerror(-error));
		return error;
	}
	/* a socket with nothing but the ULP is as it was before */
	error = give(fd, TLS_RX, receiving);
	if (error) {
		snprintf(why, TLS_KERNEL_WHY_BYTES, "TLS_RX: %s", strerror(-error));
		return error;
	}
	error = give(fd, TLS_TX, sending);
	if (!error)
		return 0;
	snprintf(why, TLS_KERNEL_WHY_BYTES, "the kernel took one direction only; TLS_TX: %s",
		 strerror(-error));
	return -ENOTRECOVERABLE;
}

int tls_session_to_kernel(struct tls_session *session, int fd, char *why)
{
	if (session->state != TLS_OPEN)
		return unfit(why, "the session is not open");
	const struct cipher *cipher = cipher_of(session->tls);
	uint16_t version = version_of(session->tls);
	if (!is_tcp(fd))
		return unfit(why, "no TCP socket");
	if (!cipher || !version)
		return unfit(why, "not this cipher or version");
	if (session->small_records)
		return unfit(why, "the client wants small records");
	if (tls_records_owe_answer(session->records))
		return -EBUSY;
	struct crypto receiving, sending;
	int error = get_crypto(session, true, cipher, version, &receiving);
	if (!error)
		error = get_crypto(session, false, cipher, version, &sending);
	if (error == -EPROTONOSUPPORT)
		unfit(why, "keys of another form");
	else if (error && error != -EBUSY)
		error = unfit(why, "no keys");
	if (!error)
		error = hand_over(fd, &receiving, &sending, why);
	explicit_bzero(&receiving, sizeof(receiving));
	explicit_bzero(&sending, sizeof(sending));
	return error;
}

/* ---- Records that are no data ---- */

static int judge_alert(const uint8_t *bytes, size_t count, char *why)
{
	if (count != 2) {
		snprintf(why, TLS_KERNEL_WHY_BYTES, "the client breaks TLS: no alert is so long");
		return -EPROTO;
	}
	if (bytes[1] == TLS_ALERT_CLOSE_NOTIFY)
		return -ESHUTDOWN;
	if (bytes[0] == TLS_ALERT_WARNING)
		return 0;
	const char *name = gnutls_alert_get_name(bytes[1]);
	snprintf(why, TLS_KERNEL_WHY_BYTES, "the client ended TLS with the alert \"%s\"",
		 name ? name : "unknown");
	return -EPROTO;
}

static int judge(unsigned type, const uint8_t *bytes, size_t count, char *why)
{
	if (type == RECORD_ALERT)
		return judge_alert(bytes, count, why);
	if (type == RECORD_HANDSHAKE && count && bytes[0] == HANDSHAKE_KEY_UPDATE) {
		snprintf(why, TLS_KERNEL_WHY_BYTES,
			 "the client changes its keys, which kernel TLS does not follow");
		return -EKEYEXPIRED;
	}
	snprintf(why, TLS_KERNEL_WHY_BYTES,
		 type == RECORD_HANDSHAKE ? "the client asks for a new handshake in the middle"
					  : "the client breaks TLS: a record of type %u",
		 type);
	return -EPROTO;
}

int tls_kernel_take_control(int fd, char *why)
{
	uint8_t bytes[TLS_RECORD_BYTES];
	union {
		struct cmsghdr header;
		uint8_t room[CMSG_SPACE(sizeof(uint8_t))];
	} control;
	struct iovec iov = {bytes, sizeof(bytes)};
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (!header || header->cmsg_level != SOL_TLS || header->cmsg_type != TLS_GET_RECORD_TYPE) {
		/* data, or the end: a receive would have told, it did not fail because of it */
		snprintf(why, TLS_KERNEL_WHY_BYTES, "kernel TLS gives a record without its type");
		return got ? -EPROTO : 0;
	}
	return judge(*CMSG_DATA(header), bytes, got, why);
}

int tls_kernel_send_alert(int fd, int level, int description)
{
	uint8_t bytes[] = {level, description};
	union {
		struct cmsghdr header;
		uint8_t room[CMSG_SPACE(sizeof(uint8_t))];
	} control = {0};
	struct iovec iov = {bytes, sizeof(bytes)};
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_TLS;
	header->cmsg_type = TLS_SET_RECORD_TYPE;
	header->cmsg_len = CMSG_LEN(sizeof(uint8_t));
	*CMSG_DATA(header) = RECORD_ALERT;
	int forgotten;
	socklen_t room = sizeof(forgotten);
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &forgotten, &room);
	return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}
