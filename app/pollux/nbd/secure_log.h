/* SPDX-License-Identifier: BSD-3-Clause */
/* secure_log: what the log says about TLS. On the connection's reactor; the control thread writes.
 */
#ifndef POLLUX_APP_NBD_SECURE_LOG_H
#define POLLUX_APP_NBD_SECURE_LOG_H

#include <stdbool.h>

struct connection;
struct tls_session;

/* NOTICE, a few lines a second at most: strangers decide how often it happens. */
void secure_log_failure(const struct connection *conn, const char *reason);
/*
 * The kernel does not make the records, though it was asked to. WARNING the first time, then INFO;
 * always INFO if it is the client, or what carries it, that it is not for.
 */
void secure_log_kernel(const struct connection *conn, bool unfit, const char *reason);
/* INFO: the kernel makes the records from now on. */
void secure_log_handed_over(const struct connection *conn);
/* INFO: the session is open. */
void secure_log_session(const struct connection *conn, const struct tls_session *session);

#endif
