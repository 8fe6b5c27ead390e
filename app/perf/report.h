/* SPDX-License-Identifier: BSD-3-Clause */
/* report: results for people and for programs. Main thread, once the run is over. */
#ifndef POLLUX_APP_PERF_REPORT_H
#define POLLUX_APP_PERF_REPORT_H

#include <stdio.h>

#include "app/perf/results.h"

/* The quantiles that are told everywhere. */
struct report_quantile {
	const char *name;
	double share;
};

enum { REPORT_QUANTILES = 5 };

extern const struct report_quantile report_quantiles[REPORT_QUANTILES];

/* A summary, to be read. */
void report_text(const struct results *results, FILE *out);
/* One JSON document. Returns 0 or -errno. */
int report_json(const struct results *results, FILE *out);
/* One page with charts, which needs nothing but itself. Returns 0 or -errno. */
int report_html(const struct results *results, FILE *out);

/* What was asked for, in a line. */
void report_headline(const struct results *results, char *text, size_t text_bytes);

#endif
