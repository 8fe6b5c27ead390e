/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * histogram: how often values of which size occurred, in buckets of at most 0.8 % width: 128 steps
 * an octave (log-linear). One thread records; any thread may take a copy meanwhile, which is right
 * for each bucket, and a moment late. No unit is assumed. It allocates nothing and is big (37 KiB).
 */
#ifndef POLLUX_LIB_BASE_HISTOGRAM_H
#define POLLUX_LIB_BASE_HISTOGRAM_H

#include <stdint.h>

#include "lib/base/compiler.h"
#include "lib/base/counter.h"

enum {
	HISTOGRAM_STEP_BITS = 7,   /* steps an octave, as a power of two */
	HISTOGRAM_VALUE_BITS = 42, /* larger values count into the last bucket */
	HISTOGRAM_BUCKETS = (HISTOGRAM_VALUE_BITS - HISTOGRAM_STEP_BITS + 1) << HISTOGRAM_STEP_BITS,
};

#define HISTOGRAM_VALUE_MAX ((1ull << HISTOGRAM_VALUE_BITS) - 1)

struct histogram {
	uint64_t count, sum;
	uint64_t min, max; /* exact; valid if count is not 0 */
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

/* The bucket of a value of at most HISTOGRAM_VALUE_MAX. */
static inline unsigned histogram_bucket(uint64_t value)
{
	unsigned shift;

	if (value < 2u << HISTOGRAM_STEP_BITS)
		return value;
	shift = 63 - HISTOGRAM_STEP_BITS - __builtin_clzll(value);
	return (shift << HISTOGRAM_STEP_BITS) + (unsigned)(value >> shift);
}

/* The smallest and the largest value that fall into a bucket. */
uint64_t histogram_low(unsigned bucket);
uint64_t histogram_high(unsigned bucket);

void histogram_init(struct histogram *histogram);

/* The owner. */
static inline void histogram_record(struct histogram *histogram, uint64_t value)
{
	unsigned bucket = histogram_bucket(MIN_OF(value, (uint64_t)HISTOGRAM_VALUE_MAX));

	counter_add(&histogram->buckets[bucket], 1);
	counter_add(&histogram->count, 1);
	counter_add(&histogram->sum, value);
	if (unlikely(value > histogram->max))
		counter_set(&histogram->max, value);
	if (unlikely(value < histogram->min))
		counter_set(&histogram->min, value);
}

/* Adds what `from` holds, which another thread may be recording into. */
void histogram_add(struct histogram *histogram, const struct histogram *from);
/*
 * Takes away what an earlier copy of the same histogram held: what is left was recorded since. Its
 * min and max are those of the buckets then.
 */
void histogram_subtract(struct histogram *histogram, const struct histogram *earlier);

/*
 * The value that `share` (0 to 1) of all values do not exceed: the upper end of its bucket, but
 * never more than the largest value. 0 if it is empty.
 */
uint64_t histogram_quantile(const struct histogram *histogram, double share);
/* 0 if it is empty. */
double histogram_mean(const struct histogram *histogram);

#endif
