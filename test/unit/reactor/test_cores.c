/* SPDX-License-Identifier: BSD-3-Clause */
/* cores: every form of --cores, good and bad, against the affinity mask. */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "reactor/reactor.h"

enum { BOTH = REACTOR_NET | REACTOR_STORAGE, TEXT_BYTES = 8192 };

static int cpus[REACTOR_MAX], cpu_count;
static char why[512];
static struct reactor_config config;

static int find_cpus(void **state)
{
	cpu_set_t mask;
	assert_int_equal(sched_getaffinity(0, sizeof(mask), &mask), 0);
	for (int cpu = 0; cpu < 128 && cpu_count < REACTOR_MAX; cpu++) {
		if (CPU_ISSET(cpu, &mask))
			cpus[cpu_count++] = cpu;
	}
	return cpu_count ? 0 : -1;
}

static int parse(const char *list)
{
	memset(&config, 0xee, sizeof(config));
	strcpy(why, "nothing was said");
	return reactor_parse_cores(list, &config, why, sizeof(why));
}

__attribute__((format(printf, 1, 2))) static int parse_format(const char *format, ...)
{
	static char list[TEXT_BYTES];
	va_list args;
	va_start(args, format);
	vsnprintf(list, sizeof(list), format, args);
	va_end(args);
	return parse(list);
}

static void expect_core(unsigned at, int cpu, unsigned roles)
{
	assert_true(at < config.core_count);
	assert_int_equal(config.cores[at].cpu, cpu);
	assert_int_equal(config.cores[at].roles, roles);
}

/* It is refused, and the sentence names what is wrong. */
static void expect_refused(int result, const char *word)
{
	assert_int_equal(result, -EINVAL);
	if (!strstr(why, word))
		fail_msg("'%s' does not name '%s'", why, word);
}

static void test_one_cpu(void **state)
{
	static const struct {
		const char *suffix;
		unsigned roles;
	} forms[] = {{"", BOTH}, {":both", BOTH}};
	for (unsigned i = 0; i < COUNT_OF(forms); i++) {
		assert_int_equal(parse_format("%d%s", cpus[0], forms[i].suffix), 0);
		assert_int_equal(config.core_count, 1);
		expect_core(0, cpus[0], forms[i].roles);
	}
	assert_int_equal(parse_format("%d-%d", cpus[0], cpus[0]), 0);
	assert_int_equal(config.core_count, 1);
	assert_int_equal(parse_format("00%d", cpus[0]), 0);
	expect_core(0, cpus[0], BOTH);
}

static void test_several(void **state)
{
	if (cpu_count < 2 || cpus[1] != cpus[0] + 1) {
		print_message("two neighbouring CPUs are needed\n");
		skip();
	}
	int a = cpus[0], b = cpus[1];
	assert_int_equal(parse_format("%d,%d", a, b), 0);
	assert_int_equal(config.core_count, 2);
	expect_core(0, a, BOTH);
	expect_core(1, b, BOTH);
	assert_int_equal(parse_format("%d,%d", b, a), 0); /* as it is written */
	expect_core(0, b, BOTH);
	assert_int_equal(parse_format("%d-%d", a, b), 0);
	assert_int_equal(config.core_count, 2);
	expect_core(1, b, BOTH);
	assert_int_equal(parse_format("%d-%d:both", a, b), 0);
	assert_int_equal(parse_format("%d:net,%d:storage", a, b), 0);
	expect_core(0, a, REACTOR_NET);
	expect_core(1, b, REACTOR_STORAGE);
	assert_int_equal(parse_format("%d:net,%d", a, b), 0);
	expect_core(1, b, BOTH);
	expect_refused(parse_format("%d-%d,%d", a, b, b), "twice");
	expect_refused(parse_format("%d-%d:net", a, b), "storage");
	expect_refused(parse_format("%d:storage,%d:storage", a, b), "net");
	expect_refused(parse_format("%d-%d", b, a), "range");
}

static void test_the_affinity_mask_holds(void **state)
{
	cpu_set_t before, only;
	if (cpu_count < 2) {
		print_message("two CPUs are needed\n");
		skip();
	}
	assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
	CPU_ZERO(&only);
	CPU_SET(cpus[1], &only);
	assert_int_equal(sched_setaffinity(0, sizeof(only), &only), 0);
	int first = parse_format("%d", cpus[0]), second = parse_format("%d", cpus[1]);
	int all = reactor_default_cores(&config, why, sizeof(why));
	unsigned count = config.core_count;
	assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
	assert_int_equal(first, -EINVAL);
	assert_int_equal(second, 0);
	assert_int_equal(all, 0);
	assert_int_equal(count, 1);
	expect_core(0, cpus[1], BOTH);
}

static void test_default_is_all(void **state)
{
	memset(&config, 0xee, sizeof(config));
	assert_int_equal(reactor_default_cores(&config, why, sizeof(why)), 0);
	assert_int_equal(config.core_count, cpu_count);
	for (int i = 0; i < cpu_count; i++)
		expect_core(i, cpus[i], BOTH);
}

static void test_what_is_no_list(void **state)
{
	static const char *const lists[] = {
		"",	",",   "0,",   ",0",  "0,,0",  "a",    "0a",	 " 0",	"0 ",  "-1",
		"-",	"0-",  "0--1", "0-a", "0-1-2", "+0",   "0x0",	 "0.5", "0;1", "0-0-0",
		"\xff", "all", "0- 1", "1e0", "0\n",   ":net", "-0:net", "0+1", "[0]", "0-:net"};
	for (unsigned i = 0; i < COUNT_OF(lists); i++) {
		/* CPU 0 may be missing here: then that is what is said */
		assert_int_equal(parse(lists[i]), -EINVAL);
		assert_string_not_equal(why, "nothing was said");
		assert_true(strlen(why) > 0);
	}
	expect_refused(parse("x"), "'x'");
	expect_refused(parse_format("%d,y-z", cpus[0]), "'y-z'");
}

static void test_roles_that_are_none(void **state)
{
	static const char *const roles[] = {"",	    "Net",  "net ",    "nets",	   "storage:net",
					    "none", "disk", "net+net", "storages", "net/storage"};
	for (unsigned i = 0; i < COUNT_OF(roles); i++)
		expect_refused(parse_format("%d:%s", cpus[0], roles[i]), "role");
	expect_refused(parse_format("%d:disk", cpus[0]), "'disk'");
	expect_refused(parse_format("%d:net", cpus[0]), "no core has the storage role");
	expect_refused(parse_format("%d:storage", cpus[0]), "no core has the net role");
}

static void test_cpus_that_are_none(void **state)
{
	expect_refused(parse_format("%d,%d", cpus[0], cpus[0]), "twice");
	expect_refused(parse("128"), "beyond");
	expect_refused(parse("99999999999999999999999"), "beyond");
	expect_refused(parse("0-99999999999999999999999"), "CPU");
	if (cpus[cpu_count - 1] < 127)
		expect_refused(parse_format("%d", cpus[cpu_count - 1] + 1), "not there");
}

static void test_long_lists(void **state)
{
	static char list[TEXT_BYTES];
	/* all CPUs that can be, each with a role: read to its end, and refused for what it says */
	size_t n = 0;
	for (int i = 0; i < 127; i++)
		n += snprintf(list + n, sizeof(list) - n, "%s%d:storage", i ? "," : "", i);
	assert_int_equal(parse(list), -EINVAL);
	assert_null(strstr(why, "too long"));
	memset(list, '0', sizeof(list) - 1);
	expect_refused(parse(list), "too long");
}

/* A sentence that does not fit is cut, not written beyond its room. */
static void test_little_room_for_the_reason(void **state)
{
	char small[9];
	memset(small, 'x', sizeof(small));
	assert_int_equal(reactor_parse_cores("no list", &config, small, 8), -EINVAL);
	assert_int_equal(strlen(small), 7);
	assert_int_equal(small[8], 'x');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_cpu),
		cmocka_unit_test(test_several),
		cmocka_unit_test(test_the_affinity_mask_holds),
		cmocka_unit_test(test_default_is_all),
		cmocka_unit_test(test_what_is_no_list),
		cmocka_unit_test(test_roles_that_are_none),
		cmocka_unit_test(test_cpus_that_are_none),
		cmocka_unit_test(test_long_lists),
		cmocka_unit_test(test_little_room_for_the_reason),
	};
	return cmocka_run_group_tests(tests, find_cpus, NULL);
}
