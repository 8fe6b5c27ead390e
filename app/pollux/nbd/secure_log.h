/* SPDX-License-Identifier: BSD-3-Clause */
/* secure_log: what the log says about TLS. On the connection's reactor; the control thread writes.
 */
#ifndef POLLUX_APP_NBD_SECURE_LOG_H
#define POLLUX_APP_NBD_SECURE_LOG_H

struct connection;
struct tls_session;

/* NOTICE, a few lines a second at most: strangers decide how often it happens. */
void secure_log_failure(const struct connection *conn, const char *reason);
/* INFO: the session is open. */
void secure_log_session(const struct connection *conn, const struct tls_session *session);

#endif
