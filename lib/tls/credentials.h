/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * credentials: who we are and whom we trust in TLS - X.509 certificates or pre-shared keys, with
 * the rules for peers, versions and ciphers. Read from files once, when created; never in a
 * handshake.
 *
 * Threads: immutable once created and reference counted (atomically), so that sessions of any
 * number of reactors share one. That is safe because GnuTLS promises it for credentials that nobody
 * modifies ("Thread safety" in its manual); in its source (3.7.9) handshakes only read them, and
 * count uses of the priorities atomically - ours outlive the last session's. New files are taken by
 * making new credentials; sessions under way keep theirs.
 *
 * create and reload read files and parse keys: on the control thread or a worker, never on a
 * reactor. get, put and the getters: any thread; the last put frees, which takes some microseconds.
 */
#ifndef POLLUX_LIB_TLS_CREDENTIALS_H
#define POLLUX_LIB_TLS_CREDENTIALS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

enum {
	TLS_ERROR_BYTES = 512,
	TLS_WARNINGS_BYTES = 1024,
	TLS_NAME_BYTES = 256,	     /* of a peer's name as it is shown */
	TLS_PEM_MAX_BYTES = 4 << 20, /* of a certificate, key or revocation list file */
	TLS_PSK_FILE_MAX_BYTES = 16 << 20,
	TLS_PSK_IDENTITY_MAX_BYTES = 128, /* GnuTLS knows no longer ones */
	TLS_PSK_KEY_MAX_BYTES = 512,
	TLS_PSK_KEY_WEAK_BYTES = 16, /* shorter keys are warned about */
};

enum tls_endpoint {
	TLS_SERVER,
	TLS_CLIENT,
};

enum tls_verify {
	TLS_VERIFY_DEFAULT, /* servers: none; clients: require */
	TLS_VERIFY_NONE, /* the peer's certificate is not asked for (server), not checked (client)
			  */
	TLS_VERIFY_REQUEST, /* a client may come without; one that it shows must be right */
	TLS_VERIFY_REQUIRE,
};

enum tls_version {
	TLS_VERSION_DEFAULT, /* 1.2 */
	TLS_VERSION_1_2,
	TLS_VERSION_1_3,
};

/*
 * Either X.509 (a directory or paths) or PSK. Strings are copied. A path that is given replaces the
 * file of the directory.
 */
struct tls_credentials_config {
	enum tls_endpoint endpoint;
	/*
	 * ca-cert.pem, ca-crl.pem (may be missing), and server-cert.pem and server-key.pem, or
	 * client-cert.pem and client-key.pem (which may both be missing). Certificates may be
	 * chains, leaf first. The CA is needed, and read, only where the peer is verified.
	 */
	const char *directory;
	const char *ca_file, *crl_file, *certificate_file, *key_file;
	/*
	 * Lines of identity:hexkey, as psktool writes them; #hex:hexkey for an identity that is no
	 * text. A client uses the key of psk_identity, or, if NULL, of the only line.
	 */
	const char *psk_file;
	const char *psk_identity;
	enum tls_verify verify_peer; /* X.509 only */
	enum tls_version min_version;
	/* GnuTLS priority string in place of ours; min_version still holds. NULL: ours */
	const char *priority;
	/*
	 * Shell patterns, with verify_peer "require" only: peers whose certificate matches none are
	 * refused. One without "=" is compared with the subject's common name and with the
	 * alternative names (DNS in any case, e-mail, URI, IP); one with "=" is a distinguished
	 * name
	 * ("CN=backup-*,O=Example"), compared part by part, so that "*" never crosses a comma.
	 */
	const char *const *allowed_names;
	unsigned allowed_count; /* 0: every verified peer */
	/*
	 * Sessions ask for their records to be made by the kernel (kernel.h). A warning where it
	 * has no TLS. Servers only.
	 */
	bool kernel;
};

/* What create and reload have to say; whole sentences, without secrets. */
struct tls_report {
	char error[TLS_ERROR_BYTES];	   /* valid if they failed */
	char warnings[TLS_WARNINGS_BYTES]; /* "" or sentences, separated by "; " */
};

/* For those who ask about the object. Strings live as long as the credentials. */
struct tls_credentials_info {
	bool psk;
	const char *subject;	     /* our certificate's name; "" without one */
	time_t valid_from, valid_to; /* of our certificate; 0 without one */
	unsigned identities;	     /* of the PSK table */
	const char *priority;	     /* in force */
	bool kernel;		     /* kernel TLS was asked for, and is there */
};

struct tls_credentials;

/*
 * Control thread or a worker. Returns 0; -EINVAL: the configuration contradicts itself, or a file's
 * contents are wrong (no PEM, the key does not match, …); -ENOENT, -EACCES, …: from reading a file;
 * -ENOMEM. report->error names the file and what is wrong with it. A certificate that has expired
 * is a warning: clients will say it too, and a server that does not start says less.
 */
int tls_credentials_create(const struct tls_credentials_config *config,
			   struct tls_credentials **credentials, struct tls_report *report);

/* The same configuration with what its files contain now. `old` stays as it is. */
int tls_credentials_reload(const struct tls_credentials *old, struct tls_credentials **credentials,
			   struct tls_report *report);

struct tls_credentials *tls_credentials_get(struct tls_credentials *credentials);
void tls_credentials_put(struct tls_credentials *credentials); /* NULL is allowed */

void tls_credentials_info(const struct tls_credentials *credentials,
			  struct tls_credentials_info *info);

/* True if the processor has instructions that make AES faster than ChaCha20. */
bool tls_aes_is_fast(void);

#endif
