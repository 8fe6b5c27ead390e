/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * report_html: the results as a page - a table, throughput and latency over time, the distribution
 * of latencies. It holds its style and its drawings itself, and no script. Main thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "app/perf/chart.h"
#include "app/perf/report.h"
#include "lib/base/compiler.h"

enum {
	BARS_AN_OCTAVE = 8,
	BAR_STEPS = (1 << HISTOGRAM_STEP_BITS) / BARS_AN_OCTAVE,
	TEXT_BYTES = 96,
};

static const char head[] =
	"<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
	"<title>pollux-perf</title>\n<style>\n"
	":root { color-scheme: light dark; --ink: #222; --faint: #8886; --paper: #fff; }\n"
	"@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #181818; } }\n"
	"body { font: 15px/1.4 sans-serif; color: var(--ink); background: var(--paper);\n"
	"  max-width: 60em; margin: 2em auto; padding: 0 1em; }\n"
	"table { border-collapse: collapse; margin: 1em 0; }\n"
	"th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid var(--faint); }\n"
	"th:first-child, td:first-child { text-align: left; }\n"
	"svg { width: 100%; height: auto; margin: .5em 0; }\n"
	"text { font: 12px sans-serif; fill: var(--ink); }\n"
	"text.title { font-weight: bold; font-size: 14px; } text.x { text-anchor: middle; }\n"
	"text.y { text-anchor: end; }\n"
	"line.grid { stroke: var(--faint); stroke-width: .5; } line.axis { stroke: var(--ink); }\n"
	"polyline, line.read, line.write, line.p50, line.p99, line.max { fill: none;\n"
	"  stroke-width: 1.8; }\n"
	".read, .p50 { stroke: #2b7bba; } .write, .p99 { stroke: #d9781e; }\n"
	".max { stroke: #b03a5b; } rect.bar { fill: #2b7bba; }\n"
	".bad { color: #c22; }\n"
	"</style>\n</head>\n<body>\n";

/* ---- Labels ---- */

static void label_seconds(double value, char *text, size_t text_bytes)
{
	snprintf(text, text_bytes, "%g s", value);
}

static void label_ns(double value, char *text, size_t text_bytes)
{
	if (value < 1e3)
		snprintf(text, text_bytes, "%.3g ns", value);
	else if (value < 1e6)
		snprintf(text, text_bytes, "%.3g us", value / 1e3);
	else if (value < 1e9)
		snprintf(text, text_bytes, "%.3g ms", value / 1e6);
	else
		snprintf(text, text_bytes, "%.3g s", value / 1e9);
}

static void label_count(double value, char *text, size_t text_bytes)
{
	if (value < 1e3)
		snprintf(text, text_bytes, "%.3g", value);
	else if (value < 1e6)
		snprintf(text, text_bytes, "%.3g k", value / 1e3);
	else
		snprintf(text, text_bytes, "%.3g M", value / 1e6);
}

static void label_percent(double value, char *text, size_t text_bytes)
{
	snprintf(text, text_bytes, "%.3g %%", value);
}

/* ---- Tables ---- */

static void row(const struct results *results, const char *name, const struct histogram *histogram,
		FILE *out)
{
	char text[TEXT_BYTES];
	if (!histogram->count)
		return;
	fprintf(out, "<tr><td>%s</td><td>%.0f</td><td>%.1f</td>", name,
		results->seconds > 0 ? (double)histogram->count / results->seconds : 0,
		histogram == &results->load.flushes
			? 0
			: results_mb(results, histogram->count, results->seconds));
	label_ns(histogram_mean(histogram), text, sizeof(text));
	fprintf(out, "<td>%s</td>", text);
	for (unsigned i = 0; i < REPORT_QUANTILES; i++) {
		label_ns((double)histogram_quantile(histogram, report_quantiles[i].share), text,
			 sizeof(text));
		fprintf(out, "<td>%s</td>", text);
	}
	label_ns((double)histogram->max, text, sizeof(text));
	fprintf(out, "<td>%s</td></tr>\n", text);
}

static void summary(const struct results *results, FILE *out)
{
	const struct perf_stats *load = &results->load;
	char headline[256];
	report_headline(results, headline, sizeof(headline));
	fputs("<h1>pollux-perf</h1>\n<p>", out);
	chart_escape(out, headline);
	fprintf(out, ", %.2f s%s</p>\n<ul>\n", results->seconds,
		results->interrupted ? " (interrupted)" : "");
	for (unsigned i = 0; i < results->options->uri_count; i++) {
		fputs("<li><code>", out);
		chart_escape(out, results->targets[i].uri_text);
		fprintf(out, "</code>, %" PRIu64 " bytes</li>\n", results->targets[i].size);
	}
	fputs("</ul>\n<table>\n<tr><th></th><th>IOPS</th><th>MB/s</th><th>mean</th>", out);
	for (unsigned i = 0; i < REPORT_QUANTILES; i++)
		fprintf(out, "<th>%s</th>", report_quantiles[i].name);
	fputs("<th>max</th></tr>\n", out);
	row(results, "reads", &load->reads, out);
	row(results, "writes", &load->writes, out);
	row(results, "flushes", &load->flushes, out);
	fputs("</table>\n", out);
}

static void problem(const char *what, const char *text, FILE *out)
{
	if (!text)
		return;
	fprintf(out, "<p class=\"bad\">%s: ", what);
	chart_escape(out, text);
	fputs("</p>\n", out);
}

static void problems(const struct results *results, FILE *out)
{
	const struct verify_log *log = &results->log;
	problem("The run ended early", results->failure, out);
	problem("An error", results->first_error, out);
	fprintf(out, "<p>errors: %" PRIu64 "</p>\n", results->load.errors + results->check_errors);
	if (!results->options->verify)
		return;
	fprintf(out, "<p>verified: %" PRIu64 " good, %" PRIu64 " wrong</p>\n",
		log->counts[STAMP_GOOD], log->bad);
	for (unsigned i = 0; i < log->finding_count; i++) {
		const struct verify_finding *finding = &log->findings[i];
		char text[STAMP_DETAIL_BYTES + TEXT_BYTES];
		snprintf(text, sizeof(text), "at %" PRIu64 ": %s", finding->offset,
			 finding->detail);
		problem(stamp_verdict_names[finding->verdict], text, out);
	}
}

/* ---- Charts ---- */

static struct chart_axis time_axis(const struct results *results)
{
	const struct sample *first = &results->samples[0],
			    *last = &results->samples[results->sample_count - 1];
	return (struct chart_axis){
		.low = MIN_OF(first->at - first->seconds, 0.0),
		.high = MAX_OF(last->at, 0.001),
		.label = label_seconds,
	};
}

static double iops(const struct sample *sample, bool writes)
{
	uint64_t count = writes ? sample->writes : sample->reads;
	return sample->seconds > 0 ? (double)count / sample->seconds : 0;
}

static void throughput(const struct results *results, FILE *out)
{
	struct chart chart = {out, "Throughput over time, IOPS", time_axis(results)};
	double most = 1;
	for (unsigned i = 0; i < results->sample_count; i++) {
		most = MAX_OF(most, iops(&results->samples[i], false));
		most = MAX_OF(most, iops(&results->samples[i], true));
	}
	chart.y = (struct chart_axis){.high = chart_round_up(most), .label = label_count};
	chart_begin(&chart);
	for (int writes = 0; writes < 2; writes++) {
		if (!(writes ? results->load.writes.count : results->load.reads.count))
			continue;
		chart_line_begin(&chart, writes ? "write" : "read", writes ? "writes" : "reads");
		for (unsigned i = 0; i < results->sample_count; i++) {
			const struct sample *sample = &results->samples[i];
			chart_point(&chart, sample->at - sample->seconds / 2, iops(sample, writes));
		}
		chart_line_end(&chart);
	}
	chart_end(&chart);
}

static uint64_t latency(const struct sample *sample, unsigned which)
{
	return which == 0 ? sample->p50_ns : which == 1 ? sample->p99_ns : sample->max_ns;
}

/* From a round value at or below the least to one at or above the most, a factor of 10 apart. */
static struct chart_axis latency_axis(uint64_t low, uint64_t high)
{
	struct chart_axis axis = {.log = true, .label = label_ns};
	axis.low = pow(10, floor(log10((double)MAX_OF(low, (uint64_t)1))));
	axis.high = pow(10, ceil(log10((double)MAX_OF(high, (uint64_t)2))));
	if (axis.high <= axis.low)
		axis.high = 10 * axis.low;
	return axis;
}

static void latency_over_time(const struct results *results, FILE *out)
{
	static const char *const names[] = {"p50", "p99", "max"};
	struct chart chart = {out, "Latency over time", time_axis(results)};
	uint64_t low = UINT64_MAX, high = 0;
	for (unsigned i = 0; i < results->sample_count; i++) {
		if (!results->samples[i].max_ns)
			continue;
		low = MIN_OF(low, results->samples[i].p50_ns);
		high = MAX_OF(high, results->samples[i].max_ns);
	}
	chart.y = latency_axis(high ? low : 1, high);
	chart_begin(&chart);
	for (unsigned which = 0; which < COUNT_OF(names); which++) {
		chart_line_begin(&chart, names[which], names[which]);
		for (unsigned i = 0; i < results->sample_count; i++) {
			const struct sample *sample = &results->samples[i];
			if (sample->max_ns)
				chart_point(&chart, sample->at - sample->seconds / 2,
					    (double)latency(sample, which));
		}
		chart_line_end(&chart);
	}
	chart_end(&chart);
}

static uint64_t in_bar(const struct histogram *histogram, unsigned bar)
{
	uint64_t count = 0;
	for (unsigned i = 0; i < BAR_STEPS; i++)
		count += histogram->buckets[bar * BAR_STEPS + i];
	return count;
}

static void distribution(const struct results *results, FILE *out)
{
	const struct histogram *all = &results->total;
	struct chart chart = {out, "Distribution of latencies, % of requests",
			      latency_axis(all->min, all->max)};
	uint64_t most = 1;
	for (unsigned bar = 0; bar < HISTOGRAM_BUCKETS / BAR_STEPS; bar++)
		most = MAX_OF(most, in_bar(all, bar));
	chart.y = (struct chart_axis){
		.high = chart_round_up(100 * (double)most / (double)all->count),
		.label = label_percent,
	};
	chart_begin(&chart);
	for (unsigned bar = 0; bar < HISTOGRAM_BUCKETS / BAR_STEPS; bar++) {
		double from = (double)histogram_low(bar * BAR_STEPS);
		double to = (double)histogram_high((bar + 1) * BAR_STEPS - 1) + 1;
		char low[TEXT_BYTES / 4], high[TEXT_BYTES / 4], hint[TEXT_BYTES];
		uint64_t count = in_bar(all, bar);
		if (!count)
			continue;
		label_ns(from, low, sizeof(low));
		label_ns(to, high, sizeof(high));
		snprintf(hint, sizeof(hint), "%s to %s: %" PRIu64, low, high, count);
		chart_bar(&chart, "bar", MAX_OF(from, 1.0), to,
			  100 * (double)count / (double)all->count, hint);
	}
	chart_end(&chart);
}

int report_html(const struct results *results, FILE *out)
{
	fputs(head, out);
	summary(results, out);
	problems(results, out);
	if (results->sample_count && results->total.count) {
		throughput(results, out);
		latency_over_time(results, out);
		distribution(results, out);
	}
	fputs("</body>\n</html>\n", out);
	return ferror(out) || fflush(out) ? -EIO : 0;
}
