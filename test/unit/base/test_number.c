/* SPDX-License-Identifier: BSD-3-Clause */
/* Numbers and ranges as text. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/base/compiler.h"
#include "lib/base/number.h"

static void test_numbers(void **state)
{
	uint64_t number;
	assert_int_equal(number_parse("0", 0, 9, &number), 0);
	assert_int_equal(number, 0);
	assert_int_equal(number_parse("010", 10, 10, &number), 0);
	assert_int_equal(number, 10);
	assert_int_equal(number_parse("18446744073709551615", 0, UINT64_MAX, &number), 0);
	assert_true(number == UINT64_MAX);
}

static void test_refused_numbers(void **state)
{
	static const char *const wrong[] = {"", " 1", "1 ", "-1", "+1", "0x10", "1k", "1.0", "one"};
	uint64_t number = 7;
	for (size_t i = 0; i < COUNT_OF(wrong); i++)
		assert_int_equal(number_parse(wrong[i], 0, UINT64_MAX, &number), -EINVAL);
	assert_int_equal(number_parse("4", 5, 6, &number), -ERANGE);
	assert_int_equal(number_parse("7", 5, 6, &number), -ERANGE);
	assert_int_equal(number_parse("18446744073709551616", 0, UINT64_MAX, &number), -ERANGE);
	assert_int_equal(number, 7);
}

static void test_ranges(void **state)
{
	static const struct {
		const char *text;
		uint64_t first, last;
		const char *rest;
	} good[] = {
		{"3", 3, 3, ""},       {"0-3", 0, 3, ""},
		{"5-5,7", 5, 5, ",7"}, {"12:net", 12, 12, ":net"},
		{"1-2-3", 1, 2, "-3"}, {"99999999999999999999", UINT64_MAX, UINT64_MAX, ""},
	};
	static const char *const wrong[] = {"", "-1", " 1", "x", "1-", "1-x", "3-2"};
	uint64_t first, last;
	for (size_t i = 0; i < COUNT_OF(good); i++) {
		const char *text = good[i].text;
		assert_int_equal(number_range_parse(&text, &first, &last), 0);
		assert_true(first == good[i].first && last == good[i].last);
		assert_string_equal(text, good[i].rest);
	}
	for (size_t i = 0; i < COUNT_OF(wrong); i++) {
		const char *text = wrong[i];
		assert_int_equal(number_range_parse(&text, &first, &last), -EINVAL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_refused_numbers),
		cmocka_unit_test(test_ranges),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
