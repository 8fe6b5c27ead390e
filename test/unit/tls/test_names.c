/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test_names: which of a certificate's names is shown, and which patterns let it in.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/compiler.h"
#include "lib/tls/internal.h"
#include "test/unit/tls/certificates.h"

static struct authority authority;
static const char *directory;

static int prepare(void **state)
{
	authority_make(&authority, "Test Authority");
	directory = make_directory();
	return 0;
}

static int clean(void **state)
{
	remove_directory(directory);
	authority_free(&authority);
	return 0;
}

static gnutls_x509_crt_t certificate_of(const struct wish *wish)
{
	struct tls_report report;
	gnutls_datum_t pem;
	gnutls_x509_crt_t certificate;
	issue(&authority, wish, in_directory(directory, "c.pem"), NULL);
	assert_int_equal(
		tls_read_file(in_directory(directory, "c.pem"), 1 << 20, false, &pem, &report), 0);
	assert_int_equal(gnutls_x509_crt_init(&certificate), 0);
	assert_int_equal(gnutls_x509_crt_import(certificate, &pem, GNUTLS_X509_FMT_PEM), 0);
	tls_wipe_file(&pem);
	return certificate;
}

static void shows_a_name(void **state)
{
	char longer[61];
	memset(longer, 'n', 60);
	longer[60] = 0;
	const struct {
		struct wish wish;
		const char *name;
	} cases[] = {
		{{.common_name = "c", .organization = "o", .dns = "d"}, "c"},
		{{.organization = "o", .dns = "d.example"}, "d.example"},
		{{.organization = "o", .email = "e@example"}, "e@example"},
		{{.uri = "urn:u"}, "urn:u"},
		{{.ip = "192.0.2.7", .organization = "o"}, "192.0.2.7"},
		{{.ip = "2001:db8::7"}, "2001:db8::7"},
		{{.organization = "o, \"p\""}, "O=o\\, \\\"p\\\""},
		{{.common_name = "a\nb\x01"
				 "c\xc3\xa4"},
		 "a?b?c??"},
		{{.common_name = longer}, longer},
		{{0}, ""},
	};
	for (unsigned i = 0; i < COUNT_OF(cases); i++) {
		gnutls_x509_crt_t certificate = certificate_of(&cases[i].wish);
		char name[TLS_NAME_BYTES], four[4];
		tls_certificate_name(certificate, name, sizeof(name));
		assert_string_equal(name, cases[i].name);
		tls_certificate_name(certificate, four, sizeof(four));
		assert_memory_equal(four, cases[i].name, strnlen(cases[i].name, 3));
		assert_int_equal(four[strnlen(cases[i].name, 3)], 0);
		gnutls_x509_crt_deinit(certificate);
	}
}

static bool allowed(const struct wish *wish, const char *pattern)
{
	gnutls_x509_crt_t certificate = certificate_of(wish);
	bool result = tls_certificate_allowed(certificate, &pattern, 1);
	gnutls_x509_crt_deinit(certificate);
	return result;
}

static void matches_any_name(void **state)
{
	const struct wish wish = {.common_name = "Carol",
				  .organization = "Example",
				  .dns = "carol.example",
				  .email = "Carol@example",
				  .uri = "urn:Carol",
				  .ip = "192.0.2.7"};
	static const char *const in[] = {"Carol",	  "C?rol",     "[A-D]arol",
					 "CAROL.Example", "*@example", "urn:Carol",
					 "192.0.2.*",	  "*",	       "CN=Carol,O=Example"};
	static const char *const out[] = {
		"carol",   "carol@EXAMPLE", "urn:carol", "192.0.2.70", "192.0.2",
		"Example", "O=Example",	    "CN=*",	 "CN=Carol,",  "CN=carol,O=Example"};
	for (unsigned i = 0; i < COUNT_OF(in); i++) {
		if (!allowed(&wish, in[i]))
			fail_msg("%s", in[i]);
	}
	for (unsigned i = 0; i < COUNT_OF(out); i++) {
		if (allowed(&wish, out[i]))
			fail_msg("%s", out[i]);
	}
	const struct wish nobody = {0};
	assert_false(allowed(&nobody, "Carol"));
	assert_false(allowed(&nobody, "*"));
	/* a name that looks like a part of a distinguished name is none */
	const struct wish tricky = {.common_name = "CN=Carol,O=Example"};
	assert_false(allowed(&tricky, "CN=Carol,O=Example"));
}

static void matches_part_by_part(void **state)
{
	static const struct {
		const char *pattern, *dn;
		bool match;
	} cases[] = {
		{"CN=a,O=b", "CN=a,O=b", true},
		{"CN=a, O=b", "CN=a,O=b", true},
		{"CN=*,O=b", "CN=a,O=b", true},
		{"*,*", "CN=a,O=b", true},
		{"*", "CN=a,O=b", false},
		{"CN=*", "CN=a,O=b", false},
		{"CN=a,O=b,*", "CN=a,O=b", false},
		{"CN=a,O=b", "CN=a,O=b,C=c", false},
		{"CN=*,O=b", "CN=a\\,O=b", false},
		{"CN=*,O=b", "CN=a\\,O=x,O=b", true},
		{"CN=a\\,x,O=b", "CN=a\\,x,O=b", true},
		{"CN=a\\\\,O=b", "CN=a\\\\,O=b", true},
		{"CN=a,O=b", "CN=A,O=b", false},
		{"", "", true},
		{"CN=a", "", false},
		{"CN=a\\", "CN=a\\", true},
	};
	for (unsigned i = 0; i < COUNT_OF(cases); i++) {
		if (tls_pattern_matches_dn(cases[i].pattern, cases[i].dn) != cases[i].match)
			fail_msg("%s, %s", cases[i].pattern, cases[i].dn);
	}
	char longer[3000];
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	assert_false(tls_pattern_matches_dn("*", longer));
	assert_false(tls_pattern_matches_dn(longer, longer));
}

static void cleans_text(void **state)
{
	char text[5];
	tls_clean_text(text, sizeof(text), "a\0b\x7f!", 5);
	assert_string_equal(text, "a?b?");
	tls_clean_text(text, sizeof(text), "", 0);
	assert_string_equal(text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shows_a_name),
		cmocka_unit_test(matches_any_name),
		cmocka_unit_test(matches_part_by_part),
		cmocka_unit_test(cleans_text),
	};
	return cmocka_run_group_tests(tests, prepare, clean);
}
