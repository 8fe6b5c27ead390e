/* SPDX-License-Identifier: BSD-3-Clause */
/* Tests of the open loop's schedule and of the pattern of blocks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "app/perf/pattern.h"
#include "app/perf/schedule.h"

#define SECOND 1000000000ull

static void test_evenly_spaced(void **state)
{
	struct schedule schedule;

	schedule_init(&schedule, 5 * SECOND, 1000, 0, 1, 1);
	for (unsigned i = 0; i < 5000; i++) {
		assert_int_equal(schedule_due(&schedule), 5 * SECOND + i * 1000000ull);
		schedule_advance(&schedule);
	}
}

static void test_odd_rates_do_not_drift(void **state)
{
	static const uint64_t rates[] = {3, 7, 333333, 700001, 1234567};

	for (unsigned i = 0; i < 5; i++) {
		struct schedule schedule;
		uint64_t due;

		schedule_init(&schedule, 0, rates[i], 0, 1, 1);
		for (uint64_t n = 0; n < rates[i]; n++)
			schedule_advance(&schedule);
		/* after a second's worth: a second, to a millionth and a ns */
		due = schedule_due(&schedule);
		assert_in_range(due, SECOND - SECOND / 1000000 - 1, SECOND);
	}
}

static void test_parts_interleave(void **state)
{
	struct schedule parts[4];
	unsigned seen[4000];

	memset(seen, 0, sizeof(seen));
	for (unsigned i = 0; i < 4; i++) {
		schedule_init(&parts[i], 0, 1000, i, 1, 4);
		for (; schedule_due(&parts[i]) < 4 * SECOND; schedule_advance(&parts[i]))
			seen[schedule_due(&parts[i]) / 1000000]++;
	}
	for (unsigned i = 0; i < 4000; i++)
		assert_int_equal(seen[i], 1);
}

static void test_unequal_shares(void **state)
{
	struct schedule schedule;
	unsigned count = 0;

	/* three of four connections: three quarters of the rate */
	schedule_init(&schedule, 0, 1000, 0, 3, 4);
	for (; schedule_due(&schedule) < 4 * SECOND; schedule_advance(&schedule))
		count++;
	assert_in_range(count, 3000, 3001);
}

static void test_backlog(void **state)
{
	struct schedule schedule;

	schedule_init(&schedule, SECOND, 1000, 0, 1, 1);
	assert_int_equal(schedule_backlog(&schedule, SECOND - 1), 0);
	assert_int_equal(schedule_backlog(&schedule, SECOND), 1);
	assert_int_equal(schedule_backlog(&schedule, SECOND + 999999), 1);
	assert_int_equal(schedule_backlog(&schedule, SECOND + 1000000), 2);
	assert_int_equal(schedule_backlog(&schedule, 2 * SECOND), 1001);
	for (unsigned i = 0; i < 1001; i++) {
		assert_int_equal(schedule_backlog(&schedule, 2 * SECOND), 1001 - i);
		schedule_advance(&schedule);
	}
	assert_int_equal(schedule_backlog(&schedule, 2 * SECOND), 0);
}

static void test_very_fast(void **state)
{
	struct schedule schedule;

	/* more than one a ns on a single schedule never stands still */
	schedule_init(&schedule, 0, 1000000000, 0, 16384, 16384);
	uint64_t before = schedule.next;
	schedule_advance(&schedule);
	assert_true(schedule.next > before);
}

static void test_sequence_goes_round(void **state)
{
	struct pattern pattern;

	pattern_init(&pattern, 1, 5, 100, false);
	for (unsigned i = 0; i < 23; i++)
		assert_int_equal(pattern_block(&pattern), i % 5);
}

static void test_random_reaches_all(void **state)
{
	struct pattern pattern;
	unsigned seen[100] = {0};

	pattern_init(&pattern, 1, 100, 100, true);
	for (unsigned i = 0; i < 100000; i++) {
		uint64_t block = pattern_block(&pattern);

		assert_in_range(block, 0, 99);
		seen[block]++;
	}
	for (unsigned i = 0; i < 100; i++)
		assert_in_range(seen[i], 800, 1200);
}

static void test_seeds_differ(void **state)
{
	struct pattern one, two, again;
	unsigned same = 0;

	pattern_init(&one, 1, 1ull << 40, 100, true);
	pattern_init(&two, 2, 1ull << 40, 100, true);
	pattern_init(&again, 1, 1ull << 40, 100, true);
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t block = pattern_block(&one);

		same += block == pattern_block(&two);
		assert_int_equal(block, pattern_block(&again));
	}
	assert_int_equal(same, 0);
}

static void test_mix(void **state)
{
	static const unsigned percents[] = {0, 1, 30, 70, 99, 100};

	for (unsigned i = 0; i < 6; i++) {
		struct pattern pattern;
		unsigned reads = 0;

		pattern_init(&pattern, 3, 10, percents[i], true);
		for (unsigned n = 0; n < 100000; n++)
			reads += pattern_reads(&pattern);
		if (percents[i] == 0 || percents[i] == 100)
			assert_int_equal(reads, percents[i] * 1000);
		else
			assert_in_range(reads, percents[i] * 1000 - 500, percents[i] * 1000 + 500);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_evenly_spaced),
		cmocka_unit_test(test_odd_rates_do_not_drift),
		cmocka_unit_test(test_parts_interleave),
		cmocka_unit_test(test_unequal_shares),
		cmocka_unit_test(test_backlog),
		cmocka_unit_test(test_very_fast),
		cmocka_unit_test(test_sequence_goes_round),
		cmocka_unit_test(test_random_reaches_all),
		cmocka_unit_test(test_seeds_differ),
		cmocka_unit_test(test_mix),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
