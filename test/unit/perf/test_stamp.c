/* SPDX-License-Identifier: BSD-3-Clause */
/* Tests of stamped blocks: each kind of damage is called by its name, with the place, and none is
 * missed. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "app/perf/verify.h"
#include "lib/base/compiler.h"

enum { BYTES = 4096, OFFSET = 40960, SEED = 77, RUN = 900, GENERATION = 5 };

static uint64_t block[BYTES / 8], other[BYTES / 8];
static char detail[STAMP_DETAIL_BYTES];

static const struct stamp_expected expected = {
	.offset = OFFSET,
	.stamp = {SEED, RUN, GENERATION},
	.first_run = RUN - 1,
	.runs = 3,
};

static void stamp(void *data, uint64_t offset, uint64_t seed, uint32_t run, uint32_t generation)
{
	const struct stamp from = {seed, run, generation};

	stamp_write(data, BYTES, offset, &from);
}

static enum stamp_verdict check(const struct stamp_expected *what)
{
	detail[0] = '\0';
	return stamp_check(block, BYTES, what, detail);
}

static void expect(enum stamp_verdict verdict, const char *word)
{
	assert_string_equal(stamp_verdict_names[check(&expected)], stamp_verdict_names[verdict]);
	if (!strstr(detail, word))
		fail_msg("\"%s\" lacks \"%s\"", detail, word);
}

static int fresh(void **state)
{
	stamp(block, OFFSET, SEED, RUN, GENERATION);
	return 0;
}

static void test_good(void **state)
{
	const struct stamp_expected any = {.offset = OFFSET, .any_seed = true, .any_run = true};

	assert_int_equal(check(&expected), STAMP_GOOD);
	assert_int_equal(check(&any), STAMP_GOOD);
	assert_string_equal(detail, "");
}

static void test_unaligned(void **state)
{
	uint8_t *shifted = malloc(BYTES + 3);

	assert_non_null(shifted);
	memcpy(shifted + 3, block, BYTES);
	assert_int_equal(stamp_check(shifted + 3, BYTES, &expected, detail), STAMP_GOOD);
	free(shifted);
}

static void test_every_flipped_bit_is_found(void **state)
{
	uint8_t *bytes = (uint8_t *)block;

	for (unsigned i = 0; i < BYTES; i++) {
		char word[32];

		bytes[i] ^= 1 << i % 8;
		assert_int_equal(check(&expected), STAMP_CORRUPT);
		/* of the checksum itself only the place of its word is known */
		if (i >= 24 && i < 32)
			snprintf(word, sizeof(word), "checksum");
		else
			snprintf(word, sizeof(word), "byte %u is", i);
		if (!strstr(detail, word))
			fail_msg("\"%s\" lacks \"%s\"", detail, word);
		bytes[i] ^= 1 << i % 8;
	}
	assert_int_equal(check(&expected), STAMP_GOOD);
}

static void test_corrupt_without_knowledge(void **state)
{
	const struct stamp_expected any = {.offset = OFFSET, .any_seed = true, .any_run = true};

	((uint8_t *)block)[1000] ^= 0x80;
	assert_int_equal(check(&any), STAMP_CORRUPT);
	assert_non_null(strstr(detail, "byte 1000 is"));
	memset(block, 0x5a, sizeof(block));
	assert_int_equal(check(&any), STAMP_CORRUPT);
	assert_non_null(strstr(detail, "no part"));
}

static void test_misplaced(void **state)
{
	stamp(block, OFFSET + BYTES, SEED, RUN, GENERATION);
	expect(STAMP_MISPLACED, "written to offset 45056");
}

static void test_of_another_export(void **state)
{
	stamp(block, OFFSET, SEED, RUN + 1, GENERATION);
	expect(STAMP_MISPLACED, "to the export of URI 3");
	stamp(block, OFFSET, SEED + 1, RUN + 1, GENERATION);
	expect(STAMP_STALE, "another run (seed 78)");
}

static void test_any_run(void **state)
{
	const struct stamp_expected some = {.offset = OFFSET, .stamp = {SEED}, .any_run = true};

	stamp(block, OFFSET, SEED, RUN + 7, GENERATION);
	assert_int_equal(check(&some), STAMP_GOOD);
	stamp(block, OFFSET, SEED + 1, RUN, GENERATION);
	assert_int_equal(check(&some), STAMP_STALE);
	/* whatever runs they are of: a block is of one */
	stamp(block, OFFSET, SEED, RUN, GENERATION);
	stamp(other, OFFSET, SEED, RUN + 7, GENERATION);
	memcpy((uint8_t *)block + 1024, (uint8_t *)other + 1024, BYTES - 1024);
	assert_int_equal(check(&some), STAMP_TORN);
	assert_non_null(strstr(detail, "of another run"));
}

static void test_partly_misplaced(void **state)
{
	stamp(other, OFFSET + BYTES, SEED, RUN, GENERATION);
	memcpy((uint8_t *)block + 1024, (uint8_t *)other + 1024, 512);
	expect(STAMP_MISPLACED, "byte 1024 and on were written to offset 46080");
}

static void test_sectors_swapped_within(void **state)
{
	memcpy(other, block, BYTES);
	memcpy((uint8_t *)block + 512, (uint8_t *)other + 1024, 512);
	memcpy((uint8_t *)block + 1024, (uint8_t *)other + 512, 512);
	expect(STAMP_MISPLACED, "byte 512");
}

static void test_stale(void **state)
{
	stamp(block, OFFSET, SEED, RUN, GENERATION - 2);
	expect(STAMP_STALE, "generation 3 instead of 5");
	stamp(block, OFFSET, SEED + 1, RUN, GENERATION);
	expect(STAMP_STALE, "another run (seed 78)");
	stamp(block, OFFSET, SEED, RUN + 7, GENERATION);
	expect(STAMP_STALE, "another run (of the same seed)");
	memset(block, 0, sizeof(block));
	expect(STAMP_STALE, "all zeroes");
}

static void test_torn(void **state)
{
	stamp(other, OFFSET, SEED, RUN, GENERATION - 1);
	for (unsigned at = 512; at < BYTES; at += 512) {
		char word[64];

		fresh(NULL);
		memcpy((uint8_t *)block + at, (uint8_t *)other + at, BYTES - at);
		snprintf(word, sizeof(word), "generation 5 up to byte %u, then generation 4",
			 at - 1);
		expect(STAMP_TORN, word);
	}
	fresh(NULL);
	memset((uint8_t *)block + 2048, 0, 2048);
	expect(STAMP_TORN, "generation 5 up to byte 2047, then generation 0");
	stamp(other, OFFSET, SEED + 1, RUN, GENERATION);
	fresh(NULL);
	memcpy(block, other, 512);
	expect(STAMP_TORN, "another run");
}

static void test_foreign(void **state)
{
	stamp(block, OFFSET, SEED, RUN, GENERATION + 1);
	expect(STAMP_FOREIGN, "generation 6 instead of 5");
}

static void test_unwritten(void **state)
{
	const struct stamp_expected any = {.offset = OFFSET, .any_seed = true, .any_run = true};

	memset(block, 0, sizeof(block));
	assert_int_equal(check(&any), STAMP_UNWRITTEN);
}

static void test_of_another_block_size(void **state)
{
	stamp(block, OFFSET, SEED, RUN, GENERATION);
	assert_int_equal(stamp_check(block, BYTES / 2, &expected, detail), STAMP_CORRUPT);
	assert_non_null(strstr(detail, "or --bs"));
}

static void test_one_sector(void **state)
{
	const struct stamp_expected small = {.offset = 512, .stamp = {1, 2, 3}};

	stamp_write(block, 512, 512, &small.stamp);
	assert_int_equal(stamp_check(block, 512, &small, detail), STAMP_GOOD);
	((uint8_t *)block)[511] ^= 1;
	assert_int_equal(stamp_check(block, 512, &small, detail), STAMP_CORRUPT);
}

/* ---- The table ---- */

static struct verify_table table;
static struct verify_log tally;

static int make_table(void **state)
{
	memset(&tally, 0, sizeof(tally));
	if (verify_table_init(&table, OFFSET, 8, BYTES))
		return -1;
	table.seed = SEED;
	table.run = RUN;
	return 0;
}

static int free_table(void **state)
{
	verify_table_fini(&table);
	return 0;
}

static void read_block(uint64_t number, const void *data)
{
	verify_begin_read(&table, number);
	verify_end_read(&table, number, data, "uri", &tally);
}

static void test_generations_go_up(void **state)
{
	for (unsigned i = 1; i < 4; i++) {
		verify_begin_write(&table, 2, block);
		assert_int_equal((uint32_t)block[1], i);
		assert_int_equal(block[1] >> 32, RUN);
		assert_int_equal(block[0], OFFSET + 2 * BYTES);
		verify_end_write(&table, 2, true);
		memcpy(other, block, BYTES);
		read_block(2, block);
	}
	assert_int_equal(tally.counts[STAMP_GOOD], 3);
	verify_begin_write(&table, 2, block);
	verify_end_write(&table, 2, true);
	read_block(2, other);
	assert_int_equal(tally.counts[STAMP_STALE], 1);
	assert_int_equal(tally.bad, 1);
	assert_int_equal(tally.findings[0].offset, OFFSET + 2 * BYTES);
}

static void test_what_is_not_known_is_not_judged(void **state)
{
	memset(block, 0x11, BYTES);
	read_block(0, block);
	verify_begin_write(&table, 1, block);
	verify_end_write(&table, 1, false); /* failed: anything may be there */
	memset(block, 0x11, BYTES);
	read_block(1, block);
	read_block(1, NULL);
	assert_int_equal(tally.bad, 0);
	/* the next good write makes it known again */
	verify_begin_write(&table, 1, block);
	verify_end_write(&table, 1, true);
	read_block(1, block);
	assert_int_equal(tally.counts[STAMP_GOOD], 1);
}

static void test_busy_blocks_are_passed_over(void **state)
{
	verify_begin_read(&table, 5);
	verify_begin_write(&table, 7, block);
	assert_int_equal(verify_free_block(&table, 4, 4, 5), 6);
	verify_begin_read(&table, 6);
	assert_int_equal(verify_free_block(&table, 4, 4, 5), 4);
	verify_end_read(&table, 5, NULL, "uri", &tally);
	assert_int_equal(verify_free_block(&table, 4, 4, 5), 5);
}

static void test_findings_are_bounded(void **state)
{
	static struct verify_log sum;

	memset(block, 0x11, BYTES);
	table.judge_unknown = true;
	for (unsigned i = 0; i < 2 * VERIFY_FINDINGS_MAX; i++)
		read_block(0, block);
	memset(&sum, 0, sizeof(sum));
	verify_log_add(&sum, &tally);
	verify_log_add(&sum, &tally);
	assert_int_equal(sum.bad, 4 * VERIFY_FINDINGS_MAX);
	assert_int_equal(sum.counts[STAMP_CORRUPT], 4 * VERIFY_FINDINGS_MAX);
	assert_int_equal(sum.finding_count, VERIFY_FINDINGS_MAX);
}

static void test_state_file(void **state)
{
	char path[] = "/tmp/pollux-perf-state-XXXXXX", why[200];
	struct verify_table loaded;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	verify_begin_write(&table, 3, block);
	verify_end_write(&table, 3, true);
	verify_begin_write(&table, 4, block); /* never answered */
	verify_begin_write(&table, 5, block);
	verify_end_write(&table, 5, true);
	verify_begin_read(&table, 5); /* neither */
	assert_int_equal(verify_save(&table, path, false, why, sizeof(why)), 0);
	assert_int_equal(verify_table_init(&loaded, OFFSET, 8, BYTES), 0);
	loaded.any_seed = loaded.any_run = true;
	assert_int_equal(verify_load(&loaded, path, why, sizeof(why)), 0);
	assert_int_equal(loaded.seed, SEED);
	assert_int_equal(loaded.run, RUN);
	assert_false(loaded.any_seed || loaded.any_run);
	assert_int_equal(loaded.entries[2], 0);
	assert_int_equal(loaded.entries[3], 1);
	/* it may be there: nobody else gets its generation */
	assert_int_equal(loaded.entries[4], 1 | VERIFY_UNCERTAIN);
	/* a READ changes nothing */
	assert_int_equal(loaded.entries[5], 1);
	loaded.block_bytes = 512;
	assert_int_equal(verify_load(&loaded, path, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "--bs"));
	loaded.block_bytes = BYTES;
	assert_int_equal(truncate(path, 60), 0);
	assert_int_equal(verify_load(&loaded, path, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "cut short"));
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(verify_load(&loaded, path, why, sizeof(why)), -EINVAL);
	unlink(path);
	assert_int_equal(verify_load(&loaded, path, why, sizeof(why)), -ENOENT);
	assert_int_equal(verify_save(&table, path, true, why, sizeof(why)), 0);
	assert_int_equal(verify_load(&loaded, path, why, sizeof(why)), -EBUSY);
	assert_non_null(strstr(why, "killed"));
	unlink(path);
	assert_int_equal(verify_save(&table, "/nowhere/x", false, why, sizeof(why)), -ENOENT);
	verify_table_fini(&loaded);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_good, fresh),
		cmocka_unit_test_setup(test_unaligned, fresh),
		cmocka_unit_test_setup(test_every_flipped_bit_is_found, fresh),
		cmocka_unit_test_setup(test_corrupt_without_knowledge, fresh),
		cmocka_unit_test_setup(test_misplaced, fresh),
		cmocka_unit_test_setup(test_of_another_export, fresh),
		cmocka_unit_test_setup(test_any_run, fresh),
		cmocka_unit_test_setup(test_partly_misplaced, fresh),
		cmocka_unit_test_setup(test_sectors_swapped_within, fresh),
		cmocka_unit_test_setup(test_stale, fresh),
		cmocka_unit_test_setup(test_torn, fresh),
		cmocka_unit_test_setup(test_foreign, fresh),
		cmocka_unit_test_setup(test_unwritten, fresh),
		cmocka_unit_test_setup(test_of_another_block_size, fresh),
		cmocka_unit_test_setup(test_one_sector, fresh),
		cmocka_unit_test_setup_teardown(test_generations_go_up, make_table, free_table),
		cmocka_unit_test_setup_teardown(test_what_is_not_known_is_not_judged, make_table,
						free_table),
		cmocka_unit_test_setup_teardown(test_busy_blocks_are_passed_over, make_table,
						free_table),
		cmocka_unit_test_setup_teardown(test_findings_are_bounded, make_table, free_table),
		cmocka_unit_test_setup_teardown(test_state_file, make_table, free_table),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
