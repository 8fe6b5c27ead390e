/* SPDX-License-Identifier: BSD-3-Clause */
/* Tests of pollux-perf's command line: what is taken, the defaults, and what is refused, with
 * words. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "app/perf/options.h"
#include "lib/base/compiler.h"

enum { ARGS_MAX = 40 };

static struct perf_options options;
static char why[PERF_WHY_BYTES];

/* Parses words that are separated by one blank. */
static enum perf_options_result parse(const char *line)
{
	static char text[1024];
	char *argv[ARGS_MAX + 1] = {"pollux-perf"}, *at = text;
	int argc = 1;

	perf_options_free(&options);
	strcpy(text, line);
	why[0] = '\0';
	while (at && *at) {
		assert_true(argc < ARGS_MAX);
		argv[argc++] = at;
		at = strchr(at, ' ');
		if (at)
			*at++ = '\0';
	}
	argv[argc] = NULL;
	return perf_options_parse(argc, argv, &options, why, sizeof(why));
}

static int tear_down(void **state)
{
	perf_options_free(&options);
	return 0;
}

static void test_defaults(void **state)
{
	assert_int_equal(parse("nbd://h/x"), PERF_OPTIONS_RUN);
	assert_string_equal(options.rw, "randread");
	assert_true(options.random);
	assert_int_equal(options.read_percent, 100);
	assert_int_equal(options.block_bytes, 4096);
	assert_int_equal(options.depth, 32);
	assert_int_equal(options.connections, 1);
	assert_int_equal(options.time_ns, 10000000000);
	assert_int_equal(options.cpu_count, 0);
	assert_int_equal(options.mode, NBD_MODE_SIMPLE);
	assert_int_equal(options.uri_count, 1);
	assert_string_equal(options.uris[0].export_name, "x");
	assert_false(options.json || options.verify || options.fua || options.discard);
}

static void test_everything(void **state)
{
	assert_int_equal(parse("nbd://a nbds://b/y --rw randrw --mix 70 --bs 128k --iodepth 8 "
			       "--connections 4 --time 1.5 --cores 1,3-4 --size 1G --offset 1M "
			       "--rate 20k --fua --flush-every 7 --json=out --html page"),
			 PERF_OPTIONS_RUN);
	assert_int_equal(options.uri_count, 2);
	assert_true(options.uris[1].tls);
	assert_int_equal(options.read_percent, 70);
	assert_int_equal(options.block_bytes, 128 << 10);
	assert_int_equal(options.depth, 8);
	assert_int_equal(options.connections, 4);
	assert_int_equal(options.time_ns, 1500000000);
	assert_int_equal(options.cpu_count, 3);
	assert_int_equal(options.cpus[0], 1);
	assert_int_equal(options.cpus[1], 3);
	assert_int_equal(options.cpus[2], 4);
	assert_int_equal(options.size, 1 << 30);
	assert_int_equal(options.offset, 1 << 20);
	assert_int_equal(options.rate, 20000);
	assert_true(options.fua && options.json);
	assert_int_equal(options.flush_every, 7);
	assert_string_equal(options.json_file, "out");
	assert_string_equal(options.html_file, "page");
}

static void test_order_does_not_matter(void **state)
{
	assert_int_equal(parse("--mix 30 --rw rw nbd://a"), PERF_OPTIONS_RUN);
	assert_int_equal(options.read_percent, 30);
	assert_false(options.random);
	assert_int_equal(parse("--json nbd://a"), PERF_OPTIONS_RUN);
	assert_true(options.json);
	assert_null(options.json_file);
}

static void test_limit_in_requests(void **state)
{
	assert_int_equal(parse("nbd://a --requests 1000"), PERF_OPTIONS_RUN);
	assert_int_equal(options.requests, 1000);
	assert_int_equal(options.time_ns, 0);
	assert_int_equal(parse("nbd://a --requests 1000 --time 3"), PERF_OPTIONS_RUN);
	assert_int_equal(options.time_ns, 3000000000);
	assert_int_equal(parse("nbd://a --time 0"), PERF_OPTIONS_RUN);
	assert_int_equal(options.time_ns, 0);
}

static void test_verify_state_is_verify(void **state)
{
	assert_int_equal(parse("nbd://a --rw write --verify-state f --seed 9"), PERF_OPTIONS_RUN);
	assert_true(options.verify && options.seed_given);
	assert_int_equal(options.seed, 9);
}

static void test_refused(void **state)
{
	static const struct {
		const char *line, *word;
	} cases[] = {
		{"", "URI"},
		{"--rw read", "URI"},
		{"disk.img", "disk.img"},
		{"nbd://a http://b", "http"},
		{"nbd://a --rw sideways", "sideways"},
		{"nbd://a --rw", "--rw needs a value"},
		{"nbd://a --colour red", "--colour is no option"},
		{"nbd://a --mix 50", "--mix is for"},
		{"nbd://a --rw rw --mix 101", "--mix takes a number from 0 to 100"},
		{"nbd://a --bs 0", "--bs"},
		{"nbd://a --bs 4x", "--bs"},
		{"nbd://a --bs 65M", "64M"},
		{"nbd://a --iodepth 0", "--iodepth"},
		{"nbd://a --iodepth -1", "--iodepth"},
		{"nbd://a --iodepth 16385", "16384"},
		{"nbd://a --connections 0", "--connections"},
		{"nbd://a --connections x", "--connections"},
		{"nbd://a --time -1", "--time"},
		{"nbd://a --time soon", "--time"},
		{"nbd://a --time 1e3", "--time"},
		{"nbd://a --requests 0", "--requests"},
		{"nbd://a --cores a", "--cores"},
		{"nbd://a --cores 3-1", "--cores"},
		{"nbd://a --cores 1,1", "--cores"},
		{"nbd://a --cores 1,", "--cores"},
		{"nbd://a --size 0", "--size"},
		{"nbd://a --offset x", "--offset"},
		{"nbd://a --rate 0", "--rate"},
		{"nbd://a --rate fast", "--rate"},
		{"nbd://a --seed x", "--seed"},
		{"nbd://a --fua", "--fua is for writes"},
		{"nbd://a --flush-every 3", "--flush-every is for writes"},
		{"nbd://a --rw write --flush-every 0", "--flush-every"},
		{"nbd://a --rw write --discard", "--discard is for"},
		{"nbd://a --discard --verify", "--verify"},
		{"nbd://a --discard --structured", "--structured"},
		{"nbd://a --structured --extended", "--extended"},
		{"nbd://a --rw write --verify --bs 1000", "multiple of 512"},
		{"nbd://a nbd://b --verify-state f", "one URI"},
		{"nbd://a --tls-psk f --tls-certificates d", "--tls-psk"},
		{"nbd://a --timeout 0", "--timeout"},
		{"nbd://a --idle-poll 1000001", "--idle-poll"},
	};

	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		assert_int_equal(parse(cases[i].line), PERF_OPTIONS_WRONG);
		if (!strstr(why, cases[i].word))
			fail_msg("'%s': \"%s\" lacks \"%s\"", cases[i].line, why, cases[i].word);
	}
}

static void test_durations(void **state)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} good[] = {
		{"0", 0},	   {"10", 10000000000},	 {"0.5", 500000000},
		{".5", 500000000}, {"2s", 2000000000},	 {"500ms", 500000000},
		{"7us", 7000},	   {"2m", 120000000000}, {"1h", 3600000000000},
	};
	static const char *const bad[] = {"",	"x",   "-1",  "+1",  " 1",  "1 s",
					  "1d", "0x1", "1e1", "inf", "nan", "1ss"};
	uint64_t ns;

	for (size_t i = 0; i < COUNT_OF(good); i++) {
		assert_int_equal(perf_duration_parse(good[i].text, &ns), 0);
		assert_int_equal(ns, good[i].ns);
	}
	for (size_t i = 0; i < COUNT_OF(bad); i++)
		assert_int_equal(perf_duration_parse(bad[i], &ns), -EINVAL);
	assert_int_equal(perf_duration_parse("9000h", &ns), -ERANGE);
}

static void test_cpus(void **state)
{
	unsigned cpus[PERF_CPUS_MAX];

	assert_int_equal(perf_cpus_parse("0-3,7", cpus), 5);
	assert_int_equal(cpus[3], 3);
	assert_int_equal(cpus[4], 7);
	assert_int_equal(perf_cpus_parse("0-255", cpus), 256);
	assert_int_equal(perf_cpus_parse("0-256", cpus), -EINVAL);
	assert_int_equal(perf_cpus_parse("", cpus), -EINVAL);
	assert_int_equal(perf_cpus_parse("1:net", cpus), -EINVAL);
	assert_int_equal(perf_cpus_parse("-1", cpus), -EINVAL);
	assert_int_equal(perf_cpus_parse("1-", cpus), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_everything),
		cmocka_unit_test(test_order_does_not_matter),
		cmocka_unit_test(test_limit_in_requests),
		cmocka_unit_test(test_verify_state_is_verify),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_durations),
		cmocka_unit_test(test_cpus),
	};
	return cmocka_run_group_tests(tests, NULL, tear_down);
}
