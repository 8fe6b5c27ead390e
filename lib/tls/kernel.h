/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * kernel: records made by the kernel (CONFIG_TLS, module "tls"). The handshake is GnuTLS's; then a
 * session gives its keys and sequence numbers to the socket, which takes and gives plain data from
 * then on. Whatever is no data (alerts, new keys) fails a plain receive with EIO and is taken here.
 * The keys stay those of the handshake: nobody changes them, and a peer that does is not followed.
 *
 * Threads: the session's; the probe on the control thread or a worker, as it may load modules.
 * Source: Documentation/networking/tls.rst in Linux.
 */
#ifndef POLLUX_LIB_TLS_KERNEL_H
#define POLLUX_LIB_TLS_KERNEL_H

#include <stddef.h>

struct tls_session;

enum {
	TLS_KERNEL_WHY_BYTES = 160,
	TLS_ALERT_WARNING = 1,
	TLS_ALERT_FATAL = 2,
	TLS_ALERT_CLOSE_NOTIFY = 0,
	TLS_ALERT_UNEXPECTED_MESSAGE = 10,
	TLS_ALERT_BAD_RECORD_MAC = 20,
};

/*
 * Whether TCP sockets have it; lets the kernel load the ciphers, so that the first connection need
 * not. Returns 0; -ENOENT: it is not there, nor could it be loaded; or another -errno.
 */
int tls_kernel_probe(void);

/*
 * Gives an open session's both directions to the socket that it runs over, between two whole
 * records: the caller has taken all that was decrypted and sent all that was encrypted. Returns
 *   0                 the socket has it; the session is good for tls_session_info() only
 *   -EBUSY            a part of a record, or something to send, is inside: perhaps later
 *   -EPROTONOSUPPORT  a session or a socket that this is not for: `why` says it
 *   -ENOTRECOVERABLE  the socket has one direction: the connection must end. Only where it runs out
 *                     of memory, or the like
 *   other -errno      the kernel's
 * But for the first and -ENOTRECOVERABLE nothing has changed, and the session goes on. `why`:
 * TLS_KERNEL_WHY_BYTES, valid but for 0 and -EBUSY.
 */
int tls_session_to_kernel(struct tls_session *session, int fd, char *why);

/*
 * Takes the record that made a receive fail with EIO. Returns
 *   0            it was nothing that matters: receive on
 *   -ESHUTDOWN   close_notify: nothing follows
 *   -EPROTO      the peer ends the session, or breaks it: `why` says how
 *   -EKEYEXPIRED it changes its keys, and nothing that follows can be read: `why` says so
 *   other -errno the socket's
 */
int tls_kernel_take_control(int fd, char *why);
/* Returns 0 or -errno. Does not wait. A receive's failure, which would stop it, is forgotten. */
int tls_kernel_send_alert(int fd, int level, int description);

#endif
