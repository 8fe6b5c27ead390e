/* SPDX-License-Identifier: BSD-3-Clause */
/* results: sampling the workers' statistics, and adding them up at the end. Main thread. */
#include "app/perf/results.h"

#include <stdlib.h>

#include "lib/base/compiler.h"

struct results *results_create(const struct perf_options *options, const struct target *targets,
			       struct worker *workers, unsigned worker_count)
{
	struct results *results = calloc(1, sizeof(*results));
	if (!results)
		return NULL;
	results->options = options;
	results->targets = targets;
	results->workers = workers;
	results->worker_count = worker_count;
	results->merged = 1;
	histogram_init(&results->before);
	histogram_init(&results->load.reads);
	histogram_init(&results->load.writes);
	histogram_init(&results->load.flushes);
	histogram_init(&results->total);
	return results;
}

void results_destroy(struct results *results)
{
	free(results);
}

void results_start(struct results *results, uint64_t start_ns)
{
	results->start_ns = results->sampled_ns = start_ns;
}

/* ---- Over time ---- */

struct counts {
	uint64_t reads, writes, errors;
};

static void look_at(struct histogram *all, struct counts *counts, const struct perf_stats *stats)
{
	histogram_add(all, &stats->reads);
	histogram_add(all, &stats->writes);
	histogram_add(all, &stats->flushes);
	counts->reads += counter_read(&stats->reads.count);
	counts->writes += counter_read(&stats->writes.count);
}

static bool all_have_drained(const struct results *results)
{
	for (unsigned i = 0; i < results->worker_count; i++)
		if (!__atomic_load_n(&results->workers[i].last_ns, __ATOMIC_ACQUIRE))
			return false;
	return true;
}

static void merge(struct sample *into, const struct sample *sample)
{
	/* of quantiles of parts the larger one is the safe one to tell */
	into->p50_ns = MAX_OF(into->p50_ns, sample->p50_ns);
	into->p99_ns = MAX_OF(into->p99_ns, sample->p99_ns);
	into->max_ns = MAX_OF(into->max_ns, sample->max_ns);
	into->at = sample->at;
	into->seconds += sample->seconds;
	into->reads += sample->reads;
	into->writes += sample->writes;
	into->errors += sample->errors;
}

static void keep(struct results *results, const struct sample *sample)
{
	if (results->in_last && results->in_last < results->merged) {
		merge(&results->samples[results->sample_count - 1], sample);
		results->in_last++;
		return;
	}
	if (results->sample_count == SAMPLES_MAX) {
		for (unsigned i = 0; i < SAMPLES_MAX / 2; i++) {
			results->samples[i] = results->samples[2 * i];
			merge(&results->samples[i], &results->samples[2 * i + 1]);
		}
		results->sample_count = SAMPLES_MAX / 2;
		results->merged *= 2;
	}
	results->samples[results->sample_count++] = *sample;
	results->in_last = 1;
}

void results_sample(struct results *results, uint64_t now_ns, struct sample *sample)
{
	struct counts counts = {0};
	/* before the counters are read: the last requests of the load are in them then */
	bool drained = all_have_drained(results), check = results->load_over;
	double load_at = (double)results->start_ns + (double)results->options->warmup_ns;
	histogram_init(&results->now);
	for (unsigned i = 0; i < results->worker_count; i++) {
		const struct worker *worker = &results->workers[i];
		if (check) {
			look_at(&results->now, &counts, &worker->check);
		} else {
			look_at(&results->now, &counts, &worker->warmup);
			look_at(&results->now, &counts, &worker->load);
		}
		counts.errors +=
			counter_read(&worker->warmup.errors) + counter_read(&worker->load.errors) +
			counter_read(&worker->check.errors) + counter_read(&worker->log.bad);
	}
	results->since = results->now;
	histogram_subtract(&results->since, &results->before);
	results->before = results->now;
	*sample = (struct sample){
		.at = ((double)now_ns - load_at) / 1e9,
		.seconds = (double)(now_ns - results->sampled_ns) / 1e9,
		.reads = counts.reads - results->reads_before,
		.writes = counts.writes - results->writes_before,
		.errors = counts.errors - results->errors_before,
		.p50_ns = histogram_quantile(&results->since, 0.5),
		.p99_ns = histogram_quantile(&results->since, 0.99),
		.max_ns = results->since.max,
	};
	results->reads_before = counts.reads;
	results->writes_before = counts.writes;
	results->errors_before = counts.errors;
	results->sampled_ns = now_ns;
	if (!check)
		keep(results, sample);
	if (drained && !check) {
		results->load_over = true;
		histogram_init(&results->before);
		results->reads_before = results->writes_before = 0;
	}
}

/* ---- Sums ---- */

static void add_worker(struct results *results, const struct worker *worker, uint64_t *first_ns,
		       uint64_t *last_ns)
{
	histogram_add(&results->load.reads, &worker->load.reads);
	histogram_add(&results->load.writes, &worker->load.writes);
	histogram_add(&results->load.flushes, &worker->load.flushes);
	results->load.errors += worker->load.errors + worker->warmup.errors;
	results->check_errors += worker->check.errors;
	verify_log_add(&results->log, &worker->log);
	results->checked |= worker->checked;
	results->user_seconds += (double)worker->user_us / 1e6;
	results->system_seconds += (double)worker->system_us / 1e6;
	results->enters += worker->enters;
	results->unsent += worker->unsent;
	if (worker->failed && !results->failed) {
		results->failed = true;
		results->failure = worker->failure;
	}
	if (worker->first_error[0] && !results->first_error)
		results->first_error = worker->first_error;
	/* a worker that ended before the load has measured nothing */
	if (worker->first_ns && worker->last_ns) {
		*first_ns = MIN_OF(*first_ns, worker->first_ns);
		*last_ns = MAX_OF(*last_ns, worker->last_ns);
	}
}

void results_finish(struct results *results)
{
	uint64_t first_ns = UINT64_MAX, last_ns = 0;
	for (unsigned i = 0; i < results->worker_count; i++)
		add_worker(results, &results->workers[i], &first_ns, &last_ns);
	if (last_ns > first_ns)
		results->seconds = (double)(last_ns - first_ns) / 1e9;
	histogram_add(&results->total, &results->load.reads);
	histogram_add(&results->total, &results->load.writes);
	histogram_add(&results->total, &results->load.flushes);
}

double results_mb(const struct results *results, uint64_t requests, double seconds)
{
	return seconds > 0 ? (double)requests * results->options->block_bytes / seconds / 1e6 : 0;
}

int results_status(const struct results *results)
{
	if (results->log.bad)
		return 3;
	return results->failed || results->load.errors || results->check_errors ? 2 : 0;
}
