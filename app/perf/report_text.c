/* SPDX-License-Identifier: BSD-3-Clause */
/* report_text: the summary that is printed when a run is over. Main thread. */
#include <inttypes.h>
#include <string.h>

#include "app/perf/report.h"
#include "lib/base/size.h"

const struct report_quantile report_quantiles[REPORT_QUANTILES] = {
	{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"p99.99", 0.9999},
};

void report_headline(const struct results *results, char *text, size_t text_bytes)
{
	const struct perf_options *options = results->options;
	char size[32], mix[32] = "", rate[48] = "";
	if (!strcmp(options->rw, "rw") || !strcmp(options->rw, "randrw"))
		snprintf(mix, sizeof(mix), " (%u %% reads)", options->read_percent);
	if (options->rate)
		snprintf(rate, sizeof(rate), ", %" PRIu64 " IOPS asked for", options->rate);
	snprintf(text, text_bytes, "%s%s, %s blocks, %u connection%s x %u in flight%s%s",
		 options->rw, mix, size_format(options->block_bytes, size, sizeof(size)),
		 options->connections * options->uri_count,
		 options->connections * options->uri_count == 1 ? "" : "s", options->depth, rate,
		 options->discard ? ", payload discarded" : "");
}

static void print_throughput(const struct results *results, const char *name,
			     const struct histogram *histogram, bool with_bytes, FILE *out)
{
	double seconds = results->seconds;
	if (!histogram->count)
		return;
	fprintf(out, "  %-8s %12.0f", name, seconds > 0 ? (double)histogram->count / seconds : 0);
	if (with_bytes)
		fprintf(out, " %12.1f", results_mb(results, histogram->count, seconds));
	else
		fprintf(out, " %12s", "");
	fprintf(out, " %14" PRIu64 "\n", histogram->count);
}

static void print_latency(const char *name, const struct histogram *histogram, FILE *out)
{
	if (!histogram->count)
		return;
	fprintf(out, "  %-8s %9.1f", name, histogram_mean(histogram) / 1e3);
	for (unsigned i = 0; i < REPORT_QUANTILES; i++)
		fprintf(out, " %9.1f",
			(double)histogram_quantile(histogram, report_quantiles[i].share) / 1e3);
	fprintf(out, " %9.1f\n", (double)histogram->max / 1e3);
}

static void print_rate(const struct results *results, FILE *out)
{
	double asked = (double)results->options->rate;
	double is = results->seconds > 0 ? (double)results->total.count / results->seconds : 0;
	fprintf(out, "rate: %.0f of %.0f IOPS; latency counts from when a request was due\n", is,
		asked);
	if (results->unsent)
		fprintf(out,
			"rate: %" PRIu64 " requests were due and never sent: the server, or this "
			"client, can not keep up\n",
			results->unsent);
}

static void print_verify(const struct results *results, FILE *out)
{
	const struct verify_log *log = &results->log;
	uint64_t checked = 0;
	for (unsigned i = 0; i < STAMP_VERDICTS; i++)
		checked += log->counts[i];
	fprintf(out, "verify: seed %" PRIu64 ", %" PRIu64 " blocks checked, %" PRIu64 " wrong",
		results->targets[0].verify.seed, checked, log->bad);
	for (unsigned i = STAMP_UNWRITTEN + 1; i < STAMP_VERDICTS; i++)
		if (log->counts[i])
			fprintf(out, ", %" PRIu64 " %s", log->counts[i], stamp_verdict_names[i]);
	fputc('\n', out);
	if (log->counts[STAMP_UNWRITTEN])
		fprintf(out, "verify: %" PRIu64 " of them are zeroes: never written\n",
			log->counts[STAMP_UNWRITTEN]);
	if (results->options->read_percent < 100 && !results->checked)
		fputs("verify: what was written was not read back\n", out);
	for (unsigned i = 0; i < log->finding_count; i++) {
		const struct verify_finding *finding = &log->findings[i];
		fprintf(out, "verify: %s at %" PRIu64 ": %s\n",
			stamp_verdict_names[finding->verdict], finding->offset, finding->detail);
	}
	if (log->bad > log->finding_count)
		fprintf(out, "verify: and %" PRIu64 " more\n", log->bad - log->finding_count);
}

static void print_client(const struct results *results, FILE *out)
{
	double cpu = results->user_seconds + results->system_seconds;
	if (!results->total.count || results->seconds <= 0)
		return;
	fprintf(out, "client: %u thread%s, %.2f cores busy, %.2f us a request\n",
		results->worker_count, results->worker_count == 1 ? "" : "s",
		cpu / results->seconds, cpu * 1e6 / (double)results->total.count);
}

void report_text(const struct results *results, FILE *out)
{
	const struct perf_stats *load = &results->load;
	char headline[256];
	report_headline(results, headline, sizeof(headline));
	fprintf(out, "%s, %.2f s%s\n", headline, results->seconds,
		results->interrupted ? " (interrupted)" : "");
	fprintf(out, "  %-8s %12s %12s %14s\n", "", "IOPS", "MB/s", "requests");
	print_throughput(results, "reads", &load->reads, true, out);
	print_throughput(results, "writes", &load->writes, true, out);
	print_throughput(results, "flushes", &load->flushes, false, out);
	fprintf(out, "  %-8s %9s", "us", "mean");
	for (unsigned i = 0; i < REPORT_QUANTILES; i++)
		fprintf(out, " %9s", report_quantiles[i].name);
	fprintf(out, " %9s\n", "max");
	print_latency("reads", &load->reads, out);
	print_latency("writes", &load->writes, out);
	print_latency("flushes", &load->flushes, out);
	if (results->options->rate)
		print_rate(results, out);
	print_client(results, out);
	if (results->options->verify)
		print_verify(results, out);
	fprintf(out, "errors: %" PRIu64 "\n", load->errors + results->check_errors);
}
