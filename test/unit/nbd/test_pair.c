/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_pair: our client's handshake with our server's, in every configuration of either: both must
 * come to the same opinion of what was agreed.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lib/nbd/client.h"

enum { PAIR_BYTES = 64 << 10 };

static struct {
	struct nbd_client_config config;
	struct nbd_client client;
	uint8_t out[PAIR_BYTES]; /* the client's words */
	size_t out_length;
	enum nbd_client_result result;
} t;

static const char *const contexts[] = {"base:allocation", "x:y"};

static int set_up(void **state)
{
	memset(&t, 0, sizeof(t));
	t.config.export_name = "disk";
	return 0;
}

static void client_send(void *arg, const void *bytes, size_t count)
{
	assert_ptr_equal(arg, &t);
	assert_true(t.out_length + count <= PAIR_BYTES);
	memcpy(t.out + t.out_length, bytes, count);
	t.out_length += count;
}

static uint8_t from_server[PAIR_BYTES];
static size_t from_server_length;

static void server_send(void *arg, const void *bytes, size_t count)
{
	assert_true(from_server_length + count <= PAIR_BYTES);
	memcpy(from_server + from_server_length, bytes, count);
	from_server_length += count;
}

static int server_find(void *arg, const char *name, size_t length, bool opening,
		       struct nbd_export_info *info)
{
	if (length != 4 || memcmp(name, "disk", 4) != 0)
		return -ENOENT;
	*info = (struct nbd_export_info){.name = "disk",
					 .size = 1 << 30,
					 .flags = 4,
					 .min_block = 512,
					 .preferred_block = 4096,
					 .max_payload = 64 << 20,
					 .needs_block_size = true};
	return 0;
}

static int server_list(void *arg, unsigned index, struct nbd_export_info *info)
{
	return index ? -ENOENT : server_find(arg, "disk", 4, false, info);
}

static const char *server_context(void *arg, const struct nbd_export_info *info, unsigned index)
{
	return index ? NULL : "base:allocation";
}

/* Lets both talk until both are done; returns what the server made of it. */
static enum nbd_handshake_result converse(struct nbd_handshake *hs,
					  const struct nbd_server_config *config)
{
	static const struct nbd_server_ops ops = {server_find, server_list, server_context,
						  server_send};
	enum nbd_handshake_result result = NBD_HANDSHAKE_MORE;
	size_t taken;

	from_server_length = t.out_length = 0;
	assert_int_equal(nbd_client_init(&t.client, &t.config, client_send, &t), 0);
	nbd_handshake_init(hs, config, &ops, NULL);
	t.result = NBD_CLIENT_MORE;
	while (from_server_length || t.out_length) {
		size_t length = from_server_length;

		from_server_length = 0;
		if (length) {
			t.result = nbd_client_feed(&t.client, from_server, length, &taken);
			assert_int_equal(taken, length);
		}
		if (t.result == NBD_CLIENT_STARTTLS)
			nbd_client_tls_done(&t.client);
		length = t.out_length;
		t.out_length = 0;
		if (length) {
			result = nbd_handshake_feed(hs, t.out, length, &taken);
			assert_int_equal(taken, length);
		}
		if (result == NBD_HANDSHAKE_STARTTLS)
			nbd_handshake_tls_done(hs);
		if (result == NBD_HANDSHAKE_CLOSE)
			break;
	}
	nbd_handshake_fini(hs);
	return result;
}

static void test_agreed(void **state)
{
	for (unsigned i = 0; i < 3 * 2 * 2 * 2 * 2; i++) {
		struct nbd_handshake hs;
		struct nbd_server_config config = {
			.no_zeroes = true,
			.structured = i / 3 % 2,
			.extended = i / 6 % 2,
			.tls_offered = i / 12 % 2,
			.tls_required = i / 24 % 2,
		};
		enum nbd_mode best = config.extended	 ? NBD_MODE_EXTENDED
				     : config.structured ? NBD_MODE_STRUCTURED
							 : NBD_MODE_SIMPLE;

		t.config = (struct nbd_client_config){"disk", i % 3, NBD_CLIENT_TLS_ALLOW, contexts,
						      2};
		assert_int_equal(converse(&hs, &config), NBD_HANDSHAKE_TRANSMIT);
		assert_int_equal(t.result, NBD_CLIENT_TRANSMIT);
		assert_int_equal(t.client.mode, hs.mode);
		if (i % 3 == NBD_MODE_EXTENDED)
			assert_int_equal(hs.mode, best);
		assert_int_equal(t.client.tls, hs.tls);
		assert_int_equal(t.client.tls, config.tls_offered || config.tls_required);
		assert_int_equal(t.client.flags, hs.selected.flags);
		assert_int_equal(t.client.size, 1 << 30);
		assert_int_equal(t.client.min_block, 512);
		assert_true(hs.asked_block_size);
		assert_int_equal(t.client.context_count, hs.mode != NBD_MODE_SIMPLE);
		assert_int_equal(hs.context_count, t.client.context_count);
		if (hs.context_count)
			assert_int_equal(hs.contexts[0].id, t.client.contexts[0].id);
	}
}

static void test_refused(void **state)
{
	struct nbd_server_config config = {.no_zeroes = true};
	struct nbd_handshake hs;

	t.config.export_name = "nosuch";
	assert_int_equal(converse(&hs, &config), NBD_HANDSHAKE_CLOSE);
	assert_int_equal(t.client.error, -ENOENT);
	config.tls_required = true;
	assert_int_equal(converse(&hs, &config), NBD_HANDSHAKE_CLOSE);
	assert_int_equal(t.client.error, -EACCES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_agreed, set_up),
		cmocka_unit_test_setup(test_refused, set_up),
	};

	return cmocka_run_group_tests_name("nbd-pair", tests, NULL, NULL);
}
