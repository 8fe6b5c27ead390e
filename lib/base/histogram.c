/* SPDX-License-Identifier: BSD-3-Clause */
/* histogram: adding, subtracting and asking log-linear histograms. See the header for threads. */
#include "lib/base/histogram.h"

#include <string.h>

enum { STEPS = 1 << HISTOGRAM_STEP_BITS };

static unsigned shift_of(unsigned bucket)
{
	/* the first two octaves are exact */
	return bucket < 2 * STEPS ? 0 : bucket / STEPS - 1;
}

uint64_t histogram_low(unsigned bucket)
{
	unsigned shift = shift_of(bucket);

	return shift ? (uint64_t)(bucket % STEPS + STEPS) << shift : bucket;
}

uint64_t histogram_high(unsigned bucket)
{
	return histogram_low(bucket) + (1ull << shift_of(bucket)) - 1;
}

void histogram_init(struct histogram *histogram)
{
	memset(histogram, 0, sizeof(*histogram));
	histogram->min = UINT64_MAX;
}

void histogram_add(struct histogram *histogram, const struct histogram *from)
{
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		histogram->buckets[i] += counter_read(&from->buckets[i]);
	histogram->count += counter_read(&from->count);
	histogram->sum += counter_read(&from->sum);
	histogram->min = MIN_OF(histogram->min, counter_read(&from->min));
	histogram->max = MAX_OF(histogram->max, counter_read(&from->max));
}

void histogram_subtract(struct histogram *histogram, const struct histogram *earlier)
{
	uint64_t count = 0;

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		histogram->buckets[i] -= earlier->buckets[i];
		if (!histogram->buckets[i])
			continue;
		if (!count)
			histogram->min = histogram_low(i);
		histogram->max = histogram_high(i);
		count += histogram->buckets[i];
	}
	histogram->sum -= earlier->sum;
	/* a copy that was taken while a value came in may count it in one place only */
	histogram->count = count;
	if (!count) {
		histogram->min = UINT64_MAX;
		histogram->max = 0;
	}
}

uint64_t histogram_quantile(const struct histogram *histogram, double share)
{
	uint64_t wanted = (uint64_t)(share * (double)histogram->count), seen = 0;

	if (!histogram->count)
		return 0;
	/* the wanted-th smallest value, counted from 1, rounded up */
	if ((double)wanted < share * (double)histogram->count || !wanted)
		wanted++;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += histogram->buckets[i];
		/* values beyond the last bucket's end are in it */
		if (seen >= wanted)
			return i == HISTOGRAM_BUCKETS - 1
				       ? histogram->max
				       : MIN_OF(histogram_high(i), histogram->max);
	}
	return histogram->max;
}

double histogram_mean(const struct histogram *histogram)
{
	return histogram->count ? (double)histogram->sum / (double)histogram->count : 0;
}
