/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_request: decoding, and the check of every command with every set of flags in every mode
 * against rules that are written down here once more, one command after the other, as the document
 * has them.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/nbd/request.h"

enum { MIB = 1 << 20, SIZE = 100 * MIB, MAX = 32 * MIB };
enum { FUA = 1, NO_HOLE = 2, DF = 4, REQ_ONE = 8, FAST_ZERO = 16, PAYLOAD = 32 };

static const uint16_t all_flags = 0x1fff & ~NBD_FLAG_READ_ONLY;

static struct nbd_limits limits_of(enum nbd_mode mode)
{
	return (struct nbd_limits){
		.size = SIZE,
		.max_payload = MAX,
		.transmission_flags = all_flags,
		.mode = mode,
		.contexts = mode != NBD_MODE_SIMPLE,
	};
}

/* Builds a request on the wire, decodes and checks it. */
static uint32_t check(const struct nbd_limits *limits, uint16_t type, uint16_t flags,
		      uint64_t offset, uint64_t length, bool *fatal)
{
	struct nbd_command_request request;
	const char *message = NULL;
	uint8_t bytes[32];
	uint32_t error;

	if (limits->mode == NBD_MODE_EXTENDED) {
		struct nbd_extended_request wire = {be32_of(0x21e41c71), be16_of(flags),
						    be16_of(type),	 {0x1234567890abcdef},
						    be64_of(offset),	 be64_of(length)};

		memcpy(bytes, &wire, sizeof(wire));
	} else {
		struct nbd_request wire = {be32_of(0x25609513),	 be16_of(flags),  be16_of(type),
					   {0x1234567890abcdef}, be64_of(offset), be32_of(length)};

		memcpy(bytes, &wire, sizeof(wire));
	}
	assert_true(nbd_request_decode(bytes, limits->mode, &request));
	assert_int_equal(request.cookie, 0x1234567890abcdef);
	assert_int_equal(request.offset, offset);
	assert_int_equal(request.length, length);
	assert_int_equal(request.flags, flags);
	assert_int_equal(request.type, type);
	if (limits->mode == NBD_MODE_EXTENDED)
		assert_int_equal(request.payload, flags & PAYLOAD ? length : 0);
	else
		assert_int_equal(request.payload, type == NBD_CMD_WRITE ? length : 0);
	*fatal = true;
	error = nbd_request_check(&request, limits, fatal, &message);
	if (error)
		assert_non_null(message);
	return error;
}

/* As check(), of a request that must not be fatal. */
static uint32_t checked(const struct nbd_limits *limits, uint16_t type, uint16_t flags,
			uint64_t offset, uint64_t length)
{
	bool fatal;
	uint32_t error = check(limits, type, flags, offset, length, &fatal);

	assert_false(fatal);
	return error;
}

static void test_sizes(void **state)
{
	assert_int_equal(nbd_request_bytes(NBD_MODE_SIMPLE), 28);
	assert_int_equal(nbd_request_bytes(NBD_MODE_STRUCTURED), 28);
	assert_int_equal(nbd_request_bytes(NBD_MODE_EXTENDED), 32);
}

static void test_wrong_magic(void **state)
{
	static const uint32_t magics[] = {0x25609513, 0x21e41c71, 0x25609514, 0x12560953, 0};
	struct nbd_command_request request;

	for (enum nbd_mode mode = NBD_MODE_SIMPLE; mode <= NBD_MODE_EXTENDED; mode++) {
		for (size_t i = 0; i < COUNT_OF(magics); i++) {
			uint8_t bytes[32] = {0};
			be32 magic = be32_of(magics[i]);

			memcpy(bytes, &magic, sizeof(magic));
			assert_int_equal(nbd_request_decode(bytes, mode, &request),
					 i == (mode == NBD_MODE_EXTENDED));
		}
	}
}

/* The flags a command may carry when all is offered; -1: not at all. */
static int flags_allowed(uint16_t type, enum nbd_mode mode)
{
	int extended = mode == NBD_MODE_EXTENDED ? PAYLOAD : 0;

	switch (type) {
	case NBD_CMD_READ:
		return FUA | DF;
	case NBD_CMD_WRITE:
		return FUA | extended;
	case NBD_CMD_FLUSH:
	case NBD_CMD_TRIM:
	case NBD_CMD_CACHE:
		return FUA;
	case NBD_CMD_WRITE_ZEROES:
		return FUA | NO_HOLE | FAST_ZERO;
	case NBD_CMD_BLOCK_STATUS:
		return mode == NBD_MODE_SIMPLE ? -1 : FUA | REQ_ONE | extended;
	default:
		return -1;
	}
}

static void test_commands_and_flags(void **state)
{
	for (enum nbd_mode mode = NBD_MODE_SIMPLE; mode <= NBD_MODE_EXTENDED; mode++) {
		struct nbd_limits limits = limits_of(mode);

		for (unsigned type = 0; type < 12; type++) {
			int allowed = flags_allowed(type, mode);
			uint64_t length = type == NBD_CMD_FLUSH ? 0 : 4096;

			if (type == NBD_CMD_DISC)
				continue;
			for (unsigned flags = 0; flags < 128; flags++) {
				bool good = allowed >= 0 && !(flags & ~allowed);

				if (type == NBD_CMD_WRITE && mode == NBD_MODE_EXTENDED)
					good = good && flags & PAYLOAD;
				/* 4096 bytes of payload are too many for a filter */
				if (type == NBD_CMD_BLOCK_STATUS && flags & PAYLOAD)
					good = false;
				assert_int_equal(checked(&limits, type, flags, 0, length),
						 good ? 0 : NBD_EINVAL);
			}
			for (unsigned bit = 6; bit < 16; bit++)
				assert_int_equal(checked(&limits, type, 1u << bit, 0, length),
						 NBD_EINVAL);
		}
		assert_int_equal(checked(&limits, 0xffff, 0, 0, 4096), NBD_EINVAL);
	}
}

/* What the export does not offer is refused, command by command and flag by flag. */
static void test_not_offered(void **state)
{
	static const struct {
		uint16_t offer, type, flags;
		uint64_t length;
	} cases[] = {
		{NBD_FLAG_SEND_FLUSH, NBD_CMD_FLUSH, 0, 0},
		{NBD_FLAG_SEND_TRIM, NBD_CMD_TRIM, 0, 4096},
		{NBD_FLAG_SEND_CACHE, NBD_CMD_CACHE, 0, 4096},
		{NBD_FLAG_SEND_WRITE_ZEROES, NBD_CMD_WRITE_ZEROES, 0, 4096},
		{NBD_FLAG_SEND_FAST_ZERO, NBD_CMD_WRITE_ZEROES, FAST_ZERO, 4096},
		{NBD_FLAG_SEND_DF, NBD_CMD_READ, DF, 4096},
		{NBD_FLAG_SEND_FUA, NBD_CMD_READ, FUA, 4096},
		{NBD_FLAG_SEND_FUA, NBD_CMD_WRITE, FUA | PAYLOAD, 4096},
		{NBD_FLAG_SEND_FUA, NBD_CMD_TRIM, FUA, 4096},
		{NBD_FLAG_SEND_FUA, NBD_CMD_FLUSH, FUA, 0},
		{NBD_FLAG_BLOCK_STATUS_PAYLOAD, NBD_CMD_BLOCK_STATUS, PAYLOAD, 12},
	};

	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct nbd_limits limits = limits_of(NBD_MODE_EXTENDED);

		assert_int_equal(
			checked(&limits, cases[i].type, cases[i].flags, 0, cases[i].length), 0);
		limits.transmission_flags &= ~cases[i].offer;
		assert_int_equal(
			checked(&limits, cases[i].type, cases[i].flags, 0, cases[i].length),
			NBD_EINVAL);
	}
}

static void test_range(void **state)
{
	static const uint64_t good[][2] = {
		{0, 1}, {0, MAX}, {SIZE - 1, 1}, {SIZE - MAX, MAX}, {12345, 678},
	};
	static const uint64_t bad[][2] = {
		{SIZE, 1},	     {SIZE - 1, 2},
		{0, SIZE + 1ull},    {SIZE + 1ull, 1},
		{UINT64_MAX, 1},     {UINT64_MAX, UINT32_MAX},
		{UINT64_MAX - 1, 2}, {UINT64_MAX - 4095, 4096},
		{1ull << 63, 4096},  {SIZE, UINT32_MAX},
	};
	static const uint16_t types[] = {NBD_CMD_READ,	NBD_CMD_WRITE,	      NBD_CMD_TRIM,
					 NBD_CMD_CACHE, NBD_CMD_WRITE_ZEROES, NBD_CMD_BLOCK_STATUS};

	for (enum nbd_mode mode = NBD_MODE_STRUCTURED; mode <= NBD_MODE_EXTENDED; mode++) {
		struct nbd_limits limits = limits_of(mode);

		for (size_t t = 0; t < COUNT_OF(types); t++) {
			bool writes = types[t] == NBD_CMD_WRITE || types[t] == NBD_CMD_WRITE_ZEROES;
			bool extended = mode == NBD_MODE_EXTENDED && types[t] == NBD_CMD_WRITE;
			uint16_t flags = extended ? PAYLOAD : 0;
			bool fatal;

			for (size_t i = 0; i < COUNT_OF(good); i++)
				assert_int_equal(
					checked(&limits, types[t], flags, good[i][0], good[i][1]),
					0);
			for (size_t i = 0; i < COUNT_OF(bad); i++)
				assert_int_equal(check(&limits, types[t], flags, bad[i][0],
						       bad[i][1], &fatal),
						 writes ? NBD_ENOSPC : NBD_EINVAL);
			assert_int_equal(checked(&limits, types[t], flags, 0, 0), NBD_EINVAL);
		}
	}
}

/* The end of the export is the end, however large it is. */
/* For who finds out by himself that the export has become shorter. */
static void test_past_end(void **state)
{
	static const struct {
		uint16_t type;
		uint32_t error;
	} wanted[] = {
		{NBD_CMD_READ, NBD_EINVAL},	    {NBD_CMD_WRITE, NBD_ENOSPC},
		{NBD_CMD_TRIM, NBD_EINVAL},	    {NBD_CMD_CACHE, NBD_EINVAL},
		{NBD_CMD_WRITE_ZEROES, NBD_ENOSPC}, {NBD_CMD_BLOCK_STATUS, NBD_EINVAL},
	};

	for (unsigned i = 0; i < COUNT_OF(wanted); i++) {
		struct nbd_command_request request = {.type = wanted[i].type};

		assert_int_equal(nbd_request_past_end(&request), wanted[i].error);
	}
}

static void test_range_of_the_largest(void **state)
{
	struct nbd_limits limits = limits_of(NBD_MODE_EXTENDED);

	limits.size = INT64_MAX;
	assert_int_equal(checked(&limits, NBD_CMD_TRIM, 0, 0, INT64_MAX), 0);
	assert_int_equal(checked(&limits, NBD_CMD_WRITE_ZEROES, 0, 1, INT64_MAX), NBD_ENOSPC);
	assert_int_equal(checked(&limits, NBD_CMD_CACHE, 0, INT64_MAX, UINT64_MAX), NBD_EINVAL);
	assert_int_equal(checked(&limits, NBD_CMD_READ, 0, INT64_MAX - 1, 1), 0);
	limits.size = 0;
	assert_int_equal(checked(&limits, NBD_CMD_READ, 0, 0, 1), NBD_EINVAL);
	assert_int_equal(checked(&limits, NBD_CMD_WRITE, PAYLOAD, 0, 1), NBD_ENOSPC);
}

static void test_read_only(void **state)
{
	struct nbd_limits limits = limits_of(NBD_MODE_STRUCTURED);

	/* read-only exports usually offer none of it; what it is refused for is the same */
	for (int round = 0; round < 2; round++) {
		limits.transmission_flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY;
		if (round)
			limits.transmission_flags |= all_flags;
		assert_int_equal(checked(&limits, NBD_CMD_WRITE, 0, 0, 512), NBD_EPERM);
		assert_int_equal(checked(&limits, NBD_CMD_WRITE, FUA, 0, 512), NBD_EPERM);
		assert_int_equal(checked(&limits, NBD_CMD_WRITE, 0, SIZE, 512), NBD_EPERM);
		assert_int_equal(checked(&limits, NBD_CMD_TRIM, 0, 0, 512), NBD_EPERM);
		assert_int_equal(checked(&limits, NBD_CMD_WRITE_ZEROES, NO_HOLE, 0, 512),
				 NBD_EPERM);
		assert_int_equal(checked(&limits, NBD_CMD_READ, 0, 0, 512), 0);
		assert_int_equal(checked(&limits, NBD_CMD_BLOCK_STATUS, 0, 0, 512), 0);
	}
}

static void test_flush(void **state)
{
	for (enum nbd_mode mode = NBD_MODE_SIMPLE; mode <= NBD_MODE_EXTENDED; mode++) {
		struct nbd_limits limits = limits_of(mode);

		assert_int_equal(checked(&limits, NBD_CMD_FLUSH, 0, 0, 0), 0);
		assert_int_equal(checked(&limits, NBD_CMD_FLUSH, 0, 1, 0), NBD_EINVAL);
		assert_int_equal(checked(&limits, NBD_CMD_FLUSH, 0, 0, 1), NBD_EINVAL);
	}
}

/* DISC has no reply, hence no error. */
static void test_disc(void **state)
{
	for (enum nbd_mode mode = NBD_MODE_SIMPLE; mode <= NBD_MODE_EXTENDED; mode++) {
		struct nbd_limits limits = limits_of(mode);

		assert_int_equal(checked(&limits, NBD_CMD_DISC, 0, 0, 0), 0);
		assert_int_equal(checked(&limits, NBD_CMD_DISC, 0xffff, UINT64_MAX, UINT32_MAX), 0);
	}
}

static void test_amount(void **state)
{
	struct nbd_limits limits = limits_of(NBD_MODE_SIMPLE);

	/* EOVERFLOW is for clients that know it */
	assert_int_equal(checked(&limits, NBD_CMD_READ, 0, 0, MAX + 1), NBD_EINVAL);
	assert_int_equal(checked(&limits, NBD_CMD_WRITE, 0, 0, MAX + 1), NBD_EINVAL);
	assert_int_equal(checked(&limits, NBD_CMD_TRIM, 0, 0, MAX + 1), 0);
	assert_int_equal(checked(&limits, NBD_CMD_WRITE_ZEROES, 0, 0, SIZE), 0);
	assert_int_equal(checked(&limits, NBD_CMD_CACHE, 0, 0, SIZE), 0);
	limits = limits_of(NBD_MODE_STRUCTURED);
	assert_int_equal(checked(&limits, NBD_CMD_READ, 0, 0, MAX + 1), NBD_EOVERFLOW);
	assert_int_equal(checked(&limits, NBD_CMD_READ, DF, 0, MAX + 1), NBD_EOVERFLOW);
	assert_int_equal(checked(&limits, NBD_CMD_BLOCK_STATUS, 0, 0, SIZE), 0);
	limits = limits_of(NBD_MODE_EXTENDED);
	limits.size = 1ull << 50;
	assert_int_equal(checked(&limits, NBD_CMD_READ, 0, 0, 1ull << 33), NBD_EOVERFLOW);
	assert_int_equal(checked(&limits, NBD_CMD_WRITE_ZEROES, 0, 0, 1ull << 40), 0);
	assert_int_equal(checked(&limits, NBD_CMD_TRIM, 0, 1 << 20, 1ull << 49), 0);
	assert_int_equal(checked(&limits, NBD_CMD_BLOCK_STATUS, REQ_ONE, 0, 1ull << 50), 0);
}

/* A payload is read and dropped up to a bound, whatever else is wrong with the request. */
static void test_fatal(void **state)
{
	struct nbd_limits limits = limits_of(NBD_MODE_SIMPLE);
	uint32_t bound = MAX + 64 * MIB;
	bool fatal;

	limits.size = 1ull << 40;
	assert_int_equal(checked(&limits, NBD_CMD_WRITE, 0, 0, bound), NBD_EINVAL);
	assert_int_equal(check(&limits, NBD_CMD_WRITE, 0, 0, bound + 1, &fatal), NBD_EINVAL);
	assert_true(fatal);
	assert_int_equal(check(&limits, NBD_CMD_WRITE, 0x8000, 1ull << 41, UINT32_MAX, &fatal),
			 NBD_EINVAL);
	assert_true(fatal);
	/* a length is no payload where the command has none */
	assert_int_equal(checked(&limits, NBD_CMD_READ, 0, 0, UINT32_MAX), NBD_EINVAL);
	assert_int_equal(checked(&limits, 99, 0, 0, UINT32_MAX), NBD_EINVAL);

	limits = limits_of(NBD_MODE_EXTENDED);
	limits.size = 1ull << 40;
	assert_int_equal(check(&limits, NBD_CMD_WRITE, PAYLOAD, 0, MAX + 1, &fatal), NBD_EINVAL);
	assert_true(fatal);
	assert_int_equal(check(&limits, NBD_CMD_READ, PAYLOAD, 0, 1ull << 60, &fatal), NBD_EINVAL);
	assert_true(fatal);
	assert_int_equal(checked(&limits, NBD_CMD_READ, PAYLOAD, 0, MAX), NBD_EINVAL);
	assert_int_equal(checked(&limits, 99, PAYLOAD, 0, MAX), NBD_EINVAL);
	/* a small limit is no reason to cut off those who keep to the default */
	limits.max_payload = MIB;
	assert_int_equal(checked(&limits, NBD_CMD_WRITE, PAYLOAD, 0, 32 * MIB), NBD_EINVAL);
	assert_int_equal(check(&limits, NBD_CMD_WRITE, PAYLOAD, 0, 32 * MIB + 1, &fatal),
			 NBD_EINVAL);
	assert_true(fatal);
}

static void test_block_mask(void **state)
{
	struct nbd_limits limits = limits_of(NBD_MODE_STRUCTURED);

	limits.block_mask = 511;
	assert_int_equal(checked(&limits, NBD_CMD_READ, 0, 512, 1024), 0);
	assert_int_equal(checked(&limits, NBD_CMD_READ, 0, 1, 512), NBD_EINVAL);
	assert_int_equal(checked(&limits, NBD_CMD_READ, 0, 512, 511), NBD_EINVAL);
	assert_int_equal(checked(&limits, NBD_CMD_WRITE, 0, 256, 512), NBD_EINVAL);
	assert_int_equal(checked(&limits, NBD_CMD_TRIM, 0, 512, 100), NBD_EINVAL);
	assert_int_equal(checked(&limits, NBD_CMD_FLUSH, 0, 0, 0), 0);
}

static void test_block_status(void **state)
{
	struct nbd_limits limits = limits_of(NBD_MODE_EXTENDED);

	for (unsigned length = 0; length < 100; length++)
		assert_int_equal(checked(&limits, NBD_CMD_BLOCK_STATUS, PAYLOAD, 0, length),
				 length >= 12 && length <= 8 + 4 * NBD_MAX_CONTEXTS &&
						 length % 4 == 0
					 ? 0
					 : NBD_EINVAL);
	limits.contexts = false;
	assert_int_equal(checked(&limits, NBD_CMD_BLOCK_STATUS, 0, 0, 4096), NBD_EINVAL);
	assert_int_equal(checked(&limits, NBD_CMD_BLOCK_STATUS, PAYLOAD, 0, 12), NBD_EINVAL);
	limits = limits_of(NBD_MODE_SIMPLE);
	limits.contexts = true;
	assert_int_equal(checked(&limits, NBD_CMD_BLOCK_STATUS, 0, 0, 4096), NBD_EINVAL);
}

/* Of READ and WRITE without flags exactly the good ones are plain. */
static void test_plain_agrees(void **state)
{
	static const uint64_t values[] = {0,	      1,	  511,	     512,  MAX - 1,
					  MAX,	      MAX + 1,	  SIZE - 1,  SIZE, SIZE + 1,
					  UINT32_MAX, 1ull << 63, UINT64_MAX};

	for (unsigned i = 0; i < 3 * 4 * 2 * 2; i++) {
		struct nbd_limits limits = limits_of(i % 3);

		limits.block_mask = i / 3 % 2 ? 511 : 0;
		limits.transmission_flags |= i / 6 % 2 ? NBD_FLAG_READ_ONLY : 0;
		for (unsigned n = 0; n < COUNT_OF(values) * COUNT_OF(values) * 4; n++) {
			struct nbd_command_request request = {
				.offset = values[n / 4 % COUNT_OF(values)],
				.length = values[n / 4 / COUNT_OF(values)],
				.type = n % 2,
				.flags = n / 2 % 2 ? PAYLOAD : 0,
			};
			const char *message;
			bool fatal;
			uint32_t error = nbd_request_check(&request, &limits, &fatal, &message);

			assert_int_equal(nbd_request_is_plain(&request, &limits), !error);
			assert_false(!error && fatal);
		}
	}
}

static void test_error_of(void **state)
{
	static const struct {
		int status;
		uint32_t error;
	} cases[] = {
		{0, 0},
		{-EPERM, 1},
		{-EACCES, 1},
		{-EROFS, 1},
		{-EIO, 5},
		{-ENOMEM, 12},
		{-EINVAL, 22},
		{-ENOSPC, 28},
		{-EDQUOT, 28},
		{-EFBIG, 28},
		{-EOVERFLOW, 75},
		{-ENOTSUP, 95},
		{-EOPNOTSUPP, 95},
		{-ESHUTDOWN, 108},
		{-ENODEV, 5},
		{-ETIMEDOUT, 5},
		{-ECANCELED, 5},
		{-4095, 5},
	};

	for (size_t i = 0; i < COUNT_OF(cases); i++)
		assert_int_equal(nbd_error_of(cases[i].status), cases[i].error);
}

static void test_error_of_request(void **state)
{
	assert_int_equal(nbd_request_error(NBD_CMD_READ, 0, 0), 0);
	assert_int_equal(nbd_request_error(NBD_CMD_TRIM, 0, -EIO), NBD_EIO);
	/* ENOTSUP tells that zeroing is not fast, and nothing else */
	assert_int_equal(nbd_request_error(NBD_CMD_WRITE_ZEROES, FAST_ZERO, -ENOTSUP), NBD_ENOTSUP);
	assert_int_equal(nbd_request_error(NBD_CMD_WRITE_ZEROES, FAST_ZERO | FUA, -EOPNOTSUPP),
			 NBD_ENOTSUP);
	assert_int_equal(nbd_request_error(NBD_CMD_WRITE_ZEROES, FUA, -ENOTSUP), NBD_EINVAL);
	assert_int_equal(nbd_request_error(NBD_CMD_TRIM, 0, -EOPNOTSUPP), NBD_EINVAL);
	assert_int_equal(nbd_request_error(NBD_CMD_CACHE, FAST_ZERO, -ENOTSUP), NBD_EINVAL);
	/* EOVERFLOW, that a READ does not fit one piece */
	assert_int_equal(nbd_request_error(NBD_CMD_READ, DF, -EOVERFLOW), NBD_EOVERFLOW);
	assert_int_equal(nbd_request_error(NBD_CMD_READ, 0, -EOVERFLOW), NBD_EIO);
	assert_int_equal(nbd_request_error(NBD_CMD_WRITE, 0, -EOVERFLOW), NBD_EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_wrong_magic),
		cmocka_unit_test(test_commands_and_flags),
		cmocka_unit_test(test_not_offered),
		cmocka_unit_test(test_range),
		cmocka_unit_test(test_past_end),
		cmocka_unit_test(test_range_of_the_largest),
		cmocka_unit_test(test_read_only),
		cmocka_unit_test(test_flush),
		cmocka_unit_test(test_disc),
		cmocka_unit_test(test_amount),
		cmocka_unit_test(test_fatal),
		cmocka_unit_test(test_block_mask),
		cmocka_unit_test(test_block_status),
		cmocka_unit_test(test_plain_agrees),
		cmocka_unit_test(test_error_of),
		cmocka_unit_test(test_error_of_request),
	};

	return cmocka_run_group_tests_name("nbd-request", tests, NULL, NULL);
}
