/* SPDX-License-Identifier: BSD-3-Clause */
/* report_json: the results as one JSON document. Main thread. Times are in the unit of their name.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "app/perf/report.h"

static json_t *integer(uint64_t value)
{
	return json_integer((json_int_t)value);
}

/* Text that others have chosen need not be UTF-8, and JSON has nothing else. */
static json_t *told_text(const char *text)
{
	json_t *told = text ? json_string(text) : json_null();
	char *copy = told ? NULL : strdup(text);
	if (!copy)
		return told;
	for (char *at = copy; *at; at++)
		if (*at & 0x80)
			*at = '?';
	told = json_string(copy);
	free(copy);
	return told;
}

static json_t *latency(const struct histogram *histogram)
{
	json_t *object = json_object();
	json_object_set_new(object, "min", integer(histogram->count ? histogram->min : 0));
	json_object_set_new(object, "mean", json_real(histogram_mean(histogram)));
	for (unsigned i = 0; i < REPORT_QUANTILES; i++)
		json_object_set_new(
			object, report_quantiles[i].name,
			integer(histogram_quantile(histogram, report_quantiles[i].share)));
	json_object_set_new(object, "max", integer(histogram->max));
	return object;
}

static json_t *kind(const struct results *results, const struct histogram *histogram, bool bytes)
{
	double seconds = results->seconds;
	json_t *object = json_object();
	json_object_set_new(object, "requests", integer(histogram->count));
	json_object_set_new(object, "iops",
			    json_real(seconds > 0 ? (double)histogram->count / seconds : 0));
	if (bytes)
		json_object_set_new(
			object, "bytes_per_second",
			json_real(results_mb(results, histogram->count, seconds) * 1e6));
	json_object_set_new(object, "latency_ns", latency(histogram));
	return object;
}

/* Each bucket that is not empty: its smallest and largest value, and how many. */
static json_t *buckets(const struct histogram *histogram)
{
	json_t *array = json_array();
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		if (!histogram->buckets[i])
			continue;
		json_t *bucket = json_array();
		json_array_append_new(bucket, integer(histogram_low(i)));
		json_array_append_new(bucket, integer(histogram_high(i)));
		json_array_append_new(bucket, integer(histogram->buckets[i]));
		json_array_append_new(array, bucket);
	}
	return array;
}

static json_t *told_options(const struct perf_options *options)
{
	static const char *const modes[] = {
		[NBD_MODE_SIMPLE] = "simple",
		[NBD_MODE_STRUCTURED] = "structured",
		[NBD_MODE_EXTENDED] = "extended",
	};
	json_t *object = json_object();
	json_object_set_new(object, "rw", json_string(options->rw));
	json_object_set_new(object, "read_percent", integer(options->read_percent));
	json_object_set_new(object, "block_bytes", integer(options->block_bytes));
	json_object_set_new(object, "iodepth", integer(options->depth));
	json_object_set_new(object, "connections", integer(options->connections));
	json_object_set_new(object, "time_seconds", json_real((double)options->time_ns / 1e9));
	json_object_set_new(object, "warmup_seconds", json_real((double)options->warmup_ns / 1e9));
	json_object_set_new(object, "requests", integer(options->requests));
	json_object_set_new(object, "rate", integer(options->rate));
	json_object_set_new(object, "replies", json_string(modes[options->mode]));
	json_object_set_new(object, "fua", json_boolean(options->fua));
	json_object_set_new(object, "flush_every", integer(options->flush_every));
	json_object_set_new(object, "discard", json_boolean(options->discard));
	json_object_set_new(object, "verify", json_boolean(options->verify));
	json_object_set_new(object, "seed", integer(options->seed));
	return object;
}

static json_t *told_targets(const struct results *results)
{
	json_t *array = json_array();
	for (unsigned i = 0; i < results->options->uri_count; i++) {
		const struct target *target = &results->targets[i];
		json_t *object = json_object();
		json_object_set_new(object, "uri", told_text(target->uri_text));
		json_object_set_new(object, "size_bytes", integer(target->size));
		json_object_set_new(object, "offset", integer(target->offset));
		json_object_set_new(object, "blocks", integer(target->blocks));
		json_object_set_new(object, "tls", json_boolean(target->credentials != NULL));
		json_array_append_new(array, object);
	}
	return array;
}

static json_t *told_verify(const struct results *results)
{
	const struct verify_log *log = &results->log;
	json_t *object = json_object(), *findings = json_array();
	json_object_set_new(object, "seed", integer(results->targets[0].verify.seed));
	json_object_set_new(object, "read_back", json_boolean(results->checked));
	json_object_set_new(object, "wrong", integer(log->bad));
	for (unsigned i = 0; i < STAMP_VERDICTS; i++)
		json_object_set_new(object, stamp_verdict_names[i], integer(log->counts[i]));
	for (unsigned i = 0; i < log->finding_count; i++) {
		const struct verify_finding *finding = &log->findings[i];
		json_t *entry = json_object();
		json_object_set_new(entry, "kind",
				    json_string(stamp_verdict_names[finding->verdict]));
		json_object_set_new(entry, "uri", told_text(finding->uri));
		json_object_set_new(entry, "offset", integer(finding->offset));
		json_object_set_new(entry, "detail", json_string(finding->detail));
		json_array_append_new(findings, entry);
	}
	json_object_set_new(object, "findings", findings);
	return object;
}

static json_t *told_series(const struct results *results)
{
	json_t *array = json_array();
	for (unsigned i = 0; i < results->sample_count; i++) {
		const struct sample *sample = &results->samples[i];
		json_t *object = json_object();
		json_object_set_new(object, "at_seconds", json_real(sample->at));
		json_object_set_new(object, "seconds", json_real(sample->seconds));
		json_object_set_new(object, "reads", integer(sample->reads));
		json_object_set_new(object, "writes", integer(sample->writes));
		json_object_set_new(object, "errors", integer(sample->errors));
		json_object_set_new(object, "p50_ns", integer(sample->p50_ns));
		json_object_set_new(object, "p99_ns", integer(sample->p99_ns));
		json_object_set_new(object, "max_ns", integer(sample->max_ns));
		json_array_append_new(array, object);
	}
	return array;
}

static json_t *told_client(const struct results *results)
{
	json_t *object = json_object();
	json_object_set_new(object, "threads", integer(results->worker_count));
	json_object_set_new(object, "user_seconds", json_real(results->user_seconds));
	json_object_set_new(object, "system_seconds", json_real(results->system_seconds));
	json_object_set_new(object, "io_uring_enters", integer(results->enters));
	return object;
}

int report_json(const struct results *results, FILE *out)
{
	const struct perf_stats *load = &results->load;
	json_t *root = json_object();
	json_object_set_new(root, "program", json_string("pollux-perf " PERF_VERSION));
	json_object_set_new(root, "options", told_options(results->options));
	json_object_set_new(root, "targets", told_targets(results));
	json_object_set_new(root, "seconds", json_real(results->seconds));
	json_object_set_new(root, "interrupted", json_boolean(results->interrupted));
	json_object_set_new(root, "reads", kind(results, &load->reads, true));
	json_object_set_new(root, "writes", kind(results, &load->writes, true));
	json_object_set_new(root, "flushes", kind(results, &load->flushes, false));
	json_object_set_new(root, "total", kind(results, &results->total, false));
	json_object_set_new(root, "errors", integer(load->errors + results->check_errors));
	json_object_set_new(root, "first_error", told_text(results->first_error));
	json_object_set_new(root, "failure", told_text(results->failure));
	json_object_set_new(root, "unsent", integer(results->unsent));
	if (results->options->verify)
		json_object_set_new(root, "verify", told_verify(results));
	json_object_set_new(root, "client", told_client(results));
	json_object_set_new(root, "series", told_series(results));
	json_object_set_new(root, "latency_buckets_ns", buckets(&results->total));
	/* a sum that lacks a part is no result */
	int rc = root && !json_dumpf(root, out, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) ? 0 : -EIO;
	json_decref(root);
	if (!rc && (fputc('\n', out) == EOF || fflush(out)))
		rc = -errno;
	return rc;
}
