/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uri: NBD URIs, as libnbd, qemu and nbdkit print and take them. Pure; any thread; the result owns
 * one block of memory.
 * Source: NetworkBlockDevice/nbd doc/uri.md; the parameters that name credentials are libnbd's.
 */
#ifndef POLLUX_LIB_NBD_URI_H
#define POLLUX_LIB_NBD_URI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NBD_DEFAULT_PORT = 10809 };

/* Strings are NULL where the URI does not tell them. */
struct nbd_uri {
	bool tls;	  /* nbds, nbds+unix: TLS is required */
	const char *host; /* TCP: a name or address, an IPv6 one without its brackets; else NULL */
	bool vsock;	  /* nbd+vsock, nbds+vsock */
	uint32_t cid;	  /* vsock: the context, such as 2, the host */
	uint32_t port;	  /* TCP, vsock */
	const char *socket;	 /* unix: a path, or behind a NUL an abstract name; else NULL */
	size_t socket_length;	 /* bytes, without the final NUL */
	const char *export_name; /* never NULL; "": the default export */
	const char *tls_type;	 /* "anon", "x509" or "psk" */
	const char *tls_certificates; /* a directory */
	const char *tls_psk_file;
	const char *tls_username; /* of the PSK: the authority's user, or the parameter */
	const char *tls_hostname; /* to verify the certificate against, instead of the host */
	bool tls_verify_peer;	  /* true unless told otherwise */
	/* ---- private ---- */
	char *memory;
};

/*
 * Parses `text`. Returns 0, -EINVAL or -ENOMEM; then `error` (of `error_bytes`) says what is wrong,
 * naming the part, and there is nothing to free.
 */
int nbd_uri_parse(const char *text, struct nbd_uri *uri, char *error, size_t error_bytes);
void nbd_uri_free(struct nbd_uri *uri);

#endif
