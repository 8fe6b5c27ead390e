/* SPDX-License-Identifier: BSD-3-Clause */
/* gcm_no_ipsec_mb: the ways to do AES-GCM of a build without libIPSec_MB. */
#include "lib/tls/gcm.h"

const struct tls_gcm *const tls_gcm_ways[] = {&tls_gcm_gnutls, NULL};
