/* SPDX-License-Identifier: BSD-3-Clause */
/* options: pollux-perf's command line. Main thread, before anything is opened. */
#ifndef POLLUX_APP_PERF_OPTIONS_H
#define POLLUX_APP_PERF_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/nbd/server.h"
#include "lib/nbd/uri.h"

#define PERF_VERSION "0.1.0"

enum {
	PERF_URIS_MAX = 64,
	PERF_CPUS_MAX = 256,
	PERF_CPU_NUMBER_MAX = 65535,
	PERF_DEPTH_MAX = 16384,
	PERF_CONNECTIONS_MAX = 16384, /* of one URI */
	PERF_BLOCK_MAX_BYTES = 64 << 20,
	PERF_WHY_BYTES = 512,
	PERF_IDLE_POLL_US = 50, /* the default */
};

/* What every reader of JSON can tell exactly. */
#define PERF_SEED_MAX ((1ull << 53) - 1)

struct perf_options {
	struct nbd_uri uris[PERF_URIS_MAX];
	const char *uri_texts[PERF_URIS_MAX];
	unsigned uri_count;
	const char *rw;	       /* as it was given */
	unsigned read_percent; /* 100: only reads, 0: only writes */
	bool random;
	uint32_t block_bytes;
	unsigned depth;	      /* requests in flight, of each connection */
	unsigned connections; /* of each URI */
	uint64_t time_ns;     /* 0: until interrupted, or until `requests` */
	uint64_t warmup_ns;
	uint64_t requests;	      /* of all connections together; 0: no limit */
	unsigned cpus[PERF_CPUS_MAX]; /* a thread is pinned to each; none: one thread, not pinned */
	unsigned cpu_count;
	uint64_t offset, size; /* the region, bytes; size 0: to the end of the export */
	uint64_t rate;	       /* requests a second, of all connections; 0: closed loop */
	bool verify, fua, discard, poll;
	const char *verify_state; /* a file, or NULL */
	uint64_t seed;
	bool seed_given;
	uint64_t nonce;	      /* random, new in each run whatever the seed is */
	unsigned flush_every; /* writes; 0: never */
	enum nbd_mode mode;
	const char *tls_certificates, *tls_psk, *tls_username, *tls_hostname; /* or NULL */
	bool tls_no_verify;
	bool json, quiet;
	const char *json_file, *html_file; /* or NULL; json without a file: standard output */
	uint64_t timeout_ns;
	uint32_t idle_poll_us;
};

enum perf_options_result { PERF_OPTIONS_RUN, PERF_OPTIONS_EXIT, PERF_OPTIONS_WRONG };

/*
 * Fills `options`. EXIT: help or the version were printed. WRONG: `why` says what is wrong. The
 * strings are argv's.
 */
enum perf_options_result perf_options_parse(int argc, char **argv, struct perf_options *options,
					    char *why, size_t why_bytes);
void perf_options_free(struct perf_options *options);

/*
 * "10", "0.5", "500ms", "10s", "2m", "1h" in ns. Returns 0, -EINVAL, or -ERANGE (beyond a year, or
 * less than a ns).
 */
int perf_duration_parse(const char *text, uint64_t *ns);
/* "0-2,5": CPUs. Returns how many, or -EINVAL. */
int perf_cpus_parse(const char *text, unsigned cpus[PERF_CPUS_MAX]);

#endif
