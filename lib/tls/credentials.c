/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * credentials: their life, the rules that the configuration must obey, the cipher order, and how
 * files are read. What is in the files is x509.c's and psk.c's. create and reload: control thread
 * or a worker; put: any thread.
 */
#include "lib/tls/credentials.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "lib/tls/internal.h"
#include "lib/tls/kernel.h"

/* ---- What create and reload report ---- */

int tls_report_error(struct tls_report *report, int error, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(report->error, sizeof(report->error), format, args);
	va_end(args);
	return error;
}

void tls_report_warning(struct tls_report *report, const char *format, ...)
{
	size_t used = strlen(report->warnings);
	if (used && used + 3 < sizeof(report->warnings)) {
		memcpy(report->warnings + used, "; ", 3);
		used += 2;
	}
	va_list args;
	va_start(args, format);
	vsnprintf(report->warnings + used, sizeof(report->warnings) - used, format, args);
	va_end(args);
}

/* ---- Files ---- */

static int cannot_read(const char *path, struct tls_report *report)
{
	int error = errno;
	struct stat st;
	if (error == EACCES && stat(path, &st) == 0)
		return tls_report_error(report, -error,
					"%s cannot be read: %s (mode %04o, owner %u:%u; this "
					"process is %u:%u)",
					path, strerror(error), st.st_mode & 07777, st.st_uid,
					st.st_gid, geteuid(), getegid());
	return tls_report_error(report, -error, "%s cannot be read: %s", path, strerror(error));
}

static int read_all(int fd, uint8_t *at, size_t count)
{
	size_t have = 0;
	while (have < count) {
		ssize_t n = read(fd, at + have, count - have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO; /* it was longer a moment ago */
		have += n;
	}
	return 0;
}

int tls_read_file(const char *path, size_t max_bytes, bool secret, gnutls_datum_t *contents,
		  struct tls_report *report)
{
	*contents = (gnutls_datum_t){NULL, 0};
	/* not blocking, or a FIFO of that name would hold the thread */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return cannot_read(path, report);
	struct stat st;
	int error = 0;
	if (fstat(fd, &st) < 0) {
		error = cannot_read(path, report);
	} else if (!S_ISREG(st.st_mode)) {
		error = tls_report_error(report, -EINVAL, "%s is not a regular file", path);
	} else if (st.st_size > (off_t)max_bytes) {
		error = tls_report_error(report, -EFBIG, "%s is longer than the %zu bytes allowed",
					 path, max_bytes);
	} else {
		contents->data = malloc(st.st_size + 1);
		contents->size = st.st_size;
		if (!contents->data)
			error = tls_report_error(report, -ENOMEM, "no memory to read %s", path);
	}
	if (!error) {
		contents->data[st.st_size] = 0;
		error = read_all(fd, contents->data, st.st_size);
		if (error)
			tls_report_error(report, error, "%s cannot be read: %s", path,
					 strerror(-error));
	}
	if (!error && secret && (st.st_mode & S_IROTH))
		tls_report_warning(report, "%s is secret and may be read by everyone (mode %04o)",
				   path, st.st_mode & 07777);
	close(fd);
	if (error)
		tls_wipe_file(contents);
	return error;
}

void tls_wipe_file(gnutls_datum_t *contents)
{
	if (contents->data)
		explicit_bzero(contents->data, contents->size);
	free(contents->data);
	*contents = (gnutls_datum_t){NULL, 0};
}

/* ---- Versions and ciphers ---- */

bool tls_aes_is_fast(void)
{
#if defined(__x86_64__)
	return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#elif defined(__aarch64__)
	enum { HWCAP_AES_BIT = 1 << 3, HWCAP_PMULL_BIT = 1 << 4 };
	unsigned long both = HWCAP_AES_BIT | HWCAP_PMULL_BIT;
	return (getauxval(AT_HWCAP) & both) == both;
#else
	return false;
#endif
}

/*
 * AEAD ciphers only, the fastest first, and ours decides. AES-128 comes before AES-256, also
 * because TLS 1.3 allows a PSK that knows no hash only with SHA-256's suites, of which AES-256 has
 * none. RSA key transport is left out: no forward secrecy, and a history of timing attacks.
 */
#define AES_FIRST    "+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305"
#define CHACHA_FIRST "+CHACHA20-POLY1305:+AES-128-GCM:+AES-256-GCM"

/*
 * TLS 1.3 takes its groups in the order of the exchanges: elliptic ones, being faster, first. In
 * TLS 1.2 the exchange counts before the cipher, and GnuTLS has ECDHE-PSK with no AES-GCM: there
 * DHE-PSK comes first, and a client pays a millisecond once and not ChaCha20's price for ever.
 */
#define PSK_EXCHANGES	      "-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK"
#define PSK_EXCHANGES_TLS_1_2 "-KX-ALL:+DHE-PSK:+ECDHE-PSK:+PSK"

static char *priority_text(const struct tls_credentials *credentials, const char *key_exchanges)
{
	const struct tls_credentials_config *config = &credentials->config;
	bool only_1_3 = config->min_version == TLS_VERSION_1_3;
	char *text;
	int n;
	if (config->priority)
		n = asprintf(&text, "%s:-VERS-SSL3.0:-VERS-TLS1.0:-VERS-TLS1.1%s", config->priority,
			     only_1_3 ? ":-VERS-TLS1.2" : "");
	else
		n = asprintf(
			&text,
			"NORMAL:-VERS-ALL:+VERS-TLS1.3%s:-CIPHER-ALL:%s:%s:%%SERVER_PRECEDENCE",
			only_1_3 ? "" : ":+VERS-TLS1.2",
			tls_aes_is_fast() ? AES_FIRST : CHACHA_FIRST, key_exchanges);
	return n < 0 ? NULL : text;
}

/* Datagram versions, which NORMAL has too, are of no use here. */
static bool has_version(gnutls_priority_t priority)
{
	const unsigned *versions;
	int count = gnutls_priority_protocol_list(priority, &versions);
	for (int i = 0; i < count; i++) {
		if (versions[i] == GNUTLS_TLS1_2 || versions[i] == GNUTLS_TLS1_3)
			return true;
	}
	return false;
}

static int init_priority(gnutls_priority_t *priority, const char *text, struct tls_report *report)
{
	const char *at = NULL;
	int code = text ? gnutls_priority_init2(priority, text, &at, 0) : GNUTLS_E_MEMORY_ERROR;
	if (code == GNUTLS_E_SUCCESS && has_version(*priority))
		return 0;
	if (code == GNUTLS_E_SUCCESS)
		return tls_report_error(report, -EINVAL,
					"the priority string \"%s\" allows no version of TLS", text);
	if (code == GNUTLS_E_MEMORY_ERROR)
		return tls_report_error(report, -ENOMEM, "no memory for TLS credentials");
	if (code == GNUTLS_E_NO_PRIORITIES_WERE_SET || !at)
		return tls_report_error(report, -EINVAL,
					"the priority string \"%s\" allows nothing", text);
	return tls_report_error(report, -EINVAL, "the priority string is wrong at \"%s\"", at);
}

static int make_priorities(struct tls_credentials *credentials, struct tls_report *report)
{
	const struct tls_credentials_config *config = &credentials->config;
	credentials->priority_text =
		priority_text(credentials, config->psk_file ? PSK_EXCHANGES : "-RSA");
	int error = init_priority(&credentials->priority, credentials->priority_text, report);
	if (error || config->priority || !config->psk_file || config->endpoint != TLS_SERVER ||
	    config->min_version == TLS_VERSION_1_3 || !tls_aes_is_fast())
		return error;
	char *text = priority_text(credentials, PSK_EXCHANGES_TLS_1_2);
	error = init_priority(&credentials->priority_tls_1_2, text, report);
	free(text);
	return error;
}

/* ---- The configuration ---- */

static int check(const struct tls_credentials_config *config, enum tls_verify verify,
		 struct tls_report *report)
{
	bool paths = config->directory || config->ca_file || config->crl_file ||
		     config->certificate_file || config->key_file;
	if (paths && config->psk_file)
		return tls_report_error(
			report, -EINVAL,
			"TLS credentials are either certificates or a PSK file, not both");
	/* a client that takes any certificate needs nothing to judge it by */
	if (!paths && !config->psk_file &&
	    (config->endpoint == TLS_SERVER || verify != TLS_VERIFY_NONE))
		return tls_report_error(report, -EINVAL,
					"TLS credentials need a certificate directory, "
					"certificate files or a PSK file");
	if (!config->certificate_file != !config->key_file)
		return tls_report_error(
			report, -EINVAL,
			"a certificate file and a key file are given only together");
	if (config->psk_file && config->verify_peer != TLS_VERIFY_DEFAULT &&
	    config->verify_peer != TLS_VERIFY_NONE)
		return tls_report_error(report, -EINVAL,
					"with a PSK file there are no certificates to "
					"verify: who knows a key is let in");
	if (config->psk_identity && (!config->psk_file || config->endpoint == TLS_SERVER))
		return tls_report_error(
			report, -EINVAL,
			"a PSK identity is chosen only by a client with a PSK file");
	if (config->allowed_count && (config->psk_file || verify != TLS_VERIFY_REQUIRE))
		return tls_report_error(
			report, -EINVAL,
			"names are allowed only where peers must show a certificate "
			"(verify_peer require)");
	return 0;
}

static enum tls_verify verify_of(const struct tls_credentials_config *config)
{
	if (config->psk_file)
		return TLS_VERIFY_NONE;
	if (config->endpoint == TLS_SERVER)
		return config->verify_peer == TLS_VERIFY_DEFAULT ? TLS_VERIFY_NONE
								 : config->verify_peer;
	/* servers always show a certificate: a client checks it or does not */
	return config->verify_peer == TLS_VERIFY_NONE ? TLS_VERIFY_NONE : TLS_VERIFY_REQUIRE;
}

/* False: no memory; what was copied is freed with the rest. */
static bool copy_config(struct tls_credentials_config *to,
			const struct tls_credentials_config *from)
{
	const char **texts[] = {&to->directory,	       &to->ca_file,  &to->crl_file,
				&to->certificate_file, &to->key_file, &to->psk_file,
				&to->psk_identity,     &to->priority};
	*to = *from;
	bool good = true;
	for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		if (!*texts[i])
			continue;
		*texts[i] = strdup(*texts[i]);
		good &= *texts[i] != NULL;
	}
	to->allowed_names = NULL;
	to->allowed_count = 0;
	if (!from->allowed_count)
		return good;
	char **names = calloc(from->allowed_count, sizeof(*names));
	if (!names)
		return false;
	to->allowed_names = (const char *const *)names;
	for (unsigned i = 0; i < from->allowed_count; i++) {
		names[i] = strdup(from->allowed_names[i]);
		good &= names[i] != NULL;
		to->allowed_count++;
	}
	return good;
}

static void free_config(struct tls_credentials_config *config)
{
	for (unsigned i = 0; i < config->allowed_count; i++)
		free((char *)config->allowed_names[i]);
	free((void *)config->allowed_names);
	free((char *)config->directory);
	free((char *)config->ca_file);
	free((char *)config->crl_file);
	free((char *)config->certificate_file);
	free((char *)config->key_file);
	free((char *)config->psk_file);
	free((char *)config->psk_identity);
	free((char *)config->priority);
}

/* ---- Kernel TLS ---- */

static bool find_kernel(struct tls_report *report)
{
	int error = tls_kernel_probe();
	if (error)
		tls_report_warning(report,
				   "the kernel has no TLS (%s; modprobe tls loads it): records are "
				   "made here",
				   strerror(-error));
	return !error;
}

/* ---- Life ---- */

int tls_credentials_create(const struct tls_credentials_config *config,
			   struct tls_credentials **credentials, struct tls_report *report)
{
	report->error[0] = report->warnings[0] = 0;
	*credentials = NULL;
	enum tls_verify verify = verify_of(config);
	int error = check(config, verify, report);
	if (error)
		return error;
	struct tls_credentials *made = calloc(1, sizeof(*made));
	if (!made)
		return tls_report_error(report, -ENOMEM, "no memory for TLS credentials");
	atomic_init(&made->users, 1);
	made->verify = verify;
	if (!copy_config(&made->config, config))
		error = tls_report_error(report, -ENOMEM, "no memory for TLS credentials");
	if (!error)
		error = make_priorities(made, report);
	if (!error)
		error = made->config.psk_file ? tls_psk_load(made, report)
					      : tls_x509_load(made, report);
	if (error) {
		tls_credentials_put(made);
		return error;
	}
	if (config->kernel && config->endpoint == TLS_SERVER)
		made->kernel = find_kernel(report);
	*credentials = made;
	return 0;
}

int tls_credentials_reload(const struct tls_credentials *old, struct tls_credentials **credentials,
			   struct tls_report *report)
{
	return tls_credentials_create(&old->config, credentials, report);
}

struct tls_credentials *tls_credentials_get(struct tls_credentials *credentials)
{
	atomic_fetch_add_explicit(&credentials->users, 1, memory_order_relaxed);
	return credentials;
}

void tls_credentials_put(struct tls_credentials *credentials)
{
	if (!credentials ||
	    atomic_fetch_sub_explicit(&credentials->users, 1, memory_order_acq_rel) != 1)
		return;
	if (credentials->priority)
		gnutls_priority_deinit(credentials->priority);
	if (credentials->priority_tls_1_2)
		gnutls_priority_deinit(credentials->priority_tls_1_2);
	if (credentials->x509)
		gnutls_certificate_free_credentials(credentials->x509);
	if (credentials->psk_server)
		gnutls_psk_free_server_credentials(credentials->psk_server);
	if (credentials->psk_client)
		gnutls_psk_free_client_credentials(credentials->psk_client);
	tls_psk_free(&credentials->psks);
	free(credentials->priority_text);
	free_config(&credentials->config);
	free(credentials);
}

void tls_credentials_info(const struct tls_credentials *credentials,
			  struct tls_credentials_info *info)
{
	*info = (struct tls_credentials_info){
		.psk = credentials->config.psk_file != NULL,
		.subject = credentials->subject,
		.valid_from = credentials->valid_from,
		.valid_to = credentials->valid_to,
		.identities = credentials->psks.count,
		.priority = credentials->priority_text,
		.kernel = credentials->kernel,
	};
}
