/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * results: what a run has measured - samples over time while it lasts, sums when it is over. Main
 * thread; it reads the workers' statistics while they count.
 */
#ifndef POLLUX_APP_PERF_RESULTS_H
#define POLLUX_APP_PERF_RESULTS_H

#include <stdbool.h>
#include <stdint.h>

#include "app/perf/target.h"
#include "app/perf/worker.h"

enum {
	SAMPLES_MAX = 1200,
	SAMPLE_NS = 250 * 1000000,
};

/* What happened in an interval. */
struct sample {
	double at, seconds; /* its end, since the load began (negative: warm-up); its length */
	uint64_t reads, writes;
	uint64_t errors; /* errors and blocks found wrong */
	uint64_t p50_ns, p99_ns, max_ns;
};

struct results {
	const struct perf_options *options;
	const struct target *targets;
	struct worker *workers;
	unsigned worker_count;
	uint64_t start_ns;
	bool interrupted;
	/* ---- over time; half of the samples are merged when there is no room for more ---- */
	struct sample samples[SAMPLES_MAX];
	unsigned sample_count, merged; /* intervals a sample; 1 at first */
	unsigned in_last;	       /* intervals that the last sample has */
	uint64_t sampled_ns;
	struct histogram before, now, since; /* of all requests */
	uint64_t reads_before, writes_before, errors_before;
	bool load_over; /* all workers': samples are of the read-back, and are not kept */
	/* ---- sums ---- */
	struct perf_stats load; /* all workers' */
	struct histogram total; /* all kinds of requests */
	uint64_t check_errors;
	struct verify_log log;
	bool checked;
	double seconds;
	double user_seconds, system_seconds;
	uint64_t enters, unsent;
	bool failed;
	const char *failure, *first_error; /* or NULL */
};

/* Big: allocated. Returns NULL without memory. */
struct results *results_create(const struct perf_options *options, const struct target *targets,
			       struct worker *workers, unsigned worker_count);
void results_destroy(struct results *results);

/* The load begins. */
void results_start(struct results *results, uint64_t start_ns);
/* Adds what happened since the last call, and tells it in *sample. */
void results_sample(struct results *results, uint64_t now_ns, struct sample *sample);
/* The workers have ended: sums up. */
void results_finish(struct results *results);

/* Megabytes (10^6) a second of that many requests. */
double results_mb(const struct results *results, uint64_t requests, double seconds);

/* 0; 2: requests failed, or the run did; 3: wrong data. */
int results_status(const struct results *results);

#endif
