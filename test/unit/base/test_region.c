/* SPDX-License-Identifier: BSD-3-Clause */
/* Regions: zeroed, aligned, taken on first touch; growing in place; nodes; the shared zeros. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/mem/region.h"

static unsigned resident_pages(const void *base, size_t bytes)
{
	unsigned char resident[1024];
	unsigned count = 0;
	assert_true(bytes / REGION_PAGE_BYTES <= sizeof(resident));
	assert_int_equal(mincore((void *)(uintptr_t)base, bytes, resident), 0);
	for (size_t i = 0; i < bytes / REGION_PAGE_BYTES; i++)
		count += resident[i] & 1;
	return count;
}

static void test_map(void **state)
{
	struct region region;
	for (int hugetlb = 0; hugetlb < 2; hugetlb++) { /* works with and without huge pages */
		assert_int_equal(region_map(&region, 3 << 20, REGION_ANY_NODE, hugetlb), 0);
		assert_int_equal((uintptr_t)region.base % REGION_HUGE_BYTES, 0);
		assert_int_equal(region.bytes, 3 << 20);
		assert_true(region.mapped >= region.bytes);
		if (!region.hugetlb)
			assert_int_equal(resident_pages(region.base, 3 << 20), 0);
		char *bytes = region.base;
		for (size_t i = 0; i < region.bytes; i += 1021)
			assert_int_equal(bytes[i], 0);
		memset(bytes, 0xff, region.bytes);
		region_unmap(&region);
		assert_null(region.base);
		region_unmap(&region); /* harmless */
	}
}

static void test_refusals(void **state)
{
	struct region region;
	assert_int_equal(region_map(&region, 0, REGION_ANY_NODE, false), -EINVAL);
	assert_int_equal(region_map(&region, 4096, 4711, false), -EINVAL);
	assert_int_equal(region_map(&region, 4096, -2, false), -EINVAL);
	assert_int_equal(region_map(&region, SIZE_MAX, REGION_ANY_NODE, false), -ENOMEM);
	assert_int_equal(region_map(&region, SIZE_MAX / 8, REGION_ANY_NODE, true), -ENOMEM);
	assert_null(region.base);
}

static void test_nodes(void **state)
{
	struct region region;
	assert_true(region_node_count() >= 1);
	assert_true(region_node_exists(REGION_ANY_NODE));
	int node = region_node_of_cpu(0);
	assert_true(region_node_exists(node));
	assert_false(region_node_exists(4711));
	assert_int_equal(region_map(&region, 1 << 20, node, false), 0);
	assert_int_equal(region.node, node);
	memset(region.base, 1, region.bytes);
	region_unmap(&region);
}

/* More than this machine has memory: a sparse disk is mapped, not taken. */
static void test_sparse(void **state)
{
	struct region region;
	const size_t bytes = 1ull << 40;
#if defined(__SANITIZE_THREAD__)
	skip();
#endif
	assert_int_equal(region_map(&region, bytes, REGION_ANY_NODE, true), 0);
	char *base = region.base;
	base[0] = 1;
	base[bytes - 1] = 2;
	assert_int_equal(base[bytes / 2], 0);
	region_unmap(&region);
}

static bool faults(void *at)
{
	int status;
	pid_t child = fork();
	if (child == 0) {
		signal(SIGSEGV, SIG_DFL);
		*(volatile char *)at = 1;
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

static void test_grow(void **state)
{
	struct region region;
	const size_t small = 5 << 12, big = 64 << 20;
	assert_int_equal(region_map_growable(&region, small, big, REGION_ANY_NODE, false), 0);
	char *base = region.base;
	assert_true(region.mapped >= big);
	memset(base, 0x5a, small);
	assert_true(faults(base + small));
	assert_int_equal(region_grow(&region, big), 0);
	assert_ptr_equal(region.base, base);
	assert_int_equal(region.bytes, big);
	for (size_t i = 0; i < small; i++)
		assert_int_equal(base[i], 0x5a);
	for (size_t i = small; i < big; i += 4093)
		assert_int_equal(base[i], 0);
	memset(base + small, 1, big - small);
	assert_int_equal(region_grow(&region, small), 0); /* never less */
	assert_int_equal(region.bytes, big);
	assert_int_equal(region_grow(&region, region.mapped + 1), -EFBIG);
	region_unmap(&region);
}

static void test_zeros(void **state)
{
	const uint8_t *zeros = region_zeros();
	assert_non_null(zeros);
	assert_ptr_equal(region_zeros(), zeros);
	for (size_t i = 0; i < REGION_ZEROS_BYTES; i++)
		assert_int_equal(zeros[i], 0);
	assert_true(faults((void *)(uintptr_t)zeros));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_map),   cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_nodes), cmocka_unit_test(test_sparse),
		cmocka_unit_test(test_grow),  cmocka_unit_test(test_zeros),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
