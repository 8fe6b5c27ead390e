/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * worker: one thread with one io_uring and some of the connections. It owns all that is in its
 * struct and in its connections; what the main thread may read meanwhile are the statistics.
 *
 * A pass: the clock is read once, completions are taken, replies end requests and new ones begin,
 * and one system call hands over whatever was queued. Latencies are those of passes: a request
 * begins and ends at the time of the pass that sends it and of the one that finds its reply.
 */
#ifndef POLLUX_APP_PERF_WORKER_H
#define POLLUX_APP_PERF_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "app/perf/options.h"
#include "app/perf/schedule.h"
#include "app/perf/verify.h"
#include "lib/base/histogram.h"
#include "lib/uring/uring.h"

struct connection;

enum {
	WORKER_TICK_MS = 50,	       /* how often time-outs and the end are looked for */
	WORKER_PLAIN_BYTES = 64 << 10, /* decrypted at a time */
	WORKER_FAILURE_BYTES = 512,
	WORKER_ENTRIES = 4096, /* submissions a pass; completions follow from the connections */
};

enum worker_phase {
	WORKER_WARMUP, /* from start; requests are sent, but counted apart */
	WORKER_LOAD,   /* what is measured; leaves at the end of time, or of requests */
	WORKER_DRAIN,  /* no more requests; leaves when all replies are in */
	WORKER_CHECK,  /* reads back what was written (--verify) */
	WORKER_CLOSE,  /* says goodbye; leaves when nothing is in flight any more */
	WORKER_OVER,
};

/* What is counted; written by the worker, read by any thread. Latencies in ns. */
struct perf_stats {
	struct histogram reads, writes, flushes;
	uint64_t errors;
};

enum run_order { RUN_GO, RUN_END, RUN_ABORT };

/* What the threads share. */
struct run {
	const struct perf_options *options;
	struct uring_caps caps;
	_Atomic int order; /* enum run_order; only ever rises */
	uint64_t start_ns; /* CLOCK_MONOTONIC; set before the second barrier */
	unsigned connection_count;
	pthread_barrier_t barrier; /* twice: all are ready; start_ns is set */
	pthread_mutex_t lock;	   /* of what follows */
	pthread_cond_t ended;
	unsigned running;
};

struct worker {
	struct run *run;
	pthread_t thread;
	int cpu; /* -1: not pinned */
	struct connection **connections;
	unsigned connection_count;
	unsigned number;
	unsigned first; /* how many connections earlier workers have */
	/* ---- the thread's ---- */
	struct uring uring;
	uint64_t now_ns;	  /* of the pass */
	struct perf_stats *stats; /* of the phase */
	enum worker_phase phase;
	bool issuing;		  /* requests may begin */
	unsigned in_flight;	  /* requests */
	unsigned live;		  /* connections that still have operations of the ring */
	struct schedule schedule; /* with --rate */
	unsigned turn;		  /* the connection that is next, with --rate */
	unsigned with_quota;	  /* connections that may still send requests */
	uint64_t load_ns, end_ns, deadline_ns;
	uint64_t next_tick_ns;
	uint64_t work_ns; /* when the last pass had something to do */
	struct uring_op tick;
	struct __kernel_timespec tick_time;
	bool tick_armed;
	uint8_t *plain; /* WORKER_PLAIN_BYTES, where there is TLS */
	/* ---- results; the main thread's once the thread has ended ---- */
	struct perf_stats warmup, load, check;
	struct verify_log log;
	uint64_t first_ns, last_ns;  /* the load: from its begin to the last reply */
	uint64_t unsent;	     /* due by --rate, but never sent */
	uint64_t user_us, system_us; /* CPU time of the load */
	uint64_t enters;	     /* io_uring_enter(2) calls of all phases */
	bool failed, checked;
	char failure[WORKER_FAILURE_BYTES];
	char first_error[WORKER_FAILURE_BYTES]; /* that a server answered with */
};

/* Starts the thread. Returns 0 or -errno. */
int worker_start(struct worker *worker);

/* ---- for connections, on the worker's thread ---- */

/* Something that ends the run; the first one is kept. */
void worker_fail(struct worker *worker, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
