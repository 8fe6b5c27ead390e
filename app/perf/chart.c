/* SPDX-License-Identifier: BSD-3-Clause */
/* chart: SVG by fprintf - axes with round ticks, lines, bars and a legend. Main thread. */
#include "app/perf/chart.h"

#include <math.h>

#include "lib/base/compiler.h"

/* In the units of the drawing; the page scales it to its width. */
enum {
	WIDTH = 900,
	HEIGHT = 280,
	LEFT = 70,
	RIGHT = 880,
	TOP = 34,
	BOTTOM = 250,
	TICKS = 5,
	LABEL_BYTES = 48,
	LEGEND_WIDTH = 90,
};

static double scale(const struct chart_axis *axis, double value, double from, double to)
{
	double low = axis->low, high = axis->high;
	value = MAX_OF(MIN_OF(value, high), low);
	if (axis->log) {
		low = log10(low);
		high = log10(high);
		value = log10(value);
	}
	return from + (value - low) / (high - low) * (to - from);
}

static double scale_x(const struct chart *chart, double value)
{
	return scale(&chart->x, value, LEFT, RIGHT);
}

static double scale_y(const struct chart *chart, double value)
{
	return scale(&chart->y, value, BOTTOM, TOP);
}

void chart_escape(FILE *out, const char *text)
{
	for (; *text; text++) {
		switch (*text) {
		case '&':
			fputs("&amp;", out);
			break;
		case '<':
			fputs("&lt;", out);
			break;
		case '>':
			fputs("&gt;", out);
			break;
		case '"':
			fputs("&quot;", out);
			break;
		default:
			fputc((unsigned char)*text < ' ' || *text == 127 ? '?' : *text, out);
		}
	}
}

double chart_round_up(double value)
{
	static const double steps[] = {1, 2, 5, 10};
	double power = pow(10, floor(log10(value)));
	for (size_t i = 0; i < COUNT_OF(steps); i++)
		if (steps[i] * power >= value * (1 - 1e-9))
			return steps[i] * power;
	return 10 * power;
}

static void tick(const struct chart *chart, const struct chart_axis *axis, double value)
{
	char label[LABEL_BYTES];
	axis->label(value, label, sizeof(label));
	if (axis == &chart->x) {
		double x = scale_x(chart, value);
		fprintf(chart->out,
			"<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>"
			"<text class=\"x\" x=\"%.1f\" y=\"%d\">",
			x, x, TOP, BOTTOM, x, BOTTOM + 18);
	} else {
		double y = scale_y(chart, value);
		fprintf(chart->out,
			"<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
			"<text class=\"y\" x=\"%d\" y=\"%.1f\">",
			LEFT, RIGHT, y, y, LEFT - 8, y + 4);
	}
	chart_escape(chart->out, label);
	fputs("</text>\n", chart->out);
}

static void ticks(const struct chart *chart, const struct chart_axis *axis)
{
	double step;
	if (axis->log) {
		for (step = pow(10, ceil(log10(axis->low) - 1e-9)); step <= axis->high * (1 + 1e-9);
		     step *= 10)
			tick(chart, axis, step);
		return;
	}
	step = chart_round_up((axis->high - axis->low) / TICKS);
	for (double at = ceil(axis->low / step - 1e-9); at * step <= axis->high + step * 1e-9; at++)
		tick(chart, axis, at * step + 0.0); /* no "-0" */
}

void chart_begin(struct chart *chart)
{
	chart->series = 0;
	fprintf(chart->out, "<svg viewBox=\"0 0 %d %d\" role=\"img\"><title>", WIDTH, HEIGHT);
	chart_escape(chart->out, chart->title);
	fprintf(chart->out, "</title>\n<text class=\"title\" x=\"%d\" y=\"18\">", LEFT);
	chart_escape(chart->out, chart->title);
	fputs("</text>\n", chart->out);
	ticks(chart, &chart->x);
	ticks(chart, &chart->y);
}

void chart_line_begin(struct chart *chart, const char *class, const char *name)
{
	int x = RIGHT - LEGEND_WIDTH * (int)(1 + chart->series++);
	fprintf(chart->out,
		"<line class=\"%s\" x1=\"%d\" x2=\"%d\" y1=\"14\" y2=\"14\"/>"
		"<text class=\"legend\" x=\"%d\" y=\"18\">%s</text>\n"
		"<polyline class=\"%s\" points=\"",
		class, x, x + 18, x + 24, name, class);
}

void chart_point(struct chart *chart, double x, double y)
{
	fprintf(chart->out, "%.1f,%.1f ", scale_x(chart, x), scale_y(chart, y));
}

void chart_line_end(struct chart *chart)
{
	fputs("\"/>\n", chart->out);
}

void chart_bar(struct chart *chart, const char *class, double from, double to, double y,
	       const char *hint)
{
	double left = scale_x(chart, from), right = scale_x(chart, to), top = scale_y(chart, y);
	fprintf(chart->out,
		"<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\"><title>",
		class, left, top, MAX_OF(right - left - 0.5, 0.5), BOTTOM - top);
	chart_escape(chart->out, hint);
	fputs("</title></rect>\n", chart->out);
}

void chart_end(struct chart *chart)
{
	fprintf(chart->out,
		"<line class=\"axis\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/>\n</svg>\n", LEFT,
		RIGHT, BOTTOM, BOTTOM);
}
