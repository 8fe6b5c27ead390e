/* SPDX-License-Identifier: BSD-3-Clause */
/* Networks in CIDR notation: what parses, what it means, and who is let in by a list. */
#include "lib/net/network.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/compiler.h"

/* A peer's address as accept() gives it. */
static struct network_address peer(const char *text)
{
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	struct sockaddr_in in = {.sin_family = AF_INET};
	if (inet_pton(AF_INET, text, &in.sin_addr) == 1)
		return network_address_of((const struct sockaddr *)&in);
	assert_int_equal(inet_pton(AF_INET6, text, &in6.sin6_addr), 1);
	return network_address_of((const struct sockaddr *)&in6);
}

static bool holds(const char *cidr, const char *address)
{
	struct network network;
	struct network_address from = peer(address);
	assert_int_equal(network_parse(cidr, &network), 0);
	return network_holds(&network, &from);
}

static void what_parses(void **state)
{
	static const struct {
		const char *text, *means;
	} good[] = {
		{"10.0.0.0/8", "10.0.0.0/8"},
		{"10.1.2.3/8", "10.0.0.0/8"},
		{"192.0.2.130/25", "192.0.2.128/25"},
		{"192.0.2.1", "192.0.2.1/32"},
		{"0.0.0.0/0", "0.0.0.0/0"},
		{"255.255.255.255/1", "128.0.0.0/1"},
		{"::/0", "::/0"},
		{"::1", "::1/128"},
		{"2001:db8::ffff/32", "2001:db8::/32"},
		{"2001:db8:ffff::/33", "2001:db8:8000::/33"},
		{"fe80::1/10", "fe80::/10"},
		{"::ffff:192.0.2.1", "192.0.2.1/32"},
		{"::ffff:192.0.2.1/120", "192.0.2.0/24"},
		{"::ffff:0:0/96", "0.0.0.0/0"},
	};
	char text[NETWORK_TEXT_BYTES];
	struct network network, again;
	for (unsigned i = 0; i < COUNT_OF(good); i++) {
		assert_int_equal(network_parse(good[i].text, &network), 0);
		assert_string_equal(network_format(&network, text), good[i].means);
		assert_int_equal(network_parse(text, &again), 0);
		assert_memory_equal(&network, &again, sizeof(network));
	}
}

static void what_does_not(void **state)
{
	static const char *const bad[] = {
		"",
		"/",
		"/8",
		"10.0.0.0/",
		"10.0.0.0/33",
		"10.0.0.0/-1",
		"10.0.0.0/+8",
		"10.0.0.0/ 8",
		"10.0.0.0/8 ",
		"10.0.0.0/8/8",
		"10.0.0.0/0x8",
		"10.0.0.0/0008",
		"10.0.0.0/4294967304",
		"10.0.0",
		"10.0.0.256",
		"10.0.0.0.0/8",
		" 10.0.0.0/8",
		"host",
		"localhost/8",
		"::/129",
		"::g/64",
		"[::1]/128",
		"fe80::1%lo/64",
		"::ffff:10.0.0.0/95",
		"1:2:3:4:5:6:7:8:9",
		"*",
		"any",
		"10.0.0.0/255.0.0.0",
		"0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000/1",
	};
	struct network network;
	for (unsigned i = 0; i < COUNT_OF(bad); i++) {
		if (network_parse(bad[i], &network) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
	}
}

static void who_is_in(void **state)
{
	assert_true(holds("10.0.0.0/8", "10.255.255.255"));
	assert_false(holds("10.0.0.0/8", "11.0.0.0"));
	assert_false(holds("10.0.0.0/8", "9.255.255.255"));
	assert_true(holds("192.0.2.128/25", "192.0.2.128"));
	assert_false(holds("192.0.2.128/25", "192.0.2.127"));
	assert_true(holds("192.0.2.1", "192.0.2.1"));
	assert_false(holds("192.0.2.1", "192.0.2.0"));
	assert_true(holds("0.0.0.0/0", "203.0.113.9"));
	assert_true(holds("2001:db8::/33", "2001:db8:7fff::1"));
	assert_false(holds("2001:db8::/33", "2001:db8:8000::1"));
	assert_true(holds("::1", "::1"));
	assert_false(holds("::1", "::2"));
	assert_true(holds("::/0", "2001:db8::1"));
	/* mapped is IPv4, on either side */
	assert_true(holds("10.0.0.0/8", "::ffff:10.1.2.3"));
	assert_true(holds("::ffff:10.0.0.0/104", "10.1.2.3"));
	assert_true(holds("::ffff:10.0.0.0/104", "::ffff:10.1.2.3"));
	assert_false(holds("::/0", "::ffff:10.1.2.3"));
	assert_false(holds("::/0", "10.1.2.3"));
	assert_false(holds("0.0.0.0/0", "::1"));
	/* deprecated IPv4-compatible addresses are plain IPv6 */
	assert_false(holds("10.0.0.0/8", "::10.1.2.3"));
}

/* Every prefix of an address holds it, and loses it when the last bit of the prefix flips. */
static void every_prefix(void **state)
{
	static const struct {
		const char *address;
		unsigned bits;
	} from[] = {{"172.16.254.77", 32}, {"2001:db8:5a5a:f00f::a5", 128}};
	for (unsigned f = 0; f < COUNT_OF(from); f++) {
		struct network_address address = peer(from[f].address);
		for (unsigned bits = 0; bits <= from[f].bits; bits++) {
			char text[NETWORK_TEXT_BYTES];
			struct network network;
			snprintf(text, sizeof(text), "%s/%u", from[f].address, bits);
			assert_int_equal(network_parse(text, &network), 0);
			assert_true(network_holds(&network, &address));
			struct network_address other = address;
			if (bits < from[f].bits) {
				other.bytes[bits / 8] ^= 0x80 >> bits % 8;
				assert_true(network_holds(&network, &other));
			}
			if (bits) {
				other = address;
				other.bytes[(bits - 1) / 8] ^= 0x80 >> (bits - 1) % 8;
				assert_false(network_holds(&network, &other));
			}
		}
	}
}

static void lists(void **state)
{
	static const char *const texts[] = {"127.0.0.0/8", "2001:db8::/32"};
	static const char *const wrong_texts[] = {"127.0.0.0/8", "::1", "x", "y"};
	struct sockaddr un = {.sa_family = AF_UNIX};
	struct network_address local = network_address_of(&un), in4 = peer("127.9.9.9"),
			       in6 = peer("2001:db8::9"), out = peer("128.0.0.1");
	struct network_list *list;
	unsigned wrong = 0;
	assert_int_equal(network_list_parse(texts, COUNT_OF(texts), &list, &wrong), 0);
	assert_true(network_list_admits(list, &in4));
	assert_true(network_list_admits(list, &in6));
	assert_false(network_list_admits(list, &out));
	assert_int_equal(local.family, NETWORK_NONE);
	assert_false(network_list_admits(list, &local));
	free(list);
	assert_int_equal(network_list_parse(NULL, 0, &list, &wrong), 0);
	assert_null(list);
	assert_true(network_list_admits(list, &out));
	assert_true(network_list_admits(list, &local));
	assert_int_equal(network_list_parse(wrong_texts, COUNT_OF(wrong_texts), &list, &wrong),
			 -EINVAL);
	assert_int_equal(wrong, 2);
	assert_null(list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_parses), cmocka_unit_test(what_does_not),
		cmocka_unit_test(who_is_in),   cmocka_unit_test(every_prefix),
		cmocka_unit_test(lists),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
