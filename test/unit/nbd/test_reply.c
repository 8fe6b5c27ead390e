/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_reply: every reply byte for byte as the document lays it out, the making of status chunks
 * from extents, and the list of context ids that a BLOCK_STATUS may carry.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "lib/nbd/reply.h"

static const struct nbd_reply_to simple = {0x0807060504030201, 0x1000, NBD_MODE_SIMPLE};
static const struct nbd_reply_to structured = {0x0807060504030201, 0x1000, NBD_MODE_STRUCTURED};
static const struct nbd_reply_to extended = {0x0807060504030201, 0x1000, NBD_MODE_EXTENDED};

static uint8_t out[1 << 16];

/* Bytes as a string literal, without the NUL that ends it. */
#define EXPECT(length, literal)                                                                    \
	do {                                                                                       \
		size_t length_ = (length);                                                         \
		assert_int_equal(length_, sizeof(literal) - 1);                                    \
		assert_memory_equal(out, literal, sizeof(literal) - 1);                            \
	} while (0)

#define COOKIE "\1\2\3\4\5\6\7\10"
#define SIMPLE "\x67\x44\x66\x98"
#define CHUNK  "\x66\x8e\x33\xef"
#define WIDE   "\x6e\x8a\x27\x8c"
#define OFFSET "\0\0\0\0\0\0\x10\0"

static void test_reply_to(void **state)
{
	struct nbd_command_request request = {.cookie = 7, .offset = 9};
	struct nbd_reply_to to = nbd_reply_to(&request, NBD_MODE_EXTENDED);

	assert_int_equal(to.cookie, 7);
	assert_int_equal(to.offset, 9);
	assert_int_equal(to.mode, NBD_MODE_EXTENDED);
}

static void test_done(void **state)
{
	EXPECT(nbd_reply_done(out, &simple), SIMPLE "\0\0\0\0" COOKIE);
	EXPECT(nbd_reply_done(out, &structured), CHUNK "\0\1\0\0" COOKIE "\0\0\0\0");
	EXPECT(nbd_reply_done(out, &extended), WIDE "\0\1\0\0" COOKIE OFFSET "\0\0\0\0\0\0\0\0");
	EXPECT(nbd_reply_simple(out, simple.cookie, NBD_ENOSPC), SIMPLE "\0\0\0\34" COOKIE);
}

static void test_data(void **state)
{
	EXPECT(nbd_reply_data(out, &simple, true, 0x1000, 512), SIMPLE "\0\0\0\0" COOKIE);
	EXPECT(nbd_reply_data(out, &structured, false, 0x1122334455667788, 512),
	       CHUNK "\0\0\0\1" COOKIE "\0\0\2\10\x11\x22\x33\x44\x55\x66\x77\x88");
	EXPECT(nbd_reply_data(out, &structured, true, 0, 64 << 20),
	       CHUNK "\0\1\0\1" COOKIE "\4\0\0\10\0\0\0\0\0\0\0\0");
	EXPECT(nbd_reply_data(out, &extended, true, 0x1100, 1),
	       WIDE "\0\1\0\1" COOKIE OFFSET "\0\0\0\0\0\0\0\11\0\0\0\0\0\0\x11\0");
	assert_true(nbd_reply_data(out, &extended, true, 0, 1) <= NBD_REPLY_HEAD_BYTES);
}

static void test_hole(void **state)
{
	EXPECT(nbd_reply_hole(out, &structured, true, 0x1200, 0xfffffffe),
	       CHUNK "\0\1\0\2" COOKIE "\0\0\0\14\0\0\0\0\0\0\x12\0\xff\xff\xff\xfe");
	EXPECT(nbd_reply_hole(out, &extended, false, 0x1200, 4096),
	       WIDE "\0\0\0\2" COOKIE OFFSET "\0\0\0\0\0\0\0\14\0\0\0\0\0\0\x12\0\0\0\x10\0");
	assert_int_equal(nbd_reply_hole(out, &extended, false, 0, 1), NBD_REPLY_HEAD_BYTES);
}

static void test_error(void **state)
{
	EXPECT(nbd_reply_error(out, &simple, NBD_EINVAL, "oh"), SIMPLE "\0\0\0\26" COOKIE);
	EXPECT(nbd_reply_error(out, &structured, NBD_EINVAL, "oh"),
	       CHUNK "\0\1\x80\1" COOKIE "\0\0\0\10\0\0\0\26\0\2oh");
	EXPECT(nbd_reply_error(out, &structured, NBD_EINVAL, NULL),
	       CHUNK "\0\1\x80\1" COOKIE "\0\0\0\6\0\0\0\26\0\0");
	EXPECT(nbd_reply_error(out, &extended, NBD_ESHUTDOWN, "oh"),
	       WIDE "\0\1\x80\1" COOKIE OFFSET "\0\0\0\0\0\0\0\10\0\0\0\x6c\0\2oh");
}

static void test_error_at(void **state)
{
	EXPECT(nbd_reply_error_at(out, &simple, true, NBD_EIO, 0x1200, "oh"),
	       SIMPLE "\0\0\0\5" COOKIE);
	EXPECT(nbd_reply_error_at(out, &structured, false, NBD_EIO, 0x1200, "oh"),
	       CHUNK "\0\0\x80\2" COOKIE "\0\0\0\20\0\0\0\5\0\2oh\0\0\0\0\0\0\x12\0");
	EXPECT(nbd_reply_error_at(out, &extended, true, NBD_EIO, 0x1200, ""),
	       WIDE "\0\1\x80\2" COOKIE OFFSET "\0\0\0\0\0\0\0\16\0\0\0\5\0\0\0\0\0\0\0\0\x12\0");
}

static void test_long_message(void **state)
{
	static char message[NBD_REPLY_MESSAGE_BYTES + 100];
	uint8_t *exact = malloc(NBD_REPLY_ERROR_BYTES);
	size_t length;

	memset(message, 'm', sizeof(message) - 1);
	length = nbd_reply_error_at(exact, &extended, true, NBD_EIO, 1, message);
	assert_int_equal(length, NBD_REPLY_ERROR_BYTES);
	assert_int_equal(exact[32 + 4] << 8 | exact[32 + 5], NBD_REPLY_MESSAGE_BYTES);
	length = nbd_reply_error(exact, &extended, NBD_EIO, message);
	assert_int_equal(length, NBD_REPLY_ERROR_BYTES - 8);
	free(exact);
}

static size_t status(const struct nbd_reply_to *to, size_t room,
		     const struct nbd_status_filter *filter, const struct nbd_extent *extents,
		     unsigned count)
{
	/* just the room that is told, for the sanitizer to watch */
	uint8_t *exact = malloc(room);
	size_t length = nbd_reply_status(exact, room, to, true, 0xa0b0c0d0, filter, extents, count);

	assert_true(length <= room);
	memcpy(out, exact, length);
	free(exact);
	return length;
}

#define ID "\xa0\xb0\xc0\xd0"

static void test_status(void **state)
{
	static const struct nbd_extent extents[] = {{4096, 0}, {512, 3}};
	static const struct nbd_status_filter filter = {.length = 8192};

	assert_int_equal(nbd_reply_status_bytes(NBD_MODE_STRUCTURED, 2), 20 + 4 + 16);
	assert_int_equal(nbd_reply_status_bytes(NBD_MODE_EXTENDED, 2), 32 + 8 + 32);
	EXPECT(status(&structured, 100, &filter, extents, 2),
	       CHUNK "\0\1\0\5" COOKIE "\0\0\0\24" ID "\0\0\x10\0\0\0\0\0\0\0\2\0\0\0\0\3");
	EXPECT(status(&extended, 100, &filter, extents, 2),
	       WIDE "\0\1\0\6" COOKIE OFFSET "\0\0\0\0\0\0\0\50" ID "\0\0\0\2"
		    "\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\0\3");
	/* one of many chunks is not the last */
	assert_int_equal(nbd_reply_status(out, 100, &structured, false, 1, &filter, extents, 2),
			 40);
	assert_int_equal(out[5], 0);
}

/* Neighbours of one status become one, and extents of no length vanish. */
static void test_status_merges(void **state)
{
	static const struct nbd_extent extents[] = {{0, 9},    {512, 3}, {512, 3}, {0, 1},
						    {1024, 3}, {512, 0}, {0, 0}};
	static const struct nbd_status_filter filter = {.length = 8192};

	EXPECT(status(&structured, 100, &filter, extents, 7),
	       CHUNK "\0\1\0\5" COOKIE "\0\0\0\24" ID "\0\0\x8\0\0\0\0\3\0\0\2\0\0\0\0\0");
	assert_int_equal(status(&structured, 100, &filter, extents, 1), 0);
	assert_int_equal(status(&structured, 100, &filter, extents, 0), 0);
}

/* The last extent may reach beyond the request, but none may begin there. */
static void test_status_ends(void **state)
{
	static const struct nbd_extent extents[] = {{512, 0}, {512, 1}, {512, 2}};
	struct nbd_status_filter filter = {.length = 1024};

	assert_int_equal(status(&structured, 100, &filter, extents, 3), 20 + 4 + 16);
	filter.length = 1025;
	assert_int_equal(status(&structured, 100, &filter, extents, 3), 20 + 4 + 24);
	filter.length = 1;
	EXPECT(status(&structured, 100, &filter, extents, 3),
	       CHUNK "\0\1\0\5" COOKIE "\0\0\0\14" ID "\0\0\2\0\0\0\0\0");
}

static void test_status_one(void **state)
{
	static const struct nbd_extent extents[] = {{512, 1}, {512, 1}, {512, 2}};
	struct nbd_status_filter filter = {.length = 4096, .one = true};

	EXPECT(status(&structured, 100, &filter, extents, 3),
	       CHUNK "\0\1\0\5" COOKIE "\0\0\0\14" ID "\0\0\4\0\0\0\0\1");
	filter.length = 100;
	EXPECT(status(&structured, 100, &filter, extents, 3),
	       CHUNK "\0\1\0\5" COOKIE "\0\0\0\14" ID "\0\0\0\x64\0\0\0\1");
}

static void test_status_room(void **state)
{
	static const struct nbd_extent extents[] = {{512, 0}, {512, 1}, {512, 2}};
	static const struct nbd_status_filter filter = {.length = 8192};

	assert_int_equal(status(&structured, 32, &filter, extents, 3), 32);
	assert_int_equal(status(&structured, 39, &filter, extents, 3), 32);
	assert_int_equal(status(&structured, 40, &filter, extents, 3), 40);
	assert_int_equal(status(&extended, 56, &filter, extents, 3), 56);
	assert_int_equal(status(&extended, 71, &filter, extents, 3), 56);
	assert_int_equal(status(&extended, 72, &filter, extents, 3), 72);
}

/* What 32 bits cannot tell is cut, and ends the chunk there. */
static void test_status_wide(void **state)
{
	static const struct nbd_extent extents[] = {
		{512, 0}, {1ull << 40, 1}, {1ull << 40, 1}, {512, 2}};
	static const struct nbd_status_filter filter = {.length = 1ull << 42};
	static const struct nbd_extent endless[] = {{UINT64_MAX - 1, 1}, {5, 1}};

	EXPECT(status(&structured, 100, &filter, extents, 4),
	       CHUNK "\0\1\0\5" COOKIE "\0\0\0\24" ID "\0\0\2\0\0\0\0\0\xff\xff\0\0\0\0\0\1");
	EXPECT(status(&extended, 100, &filter, extents + 1, 2),
	       WIDE "\0\1\0\6" COOKIE OFFSET "\0\0\0\0\0\0\0\30" ID "\0\0\0\1"
		    "\0\0\2\0\0\0\0\0\0\0\0\0\0\0\0\1");
	EXPECT(status(&extended, 100, &filter, endless, 2),
	       WIDE "\0\1\0\6" COOKIE OFFSET "\0\0\0\0\0\0\0\30" ID "\0\0\0\1"
		    "\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\1");
}

/* ---- the filter ---- */

static const struct nbd_context contexts[] = {{"a:a", 0, 1}, {"b:b", 1, 2}, {"c:c", 2, 7}};
static const struct nbd_limits limits = {
	.size = 1 << 20, .max_payload = 1 << 20, .mode = NBD_MODE_EXTENDED, .contexts = true};

/* Parses a payload in memory of just its size. */
static uint32_t parse(const void *payload, size_t bytes, const struct nbd_limits *within,
		      struct nbd_status_filter *filter)
{
	struct nbd_command_request request = {
		.offset = 4096,
		.length = bytes ? bytes : 777,
		.payload = bytes,
		.type = NBD_CMD_BLOCK_STATUS,
		.flags = bytes ? NBD_CMD_FLAG_PAYLOAD_LEN | NBD_CMD_FLAG_REQ_ONE : 0,
	};
	uint8_t *exact = calloc(1, bytes ? bytes : 1);
	const char *message = NULL;
	uint32_t error;

	memcpy(exact, payload, bytes);
	error = nbd_status_filter_parse(&request, exact, within, contexts, COUNT_OF(contexts),
					filter, &message);
	free(exact);
	assert_true(!error == !message);
	return error;
}

static void test_filter(void **state)
{
	struct nbd_status_filter filter;

	assert_int_equal(parse("", 0, &limits, &filter), 0);
	assert_int_equal(filter.length, 777);
	assert_int_equal(filter.selected, 7);
	assert_false(filter.one);
	assert_int_equal(parse("\0\0\0\0\0\0\x20\0\0\0\0\7\0\0\0\1", 16, &limits, &filter), 0);
	assert_int_equal(filter.length, 8192);
	assert_int_equal(filter.selected, 5);
	assert_true(filter.one);
	assert_int_equal(parse("\0\0\0\0\0\0\x20\0\0\0\0\2", 12, &limits, &filter), 0);
	assert_int_equal(filter.selected, 2);
	/* exactly to the end of the export */
	assert_int_equal(parse("\0\0\0\0\0\xf\xf0\0\0\0\0\2", 12, &limits, &filter), 0);
}

static void test_filter_refused(void **state)
{
	struct nbd_limits aligned = limits;
	struct nbd_status_filter filter;

	/* unknown, twice, no length, beyond the end, far beyond it */
	assert_int_equal(parse("\0\0\0\0\0\0\x20\0\0\0\0\3", 12, &limits, &filter), NBD_EINVAL);
	assert_int_equal(parse("\0\0\0\0\0\0\x20\0\0\0\0\1\0\0\0\1", 16, &limits, &filter),
			 NBD_EINVAL);
	assert_int_equal(parse("\0\0\0\0\0\0\0\0\0\0\0\1", 12, &limits, &filter), NBD_EINVAL);
	assert_int_equal(parse("\0\0\0\0\0\xf\xf0\1\0\0\0\1", 12, &limits, &filter), NBD_EINVAL);
	assert_int_equal(parse("\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\1", 12, &limits, &filter),
			 NBD_EINVAL);
	aligned.size = 4095;
	assert_int_equal(parse("\0\0\0\0\0\0\0\1\0\0\0\1", 12, &aligned, &filter), NBD_EINVAL);
	aligned = limits;
	aligned.block_mask = 511;
	assert_int_equal(parse("\0\0\0\0\0\0\2\0\0\0\0\1", 12, &aligned, &filter), 0);
	assert_int_equal(parse("\0\0\0\0\0\0\2\1\0\0\0\1", 12, &aligned, &filter), NBD_EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reply_to),       cmocka_unit_test(test_done),
		cmocka_unit_test(test_data),	       cmocka_unit_test(test_hole),
		cmocka_unit_test(test_error),	       cmocka_unit_test(test_error_at),
		cmocka_unit_test(test_long_message),   cmocka_unit_test(test_status),
		cmocka_unit_test(test_status_merges),  cmocka_unit_test(test_status_ends),
		cmocka_unit_test(test_status_one),     cmocka_unit_test(test_status_room),
		cmocka_unit_test(test_status_wide),    cmocka_unit_test(test_filter),
		cmocka_unit_test(test_filter_refused),
	};

	return cmocka_run_group_tests_name("nbd-reply", tests, NULL, NULL);
}
