/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * target: an export under load: what its URI says, what the server told of it, and the region that
 * is used. Filled by the main thread before the workers start, constant afterwards but for the
 * verification table, whose slices belong to connections.
 */
#ifndef POLLUX_APP_PERF_TARGET_H
#define POLLUX_APP_PERF_TARGET_H

#include <sys/socket.h>

#include "app/perf/options.h"
#include "app/perf/verify.h"
#include "lib/nbd/client.h"

struct tls_credentials;

struct target {
	const char *uri_text;
	const struct nbd_uri *uri;
	const char *tls_hostname;	     /* that the certificate must name; NULL: none */
	struct tls_credentials *credentials; /* NULL: no TLS */
	/* ---- as the first connection learnt ---- */
	struct sockaddr_storage peer;
	socklen_t peer_bytes;
	uint64_t size;
	uint16_t flags; /* enum nbd_transmission_flags */
	enum nbd_mode mode;
	uint32_t min_block, max_payload;
	/* ---- the region ---- */
	uint64_t offset, blocks;
	struct verify_table verify; /* entries NULL: no verification */
};

/* The credentials, where the URI or the options ask for TLS. Returns 0 or -errno with `why`. */
int target_init(struct target *target, const struct perf_options *options, unsigned index,
		char *why, size_t why_bytes);
void target_fini(struct target *target);

/*
 * For --verify, once the first connection of target `index` is up: notes whom it has reached. Two
 * tables of one export would each take the other's writes for wrong. Returns 0, or -EINVAL: one of
 * the targets before is the same export of the same server. Names and addresses that a server has
 * for one export can not be told.
 */
int target_meet(struct target *targets, unsigned index, int fd, char *why, size_t why_bytes);

/*
 * What the handshake of connection `number` has told; the first one's decides, later ones must
 * agree. Checks the options against the export. Returns 0, -ENOMEM, or -EINVAL; `why` says what
 * does not fit.
 */
int target_take(struct target *target, const struct perf_options *options, unsigned number,
		const struct nbd_client *client, char *why, size_t why_bytes);

#endif
