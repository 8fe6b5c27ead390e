/* SPDX-License-Identifier: BSD-3-Clause */
/* The buffer pool: against a model, merging, running dry, memory that is not touched before its
 * time. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/mem/buffers.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

enum { POOL_BYTES = 8 << 20, PAGES = POOL_BYTES / BUFFER_MIN_BYTES };

static void test_sizes(void **state)
{
	struct buffers buffers;
	assert_int_equal(buffers_init(&buffers, 1, REGION_ANY_NODE), 0);
	assert_int_equal(buffers.total_bytes, BUFFER_MAX_BYTES);
	buffers_fini(&buffers);
	assert_int_equal(buffers_init(&buffers, 0, REGION_ANY_NODE), -EINVAL);
	assert_int_equal(buffers_init(&buffers, POOL_BYTES, 4711), -EINVAL);

	assert_int_equal(buffers_init(&buffers, POOL_BYTES, REGION_ANY_NODE), 0);
	const struct {
		size_t asked, taken;
	} sizes[] = {{1, 4096},		{4096, 4096},	 {4097, 8192},
		     {65536, 65536},	{65537, 131072}, {(1 << 19) + 1, 1 << 20},
		     {1 << 20, 1 << 20}};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		void *buffer = buffers_get(&buffers, sizes[i].asked);
		assert_non_null(buffer);
		assert_int_equal((uintptr_t)buffer % BUFFER_MIN_BYTES, 0);
		assert_int_equal(buffers.free_bytes, POOL_BYTES - sizes[i].taken);
		memset(buffer, 0xa5, sizes[i].taken);
		buffers_put(&buffers, buffer);
		assert_int_equal(buffers.free_bytes, POOL_BYTES);
	}
	buffers_fini(&buffers);
}

static void test_runs_dry(void **state)
{
	struct buffers buffers;
	static void *held[PAGES + 1];
	unsigned count = 0;
	assert_int_equal(buffers_init(&buffers, POOL_BYTES, REGION_ANY_NODE), 0);
	while ((held[count] = buffers_get(&buffers, BUFFER_MIN_BYTES)))
		count++;
	assert_int_equal(count, PAGES);
	assert_int_equal(buffers.free_bytes, 0);
	assert_null(buffers_get(&buffers, BUFFER_MAX_BYTES));
	buffers_put(&buffers, held[--count]);
	assert_null(buffers_get(&buffers, 2 * BUFFER_MIN_BYTES));
	held[count] = buffers_get(&buffers, BUFFER_MIN_BYTES);
	assert_non_null(held[count++]);
	while (count)
		buffers_put(&buffers, held[--count]);
	/* all quick blocks merge again */
	while ((held[count] = buffers_get(&buffers, BUFFER_MAX_BYTES)))
		count++;
	assert_int_equal(count, POOL_BYTES / BUFFER_MAX_BYTES);
	while (count)
		buffers_put(&buffers, held[--count]);
	buffers_fini(&buffers);
}

/* What was used before is used again, merged if need be, before memory that never was. */
static void test_stays_small(void **state)
{
	struct buffers buffers;
	void *held[256];
	assert_int_equal(buffers_init(&buffers, POOL_BYTES, REGION_ANY_NODE), 0);
	char *base = buffers.region.base;
	for (unsigned i = 0; i < 256; i++) {
		held[i] = buffers_get(&buffers, BUFFER_MIN_BYTES);
		assert_ptr_equal(held[i], base + (size_t)i * BUFFER_MIN_BYTES);
	}
	buffers_put(&buffers, held[7]);
	buffers_put(&buffers, held[200]);
	assert_ptr_equal(buffers_get(&buffers, BUFFER_MIN_BYTES), held[200]);
	assert_ptr_equal(buffers_get(&buffers, BUFFER_MIN_BYTES), held[7]);
	for (unsigned i = 0; i < 256; i++)
		buffers_put(&buffers, held[i]);
	for (unsigned round = 0; round < 3; round++) {
		void *big = buffers_get(&buffers, BUFFER_MAX_BYTES);
		assert_ptr_equal(big, base);
		buffers_put(&buffers, big);
		void *small = buffers_get(&buffers, BUFFER_MIN_BYTES);
		assert_in_range((uintptr_t)small, (uintptr_t)base,
				(uintptr_t)base + BUFFER_MAX_BYTES - 1);
		buffers_put(&buffers, small);
	}
	buffers_fini(&buffers);
}

static unsigned resident_pages(const struct buffers *buffers)
{
	static unsigned char resident[PAGES];
	unsigned count = 0;
	assert_int_equal(mincore(buffers->region.base, POOL_BYTES, resident), 0);
	for (unsigned i = 0; i < PAGES; i++)
		count += resident[i] & 1;
	return count;
}

static void test_untouched_memory(void **state)
{
	struct buffers buffers;
	assert_int_equal(buffers_init(&buffers, POOL_BYTES, REGION_ANY_NODE), 0);
	void *a = buffers_get(&buffers, BUFFER_MAX_BYTES);
	void *b = buffers_get(&buffers, BUFFER_MIN_BYTES);
	buffers_put(&buffers, a);
	buffers_put(&buffers, b);
	if (!buffers.region.hugetlb)
		assert_int_equal(resident_pages(&buffers), 0);
	memset(buffers_get(&buffers, 1), 1, 1);
	/* at most one huge page */
	assert_in_range(resident_pages(&buffers), 1, REGION_HUGE_BYTES / BUFFER_MIN_BYTES);
	buffers_fini(&buffers);
}

struct held {
	uint8_t *at;
	size_t bytes;
	uint8_t fill;
};

static void check_and_put(struct buffers *buffers, struct held *held, uint8_t *owners)
{
	size_t first = (size_t)(held->at - (uint8_t *)buffers->region.base) / BUFFER_MIN_BYTES;
	for (size_t i = 0; i < held->bytes; i += 997)
		assert_int_equal(held->at[i], held->fill);
	memset(owners + first, 0, (held->bytes + BUFFER_MIN_BYTES - 1) / BUFFER_MIN_BYTES);
	buffers_put(buffers, held->at);
}

static void test_random(void **state)
{
	enum { HELD = 300, ROUNDS = 60000 };
	static struct held held[HELD];
	static uint8_t owners[PAGES];
	struct buffers buffers;
	unsigned count = 0, refused = 0;
	assert_int_equal(buffers_init(&buffers, POOL_BYTES, REGION_ANY_NODE), 0);
	srandom(1);
	for (unsigned round = 0; round < ROUNDS; round++) {
		if (count == HELD || (count && random() % 100 < 48)) {
			unsigned victim = (unsigned)random() % count;
			check_and_put(&buffers, &held[victim], owners);
			held[victim] = held[--count];
			continue;
		}
		struct held *it = &held[count];
		it->bytes = 1 + (size_t)random() % ((size_t)BUFFER_MIN_BYTES << random() % 9);
		it->at = buffers_get(&buffers, it->bytes);
		if (!it->at) {
			refused++;
			continue;
		}
		assert_true(buffers_own(&buffers, it->at));
		it->fill = (uint8_t)round;
		memset(it->at, it->fill, it->bytes);
		size_t first = (size_t)(it->at - (uint8_t *)buffers.region.base) / BUFFER_MIN_BYTES;
		for (size_t i = 0; i * BUFFER_MIN_BYTES < it->bytes; i++)
			assert_int_equal(owners[first + i]++, 0);
		count++;
	}
	assert_int_not_equal(refused, 0);
	while (count)
		check_and_put(&buffers, &held[--count], owners);
	assert_int_equal(buffers.free_bytes, POOL_BYTES);
	/* nothing is lost to fragments */
	for (unsigned i = 0; i < POOL_BYTES / BUFFER_MAX_BYTES; i++)
		assert_non_null(buffers_get(&buffers, BUFFER_MAX_BYTES));
	buffers_fini(&buffers);
}

static void test_poison(void **state)
{
#if defined(__SANITIZE_ADDRESS__)
	struct buffers buffers;
	assert_int_equal(buffers_init(&buffers, POOL_BYTES, REGION_ANY_NODE), 0);
	char *buffer = buffers_get(&buffers, 8192);
	assert_null(__asan_region_is_poisoned(buffer, 8192));
	assert_true(__asan_address_is_poisoned(buffer + 8192));
	buffers_put(&buffers, buffer);
	assert_true(__asan_address_is_poisoned(buffer));
	buffers_fini(&buffers);
#else
	skip();
#endif
}

static void test_double_put(void **state)
{
#ifndef NDEBUG
	struct buffers buffers;
	int status;
	assert_int_equal(buffers_init(&buffers, POOL_BYTES, REGION_ANY_NODE), 0);
	void *buffer = buffers_get(&buffers, 4096);
	buffers_put(&buffers, buffer);
	pid_t child = fork();
	if (child == 0) {
		signal(SIGABRT, SIG_DFL);
		if (!freopen("/dev/null", "w", stderr))
			_exit(1);
		buffers_put(&buffers, buffer);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	buffers_fini(&buffers);
#else
	skip();
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),	    cmocka_unit_test(test_runs_dry),
		cmocka_unit_test(test_stays_small), cmocka_unit_test(test_untouched_memory),
		cmocka_unit_test(test_random),	    cmocka_unit_test(test_poison),
		cmocka_unit_test(test_double_put),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
