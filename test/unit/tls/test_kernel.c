/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_kernel: what kernel TLS is given. The calls on the socket are caught here; what the kernel
 * was told must open the next record of the peer's, and make one that the peer opens. Records that
 * are no data, and everything that may be refused.
 */
#include <errno.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>
#include <gnutls/crypto.h>

#include "lib/base/compiler.h"
#include "lib/tls/internal.h"
#include "lib/tls/kernel.h"
#include "test/unit/tls/certificates.h"
#include "test/unit/tls/pair.h"

#define ONLY(version, cipher) "NORMAL:-VERS-ALL:+VERS-" version ":-CIPHER-ALL:+" cipher
#define TLS_1_3		      ONLY("TLS1.3", "AES-128-GCM")

enum { FD = 12345, DATA_TYPE = 23 };

/* The socket. */
static struct {
	int protocol, calls, fails_at, error; /* fails_at: which of ULP 1, RX 2, TX 3; 0: none */
	int order[3];
	uint8_t keys[2][64]; /* of TLS_TX and TLS_RX */
	uint8_t record[64], sent[64];
	unsigned type; /* of the record; 0: no control message */
	ssize_t count; /* of it, or -errno */
	unsigned sent_type;
} fake;

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t bytes);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *bytes);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t bytes)
{
	assert_int_equal(fd, FD);
	assert_in_range(fake.calls, 0, 2);
	fake.order[fake.calls++] = name;
	if (fake.calls == fake.fails_at) {
		errno = fake.error;
		return -1;
	}
	if (level == IPPROTO_TCP) {
		assert_int_equal(name, TCP_ULP);
		assert_string_equal(value, "tls");
		return 0;
	}
	assert_int_equal(level, SOL_TLS);
	assert_in_range(bytes, 1, sizeof(fake.keys[0]));
	memcpy(fake.keys[name == TLS_RX], value, bytes);
	return 0;
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *bytes)
{
	assert_int_equal(level, SOL_SOCKET);
	*(int *)value = name == SO_PROTOCOL ? fake.protocol : 0;
	return 0;
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
	struct cmsghdr *header = CMSG_FIRSTHDR(message);
	assert_int_equal(flags, MSG_DONTWAIT);
	if (fake.count < 0) {
		errno = -fake.count;
		return -1;
	}
	message->msg_controllen = fake.type ? CMSG_LEN(1) : 0;
	header->cmsg_level = SOL_TLS;
	header->cmsg_type = TLS_GET_RECORD_TYPE;
	header->cmsg_len = CMSG_LEN(1);
	*CMSG_DATA(header) = fake.type;
	memcpy(message->msg_iov->iov_base, fake.record, fake.count);
	return fake.count;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	const struct cmsghdr *header = CMSG_FIRSTHDR(message);
	assert_int_equal(flags, MSG_DONTWAIT | MSG_NOSIGNAL);
	assert_int_equal(header->cmsg_level, SOL_TLS);
	assert_int_equal(header->cmsg_type, TLS_SET_RECORD_TYPE);
	fake.sent_type = *CMSG_DATA(header);
	memcpy(fake.sent, message->msg_iov->iov_base, message->msg_iov->iov_len);
	return message->msg_iov->iov_len;
}

static const char *directory;

static int prepare(void **state)
{
	struct authority authority;
	authority_make(&authority, "Authority");
	directory = make_directory();
	fill_directory(directory, &authority);
	authority_free(&authority);
	memset(&fake, 0, sizeof(fake));
	fake.protocol = IPPROTO_TCP;
	return 0;
}

static int clean(void **state)
{
	remove_directory(directory);
	return 0;
}

static void open_with(struct pair *pair, const char *priority)
{
	struct tls_credentials_config config = {.directory = directory, .priority = priority};
	struct tls_credentials *server = credentials_make(&config), *client;
	config.endpoint = TLS_CLIENT;
	client = credentials_make(&config);
	pair_open(pair, server, client, NULL);
	pair_connect(pair);
	tls_credentials_put(server);
	tls_credentials_put(client);
	/* the numbers are not 0 any more */
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(send_all(pair, pair->client, "question", 8), 0);
		pair_expect(pair, pair->server, "question", 8);
		assert_int_equal(send_all(pair, pair->server, "answer", 6), 0);
		pair_expect(pair, pair->client, "answer", 6);
	}
}

/* ---- The kernel's part, as Linux does it ---- */

struct kernel {
	gnutls_aead_cipher_hd_t cipher;
	uint8_t nonce[12], additional[13];
	const uint8_t *explicit;
	size_t additional_bytes, explicit_bytes;
	bool tls_1_2;
};

static void split(struct kernel *kernel, const uint8_t *told, size_t plain_bytes)
{
	struct tls_crypto_info info;
	memcpy(&info, told, sizeof(info));
	bool chacha = info.cipher_type == TLS_CIPHER_CHACHA20_POLY1305;
	gnutls_datum_t key = {.size = info.cipher_type == TLS_CIPHER_AES_GCM_128 ? 16 : 32};
	size_t salt_bytes = chacha ? 0 : 4, iv_bytes = 12 - salt_bytes;
	const uint8_t *iv = told + sizeof(info);
	key.data = (uint8_t *)iv + iv_bytes;
	const uint8_t *salt = key.data + key.size, *sequence = salt + salt_bytes;
	gnutls_cipher_algorithm_t algorithm = chacha	       ? GNUTLS_CIPHER_CHACHA20_POLY1305
					      : key.size == 16 ? GNUTLS_CIPHER_AES_128_GCM
							       : GNUTLS_CIPHER_AES_256_GCM;
	memset(kernel, 0, sizeof(*kernel));
	assert_int_equal(gnutls_aead_cipher_init(&kernel->cipher, algorithm, &key), 0);
	memcpy(kernel->nonce, salt, salt_bytes);
	memcpy(kernel->nonce + salt_bytes, iv, iv_bytes);
	kernel->tls_1_2 = info.version == TLS_1_2_VERSION;
	kernel->explicit = iv;
	kernel->explicit_bytes = kernel->tls_1_2 && !chacha ? 8 : 0;
	if (!kernel->explicit_bytes)
		for (unsigned i = 0; i < 8; i++)
			kernel->nonce[4 + i] ^= sequence[i];
	const uint8_t header[] = {DATA_TYPE, 3, 3};
	size_t bytes = kernel->tls_1_2 ? plain_bytes : plain_bytes + 1 + 16;
	uint8_t *at = kernel->additional;
	if (kernel->tls_1_2) {
		memcpy(at, sequence, 8);
		at += 8;
	}
	memcpy(at, header, 3);
	at[3] = bytes >> 8;
	at[4] = bytes;
	kernel->additional_bytes = at + 5 - kernel->additional;
}

/* A record with what the kernel was told about sending. */
static void kernel_sends(struct pair *pair, const char *text)
{
	struct kernel kernel;
	uint8_t record[128] = {DATA_TYPE, 3, 3}, plain[64];
	size_t bytes = strlen(text), sealed = sizeof(record);
	split(&kernel, fake.keys[0], bytes);
	memcpy(plain, text, bytes);
	plain[bytes] = DATA_TYPE;
	uint8_t *body = record + 5;
	memcpy(body, kernel.explicit, kernel.explicit_bytes);
	sealed -= 5 + kernel.explicit_bytes;
	assert_int_equal(gnutls_aead_cipher_encrypt(kernel.cipher, kernel.nonce, 12,
						    kernel.additional, kernel.additional_bytes, 16,
						    plain, bytes + !kernel.tls_1_2,
						    body + kernel.explicit_bytes, &sealed),
			 0);
	sealed += kernel.explicit_bytes;
	record[4] = sealed;
	queue_put(&pair->to_client, record, 5 + sealed);
	gnutls_aead_cipher_deinit(kernel.cipher);
	pair_expect(pair, pair->client, text, bytes);
}

/* The next record to the server, with what the kernel was told about receiving. */
static void kernel_receives(struct pair *pair, const char *text)
{
	struct kernel kernel;
	uint8_t plain[64];
	size_t bytes = strlen(text), opened = sizeof(plain);
	assert_int_equal(send_all(pair, pair->client, text, bytes), 0);
	split(&kernel, fake.keys[1], bytes);
	const uint8_t *body = pair->to_server.bytes + pair->to_server.at + 5;
	/* what is sent along is the peer's to choose */
	memcpy(kernel.nonce + 4, kernel.explicit_bytes ? body : kernel.nonce + 4, 8);
	assert_int_equal(gnutls_aead_cipher_decrypt(
				 kernel.cipher, kernel.nonce, 12, kernel.additional,
				 kernel.additional_bytes, 16, body + kernel.explicit_bytes,
				 pair->to_server.count - 5 - kernel.explicit_bytes, plain, &opened),
			 0);
	assert_int_equal(opened, bytes + !kernel.tls_1_2);
	assert_memory_equal(plain, text, bytes);
	gnutls_aead_cipher_deinit(kernel.cipher);
}

/* ---- Handing over ---- */

static void hands_over(const char *priority)
{
	struct pair pair;
	char why[TLS_KERNEL_WHY_BYTES] = "";
	open_with(&pair, priority);
	fake.calls = 0;
	assert_int_equal(tls_session_to_kernel(pair.server, FD, why), 0);
	assert_int_equal(fake.calls, 3);
	assert_int_equal(fake.order[0], TCP_ULP);
	assert_int_equal(fake.order[1], TLS_RX); /* what may be refused comes first */
	assert_int_equal(fake.order[2], TLS_TX);
	kernel_sends(&pair, "by the kernel");
	kernel_receives(&pair, "to the kernel");
	pair_close(&pair);
}

static void keys_are_right(void **state)
{
	static const char *const priorities[] = {
		TLS_1_3,
		ONLY("TLS1.3", "AES-256-GCM"),
		ONLY("TLS1.3", "CHACHA20-POLY1305"),
		ONLY("TLS1.2", "AES-128-GCM"),
		ONLY("TLS1.2", "AES-256-GCM"),
		ONLY("TLS1.2", "CHACHA20-POLY1305"),
	};
	for (unsigned i = 0; i < COUNT_OF(priorities); i++)
		hands_over(priorities[i]);
}

/* Nothing has changed: the session goes on. */
static void goes_on(struct pair *pair)
{
	assert_int_equal(send_all(pair, pair->client, "still", 5), 0);
	pair_expect(pair, pair->server, "still", 5);
	assert_int_equal(send_all(pair, pair->server, "here", 4), 0);
	pair_expect(pair, pair->client, "here", 4);
}

static void refused_by_kernel(void **state)
{
	struct pair pair;
	char why[TLS_KERNEL_WHY_BYTES];
	static const char *const words[] = {"TCP_ULP: No such", "TLS_RX: No such"};
	open_with(&pair, TLS_1_3);
	for (int at = 1; at <= 2; at++) {
		fake.calls = 0;
		fake.fails_at = at;
		fake.error = ENOENT;
		assert_int_equal(tls_session_to_kernel(pair.server, FD, why), -ENOENT);
		assert_int_equal(fake.calls, at);
		contains(why, words[at - 1]);
		goes_on(&pair);
	}
	/* one direction only: nobody can go on with that */
	fake.calls = 0;
	fake.fails_at = 3;
	fake.error = ENOMEM;
	assert_int_equal(tls_session_to_kernel(pair.server, FD, why), -ENOTRECOVERABLE);
	contains(why, "TLS_TX: Cannot allocate");
	pair_close(&pair);
}

static void not_for_it(void **state)
{
	struct pair pair;
	char why[TLS_KERNEL_WHY_BYTES];
	open_with(&pair, ONLY("TLS1.2", "AES-128-CCM"));
	assert_int_equal(tls_session_to_kernel(pair.server, FD, why), -EPROTONOSUPPORT);
	contains(why, "cipher");
	pair_close(&pair);
	open_with(&pair, TLS_1_3);
	fake.protocol = 0;
	assert_int_equal(tls_session_to_kernel(pair.server, FD, why), -EPROTONOSUPPORT);
	contains(why, "TCP");
	fake.protocol = IPPROTO_TCP;
	assert_int_equal(side_close(&pair, pair.server), 0);
	assert_int_equal(tls_session_to_kernel(pair.server, FD, why), -EPROTONOSUPPORT);
	assert_int_equal(fake.calls, 0);
	pair_close(&pair);
}

/* A record of which only a part is in, at every byte of it. */
static void in_the_midst(const char *priority)
{
	struct pair pair;
	char why[TLS_KERNEL_WHY_BYTES], plain[16];
	size_t got;
	open_with(&pair, priority);
	fake.calls = 0;
	assert_int_equal(send_all(&pair, pair.client, "half", 4), 0);
	pair.cut = 1;
	while (pair.to_server.count > 1) {
		assert_int_equal(side_read(&pair, pair.server, plain, sizeof(plain), &got), 0);
		assert_int_equal(got, 0);
		assert_int_equal(tls_session_to_kernel(pair.server, FD, why), -EBUSY);
	}
	assert_int_equal(side_read(&pair, pair.server, plain, sizeof(plain), &got), 0);
	assert_int_equal(got, 4);
	assert_int_equal(fake.calls, 0);
	assert_int_equal(tls_session_to_kernel(pair.server, FD, why), 0);
	pair_close(&pair);
}

static void not_in_the_midst(void **state)
{
	in_the_midst(TLS_1_3);
	in_the_midst(ONLY("TLS1.3", "CHACHA20-POLY1305"));
	in_the_midst(ONLY("TLS1.2", "AES-256-GCM"));
}

/* The peer has new keys, and is owed ours: GnuTLS sends them with its next record. */
static void not_while_answer_is_due(void **state)
{
	struct pair pair;
	struct tls_output out = {(uint8_t[256]){0}, 256, 0};
	char why[TLS_KERNEL_WHY_BYTES], plain[16];
	size_t got;
	open_with(&pair, TLS_1_3);
	assert_int_equal(tls_session_update_keys(pair.client, true, &out), 0);
	queue_put(&pair.to_server, out.bytes, out.used);
	assert_int_equal(side_read(&pair, pair.server, plain, sizeof(plain), &got), 0);
	assert_int_equal(tls_session_to_kernel(pair.server, FD, why), -EBUSY);
	goes_on(&pair);
	assert_int_equal(tls_session_to_kernel(pair.server, FD, why), 0);
	kernel_sends(&pair, "with the new key");
	kernel_receives(&pair, "and back");
	pair_close(&pair);
}

/* The kernel makes records as long as they may be: not for a client that wants shorter ones. */
static void not_with_small_records(void **state)
{
	static const size_t limits[] = {0, 512};
	write_text(in_directory(directory, "keys"), "u:00112233445566778899aabbccddeeff\n");
	for (unsigned i = 0; i < COUNT_OF(limits); i++) {
		struct pair pair;
		char why[TLS_KERNEL_WHY_BYTES];
		struct tls_credentials *keys = keys_of(TLS_SERVER, directory, "keys", NULL);
		keys->kernel = true; /* as if it had been asked for and found */
		pair_open_raw(&pair, keys, "NORMAL:-KX-ALL:+ECDHE-PSK:+PSK",
			      "00112233445566778899aabbccddeeff");
		if (limits[i])
			gnutls_record_set_max_recv_size(pair.raw, limits[i]);
		pair_connect(&pair);
		int result = tls_session_to_kernel(pair.server, FD, why);
		assert_int_equal(result, limits[i] ? -EPROTONOSUPPORT : 0);
		if (limits[i])
			contains(why, "small records");
		pair_close(&pair);
		tls_credentials_put(keys);
	}
}

/* ---- Records that are no data ---- */

static int take(unsigned type, const char *bytes, ssize_t count, char *why)
{
	fake.type = type;
	fake.count = count;
	if (count > 0)
		memcpy(fake.record, bytes, count);
	why[0] = 0;
	return tls_kernel_take_control(FD, why);
}

static void control_records(void **state)
{
	char why[TLS_KERNEL_WHY_BYTES];
	assert_int_equal(take(21, "\x01\x00", 2, why), -ESHUTDOWN);
	assert_int_equal(take(21, "\x02\x00", 2, why), -ESHUTDOWN);
	assert_int_equal(take(21, "\x01\x5a", 2, why), 0); /* user_canceled */
	assert_int_equal(take(21, "\x02\x50", 2, why), -EPROTO);
	contains(why, "Internal error");
	assert_int_equal(take(21, "\x02\xf9", 2, why), -EPROTO);
	contains(why, "unknown");
	assert_int_equal(take(21, "\x02", 1, why), -EPROTO);
	assert_int_equal(take(21, "\x01\x00\x01\x00", 4, why), -EPROTO);
	assert_int_equal(take(22, "\x18\x00\x00\x01\x01", 5, why), -EKEYEXPIRED);
	contains(why, "keys");
	assert_int_equal(take(22, "\x01\x00\x00\x00", 4, why), -EPROTO);
	contains(why, "new handshake");
	assert_int_equal(take(22, "", 0, why), -EPROTO);
	assert_int_equal(take(99, "?", 1, why), -EPROTO);
	contains(why, "type 99");
	assert_int_equal(take(0, "data", 4, why), -EPROTO); /* a receive would have given it */
	assert_int_equal(take(0, "", 0, why), 0);	    /* the end: it will tell */
	assert_int_equal(take(0, NULL, -EAGAIN, why), 0);
	assert_int_equal(take(0, NULL, -ECONNRESET, why), -ECONNRESET);
}

static void alerts(void **state)
{
	assert_int_equal(tls_kernel_send_alert(FD, TLS_ALERT_WARNING, TLS_ALERT_CLOSE_NOTIFY), 0);
	assert_int_equal(fake.sent_type, 21);
	assert_memory_equal(fake.sent, "\x01\x00", 2);
	assert_int_equal(tls_kernel_send_alert(FD, TLS_ALERT_FATAL, TLS_ALERT_BAD_RECORD_MAC), 0);
	assert_memory_equal(fake.sent, "\x02\x14", 2);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, prepare, clean)
	const struct CMUnitTest tests[] = {
		CASE(keys_are_right),
		CASE(refused_by_kernel),
		CASE(not_for_it),
		CASE(not_in_the_midst),
		CASE(not_while_answer_is_due),
		CASE(not_with_small_records),
		CASE(control_records),
		CASE(alerts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
