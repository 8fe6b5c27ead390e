/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * gcm: AES-GCM for the records of TLS 1.3, in the two ways there are: by libIPSec_MB, which comes
 * with DPDK and uses the processor's vector AES (two to three times as fast), and by GnuTLS,
 * everywhere. Pure; a key belongs to one thread at a time. Nobody outside of lib/tls includes it.
 */
#ifndef POLLUX_LIB_TLS_GCM_H
#define POLLUX_LIB_TLS_GCM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum {
	GCM_KEY_MAX_BYTES = 32,
	GCM_NONCE_BYTES = 12,
	GCM_HEADER_BYTES = 5, /* what is authenticated besides: a record's header */
	GCM_TAG_BYTES = 16,
};

struct tls_gcm {
	const char *name;
	/* Returns false where the processor can not do it this way. */
	bool (*usable)(void);
	/* bytes: 16 or 32. NULL: no memory. */
	void *(*key_create)(const uint8_t *key, size_t bytes);
	/* Wipes it. NULL is allowed. */
	void (*key_free)(void *key);
	/* The pieces, which overlap nothing, encrypted to `out`, and the tag behind them. */
	bool (*seal)(void *key, const uint8_t *nonce, const uint8_t *header,
		     const struct iovec *pieces, unsigned count, uint8_t *out);
	/*
	 * `bytes` without the tag behind them. `in` and `out` are the same or do not overlap.
	 * False: they are not genuine, and `out` is worth nothing.
	 */
	bool (*open)(void *key, const uint8_t *nonce, const uint8_t *header, const uint8_t *in,
		     size_t bytes, uint8_t *out);
};

extern const struct tls_gcm tls_gcm_gnutls;
/* The ways that this build has, the fastest first; NULL ends them. */
extern const struct tls_gcm *const tls_gcm_ways[];

#endif
