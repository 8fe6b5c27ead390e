/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * chart: lines and bars over axes, written as SVG. Coordinates are given in the data's units; the
 * chart scales them. A chart is begun, drawn on, and ended; nothing is kept. Main thread.
 */
#ifndef POLLUX_APP_PERF_CHART_H
#define POLLUX_APP_PERF_CHART_H

#include <stdbool.h>
#include <stdio.h>

struct chart_axis {
	double low, high; /* low < high; with `log` both are above 0 */
	bool log;
	/* Writes the label of a value, such as "10 us". */
	void (*label)(double value, char *text, size_t text_bytes);
};

struct chart {
	FILE *out;
	const char *title;
	struct chart_axis x, y;
	/* ---- private ---- */
	unsigned series;
};

void chart_begin(struct chart *chart);
/* The class names the colour; the name stands in the legend. */
void chart_line_begin(struct chart *chart, const char *class, const char *name);
void chart_point(struct chart *chart, double x, double y);
void chart_line_end(struct chart *chart);
/* A bar from the bottom up, and what is shown when one points at it. */
void chart_bar(struct chart *chart, const char *class, double from, double to, double y,
	       const char *hint);
void chart_end(struct chart *chart);

/* The smallest 1, 2 or 5 times a power of ten that is not below `value`. */
double chart_round_up(double value);
/* Text as it may stand in HTML and SVG. */
void chart_escape(FILE *out, const char *text);

#endif
