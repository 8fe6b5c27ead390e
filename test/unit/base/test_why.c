/* SPDX-License-Identifier: BSD-3-Clause */
/* The sentence of an error: as it is, cut to its buffer, and the error that comes back. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/base/why.h"

static void test_tells(void **state)
{
	char why[32];
	assert_int_equal(why_refuse(why, sizeof(why), -ENODEV, "%s: %d", "disk", 7), -ENODEV);
	assert_string_equal(why, "disk: 7");
}

static void test_is_cut(void **state)
{
	char why[8] = "1234567";
	assert_int_equal(why_refuse(why, 5, -EINVAL, "%s", "longer than that"), -EINVAL);
	assert_string_equal(why, "long");
	assert_int_equal(why[5], '6');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tells),
		cmocka_unit_test(test_is_cut),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
