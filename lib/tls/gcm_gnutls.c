/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * gcm_gnutls: AES-GCM by GnuTLS's one call for a whole message, which wants it in one piece: so the
 * pieces are put together where they are to go, and encrypted there. Faster than its record layer,
 * whose messages are of two pieces, and which allocates memory for each. Any thread.
 */
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>

#include "lib/tls/gcm.h"

static bool usable(void)
{
	return true;
}

static void *key_create(const uint8_t *key, size_t bytes)
{
	gnutls_cipher_algorithm_t cipher =
		bytes == 16 ? GNUTLS_CIPHER_AES_128_GCM : GNUTLS_CIPHER_AES_256_GCM;
	gnutls_datum_t datum = {(unsigned char *)key, bytes};
	gnutls_aead_cipher_hd_t made;
	return gnutls_aead_cipher_init(&made, cipher, &datum) < 0 ? NULL : made;
}

static void key_free(void *key)
{
	if (key)
		gnutls_aead_cipher_deinit(key);
}

static bool seal(void *key, const uint8_t *nonce, const uint8_t *header, const struct iovec *pieces,
		 unsigned count, uint8_t *out)
{
	size_t bytes = 0;
	for (unsigned i = 0; i < count; i++) {
		memcpy(out + bytes, pieces[i].iov_base, pieces[i].iov_len);
		bytes += pieces[i].iov_len;
	}
	size_t sealed = bytes + GCM_TAG_BYTES;
	return gnutls_aead_cipher_encrypt(key, nonce, GCM_NONCE_BYTES, header, GCM_HEADER_BYTES,
					  GCM_TAG_BYTES, out, bytes, out, &sealed) == 0;
}

static bool open(void *key, const uint8_t *nonce, const uint8_t *header, const uint8_t *in,
		 size_t bytes, uint8_t *out)
{
	size_t opened = bytes;
	return gnutls_aead_cipher_decrypt(key, nonce, GCM_NONCE_BYTES, header, GCM_HEADER_BYTES,
					  GCM_TAG_BYTES, in, bytes + GCM_TAG_BYTES, out,
					  &opened) == 0;
}

const struct tls_gcm tls_gcm_gnutls = {
	.name = "GnuTLS",
	.usable = usable,
	.key_create = key_create,
	.key_free = key_free,
	.seal = seal,
	.open = open,
};
