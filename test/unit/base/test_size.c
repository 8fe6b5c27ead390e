/* SPDX-License-Identifier: BSD-3-Clause */
/* Byte counts as text, and back. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/base/compiler.h"
#include "lib/base/size.h"

static void test_parse(void **state)
{
	const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{"0", 0},
		{"1", 1},
		{"4096", 4096},
		{"1K", 1 << 10},
		{"64m", 64 << 20},
		{"2G", 2ull << 30},
		{"3t", 3ull << 40},
		{"9223372036854775807", INT64_MAX},
		{"8388607T", 8388607ull << 40},
	};
	for (size_t i = 0; i < COUNT_OF(good); i++) {
		uint64_t bytes = 4711;
		assert_int_equal(size_parse(good[i].text, &bytes), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
}

static void test_refuse(void **state)
{
	const struct {
		const char *text;
		int error;
	} bad[] = {
		{"", -EINVAL},
		{"K", -EINVAL},
		{"-1", -EINVAL},
		{" 1", -EINVAL},
		{"1 ", -EINVAL},
		{"1KB", -EINVAL},
		{"1X", -EINVAL},
		{"0x10", -EINVAL},
		{"1.5G", -EINVAL},
		{"+1", -EINVAL},
		{"8388608T", -ERANGE},
		{"9223372036854775808", -ERANGE},
		{"99999999999999999999999", -ERANGE},
	};
	for (size_t i = 0; i < COUNT_OF(bad); i++) {
		uint64_t bytes = 4711;
		assert_int_equal(size_parse(bad[i].text, &bytes), bad[i].error);
		assert_int_equal(bytes, 4711);
	}
}

static void test_format(void **state)
{
	const struct {
		uint64_t bytes;
		const char *text;
	} sizes[] = {
		{0, "0"},
		{1, "1"},
		{1023, "1023"},
		{1024, "1K"},
		{1536, "1536"},
		{1 << 20, "1M"},
		{3ull << 30, "3G"},
		{5ull << 40, "5T"},
		{2048ull << 40, "2048T"},
		{(1ull << 30) + 512, "1073742336"},
	};
	for (size_t i = 0; i < COUNT_OF(sizes); i++) {
		char text[32];
		uint64_t back;
		assert_string_equal(size_format(sizes[i].bytes, text, sizeof(text)), sizes[i].text);
		assert_int_equal(size_parse(text, &back), 0);
		assert_int_equal(back, sizes[i].bytes);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_refuse),
		cmocka_unit_test(test_format),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
