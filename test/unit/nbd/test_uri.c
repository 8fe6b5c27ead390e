/* SPDX-License-Identifier: BSD-3-Clause */
/* test_uri: the examples of the document, what libnbd and qemu print, and what is wrong. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/compiler.h"
#include "lib/nbd/uri.h"

static void expect_text(const char *is, const char *should)
{
	if (!should)
		assert_null(is);
	else
		assert_string_equal(is, should);
}

static void test_tcp(void **state)
{
	static const struct {
		const char *text;
		bool tls;
		const char *host;
		uint32_t port;
		const char *export_name, *user;
	} cases[] = {
		{"nbd://example.com:10809/export", false, "example.com", 10809, "export"},
		{"nbd://example.com/disk", false, "example.com", 10809, "disk"},
		{"nbd://example.com/", false, "example.com", 10809, ""},
		{"nbd://example.com", false, "example.com", 10809, ""},
		{"nbd://example.com:/x", false, "example.com", 10809, "x"},
		{"nbd://example.com//disk", false, "example.com", 10809, "/disk"},
		{"nbd://example.com/hello%20world", false, "example.com", 10809, "hello world"},
		{"nbd://h/a/b%2Fc%3f?", false, "h", 10809, "a/b/c?"},
		{"nbds://h:1", true, "h", 1, ""},
		{"NBDS://h:65535/%41%5a%7e", true, "h", 65535, "AZ~"},
		{"nbd://[::1]:2000/x", false, "::1", 2000, "x"},
		{"nbd://[fe80::1%25eth0]", false, "fe80::1%eth0", 10809, ""},
		{"nbds://alice@h/x", true, "h", 10809, "x", "alice"},
		{"nbds://al%40ice@[::1]:3/", true, "::1", 3, "", "al@ice"},
		{"nbd://127.0.0.1:00010809", false, "127.0.0.1", 10809, ""},
	};

	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct nbd_uri uri;
		char error[200] = "";

		assert_int_equal(nbd_uri_parse(cases[i].text, &uri, error, sizeof(error)), 0);
		assert_int_equal(uri.tls, cases[i].tls);
		expect_text(uri.host, cases[i].host);
		assert_int_equal(uri.port, cases[i].port);
		expect_text(uri.export_name, cases[i].export_name);
		expect_text(uri.tls_username, cases[i].user);
		assert_null(uri.socket);
		assert_false(uri.vsock);
		assert_true(uri.tls_verify_peer);
		nbd_uri_free(&uri);
		nbd_uri_free(&uri);
	}
}

static void test_vsock(void **state)
{
	static const struct {
		const char *text;
		bool tls;
		uint32_t cid, port;
		const char *export_name;
	} cases[] = {
		{"nbd+vsock://2:1234/disk", false, 2, 1234, "disk"},
		{"nbd+vsock://3/", false, 3, 10809, ""},
		{"nbd+vsock:///disk", false, 2, 10809, "disk"},
		{"nbds+vsock://4294967294:4294967294/x", true, 4294967294, 4294967294, "x"},
	};

	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct nbd_uri uri;
		char error[200] = "";

		assert_int_equal(nbd_uri_parse(cases[i].text, &uri, error, sizeof(error)), 0);
		assert_true(uri.vsock);
		assert_int_equal(uri.tls, cases[i].tls);
		assert_null(uri.host);
		assert_null(uri.socket);
		assert_int_equal(uri.cid, cases[i].cid);
		assert_int_equal(uri.port, cases[i].port);
		expect_text(uri.export_name, cases[i].export_name);
		nbd_uri_free(&uri);
	}
}

static void test_unix(void **state)
{
	static const struct {
		const char *text;
		bool tls;
		const char *export_name, *socket, *user;
		size_t socket_length;
	} cases[] = {
		{"nbd+unix:///disk?socket=sock", false, "disk", "sock", NULL, 4},
		{"nbd+unix://?socket=/tmp/s%20s", false, "", "/tmp/s s", NULL, 8},
		{"nbd+unix:///?socket=%00/abstract", false, "", "", NULL, 10},
		{"nbds+unix:///x?&socket=/s&", true, "x", "/s", NULL, 2},
		{"nbds+unix://alice@/x?socket=/s", true, "x", "/s", "alice", 2},
		{"nbds+unix:///x?socket=/s;tls-username=bob", true, "x", "/s", "bob", 2},
		{"nbds+unix:///x?socket=/a&socket=/b", true, "x", "/b", NULL, 2},
	};

	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct nbd_uri uri;
		char error[200] = "";

		assert_int_equal(nbd_uri_parse(cases[i].text, &uri, error, sizeof(error)), 0);
		assert_int_equal(uri.tls, cases[i].tls);
		assert_null(uri.host);
		expect_text(uri.export_name, cases[i].export_name);
		expect_text(uri.socket, cases[i].socket);
		assert_int_equal(uri.socket_length, cases[i].socket_length);
		expect_text(uri.tls_username, cases[i].user);
		if (i == 2)
			assert_memory_equal(uri.socket, "\0/abstract", 11);
		nbd_uri_free(&uri);
	}
}

static void test_tls(void **state)
{
	struct nbd_uri uri;
	char error[200];

	assert_int_equal(nbd_uri_parse("nbds://h/x?tls-certificates=/etc/%70ki&tls-type=x509"
				       "&tls-hostname=h.example&tls-verify-peer=0",
				       &uri, error, sizeof(error)),
			 0);
	expect_text(uri.tls_certificates, "/etc/pki");
	expect_text(uri.tls_type, "x509");
	expect_text(uri.tls_hostname, "h.example");
	assert_false(uri.tls_verify_peer);
	expect_text(uri.tls_psk_file, NULL);
	nbd_uri_free(&uri);
	assert_int_equal(nbd_uri_parse("nbds://bob@h?tls-psk-file=k&tls-username=al&tls-type=psk"
				       "&tls-verify-peer=true",
				       &uri, error, sizeof(error)),
			 0);
	expect_text(uri.tls_psk_file, "k");
	expect_text(uri.tls_username, "bob"); /* the authority has the last word */
	expect_text(uri.tls_type, "psk");
	assert_true(uri.tls_verify_peer);
	nbd_uri_free(&uri);
	assert_int_equal(nbd_uri_parse("nbd://h?tls-type=anon&tls-verify-peer=false", &uri, error,
				       sizeof(error)),
			 0);
	assert_false(uri.tls_verify_peer);
	nbd_uri_free(&uri);
	assert_int_equal(nbd_uri_parse("nbd://h?tls-verify-peer=1", &uri, error, sizeof(error)), 0);
	assert_true(uri.tls_verify_peer);
	nbd_uri_free(&uri);
}

/* Each with a word that the message must have. */
static void test_wrong(void **state)
{
	static const struct {
		const char *text, *word;
	} cases[] = {
		{"", "nbd://"},
		{"disk.img", "disk.img"},
		{"http://h/x", "http"},
		{"nbd+vsock://host/", "CID"},
		{"nbd+vsock://4294967295/", "CID"},
		{"nbd+vsock://2:4294967295/", "port"},
		{"nbd+vsock://2:0/", "port"},
		{"nbd+vsock://2/?socket=/s", "socket"},
		{"nbd:h:10809", "//"},
		{"nbd:/h", "//"},
		{"nbd://", "host"},
		{"nbd:///x", "host"},
		{"nbd://:10809/x", "host"},
		{"nbd://h:0/x", "port"},
		{"nbd://h:65536/x", "port"},
		{"nbd://h:99999999999999999999/x", "port"},
		{"nbd://h:4294978105/x", "port"}, /* 10809 in 32 bits */
		{"nbd://h:http/x", "port"},
		{"nbd://h:-1/x", "port"},
		{"nbd://[::1/x", "bracket"},
		{"nbd://[::1]x/x", "bracket"},
		{"nbd://[]/x", "host"},
		{"nbd://::1/x", "bracket"},
		{"nbd://h%/x", "host"},
		{"nbd://u%zz@h/x", "user"},
		{"nbd://h/%", "export"},
		{"nbd://h/%4", "export"},
		{"nbd://h/%g0", "export"},
		{"nbd://h/a%00b", "NUL"},
		{"nbd://h/x#frag", "fragment"},
		{"nbd://h/x?socket=/s", "socket"},
		{"nbd://h/x?tls-type=ssl", "tls-type"},
		{"nbd://h/x?tls-verify-peer=maybe", "tls-verify-peer"},
		{"nbd://h/x?tls-type", "tls-type"},
		{"nbd://h/x?colour=red", "colour"},
		{"nbd://h/x?tls-psk-file=%00", "tls-psk-file"},
		{"nbd+unix:///x", "socket"},
		{"nbd+unix:///x?socket=", "socket"},
		{"nbd+unix:///x?socket=%", "socket"},
		{"nbd+unix:///x?socket=/a%00b", "NUL"},
		{"nbd+unix://h/x?socket=/s", "unix"},
		{"nbd+unix://u@h/x?socket=/s", "unix"},
		{"nbd+unix://%@/x?socket=/s", "user"},
	};

	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		struct nbd_uri uri;
		char error[200] = "";

		assert_int_equal(nbd_uri_parse(cases[i].text, &uri, error, sizeof(error)), -EINVAL);
		assert_non_null(strstr(error, cases[i].word));
		assert_null(uri.memory);
	}
}

static void test_long_export(void **state)
{
	static char text[5000] = "nbd://h/";
	struct nbd_uri uri;
	char error[200];

	memset(text + 8, 'x', 4096);
	assert_int_equal(nbd_uri_parse(text, &uri, error, sizeof(error)), 0);
	assert_int_equal(strlen(uri.export_name), 4096);
	nbd_uri_free(&uri);
	memset(text + 8, 'x', 4097);
	assert_int_equal(nbd_uri_parse(text, &uri, error, sizeof(error)), -EINVAL);
	assert_non_null(strstr(error, "4096"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tcp),	    cmocka_unit_test(test_unix),
		cmocka_unit_test(test_vsock),
		cmocka_unit_test(test_tls),	    cmocka_unit_test(test_wrong),
		cmocka_unit_test(test_long_export),
	};

	return cmocka_run_group_tests_name("nbd-uri", tests, NULL, NULL);
}
