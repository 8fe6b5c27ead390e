/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_client: the client's handshake against a server's words that are written down in advance,
 * fed at once, a byte at a time and cut in two at each place.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/compiler.h"
#include "lib/nbd/client.h"

enum { BYTES = 256 << 10, GO = NBD_OPT_GO, SET = NBD_OPT_SET_META_CONTEXT };

static struct {
	struct nbd_client_config config;
	struct nbd_client client;
	uint8_t in[BYTES], out[BYTES]; /* the server's words and the client's */
	size_t in_length, out_length, out_read, taken;
	enum nbd_client_result result;
	bool tls_fails;
} t;

static const char *const contexts[] = {"base:allocation", "x:y"};

static int set_up(void **state)
{
	memset(&t, 0, sizeof(t));
	t.config.export_name = "disk";
	return 0;
}

/* ---- the server's words ---- */

static void say(const void *bytes, size_t count)
{
	assert_true(t.in_length + count <= BYTES);
	memcpy(t.in + t.in_length, bytes, count);
	t.in_length += count;
}

static void say_be(uint64_t value, unsigned count)
{
	for (unsigned i = count; i-- > 0;)
		say(&(uint8_t){value >> 8 * i}, 1);
}

static void say_greeting(uint16_t flags)
{
	say("NBDMAGICIHAVEOPT", 16);
	say_be(flags, 2);
}

static void say_reply(uint32_t option, uint32_t type, const void *data, uint32_t length)
{
	say_be(0x0003e889045565a9, 8);
	say_be(option, 4);
	say_be(type, 4);
	say_be(length, 4);
	say(data, length);
}

static void say_ack(uint32_t option)
{
	say_reply(option, NBD_REP_ACK, "", 0);
}

static void say_error(uint32_t option, uint32_t type)
{
	say_reply(option, type, "words\n", 6);
}

/* EXPORT: 1 MiB, flags 5. */
static void say_export(void)
{
	say_reply(GO, NBD_REP_INFO, "\0\0\0\0\0\0\0\x10\0\0\0\5", 12);
}

/* ---- the client's ---- */

static void client_send(void *arg, const void *bytes, size_t count)
{
	assert_ptr_equal(arg, &t);
	assert_true(t.out_length + count <= BYTES);
	memcpy(t.out + t.out_length, bytes, count);
	t.out_length += count;
}

static uint64_t hear_be(unsigned count)
{
	uint64_t value = 0;

	assert_true(t.out_read + count <= t.out_length);
	for (unsigned i = 0; i < count; i++)
		value = value << 8 | t.out[t.out_read++];
	return value;
}

static void hear_option(uint32_t option, const void *data, uint32_t length)
{
	assert_int_equal(hear_be(8), 0x49484156454f5054);
	assert_int_equal(hear_be(4), option);
	assert_int_equal(hear_be(4), length);
	assert_true(t.out_read + length <= t.out_length);
	assert_memory_equal(t.out + t.out_read, data, length);
	t.out_read += length;
}

static void hear_go(void)
{
	hear_option(GO, "\0\0\0\4disk\0\1\0\3", 12);
}

static void hear_nothing(void)
{
	assert_int_equal(t.out_read, t.out_length);
}

/* ---- runs ---- */

static void feed(size_t first, size_t step)
{
	size_t at = 0, end = first, taken;

	t.out_length = t.out_read = 0;
	assert_int_equal(nbd_client_init(&t.client, &t.config, client_send, &t), 0);
	t.result = NBD_CLIENT_MORE;
	while (t.result == NBD_CLIENT_MORE && at < t.in_length) {
		size_t part = MIN_OF(step, end - at);
		uint8_t *copy = malloc(part);

		memcpy(copy, t.in + at, part);
		t.result = nbd_client_feed(&t.client, copy, part, &taken);
		free(copy);
		if (t.result == NBD_CLIENT_MORE)
			assert_int_equal(taken, part);
		at += taken;
		if (at == end)
			end = t.in_length;
		if (t.result != NBD_CLIENT_STARTTLS)
			continue;
		assert_int_equal(nbd_client_feed(&t.client, (const uint8_t *)"x", 1, &taken),
				 NBD_CLIENT_STARTTLS);
		assert_int_equal(taken, 0);
		if (t.tls_fails)
			break;
		nbd_client_tls_done(&t.client);
		t.result = NBD_CLIENT_MORE;
	}
	t.taken = at;
	if (t.result != NBD_CLIENT_TRANSMIT && t.result != NBD_CLIENT_FAILED)
		return;
	assert_int_equal(nbd_client_feed(&t.client, (const uint8_t *)"x", 1, &taken), t.result);
	assert_int_equal(taken, 0);
	assert_true((t.result == NBD_CLIENT_FAILED) == (t.client.error < 0));
	assert_true((t.result == NBD_CLIENT_FAILED) == (t.client.reason[0] != 0));
}

static void run(enum nbd_client_result result)
{
	static struct nbd_client whole;
	static uint8_t words[BYTES];
	size_t stride = t.in_length > 400 ? t.in_length / 97 : 1, length, taken;

	feed(t.in_length, t.in_length);
	assert_int_equal(t.result, result);
	whole = t.client;
	length = t.out_length;
	taken = t.taken;
	memcpy(words, t.out, length);
	for (size_t cut = 0; cut < t.in_length; cut += stride) {
		feed(cut ? cut : t.in_length, cut ? t.in_length : 1);
		assert_int_equal(t.result, result);
		assert_int_equal(t.taken, taken);
		assert_int_equal(t.out_length, length);
		assert_memory_equal(t.out, words, length);
		assert_memory_equal(&t.client, &whole, offsetof(struct nbd_client, header));
	}
}

/* A run that fails with this, and the server's flags answered. */
static void run_fails(int error, const char *word)
{
	run(NBD_CLIENT_FAILED);
	assert_int_equal(t.client.error, error);
	assert_non_null(strstr(t.client.reason, word));
}

static void test_plain(void **state)
{
	say_greeting(3);
	say_export();
	say_ack(GO);
	say("next", 4);
	run(NBD_CLIENT_TRANSMIT);
	assert_int_equal(t.taken, t.in_length - 4);
	assert_int_equal(hear_be(4), 3);
	hear_go();
	hear_nothing();
	assert_int_equal(t.client.size, 1 << 20);
	assert_int_equal(t.client.flags, 5);
	assert_int_equal(t.client.mode, NBD_MODE_SIMPLE);
	assert_false(t.client.has_block_size);
	assert_int_equal(t.client.min_block, 1);
	assert_int_equal(t.client.preferred_block, 4096);
	assert_int_equal(t.client.max_payload, 32 << 20);
}

static void test_infos(void **state)
{
	static uint8_t lengthy[60000] = {0, 77};

	say_greeting(0xffff); /* flags that nobody knows are ignored */
	say_reply(GO, NBD_REP_INFO, "\0\1name", 6);
	say_reply(GO, NBD_REP_INFO, lengthy, sizeof(lengthy));
	say_reply(GO, NBD_REP_INFO, "\0\3\0\0\2\0\0\0\x10\0\2\0\0\0", 14);
	say_export();
	say_ack(GO);
	run(NBD_CLIENT_TRANSMIT);
	assert_int_equal(hear_be(4), 3);
	assert_true(t.client.has_block_size);
	assert_int_equal(t.client.min_block, 512);
	assert_int_equal(t.client.preferred_block, 4096);
	assert_int_equal(t.client.max_payload, 32 << 20);
	assert_int_equal(t.client.flags, 5);
}

static void test_everything(void **state)
{
	t.config = (struct nbd_client_config){"disk", NBD_MODE_EXTENDED, NBD_CLIENT_TLS_REQUIRE,
					      contexts, 2};
	say_greeting(3);
	say_ack(NBD_OPT_STARTTLS);
	say_ack(NBD_OPT_EXTENDED_HEADERS);
	say_reply(SET, NBD_REP_META_CONTEXT, "\0\0\0\7x:y", 7);
	say_reply(SET, NBD_REP_META_CONTEXT, "\0\0\0\7x:y", 7);
	say_reply(SET, NBD_REP_META_CONTEXT, "\0\0\0\3x:z", 7);
	say_reply(SET, NBD_REP_META_CONTEXT, "\0\0\0\1base:allocation", 19);
	say_ack(SET);
	say_export();
	say_ack(GO);
	run(NBD_CLIENT_TRANSMIT);
	assert_int_equal(hear_be(4), 3);
	hear_option(NBD_OPT_STARTTLS, "", 0);
	hear_option(NBD_OPT_EXTENDED_HEADERS, "", 0);
	hear_option(SET, "\0\0\0\4disk\0\0\0\2\0\0\0\17base:allocation\0\0\0\3x:y", 38);
	hear_go();
	hear_nothing();
	assert_true(t.client.tls);
	assert_int_equal(t.client.mode, NBD_MODE_EXTENDED);
	assert_int_equal(t.client.context_count, 2);
	assert_string_equal(t.client.contexts[0].name, "x:y");
	assert_int_equal(t.client.contexts[0].id, 7);
	assert_string_equal(t.client.contexts[1].name, "base:allocation");
	assert_int_equal(t.client.contexts[1].id, 1);
}

/* A server that has none of it: the client makes do. */
static void test_nothing_granted(void **state)
{
	t.config = (struct nbd_client_config){"disk", NBD_MODE_EXTENDED, NBD_CLIENT_TLS_ALLOW,
					      contexts, 2};
	say_greeting(1);
	say_error(NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY);
	say_error(NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_UNSUP);
	say_error(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_UNSUP);
	say_error(GO, NBD_REP_ERR_UNSUP);
	say("\0\0\0\0\0\0\2\0\0\1", 10);
	say((uint8_t[124]){0}, 124);
	say("next", 4);
	run(NBD_CLIENT_TRANSMIT);
	assert_int_equal(t.taken, t.in_length - 4);
	assert_int_equal(hear_be(4), 1);
	hear_option(NBD_OPT_STARTTLS, "", 0);
	hear_option(NBD_OPT_EXTENDED_HEADERS, "", 0);
	hear_option(NBD_OPT_STRUCTURED_REPLY, "", 0);
	hear_go();
	hear_option(NBD_OPT_EXPORT_NAME, "disk", 4);
	hear_nothing();
	assert_int_equal(t.client.mode, NBD_MODE_SIMPLE);
	assert_int_equal(t.client.size, 512);
	assert_int_equal(t.client.flags, 1);
	assert_false(t.client.tls);
}

static void test_structured_only(void **state)
{
	t.config.mode = NBD_MODE_EXTENDED;
	t.config.contexts = contexts;
	t.config.context_count = 1;
	say_greeting(3);
	say_error(NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_UNSUP);
	say_ack(NBD_OPT_STRUCTURED_REPLY);
	say_reply(SET, NBD_REP_META_CONTEXT, "\0\0\0\1base:allocation", 19);
	say_error(SET, NBD_REP_ERR_TOO_BIG);
	say_export();
	say_ack(GO);
	run(NBD_CLIENT_TRANSMIT);
	assert_int_equal(t.client.mode, NBD_MODE_STRUCTURED);
	/* contexts before an error do not count */
	assert_int_equal(t.client.context_count, 0);
}

static void test_old_servers(void **state)
{
	for (uint16_t flags = 0; flags <= 2; flags += 2) {
		t.in_length = 0;
		t.config.mode = NBD_MODE_EXTENDED;
		t.config.tls = NBD_CLIENT_TLS_ALLOW;
		say_greeting(flags);
		say("\0\0\0\0\0\0\2\0\0\1", 10);
		if (!flags)
			say((uint8_t[124]){0}, 124);
		run(NBD_CLIENT_TRANSMIT);
		assert_int_equal(hear_be(4), flags);
		hear_option(NBD_OPT_EXPORT_NAME, "disk", 4);
		hear_nothing();
		assert_int_equal(t.client.size, 512);
	}
	t.in_length = 0;
	t.config.tls = NBD_CLIENT_TLS_REQUIRE;
	say_greeting(2);
	run_fails(-EPROTONOSUPPORT, "TLS");
	hear_nothing();
}

static void test_wrong_greetings(void **state)
{
	say("HTTP/1.1 400 Bad Request", 24);
	run_fails(-EPROTO, "no NBD server");
	t.in_length = 0;
	say("NBDMAGIC\0\0\x42\2\x81\x86\x12\x53\0\0", 18);
	run_fails(-EPROTONOSUPPORT, "oldstyle");
	t.in_length = 0;
	say("NBDMAGICWHATSUP?\0\0", 18);
	run_fails(-EPROTO, "unknown");
}

static void test_errors_of_go(void **state)
{
	static const struct {
		uint32_t type;
		int error;
	} cases[] = {
		{NBD_REP_ERR_POLICY, -EACCES},		{NBD_REP_ERR_INVALID, -EINVAL},
		{NBD_REP_ERR_PLATFORM, -EOPNOTSUPP},	{NBD_REP_ERR_TLS_REQD, -EACCES},
		{NBD_REP_ERR_UNKNOWN, -ENOENT},		{NBD_REP_ERR_SHUTDOWN, -ESHUTDOWN},
		{NBD_REP_ERR_BLOCK_SIZE_REQD, -EINVAL}, {NBD_REP_ERR_TOO_BIG, -E2BIG},
		{NBD_REP_ERR_EXT_HEADER_REQD, -EACCES}, {NBD_REP_FLAG_ERROR | 4711, -EIO},
	};

	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		t.in_length = 0;
		say_greeting(3);
		say_export();
		say_error(GO, cases[i].type);
		/* control characters of a server do not reach a terminal */
		run_fails(cases[i].error, ": words?");
		assert_int_equal(hear_be(4), 3);
		hear_go();
		hear_option(NBD_OPT_ABORT, "", 0);
		hear_nothing();
	}
	t.in_length = 0;
	say_greeting(3);
	say_reply(GO, NBD_REP_ERR_UNKNOWN, "", 0);
	run_fails(-ENOENT, "no such export");
}

static void test_errors_of_others(void **state)
{
	/* with extended headers there is no way back to EXPORT_NAME */
	t.config.mode = NBD_MODE_EXTENDED;
	say_greeting(3);
	say_ack(NBD_OPT_EXTENDED_HEADERS);
	say_error(GO, NBD_REP_ERR_UNSUP);
	run_fails(-EOPNOTSUPP, "option");
	t.in_length = 0;
	say_greeting(3);
	say_error(NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_TLS_REQD);
	run_fails(-EACCES, "TLS");
	t.in_length = 0;
	say_greeting(3);
	say_error(NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_SHUTDOWN);
	run_fails(-ESHUTDOWN, "shutting down");
	t.in_length = 0;
	t.config.tls = NBD_CLIENT_TLS_REQUIRE;
	say_greeting(3);
	say_error(NBD_OPT_STARTTLS, NBD_REP_ERR_UNSUP);
	run_fails(-EOPNOTSUPP, "words");
	assert_int_equal(hear_be(4), 3);
	hear_option(NBD_OPT_STARTTLS, "", 0);
	hear_option(NBD_OPT_ABORT, "", 0);
	hear_nothing();
}

/* What comes behind the granting of STARTTLS is TLS's, not ours. */
static void test_starttls_stops(void **state)
{
	t.config.tls = NBD_CLIENT_TLS_ALLOW;
	t.tls_fails = true;
	say_greeting(3);
	say_ack(NBD_OPT_STARTTLS);
	say_export();
	run(NBD_CLIENT_STARTTLS);
	assert_int_equal(t.taken, 18 + 20);
}

static void test_broken_replies(void **state)
{
	static const struct {
		uint32_t option, type;
		const char *data;
		uint32_t length;
	} cases[] = {
		{3, 1, "", 0},		   /* of an option that was not sent */
		{GO, 1, "x", 1},	   /* an ACK with data */
		{GO, 2, "\0\0\0\0", 4},	   /* SERVER in reply to GO */
		{GO, 4, "\0\0\0\1a:b", 7}, /* META_CONTEXT in reply to GO */
		{GO, 0, "", 0},
		{GO, 77, "", 0},
		{GO, 3, "", 0}, /* an info without a type */
		{GO, 3, "\0", 1},
		{GO, 3, "\0\0\0\0\0\0\0\x10\0\0\0", 11},
		{GO, 3, "\0\0\0\0\0\0\0\x10\0\0\0\5\0", 13},
		{GO, 3, "\0\3\0\0\0\1\0\0\x10\0\2\0\0", 13},
		{GO, 3, "\0\3\0\0\0\1\0\0\x10\0\2\0\0\0\0", 15},
		{GO, 3, "\0\3\0\0\0\0\0\0\x10\0\2\0\0\0", 14}, /* a minimum of 0 */
		{GO, 3, "\0\3\0\0\0\3\0\0\x10\0\2\0\0\0", 14}, /* or of 3 */
		{GO, 3, "\0\3\0\2\0\0\0\2\0\0\2\0\0\0", 14},   /* or of 128 KiB */
		{GO, 3, "\0\3\0\0\0\1\0\0\0\0\2\0\0\0", 14},   /* preferred 0 */
		{GO, 3, "\0\3\0\0\2\0\0\0\1\0\2\0\0\0", 14},   /* preferred less */
		{GO, 3, "\0\3\0\0\2\0\0\0\x10\0\0\0\1\0", 14}, /* maximum less */
		{GO, 1, "", 0},				       /* the end without an EXPORT */
	};

	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		t.in_length = 0;
		say_greeting(3);
		say_reply(cases[i].option, cases[i].type, cases[i].data, cases[i].length);
		run(NBD_CLIENT_FAILED);
		assert_int_equal(t.client.error, -EPROTO);
		assert_int_equal(hear_be(4), 3);
		hear_go();
		hear_nothing();
	}
	t.in_length = 0;
	say_greeting(3);
	say("\0\3\xe8\x89\4\x55\x65\xaa\0\0\0\7\0\0\0\1\0\0\0\0", 20);
	run_fails(-EPROTO, "magic");
	t.in_length = 0;
	say_greeting(3);
	say("\0\3\xe8\x89\4\x55\x65\xa9\0\0\0\7\0\0\0\3\0\1\0\1", 20);
	run_fails(-EPROTO, "65537 bytes");
}

static void test_broken_contexts(void **state)
{
	static char lengthy[NBD_MAX_STRING_BYTES + 5];

	t.config = (struct nbd_client_config){"disk", NBD_MODE_STRUCTURED, NBD_CLIENT_TLS_OFF,
					      contexts, 2};
	for (size_t length = 0; length <= sizeof(lengthy); length += length < 4 ? 1 : 4097) {
		t.in_length = 0;
		say_greeting(3);
		say_ack(NBD_OPT_STRUCTURED_REPLY);
		say_reply(SET, NBD_REP_META_CONTEXT, lengthy, length);
		run_fails(-EPROTO, "malformed");
	}
	/* more ids than there may be contexts */
	t.in_length = 0;
	say_greeting(3);
	say_ack(NBD_OPT_STRUCTURED_REPLY);
	for (char id = 0; id <= NBD_MAX_CONTEXTS; id++)
		say_reply(SET, NBD_REP_META_CONTEXT, (char[]){0, 0, 0, id, 'x', ':', 'y'}, 7);
	run_fails(-EPROTO, "malformed");
}

static void test_replies_without_end(void **state)
{
	say_greeting(3);
	for (int i = 0; i < 4097; i++)
		say_reply(GO, NBD_REP_INFO, "\0\1name", 6);
	run_fails(-EPROTO, "4096");
}

static void test_limits(void **state)
{
	static char name[NBD_MAX_STRING_BYTES + 2];
	const char *names[NBD_MAX_CONTEXTS + 1] = {name};

	memset(name, 'x', sizeof(name) - 1);
	t.config.export_name = name;
	assert_int_equal(nbd_client_init(&t.client, &t.config, client_send, &t), -ENAMETOOLONG);
	t.config = (struct nbd_client_config){
		.export_name = name + 1, .contexts = names, .context_count = NBD_MAX_CONTEXTS + 1};
	assert_int_equal(nbd_client_init(&t.client, &t.config, client_send, &t), -E2BIG);
	t.config.context_count = 1;
	assert_int_equal(nbd_client_init(&t.client, &t.config, client_send, &t), -ENAMETOOLONG);
	names[0] = name + 1;
	assert_int_equal(nbd_client_init(&t.client, &t.config, client_send, &t), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define CLIENT_TEST(name) cmocka_unit_test_setup(name, set_up)
		CLIENT_TEST(test_plain),
		CLIENT_TEST(test_infos),
		CLIENT_TEST(test_everything),
		CLIENT_TEST(test_nothing_granted),
		CLIENT_TEST(test_structured_only),
		CLIENT_TEST(test_old_servers),
		CLIENT_TEST(test_wrong_greetings),
		CLIENT_TEST(test_errors_of_go),
		CLIENT_TEST(test_errors_of_others),
		CLIENT_TEST(test_starttls_stops),
		CLIENT_TEST(test_broken_replies),
		CLIENT_TEST(test_broken_contexts),
		CLIENT_TEST(test_replies_without_end),
		CLIENT_TEST(test_limits),
	};

	return cmocka_run_group_tests_name("nbd-client", tests, NULL, NULL);
}
