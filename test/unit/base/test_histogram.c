/* SPDX-License-Identifier: BSD-3-Clause */
/* Tests of lib/base/histogram: buckets without gaps, quantiles against sorted values, copies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/histogram.h"

static struct histogram histogram, other;

static int empty(void **state)
{
	histogram_init(&histogram);
	histogram_init(&other);
	return 0;
}

static void test_buckets_have_no_gaps(void **state)
{
	uint64_t next = 0;

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		assert_int_equal(histogram_low(i), next);
		assert_true(histogram_high(i) >= histogram_low(i));
		assert_int_equal(histogram_bucket(histogram_low(i)), i);
		assert_int_equal(histogram_bucket(histogram_high(i)), i);
		next = histogram_high(i) + 1;
	}
	assert_int_equal(next - 1, HISTOGRAM_VALUE_MAX);
}

static void test_buckets_are_narrow(void **state)
{
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		uint64_t low = histogram_low(i), width = histogram_high(i) - low;

		assert_true(width * 128 <= low);
	}
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void test_quantiles_of_random_values(void **state)
{
	enum { COUNT = 10000 };
	static uint64_t values[COUNT];
	static const double shares[] = {0, 0.001, 0.5, 0.9, 0.99, 0.999, 0.9999, 1};
	uint64_t sum = 0;

	srandom(4711);
	for (unsigned i = 0; i < COUNT; i++) {
		/* every octave up to 2^40 */
		values[i] = ((uint64_t)random() << 10 | (uint64_t)random() % 1024) >> random() % 41;
		sum += values[i];
		histogram_record(&histogram, values[i]);
	}
	qsort(values, COUNT, sizeof(values[0]), compare);
	for (unsigned i = 0; i < COUNT_OF(shares); i++) {
		double exact = shares[i] * COUNT;
		unsigned rank = (unsigned)exact + ((unsigned)exact < exact || exact < 1);
		uint64_t expected = values[rank - 1];
		uint64_t told = histogram_quantile(&histogram, shares[i]);

		assert_true(told >= expected);
		assert_true(told - expected <= expected / 128);
	}
	assert_int_equal(histogram.count, COUNT);
	assert_int_equal(histogram.min, values[0]);
	assert_int_equal(histogram.max, values[COUNT - 1]);
	assert_true(histogram_mean(&histogram) == (double)sum / COUNT);
}

static void test_largest_is_exact(void **state)
{
	for (unsigned i = 0; i < 99; i++)
		histogram_record(&histogram, 100);
	histogram_record(&histogram, 123456789);
	assert_int_equal(histogram_quantile(&histogram, 1), 123456789);
	assert_int_equal(histogram_quantile(&histogram, 0.99), 100);
	assert_in_range(histogram_quantile(&histogram, 0.991), 123456789, 123456789);
}

static void test_beyond_the_range(void **state)
{
	histogram_record(&histogram, UINT64_MAX / 2);
	histogram_record(&histogram, 7);
	assert_int_equal(histogram.count, 2);
	assert_int_equal(histogram_quantile(&histogram, 0.5), 7);
	assert_int_equal(histogram_quantile(&histogram, 1), UINT64_MAX / 2);
}

static void test_empty(void **state)
{
	assert_int_equal(histogram_quantile(&histogram, 0.5), 0);
	assert_true(histogram_mean(&histogram) == 0);
	histogram_add(&histogram, &other);
	assert_int_equal(histogram.count, 0);
	histogram_record(&other, 5);
	histogram_add(&histogram, &other);
	assert_int_equal(histogram.min, 5);
	assert_int_equal(histogram.max, 5);
}

static void test_difference_is_what_came_since(void **state)
{
	static struct histogram copy;

	histogram_record(&histogram, 10);
	histogram_record(&histogram, 1000000);
	histogram_init(&copy);
	histogram_add(&copy, &histogram);
	histogram_record(&histogram, 20);
	histogram_record(&histogram, 20);
	histogram_add(&other, &histogram);
	histogram_subtract(&other, &copy);
	assert_int_equal(other.count, 2);
	assert_int_equal(other.sum, 40);
	assert_int_equal(other.min, 20);
	assert_int_equal(other.max, 20);
	assert_int_equal(histogram_quantile(&other, 0.5), 20);
	histogram_subtract(&other, &other);
	assert_int_equal(other.count, 0);
	assert_int_equal(other.max, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_buckets_have_no_gaps, empty),
		cmocka_unit_test_setup(test_buckets_are_narrow, empty),
		cmocka_unit_test_setup(test_quantiles_of_random_values, empty),
		cmocka_unit_test_setup(test_largest_is_exact, empty),
		cmocka_unit_test_setup(test_beyond_the_range, empty),
		cmocka_unit_test_setup(test_empty, empty),
		cmocka_unit_test_setup(test_difference_is_what_came_since, empty),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
