/* SPDX-License-Identifier: BSD-3-Clause */
/* options: pollux's command line. Main thread, before anything is started. */
#ifndef POLLUX_APP_OPTIONS_H
#define POLLUX_APP_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "app/pollux/handed.h"
#include "app/pollux/nbd/access.h"
#include "app/pollux/spec.h"
#include "reactor/reactor.h"

enum { OPTIONS_LISTEN_MAX = 64 };

#define POLLUX_VERSION "0.1.0"

struct options {
	const char *listen[OPTIONS_LISTEN_MAX];
	unsigned listen_count;
	struct handed handed;	/* sockets of a service manager */
	bool stdio;		/* one connection on standard input and output */
	const char *rpc_socket; /* NULL: the default place; "none" */
	const char *cores;	/* NULL: the affinity mask */
	bool poll;
	bool read_only;
	uint64_t memory_bytes; /* 0: the default */
	const char *eal_args;
	const char *tls_certificates; /* a directory, or NULL */
	const char *tls_psk;	      /* a file, or NULL */
	bool tls_verify_peer;
	bool tls_kernel;
	const char *tls_priority; /* NULL: ours */
	int tls;		  /* enum listener_tls */
	uint32_t idle_poll_us, busy_poll_us;
	uint32_t shutdown_timeout_ms;
	struct spec *specs;
	unsigned spec_count;
};

enum options_result { OPTIONS_RUN, OPTIONS_EXIT, OPTIONS_WRONG };

/*
 * Fills `options` and nbd_settings, takes over the sockets that were handed over; prints help, the
 * version or what is wrong.
 */
enum options_result options_parse(int argc, char **argv, struct options *options);
void options_free(struct options *options);

#endif
