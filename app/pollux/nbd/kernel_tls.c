/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * kernel_tls: what is left of TLS when the kernel makes the records. Two of its ways matter here:
 * what it was given to send may wait in it, behind what TCP has taken, so that the sending side is
 * never shut down before the client has gone; and it keeps a record that is no data until somebody
 * asks for its type. One reactor.
 */
#include "app/pollux/nbd/kernel_tls.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "app/pollux/nbd/connection.h"
#include "app/pollux/nbd/secure_log.h"
#include "lib/tls/credentials.h"
#include "lib/tls/kernel.h"
#include "lib/tls/session.h"

enum { NAME_BYTES = 32 };

/* What the session was, which is gone. */
struct kernel_tls {
	char version[NAME_BYTES], cipher[NAME_BYTES], key_exchange[NAME_BYTES];
	char peer[TLS_NAME_BYTES];
	bool psk;
	bool deaf; /* what comes can not be read */
};

/* ---- The beginning ---- */

static void copy(char *to, size_t room, const char *from)
{
	snprintf(to, room, "%s", from);
}

enum kernel_tls_result kernel_tls_begin(struct connection *conn, struct tls_session *session)
{
	char why[TLS_KERNEL_WHY_BYTES];
	struct tls_session_info info;
	struct kernel_tls *made = calloc(1, sizeof(*made));
	if (!made)
		return KERNEL_TLS_NEVER;
	int error = conn->rx_fd == conn->tx_fd ? tls_session_to_kernel(session, conn->rx_fd, why)
					       : -EBUSY;
	if (error) {
		free(made);
		if (error == -EBUSY)
			return KERNEL_TLS_LATER;
		secure_log_kernel(conn, error == -EPROTONOSUPPORT, why);
		if (error == -ENOTRECOVERABLE)
			connection_kill(conn, why);
		return KERNEL_TLS_NEVER;
	}
	tls_session_info(session, &info);
	copy(made->version, sizeof(made->version), info.version);
	copy(made->cipher, sizeof(made->cipher), info.cipher);
	copy(made->key_exchange, sizeof(made->key_exchange), info.key_exchange);
	copy(made->peer, sizeof(made->peer), info.peer);
	made->psk = info.psk;
	conn->kernel_tls = made;
	secure_log_handed_over(conn);
	return KERNEL_TLS_DONE;
}

/* ---- Records that are no data ---- */

/* Nothing that follows can be read. What was asked for before is answered, if somebody listens. */
static void go_deaf(struct connection *conn, const char *reason, bool answer)
{
	secure_log_failure(conn, reason);
	conn->kernel_tls->deaf = true;
	conn->end_of_file = true;
	if (!answer)
		transmit_mute(conn);
	connection_finish(conn, reason);
}

static void take_control(struct connection *conn)
{
	char why[TLS_KERNEL_WHY_BYTES];
	int result = tls_kernel_take_control(conn->rx_fd, why);
	switch (result) {
	case 0:
		break;
	case -ESHUTDOWN:
		connection_finish(conn, "the client has ended TLS without a disconnect");
		break;
	case -EPROTO:
	case -EKEYEXPIRED:
		go_deaf(conn, why, result == -EKEYEXPIRED);
		break;
	default:
		connection_kill(conn, strerror(-result));
	}
}

bool kernel_tls_take_error(struct connection *conn, int error)
{
	switch (error) {
	case -EIO:
		take_control(conn);
		return true;
	case -EBADMSG: /* not genuine */
	case -EMSGSIZE:
	case -EINVAL: /* no TLS */
		if (conn->state < CONN_FINISHING)
			tls_kernel_send_alert(conn->tx_fd, TLS_ALERT_FATAL,
					      error == -EBADMSG ? TLS_ALERT_BAD_RECORD_MAC
								: TLS_ALERT_UNEXPECTED_MESSAGE);
		go_deaf(conn, "the client breaks TLS: a record that does not decrypt", false);
		return true;
	default:
		return false;
	}
}

bool kernel_tls_is_deaf(const struct connection *conn)
{
	return conn->kernel_tls->deaf;
}

/* ---- The end ---- */

void kernel_tls_close(struct connection *conn)
{
	if (!conn->mute) /* a fatal alert was the last word */
		tls_kernel_send_alert(conn->tx_fd, TLS_ALERT_WARNING, TLS_ALERT_CLOSE_NOTIFY);
}

bool kernel_tls_is_sending(const struct connection *conn)
{
	struct tcp_info info = {0};
	socklen_t room = sizeof(info);
	int bytes = 0;
	return !getsockopt(conn->tx_fd, IPPROTO_TCP, TCP_INFO, &info, &room) &&
	       info.tcpi_state != TCP_CLOSE && !ioctl(conn->tx_fd, SIOCOUTQ, &bytes) && bytes > 0;
}

void kernel_tls_info(const struct connection *conn, struct tls_session_info *info)
{
	const struct kernel_tls *tls = conn->kernel_tls;
	*info = (struct tls_session_info){
		.version = tls->version,
		.cipher = tls->cipher,
		.key_exchange = tls->key_exchange,
		.psk = tls->psk,
		.peer = tls->peer,
	};
}

void kernel_tls_free(struct connection *conn)
{
	free(conn->kernel_tls);
	conn->kernel_tls = NULL;
}
