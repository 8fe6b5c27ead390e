/* SPDX-License-Identifier: BSD-3-Clause */
/* Tests of the limit of lines a second: what passes, what is counted, and when that is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lib/base/log_limit.h"

static unsigned passed(struct log_limit *limit, uint64_t second, unsigned asked, unsigned *left_out)
{
	unsigned count = 0, told;
	*left_out = 0;
	for (unsigned i = 0; i < asked; i++) {
		count += log_limit_take(limit, second, &told);
		*left_out += told;
	}
	return count;
}

static void few_pass(void **state)
{
	struct log_limit limit = {0};
	unsigned left_out;
	for (uint64_t second = 0; second < 3; second++) {
		assert_int_equal(passed(&limit, second, LOG_LIMIT_LINES_A_SECOND, &left_out),
				 LOG_LIMIT_LINES_A_SECOND);
		assert_int_equal(left_out, 0);
	}
}

/* The rest of a second is told of once, with the next line, however much later that comes. */
static void many_are_counted(void **state)
{
	struct log_limit limit = {0};
	unsigned left_out;
	assert_int_equal(passed(&limit, 5, LOG_LIMIT_LINES_A_SECOND + 7, &left_out),
			 LOG_LIMIT_LINES_A_SECOND);
	assert_int_equal(left_out, 0);
	assert_int_equal(passed(&limit, 900, 1, &left_out), 1);
	assert_int_equal(left_out, 7);
	assert_int_equal(passed(&limit, 901, 1, &left_out), 1);
	assert_int_equal(left_out, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(few_pass),
		cmocka_unit_test(many_are_counted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
