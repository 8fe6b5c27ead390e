/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * gcm_ipsec_mb: AES-GCM by libIPSec_MB, straight from the pieces to the record. Its manager is a
 * table of functions for this processor, made once and only read from then on. Any thread.
 */
#include <intel-ipsec-mb.h>

#include <gnutls/gnutls.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lib/tls/gcm.h"

enum { KEY_ALIGNMENT = 64 };

struct key {
	struct gcm_key_data data;
	bool is_256;
};

static IMB_MGR *manager; /* NULL: the processor has no AES instructions, or there is no memory */

static void find_manager(void)
{
	const uint64_t needed = IMB_FEATURE_AESNI | IMB_FEATURE_PCLMULQDQ;
	IMB_MGR *made = alloc_mb_mgr(0);
	if (!made)
		return;
	init_mb_mgr_auto(made, NULL);
	if ((made->features & needed) == needed && made->gcm128_enc_update)
		manager = made;
	else
		free_mb_mgr(made);
}

static bool usable(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, find_manager);
	return manager != NULL;
}

static void *key_create(const uint8_t *bytes, size_t count)
{
	struct key *key;
	if (posix_memalign((void **)&key, KEY_ALIGNMENT, sizeof(*key)))
		return NULL;
	key->is_256 = count == 32;
	if (key->is_256)
		IMB_AES256_GCM_PRE(manager, bytes, &key->data);
	else
		IMB_AES128_GCM_PRE(manager, bytes, &key->data);
	return key;
}

static void key_free(void *key)
{
	if (key)
		explicit_bzero(key, sizeof(struct key));
	free(key);
}

static bool seal(void *arg, const uint8_t *nonce, const uint8_t *header, const struct iovec *pieces,
		 unsigned count, uint8_t *out)
{
	const struct key *key = arg;
	struct gcm_context_data context;
	const bool is_256 = key->is_256;
	aes_gcm_enc_dec_update_t update =
		is_256 ? manager->gcm256_enc_update : manager->gcm128_enc_update;
	if (is_256)
		IMB_AES256_GCM_INIT(manager, &key->data, &context, nonce, header, GCM_HEADER_BYTES);
	else
		IMB_AES128_GCM_INIT(manager, &key->data, &context, nonce, header, GCM_HEADER_BYTES);
	for (unsigned i = 0; i < count; i++) {
		update(&key->data, &context, out, pieces[i].iov_base, pieces[i].iov_len);
		out += pieces[i].iov_len;
	}
	if (is_256)
		IMB_AES256_GCM_ENC_FINALIZE(manager, &key->data, &context, out, GCM_TAG_BYTES);
	else
		IMB_AES128_GCM_ENC_FINALIZE(manager, &key->data, &context, out, GCM_TAG_BYTES);
	return true;
}

static bool open(void *arg, const uint8_t *nonce, const uint8_t *header, const uint8_t *in,
		 size_t bytes, uint8_t *out)
{
	const struct key *key = arg;
	struct gcm_context_data context;
	uint8_t tag[GCM_TAG_BYTES], theirs[GCM_TAG_BYTES];
	memcpy(theirs, in + bytes, GCM_TAG_BYTES);
	if (key->is_256)
		IMB_AES256_GCM_DEC(manager, &key->data, &context, out, in, bytes, nonce, header,
				   GCM_HEADER_BYTES, tag, GCM_TAG_BYTES);
	else
		IMB_AES128_GCM_DEC(manager, &key->data, &context, out, in, bytes, nonce, header,
				   GCM_HEADER_BYTES, tag, GCM_TAG_BYTES);
	return gnutls_memcmp(tag, theirs, GCM_TAG_BYTES) == 0; /* in constant time */
}

static const struct tls_gcm ipsec_mb = {
	.name = "libIPSec_MB",
	.usable = usable,
	.key_create = key_create,
	.key_free = key_free,
	.seal = seal,
	.open = open,
};

const struct tls_gcm *const tls_gcm_ways[] = {&ipsec_mb, &tls_gcm_gnutls, NULL};
