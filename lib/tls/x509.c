/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * x509: certificates. Loads ours and the authorities' from PEM files, saying what is wrong with
 * which; and judges the peer's, in the handshake, on whatever thread that runs.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/tls/internal.h"

enum { PATH_BYTES = 4096 };

/* ---- Loading ---- */

/* The path given, or else the file of the directory. False: neither is configured. */
static bool path_of(const struct tls_credentials_config *config, const char *given,
		    const char *name, char path[PATH_BYTES])
{
	if (given)
		return snprintf(path, PATH_BYTES, "%s", given) < PATH_BYTES;
	if (config->directory)
		return snprintf(path, PATH_BYTES, "%s/%s", config->directory, name) < PATH_BYTES;
	return false;
}

/* A date as text; a certificate without end of validity carries one that is no time_t. */
static const char *date_of(time_t time, char text[32])
{
	struct tm tm;
	if (time == (time_t)-1 || !gmtime_r(&time, &tm) ||
	    !strftime(text, 32, "%Y-%m-%d %H:%M UTC", &tm))
		snprintf(text, 32, "an unknown date");
	return text;
}

static void warn_of_dates(gnutls_x509_crt_t certificate, const char *path,
			  struct tls_report *report)
{
	char name[TLS_NAME_BYTES], date[32];
	time_t now = time(NULL), from = gnutls_x509_crt_get_activation_time(certificate),
	       to = gnutls_x509_crt_get_expiration_time(certificate);
	tls_certificate_name(certificate, name, sizeof(name));
	if (to != (time_t)-1 && to < now)
		tls_report_warning(report, "the certificate of \"%s\" in %s expired on %s", name,
				   path, date_of(to, date));
	else if (from != (time_t)-1 && from > now)
		tls_report_warning(report, "the certificate of \"%s\" in %s is not valid before %s",
				   name, path, date_of(from, date));
}

static int wrong_pem(const char *path, const char *what, int code, struct tls_report *report)
{
	if (code == GNUTLS_E_MEMORY_ERROR)
		return tls_report_error(report, -ENOMEM, "no memory to read %s", path);
	if (code == GNUTLS_E_DECRYPTION_FAILED)
		return tls_report_error(report, -EINVAL,
					"%s is protected by a password; give a key without one",
					path);
	if (code == GNUTLS_E_NO_CERTIFICATE_FOUND ||
	    code == GNUTLS_E_BASE64_UNEXPECTED_HEADER_ERROR)
		return tls_report_error(report, -EINVAL, "%s holds no %s in PEM format", path,
					what);
	return tls_report_error(report, -EINVAL, "%s is not a %s in PEM format: %s", path, what,
				gnutls_strerror(code));
}

static int load_authorities(struct tls_credentials *credentials, struct tls_report *report)
{
	char path[PATH_BYTES];
	if (!path_of(&credentials->config, credentials->config.ca_file, "ca-cert.pem", path))
		return tls_report_error(report, -EINVAL,
					"to verify peers, the authority's certificate is needed");
	gnutls_datum_t pem;
	int error = tls_read_file(path, TLS_PEM_MAX_BYTES, false, &pem, report);
	if (error)
		return error;
	gnutls_x509_crt_t *list = NULL;
	unsigned count = 0;
	int code = gnutls_x509_crt_list_import2(&list, &count, &pem, GNUTLS_X509_FMT_PEM, 0);
	tls_wipe_file(&pem);
	if (code < 0)
		return wrong_pem(path, "certificate", code, report);
	for (unsigned i = 0; i < count; i++)
		warn_of_dates(list[i], path, report);
	code = gnutls_certificate_set_x509_trust(credentials->x509, list, count);
	for (unsigned i = 0; i < count; i++)
		gnutls_x509_crt_deinit(list[i]);
	gnutls_free(list);
	return code < 0 ? wrong_pem(path, "certificate", code, report) : 0;
}

static int load_revocations(struct tls_credentials *credentials, struct tls_report *report)
{
	const char *given = credentials->config.crl_file;
	char path[PATH_BYTES];
	if (!path_of(&credentials->config, given, "ca-crl.pem", path))
		return 0;
	gnutls_datum_t pem;
	int error = tls_read_file(path, TLS_PEM_MAX_BYTES, false, &pem, report);
	if (error == -ENOENT && !given) {
		report->error[0] = 0;
		return 0;
	}
	if (error)
		return error;
	int code =
		gnutls_certificate_set_x509_crl_mem(credentials->x509, &pem, GNUTLS_X509_FMT_PEM);
	tls_wipe_file(&pem);
	if (code < 0)
		return wrong_pem(path, "revocation list", code, report);
	if (code == 0)
		return tls_report_error(report, -EINVAL,
					"%s holds no revocation list in PEM format", path);
	return 0;
}

static int load_key(const char *path, gnutls_x509_privkey_t *key, struct tls_report *report)
{
	gnutls_datum_t pem;
	int error = tls_read_file(path, TLS_PEM_MAX_BYTES, true, &pem, report);
	if (error)
		return error;
	int code = gnutls_x509_privkey_init(key);
	if (code >= 0) {
		code = gnutls_x509_privkey_import2(*key, &pem, GNUTLS_X509_FMT_PEM, NULL, 0);
		if (code < 0) {
			gnutls_x509_privkey_deinit(*key);
			*key = NULL;
		}
	}
	tls_wipe_file(&pem);
	return code < 0 ? wrong_pem(path, "private key", code, report) : 0;
}

/* Our certificate (a chain) and its key go together into the credentials. */
static int adopt(struct tls_credentials *credentials, const gnutls_datum_t *pem,
		 const char *certificate_path, const char *key_path, struct tls_report *report)
{
	gnutls_x509_crt_t *chain = NULL;
	unsigned count = 0;
	int code = gnutls_x509_crt_list_import2(&chain, &count, pem, GNUTLS_X509_FMT_PEM, 0);
	if (code < 0)
		return wrong_pem(certificate_path, "certificate", code, report);
	gnutls_x509_privkey_t key = NULL;
	int error = load_key(key_path, &key, report);
	if (!error) {
		code = gnutls_certificate_set_x509_key(credentials->x509, chain, count, key);
		if (code == GNUTLS_E_CERTIFICATE_KEY_MISMATCH)
			error = tls_report_error(
				report, -EINVAL,
				"the key in %s does not match the certificate in %s", key_path,
				certificate_path);
		else if (code < 0)
			error = wrong_pem(certificate_path, "usable certificate", code, report);
		gnutls_x509_privkey_deinit(key);
	}
	if (!error) {
		tls_certificate_name(chain[0], credentials->subject, sizeof(credentials->subject));
		credentials->valid_from = gnutls_x509_crt_get_activation_time(chain[0]);
		credentials->valid_to = gnutls_x509_crt_get_expiration_time(chain[0]);
		for (unsigned i = 0; i < count; i++)
			warn_of_dates(chain[i], certificate_path, report);
	}
	for (unsigned i = 0; i < count; i++)
		gnutls_x509_crt_deinit(chain[i]);
	gnutls_free(chain);
	return error;
}

static int load_own(struct tls_credentials *credentials, struct tls_report *report)
{
	const struct tls_credentials_config *config = &credentials->config;
	bool server = config->endpoint == TLS_SERVER;
	char certificate_path[PATH_BYTES], key_path[PATH_BYTES];
	if (!path_of(config, config->certificate_file,
		     server ? "server-cert.pem" : "client-cert.pem", certificate_path) ||
	    !path_of(config, config->key_file, server ? "server-key.pem" : "client-key.pem",
		     key_path)) {
		if (!server && !config->directory && !config->certificate_file)
			return 0; /* a client needs none of its own */
		return tls_report_error(
			report, -EINVAL,
			"a server needs a certificate and its key (with paths shorter "
			"than %d bytes)",
			PATH_BYTES);
	}
	gnutls_datum_t pem;
	int error = tls_read_file(certificate_path, TLS_PEM_MAX_BYTES, false, &pem, report);
	if (error == -ENOENT && !server && !config->certificate_file) {
		report->error[0] = 0;
		return 0;
	}
	if (error)
		return error;
	error = adopt(credentials, &pem, certificate_path, key_path, report);
	tls_wipe_file(&pem);
	return error;
}

int tls_x509_load(struct tls_credentials *credentials, struct tls_report *report)
{
	if (gnutls_certificate_allocate_credentials(&credentials->x509) < 0)
		return tls_report_error(report, -ENOMEM, "no memory for certificates");
	gnutls_certificate_set_verify_function(credentials->x509, tls_x509_verify);
	gnutls_certificate_set_known_dh_params(credentials->x509, GNUTLS_SEC_PARAM_MEDIUM);
	int error = load_own(credentials, report);
	if (!error && credentials->verify != TLS_VERIFY_NONE)
		error = load_authorities(credentials, report);
	if (!error && credentials->verify != TLS_VERIFY_NONE)
		error = load_revocations(credentials, report);
	return error;
}

/* ---- Judging the peer's ---- */

/* In the order in which they are told: the first that applies. */
static const struct {
	unsigned status;
	int alert;
	const char *text;
} faults[] = {
	{GNUTLS_CERT_REVOKED, GNUTLS_A_CERTIFICATE_REVOKED, "it has been revoked"},
	{GNUTLS_CERT_SIGNER_NOT_FOUND, GNUTLS_A_UNKNOWN_CA, "its issuer is not one we trust"},
	{GNUTLS_CERT_SIGNER_NOT_CA, GNUTLS_A_UNKNOWN_CA,
	 "its issuer is not a certificate authority"},
	{GNUTLS_CERT_SIGNER_CONSTRAINTS_FAILURE, GNUTLS_A_BAD_CERTIFICATE,
	 "its issuer may not issue it"},
	{GNUTLS_CERT_SIGNATURE_FAILURE, GNUTLS_A_BAD_CERTIFICATE, "its signature is wrong"},
	{GNUTLS_CERT_INSECURE_ALGORITHM, GNUTLS_A_BAD_CERTIFICATE,
	 "it is signed with an algorithm that is not secure"},
	{GNUTLS_CERT_EXPIRED, GNUTLS_A_CERTIFICATE_EXPIRED, "it has expired"},
	{GNUTLS_CERT_NOT_ACTIVATED, GNUTLS_A_CERTIFICATE_EXPIRED, "it is not valid yet"},
	{GNUTLS_CERT_REVOCATION_DATA_SUPERSEDED, GNUTLS_A_CERTIFICATE_UNKNOWN,
	 "our revocation list is out of date"},
	{GNUTLS_CERT_REVOCATION_DATA_ISSUED_IN_FUTURE, GNUTLS_A_CERTIFICATE_UNKNOWN,
	 "our revocation list is from the future"},
	{GNUTLS_CERT_PURPOSE_MISMATCH, GNUTLS_A_UNSUPPORTED_CERTIFICATE,
	 "it is not meant for this side of TLS"},
	{GNUTLS_CERT_UNEXPECTED_OWNER, GNUTLS_A_BAD_CERTIFICATE, "it belongs to another host"},
	{~0u, GNUTLS_A_BAD_CERTIFICATE, "it is not valid"},
};

static int refuse(struct tls_session *session, int alert, const char *why)
{
	bool server = session->credentials->config.endpoint == TLS_SERVER;
	session->verify_alert = alert;
	snprintf(session->reason, sizeof(session->reason),
		 "the %s's certificate \"%s\" is refused: %s", server ? "client" : "server",
		 session->peer, why);
	return GNUTLS_E_CERTIFICATE_ERROR;
}

static int judge(struct tls_session *session, gnutls_x509_crt_t leaf)
{
	const struct tls_credentials *credentials = session->credentials;
	bool server = credentials->config.endpoint == TLS_SERVER;
	gnutls_typed_vdata_st data[2] = {
		{.type = GNUTLS_DT_KEY_PURPOSE_OID,
		 .data = (void *)(server ? GNUTLS_KP_TLS_WWW_CLIENT : GNUTLS_KP_TLS_WWW_SERVER)},
		{.type = GNUTLS_DT_DNS_HOSTNAME, .data = (void *)session->server_name},
	};
	unsigned status = 0;
	int code = gnutls_certificate_verify_peers(session->tls, data, session->server_name ? 2 : 1,
						   &status);
	if (code < 0)
		return refuse(session, GNUTLS_A_BAD_CERTIFICATE, gnutls_strerror(code));
	if (status) {
		unsigned i = 0;
		while (!(status & faults[i].status))
			i++;
		return refuse(session, faults[i].alert, faults[i].text);
	}
	if (credentials->config.allowed_count &&
	    !tls_certificate_allowed(leaf, credentials->config.allowed_names,
				     credentials->config.allowed_count))
		return refuse(session, GNUTLS_A_ACCESS_DENIED,
			      "its name is not among those allowed");
	return 0;
}

int tls_x509_verify(gnutls_session_t tls)
{
	struct tls_session *session = gnutls_session_get_ptr(tls);
	enum tls_verify verify = session->credentials->verify;
	unsigned count = 0;
	const gnutls_datum_t *list = gnutls_certificate_get_peers(tls, &count);
	if (!list || !count)
		return verify == TLS_VERIFY_REQUIRE ? GNUTLS_E_CERTIFICATE_REQUIRED : 0;
	gnutls_x509_crt_t leaf;
	int code = gnutls_x509_crt_init(&leaf);
	if (code < 0)
		return code;
	code = gnutls_x509_crt_import(leaf, &list[0], GNUTLS_X509_FMT_DER);
	if (code >= 0) {
		tls_certificate_name(leaf, session->peer, sizeof(session->peer));
		code = verify == TLS_VERIFY_NONE ? 0 : judge(session, leaf);
	}
	gnutls_x509_crt_deinit(leaf);
	return code;
}
