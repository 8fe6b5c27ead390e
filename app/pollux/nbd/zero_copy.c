/* SPDX-License-Identifier: BSD-3-Clause */
/* zero_copy: batches that the kernel sends from where they lie, and those that it still needs. */
#include "app/pollux/nbd/zero_copy.h"

#include <errno.h>
#include <netinet/in.h>

void zero_copy_init(struct connection *conn)
{
	int domain = 0;
	socklen_t bytes = sizeof(domain);
	conn->zero_copy = nbd_settings.zero_copy_bytes && reactor_caps.send_zc && conn->is_socket &&
			  !getsockopt(conn->tx_fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) &&
			  (domain == AF_INET || domain == AF_INET6);
}

static void unlink_pinned(struct connection *conn, struct tx_batch *batch)
{
	struct tx_batch **at = &conn->pinned;
	while (*at != batch)
		at = &(*at)->next;
	*at = batch->next;
}

static void notified(struct connection *conn, struct tx_batch *batch, int result)
{
	batch->pins--;
	conn->pins--;
	if ((uint32_t)result & IORING_NOTIF_USAGE_ZC_COPIED) {
		conn->zero_copy_copied++;
		conn->zero_copy = false;
	}
	if (batch->sent && !batch->pins) {
		unlink_pinned(conn, batch);
		transmit_retire(conn, batch);
	}
	if (conn->state >= CONN_FINISHING)
		reactor_defer(conn->core->reactor, &conn->flush);
}

/* The kernel, or this process's limit of locked memory, does not allow it. */
static bool is_refused(int result)
{
	return result == -EOPNOTSUPP || result == -EINVAL || result == -ENOBUFS ||
	       result == -ENOMEM;
}

static void done(struct uring_op *op, int result, uint32_t cqe_flags)
{
	struct tx_batch *batch = container_of(op, struct tx_batch, op);
	struct connection *conn = batch->conn;
	if (cqe_flags & IORING_CQE_F_NOTIF) {
		notified(conn, batch, result);
		return;
	}
	if (cqe_flags & IORING_CQE_F_MORE) {
		batch->pins++;
		conn->pins++;
	}
	if (is_refused(result)) {
		conn->zero_copy = false;
		result = -EAGAIN;
	}
	if (conn->state == CONN_DEAD)
		zero_copy_abort(conn);
	transmit_done(&conn->send_op, result, 0);
}

void zero_copy_submit(struct connection *conn, struct tx_batch *batch)
{
	struct io_uring_sqe *sqe = uring_get_sqe(&conn->core->reactor->uring);
	io_uring_prep_sendmsg_zc(sqe, conn->tx_fd, &batch->message, conn->send_flags);
	if (reactor_caps.send_zc_report)
		sqe->ioprio |= IORING_SEND_ZC_REPORT_USAGE;
	batch->op.done = done;
	batch->conn = conn;
	uring_set_op(sqe, &batch->op);
	conn->zero_copy_sends++;
}

void zero_copy_keep(struct connection *conn, struct tx_batch *batch)
{
	batch->sent = true;
	batch->next = conn->pinned;
	conn->pinned = batch;
}

/* Disconnecting a TCP socket drops all that it was to send; its end alone would not. */
void zero_copy_abort(struct connection *conn)
{
	struct sockaddr nobody = {.sa_family = AF_UNSPEC};
	if (conn->pins)
		connect(conn->tx_fd, &nobody, sizeof(nobody));
}
