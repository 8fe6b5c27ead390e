/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_client_reply: the client's requests byte for byte, and its parser of replies - made by
 * reply.h, and malformed by hand - at once, a byte at a time and cut in two at each place. What the
 * parser tells is written down as text, and compared as such.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "lib/nbd/client_reply.h"
#include "lib/nbd/reply.h"

enum { BYTES = 64 << 10 };

/* The cookie of each pending request is its place here. */
enum { READ, WRITE, STATUS, FLUSH, EMPTY_READ };
static const struct nbd_pending pending[] = {
	[READ] = {NBD_CMD_READ, 4096, 8},
	[WRITE] = {NBD_CMD_WRITE, 8192, 512},
	[STATUS] = {NBD_CMD_BLOCK_STATUS, 4096, 1 << 20},
	[FLUSH] = {NBD_CMD_FLUSH, 0, 0},
	[EMPTY_READ] = {NBD_CMD_READ, 4096, 0},
};

static uint8_t in[BYTES];
static size_t in_length;
static enum nbd_mode mode;
static char told[4096]; /* what the parser told */

static int set_up(void **state)
{
	in_length = 0;
	return 0;
}

static bool lookup(void *arg, uint64_t cookie, struct nbd_pending *found)
{
	assert_ptr_equal(arg, in);
	if (cookie >= COUNT_OF(pending))
		return false;
	*found = pending[cookie];
	return true;
}

static struct nbd_reply_to to(uint64_t cookie)
{
	return (struct nbd_reply_to){cookie,
				     cookie < COUNT_OF(pending) ? pending[cookie].offset : 0, mode};
}

static void put(const void *bytes, size_t count)
{
	assert_true(in_length + count <= BYTES);
	memcpy(in + in_length, bytes, count);
	in_length += count;
}

/* A chunk with this payload. */
static void put_chunk(uint64_t cookie, uint16_t type, bool last, const void *payload, size_t count)
{
	struct nbd_reply_to reply = to(cookie);

	in_length += nbd_reply_chunk(in + in_length, &reply, type, last, count);
	put(payload, count);
}

static void put_data(uint64_t cookie, bool last, uint64_t offset, const char *data)
{
	struct nbd_reply_to reply = to(cookie);

	in_length += nbd_reply_data(in + in_length, &reply, last, offset, strlen(data));
	put(data, strlen(data));
}

static void put_done(uint64_t cookie)
{
	struct nbd_reply_to reply = to(cookie);

	in_length += nbd_reply_done(in + in_length, &reply);
}

static void put_error(uint64_t cookie, uint32_t error, const char *message)
{
	struct nbd_reply_to reply = to(cookie);

	in_length += nbd_reply_error(in + in_length, &reply, error, message);
}

__attribute__((format(printf, 1, 2))) static void write_down(const char *format, ...)
{
	size_t length = strlen(told);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(told + length, sizeof(told) - length, format, arguments);
	va_end(arguments);
}

static void note(const struct nbd_event *event)
{
	unsigned cookie = event->cookie;

	switch (event->kind) {
	case NBD_EVENT_DATA:
		write_down("%u data %lu+%lu: ", cookie, event->offset, event->length);
		break;
	case NBD_EVENT_BYTES:
		/* the pieces depend on how it was cut, their sum does not */
		write_down("%.*s", (int)event->count, event->bytes);
		break;
	case NBD_EVENT_HOLE:
		write_down("%u hole %lu+%lu\n", cookie, event->offset, event->length);
		break;
	case NBD_EVENT_STATUS:
		write_down("%u status %u\n", cookie, event->context);
		break;
	case NBD_EVENT_EXTENT:
		write_down("%u extent %lu:%lu\n", cookie, event->length, event->flags);
		break;
	case NBD_EVENT_ERROR:
		write_down("%u error %u", cookie, event->error);
		if (event->has_offset)
			write_down(" at %lu", event->offset);
		write_down(" '%s'\n", event->message);
		break;
	case NBD_EVENT_DONE:
		write_down("%u done\n", cookie);
		break;
	case NBD_EVENT_BROKEN:
		write_down("broken: %s\n", event->message);
		break;
	case NBD_EVENT_MORE:
		break;
	}
}

/* Feeds [0, first) in one go or in steps, then the rest. */
static void feed(size_t first, size_t step)
{
	struct nbd_parser *parser = malloc(sizeof(*parser));
	size_t at = 0, end = first, taken;
	struct nbd_event event;
	uint64_t expected = 0;

	told[0] = '\0';
	nbd_parser_init(parser, mode, lookup, in);
	while (at < in_length) {
		size_t part = MIN_OF(step, end - at), used = 0;
		uint8_t *copy = malloc(part);
		enum nbd_event_kind kind;

		memcpy(copy, in + at, part);
		while ((kind = nbd_parser_feed(parser, copy + used, part - used, &taken, &event)) !=
			       NBD_EVENT_MORE &&
		       kind != NBD_EVENT_BROKEN) {
			used += taken;
			if (kind == NBD_EVENT_DATA)
				expected = event.offset;
			if (kind == NBD_EVENT_BYTES) {
				assert_int_equal(event.offset, expected);
				expected += event.count;
			}
			note(&event);
		}
		free(copy);
		if (kind == NBD_EVENT_BROKEN) {
			note(&event);
			assert_int_equal(nbd_parser_feed(parser, in, 1, &taken, &event), kind);
			assert_int_equal(taken, 0);
			break;
		}
		assert_int_equal(used + taken, part);
		at += part;
		if (at == end)
			end = in_length;
	}
	free(parser);
}

static void run(const char *expected)
{
	feed(in_length, in_length);
	assert_string_equal(told, expected);
	for (size_t cut = 0; cut < in_length; cut++) {
		feed(cut ? cut : in_length, cut ? in_length : 1);
		assert_string_equal(told, expected);
	}
}

static void run_broken(const char *how)
{
	char expected[200];

	snprintf(expected, sizeof(expected), "broken: %s\n", how);
	run(expected);
	in_length = 0;
}

static void test_requests(void **state)
{
	uint8_t out[NBD_CLIENT_REQUEST_BYTES];

	assert_int_equal(nbd_client_request(out, NBD_MODE_STRUCTURED, NBD_CMD_WRITE, 1,
					    0x0807060504030201, 0x1000, 512),
			 28);
	assert_memory_equal(out,
			    "\x25\x60\x95\x13\0\1\0\1\1\2\3\4\5\6\7\10\0\0\0\0\0\0\x10\0"
			    "\0\0\2\0",
			    28);
	assert_int_equal(nbd_client_request(out, NBD_MODE_EXTENDED, NBD_CMD_WRITE, 1,
					    0x0807060504030201, 0x1000, 512),
			 32);
	assert_memory_equal(out,
			    "\x21\xe4\x1c\x71\0\x21\0\1\1\2\3\4\5\6\7\10\0\0\0\0\0\0\x10\0"
			    "\0\0\0\0\0\0\2\0",
			    32);
	assert_int_equal(
		nbd_client_request(out, NBD_MODE_EXTENDED, NBD_CMD_TRIM, 0, 0, 0, 1ull << 40), 32);
	assert_memory_equal(out,
			    "\x21\xe4\x1c\x71\0\0\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
			    "\0\0\1\0\0\0\0\0",
			    32);
}

static void test_filter(void **state)
{
	static const uint32_t ids[] = {7, 0xffffffff};
	uint8_t out[16];

	assert_int_equal(nbd_client_filter(out, 0x1000, ids, 2), 16);
	assert_memory_equal(out, "\0\0\0\0\0\0\x10\0\0\0\0\7\xff\xff\xff\xff", 16);
	assert_int_equal(nbd_client_filter(out, 1, ids, 0), 8);
}

/* What our own server understands of our own client. */
static void test_round_trip(void **state)
{
	for (mode = NBD_MODE_SIMPLE; mode <= NBD_MODE_EXTENDED; mode++) {
		for (uint16_t type = 0; type < 8; type++) {
			uint8_t out[NBD_CLIENT_REQUEST_BYTES];
			struct nbd_command_request request;
			size_t length = nbd_client_request(out, mode, type, 1, 99, 5, 6);

			assert_int_equal(length, nbd_request_bytes(mode));
			assert_true(nbd_request_decode(out, mode, &request));
			assert_int_equal(request.type, type);
			assert_int_equal(request.flags & 1, 1);
			assert_int_equal(request.cookie, 99);
			assert_int_equal(request.offset, 5);
			assert_int_equal(request.length, 6);
			assert_int_equal(request.payload, type == NBD_CMD_WRITE ? 6 : 0);
		}
	}
}

static void test_simple(void **state)
{
	mode = NBD_MODE_SIMPLE;
	put_done(WRITE);
	put_data(READ, true, 4096, "contents");
	put_error(READ, NBD_EIO, "never told");
	put_done(EMPTY_READ);
	put_error(FLUSH, 4711, NULL);
	run("1 done\n"
	    "0 data 4096+8: contents0 done\n"
	    "0 error 5 ''\n0 done\n"
	    "4 data 4096+0: 4 done\n"
	    "3 error 4711 ''\n3 done\n");
}

static void test_chunks(void **state)
{
	for (mode = NBD_MODE_STRUCTURED; mode <= NBD_MODE_EXTENDED; mode++) {
		struct nbd_reply_to reply = to(READ);

		in_length = 0;
		put_data(READ, false, 4096, "con");
		put_done(WRITE);
		in_length += nbd_reply_hole(in + in_length, &reply, false, 4099, 1);
		put_data(READ, true, 4100, "ents");
		put_error(WRITE, NBD_EPERM, "the export is read-only");
		in_length +=
			nbd_reply_error_at(in + in_length, &reply, false, NBD_EIO, 4097, "bad");
		in_length += nbd_reply_hole(in + in_length, &reply, true, 4096, 8);
		run("0 data 4096+3: con"
		    "1 done\n"
		    "0 hole 4099+1\n"
		    "0 data 4100+4: ents0 done\n"
		    "1 error 1 'the export is read-only'\n1 done\n"
		    "0 error 5 at 4097 'bad'\n"
		    "0 hole 4096+8\n0 done\n");
	}
}

static void test_status(void **state)
{
	static const struct nbd_extent extents[] = {{4096, 0}, {8192, 3}, {4096, 0x80000001}};
	static const struct nbd_status_filter filter = {.length = 1 << 20};

	for (mode = NBD_MODE_STRUCTURED; mode <= NBD_MODE_EXTENDED; mode++) {
		struct nbd_reply_to reply = to(STATUS);

		in_length = nbd_reply_status(in, BYTES, &reply, false, 7, &filter, extents, 3);
		in_length += nbd_reply_status(in + in_length, BYTES, &reply, true, 8, &filter,
					      extents + 1, 1);
		run("2 status 7\n2 extent 4096:0\n2 extent 8192:3\n2 extent 4096:2147483649\n"
		    "2 status 8\n2 extent 8192:3\n2 done\n");
	}
}

/* Simple replies may stand among structured ones, except for reads. */
static void test_simple_among_chunks(void **state)
{
	uint8_t simple[16];

	mode = NBD_MODE_STRUCTURED;
	put(simple, nbd_reply_simple(simple, WRITE, 0));
	put_done(FLUSH);
	put(simple, nbd_reply_simple(simple, WRITE, NBD_ENOSPC));
	run("1 done\n3 done\n1 error 28 ''\n1 done\n");
	in_length = 0;
	put(simple, nbd_reply_simple(simple, READ, 0));
	run_broken("a simple reply to a structured read");
	mode = NBD_MODE_EXTENDED;
	put(simple, nbd_reply_simple(simple, WRITE, 0));
	put(simple, 16);
	run_broken("wrong magic in an extended reply");
}

/* A type of error that nobody knows is an error all the same. */
static void test_unknown_error(void **state)
{
	for (mode = NBD_MODE_STRUCTURED; mode <= NBD_MODE_EXTENDED; mode++) {
		in_length = 0;
		put_chunk(READ, 0x8123, false, "\0\0\0\14\0\2ohmore to say", 19);
		put_chunk(READ, 0xffff, true, "\0\0\0\14\0\0", 6);
		run("0 error 12 'oh'\n0 error 12 ''\n0 done\n");
	}
}

static void test_broken_heads(void **state)
{
	mode = NBD_MODE_SIMPLE;
	put("\x67\x44\x66\x99............", 16);
	run_broken("wrong magic in a reply");
	put_done(77);
	run_broken("a reply to no request");
	put("\x66\x8e\x33\xef\0\1\0\0\1\0\0\0\0\0\0\0\0\0\0\0", 20);
	run_broken("a chunk where structured replies were not negotiated");
	mode = NBD_MODE_STRUCTURED;
	put_done(77);
	run_broken("a reply to no request");
	mode = NBD_MODE_EXTENDED;
	put_done(77);
	run_broken("a reply to no request");
	put("\x6e\x8a\x27\x8c\0\1\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\x20\1\0\0\0\0\0\0\0\0", 32);
	run_broken("a reply with another offset than its request");
}

static void test_broken_chunks(void **state)
{
	static const struct {
		uint64_t cookie;
		uint16_t type;
		const char *payload;
		size_t count;
		const char *how;
	} cases[] = {
#define WRONG	     "a chunk of a wrong type or length"
#define NOT_END	     "a chunk of type NONE that is not the end"
#define DATA_OUTSIDE "data outside of what was to be read"
#define HOLE_OUTSIDE "a hole outside of what was to be read"
#define ERROR_SHORT  "an error chunk that is shorter than its text"
#define ERROR_LONG   "an error chunk that is longer than its text"
		{READ, 0, "", 0, NOT_END},
		{READ, 0, "x", 1, NOT_END},
		{READ, 3, "12345678", 8, WRONG},
		{READ, 1, "\0\0\0\0\0\0\x10\0", 8, WRONG},
		{READ, 1, "\0\0\0\0\0\0\x10", 7, WRONG},
		{WRITE, 1, "\0\0\0\0\0\0\x20\0x", 9, WRONG},
		{READ, 1, "\0\0\0\0\0\0\x0f\xffx", 9, DATA_OUTSIDE},
		{READ, 1, "\0\0\0\0\0\0\x10\0contents!", 17, DATA_OUTSIDE},
		{READ, 1, "\0\0\0\0\0\0\x10\1contents", 16, DATA_OUTSIDE},
		{READ, 1, "\0\0\0\0\0\0\x10\10x", 9, DATA_OUTSIDE},
		{READ, 1, "\xff\xff\xff\xff\xff\xff\xff\xffx", 9, DATA_OUTSIDE},
		{READ, 2, "\0\0\0\0\0\0\x10\0\0\0\0", 11, WRONG},
		{READ, 2, "\0\0\0\0\0\0\x10\0\0\0\0\1\0", 13, WRONG},
		{WRITE, 2, "\0\0\0\0\0\0\x20\0\0\0\0\1", 12, WRONG},
		{READ, 2, "\0\0\0\0\0\0\x10\0\0\0\0\0", 12, HOLE_OUTSIDE},
		{READ, 2, "\0\0\0\0\0\0\x10\0\0\0\0\11", 12, HOLE_OUTSIDE},
		{READ, 2, "\0\0\0\0\0\0\x0f\xff\0\0\0\1", 12, HOLE_OUTSIDE},
		{READ, 2, "\0\0\0\0\0\0\x10\11\0\0\0\1", 12, HOLE_OUTSIDE},
		{READ, 0x8001, "\0\0\0\5\0", 5, WRONG},
		{READ, 0x8001, "\0\0\0\0\0\0", 6, "an error chunk without an error"},
		{READ, 0x8001, "\0\0\0\5\0\3oh", 8, ERROR_SHORT},
		{READ, 0x8001, "\0\0\0\5\xff\xffoh", 8, ERROR_SHORT},
		{READ, 0x8001, "\0\0\0\5\0\1oh", 8, ERROR_LONG},
		{READ, 0x8002, "\0\0\0\5\0\0\0\0\0\0\0\0\x10", 13, ERROR_SHORT},
		{READ, 0x8002, "\0\0\0\5\0\1\0\0\0\0\0\0\x10\0", 14, ERROR_SHORT},
		{READ, 0x8002, "\0\0\0\5\0\0\0\0\0\0\0\0\x10\0x", 15, ERROR_LONG},
		{READ, 0x8002, "\0\0\0\5\0\0\0\0\0\0\0\0\x0f\xff", 14,
		 "an error at an offset outside of the request"},
		{READ, 0x8002, "\0\0\0\5\0\0\0\0\0\0\0\0\x10\10", 14,
		 "an error at an offset outside of the request"},
		{READ, 5, "\0\0\0\7\0\0\x10\0\0\0\0\0", 12, WRONG},
		{READ, 6, "\0\0\0\7\0\0\0\1\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\0", 24, WRONG},
	};

	for (mode = NBD_MODE_STRUCTURED; mode <= NBD_MODE_EXTENDED; mode++) {
		for (size_t i = 0; i < COUNT_OF(cases); i++) {
			put_chunk(cases[i].cookie, cases[i].type, false, cases[i].payload,
				  cases[i].count);
			run_broken(cases[i].how);
		}
	}
	mode = NBD_MODE_STRUCTURED;
	put_chunk(READ, 0, true, "x", 1);
	run_broken(NOT_END);
}

static void test_broken_status(void **state)
{
	static const char compact[] = "\0\0\0\7\0\0\x10\0\0\0\0\0\0\0\x10\0\0\0\0\0";
	static const char wide[] = "\0\0\0\7\0\0\0\1\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\0";

	mode = NBD_MODE_STRUCTURED;
	put_chunk(STATUS, 6, true, wide, 24);
	run_broken(WRONG);
	for (size_t length = 0; length < 12; length++) {
		put_chunk(STATUS, 5, true, compact, length);
		run_broken(WRONG);
	}
	put_chunk(STATUS, 5, true, "\0\0\0\7\0\0\0\0\0\0\0\0", 12);
	run("2 status 7\nbroken: an extent of no bytes\n");
	in_length = 0;
	mode = NBD_MODE_EXTENDED;
	put_chunk(STATUS, 5, true, compact, 12);
	run_broken(WRONG);
	for (size_t length = 0; length < 24; length++) {
		put_chunk(STATUS, 6, true, wide, length);
		run_broken(WRONG);
	}
	put_chunk(STATUS, 6, true, "\0\0\0\7\0\0\0\2\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\0", 24);
	run_broken("a status chunk that counts wrongly");
}

static void test_longest_message(void **state)
{
	static char payload[6 + NBD_MAX_STRING_BYTES + 1] = "\0\0\0\5\x10\0";
	struct nbd_parser *parser = malloc(sizeof(*parser));
	struct nbd_event event;
	size_t taken;

	mode = NBD_MODE_STRUCTURED;
	memset(payload + 6, 'm', NBD_MAX_STRING_BYTES + 1);
	put_chunk(READ, NBD_REPLY_TYPE_ERROR, true, payload, 6 + NBD_MAX_STRING_BYTES);
	nbd_parser_init(parser, mode, lookup, in);
	assert_int_equal(nbd_parser_feed(parser, in, in_length, &taken, &event), NBD_EVENT_ERROR);
	assert_int_equal(strlen(event.message), NBD_MAX_STRING_BYTES);
	free(parser);
	in_length = 0;
	payload[5] = 1;
	put_chunk(READ, NBD_REPLY_TYPE_ERROR, true, payload, sizeof(payload));
	run_broken(ERROR_SHORT);
}

/* Data may be received past the parser. */
static void test_skip(void **state)
{
	struct nbd_parser *parser = malloc(sizeof(*parser));
	struct nbd_event event;
	size_t taken;

	mode = NBD_MODE_STRUCTURED;
	put_data(READ, true, 4096, "contents");
	put_done(WRITE);
	nbd_parser_init(parser, mode, lookup, in);
	assert_int_equal(nbd_parser_data_left(parser), 0);
	nbd_parser_skip(parser, 0); /* where there is no data, there is nothing to skip */
	assert_int_equal(nbd_parser_feed(parser, in, 28, &taken, &event), NBD_EVENT_DATA);
	assert_int_equal(taken, 28);
	assert_int_equal(nbd_parser_data_left(parser), 8);
	nbd_parser_skip(parser, 5);
	assert_int_equal(nbd_parser_data_left(parser), 3);
	assert_int_equal(nbd_parser_feed(parser, in + 33, 1, &taken, &event), NBD_EVENT_BYTES);
	assert_int_equal(event.offset, 4096 + 5);
	assert_int_equal(event.count, 1);
	nbd_parser_skip(parser, 2);
	assert_int_equal(nbd_parser_data_left(parser), 0);
	assert_int_equal(nbd_parser_feed(parser, in, 0, &taken, &event), NBD_EVENT_DONE);
	assert_int_equal(event.cookie, READ);
	assert_int_equal(nbd_parser_feed(parser, in + 36, 20, &taken, &event), NBD_EVENT_DONE);
	assert_int_equal(event.cookie, WRITE);
	free(parser);
}

/* The short cut's view of what `in` has, in a buffer of just that size; false: none. */
static bool good(const struct nbd_parser *parser, struct nbd_good_reply *reply)
{
	uint8_t *bytes = malloc(in_length + !in_length);
	bool found;

	memcpy(bytes, in, in_length);
	found = nbd_good_reply(parser, bytes, in_length, reply);
	free(bytes);
	in_length = 0;
	return found;
}

static void test_good_replies(void **state)
{
	struct nbd_parser *parser = malloc(sizeof(*parser));
	struct nbd_good_reply reply;

	mode = NBD_MODE_SIMPLE;
	nbd_parser_init(parser, mode, lookup, in);
	put_done(READ);
	assert_true(good(parser, &reply));
	assert_int_equal(reply.cookie, READ);
	assert_int_equal(reply.header_bytes, 16);
	assert_false(reply.has_data);
	assert_true(nbd_good_reply_data(&reply, 4096, 8));
	put_error(READ, NBD_EIO, "");
	assert_false(good(parser, &reply));
	put_done(READ);
	in_length--;
	assert_false(good(parser, &reply));

	mode = NBD_MODE_STRUCTURED;
	nbd_parser_init(parser, mode, lookup, in);
	put_data(READ, true, 4096, "contents");
	assert_true(good(parser, &reply));
	assert_int_equal(reply.cookie, READ);
	assert_int_equal(reply.header_bytes, 28);
	assert_true(reply.has_data);
	assert_true(nbd_good_reply_data(&reply, 4096, 8));
	assert_false(nbd_good_reply_data(&reply, 4096, 9));
	assert_false(nbd_good_reply_data(&reply, 4095, 8));
	put_data(READ, false, 4096, "contents"); /* more follows */
	assert_false(good(parser, &reply));
	put_error(READ, NBD_EIO, "a message of some length");
	assert_false(good(parser, &reply));
	in_length = nbd_reply_simple(in, WRITE, 0);
	assert_true(good(parser, &reply));
	assert_false(nbd_good_reply_data(&reply, 4096, 8)); /* no answer to a READ */
	free(parser);
}

static void test_good_replies_only_between(void **state)
{
	struct nbd_parser *parser = malloc(sizeof(*parser));
	struct nbd_good_reply reply;
	struct nbd_event event;
	size_t taken;

	mode = NBD_MODE_EXTENDED;
	nbd_parser_init(parser, mode, lookup, in);
	put_data(READ, true, 4096, "contents");
	assert_false(good(parser, &reply));
	mode = NBD_MODE_SIMPLE;
	nbd_parser_init(parser, mode, lookup, in);
	put_done(READ);
	nbd_parser_feed(parser, in, 5, &taken, &event);
	assert_false(good(parser, &reply));
	put_done(READ);
	nbd_parser_feed(parser, in + 5, 11, &taken, &event);
	assert_int_equal(event.kind, NBD_EVENT_DATA);
	assert_false(good(parser, &reply));
	free(parser);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define REPLY_TEST(name) cmocka_unit_test_setup(name, set_up)
		REPLY_TEST(test_requests),
		REPLY_TEST(test_filter),
		REPLY_TEST(test_round_trip),
		REPLY_TEST(test_simple),
		REPLY_TEST(test_chunks),
		REPLY_TEST(test_status),
		REPLY_TEST(test_simple_among_chunks),
		REPLY_TEST(test_unknown_error),
		REPLY_TEST(test_broken_heads),
		REPLY_TEST(test_broken_chunks),
		REPLY_TEST(test_broken_status),
		REPLY_TEST(test_longest_message),
		REPLY_TEST(test_skip),
		REPLY_TEST(test_good_replies),
		REPLY_TEST(test_good_replies_only_between),
	};

	return cmocka_run_group_tests_name("nbd-client-reply", tests, NULL, NULL);
}
