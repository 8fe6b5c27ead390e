/* SPDX-License-Identifier: BSD-3-Clause */
/* kernel: io_uring's part, played on non-blocking descriptors. */
#include "test/fuzz/connection/kernel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "app/pollux/nbd/zero_copy.h"
#include "fake/reactor.h"
#include "lib/base/compiler.h"

enum {
	PENDING_MOST = 256,
	SHORT_SEND_BYTES = 1000,
	SEND_IOVS = 1024,
	WOULD_BLOCK = 1 << 30,
	SHOTS_A_ROUND = 3,  /* of a multishot receive, before anybody can stop it */
	NOTIFICATION = 200, /* an opcode of this file's own */
	PIN_ROUNDS = 3,
	REFUSED_EACH = 11,  /* send without copying, of so many: no page may be pinned any more */
	MISSED_EACH = 4,    /* cancellation of a receive, of so many: it was just about to run */
	COPIED_EACH = 5,    /* notification, of so many */
	SHOTS_A_FAMILY = 7, /* then the kernel ends it, as it does where completions pile up */
};

/* What the kernel needs until it says otherwise: the first piece, and that all can be read. */
struct pin {
	const struct iovec *iov;
	unsigned count;
	uint64_t first;
	unsigned rounds; /* to wait */
};

struct operation {
	struct io_uring_sqe sqe;
	size_t sent; /* of a send that must be complete */
	bool deaf;   /* a multishot receive that has missed the end */
	struct pin pin;
};

struct ring {
	struct poller poller;
	struct operation pending[PENDING_MOST];
	unsigned count;
	struct io_uring_buf_ring *provided;
	unsigned mask;
	uint16_t head; /* the next buffer to take */
	unsigned shots, notifications, uncopied, cancellations;
};

struct uring_caps reactor_caps = {.multishot_recv = true, .send_zc = true, .send_zc_report = true};

static struct ring rings[KERNEL_RINGS];
static int failure;
static bool send_short;

/* ---- What is called in the place of lib/uring, liburing and libc ---- */

struct io_uring_sqe *uring_get_sqe(struct uring *uring)
{
	struct ring *ring = &rings[reactor_self->index];
	if (uring != &reactor_self->uring || ring->count == PENDING_MOST)
		abort();
	struct operation *operation = &ring->pending[ring->count++];
	memset(operation, 0, sizeof(*operation));
	return &operation->sqe;
}

int io_uring_register_buf_ring(struct io_uring *uring, struct io_uring_buf_reg *registration,
			       unsigned int flags)
{
	struct ring *ring = &rings[reactor_self->index];
	ring->provided = (void *)(uintptr_t)registration->ring_addr;
	ring->mask = registration->ring_entries - 1;
	return 0;
}

/* nbd_cores_start() waits for its reactors: here they run on the thread that waits. */
int usleep(useconds_t us)
{
	fake_pass();
	return 0;
}

/* An event of its own: nobody stays deaf to it. */
int shutdown(int fd, int how)
{
	for (unsigned i = 0; i < KERNEL_RINGS; i++)
		for (unsigned j = 0; j < rings[i].count; j++)
			rings[i].pending[j].deaf &= rings[i].pending[j].sqe.fd != fd;
	return syscall(SYS_shutdown, fd, how);
}

/* Every socket is one of TCP. */
int getsockopt(int fd, int level, int name, void *value, socklen_t *bytes)
{
	if (level != SOL_SOCKET || name != SO_DOMAIN)
		return syscall(SYS_getsockopt, fd, level, name, value, bytes);
	*(int *)value = AF_INET;
	return 0;
}

/* ---- Operations ---- */

static bool has_buffer(const struct ring *ring)
{
	return ring->head != ring->provided->tail;
}

static ssize_t receive_into(const struct io_uring_sqe *sqe, void *at, size_t bytes)
{
	if (sqe->opcode == IORING_OP_RECV)
		return recv(sqe->fd, at, bytes, MSG_DONTWAIT);
	return read(sqe->fd, at, bytes);
}

static int try_receive(struct ring *ring, const struct io_uring_sqe *sqe, uint32_t *cqe_flags)
{
	void *at = (void *)(uintptr_t)sqe->addr;
	size_t bytes = sqe->len;
	uint16_t id = 0;
	if (sqe->flags & IOSQE_BUFFER_SELECT) {
		if (!has_buffer(ring))
			return -ENOBUFS;
		const struct io_uring_buf *buffer = &ring->provided->bufs[ring->head & ring->mask];
		at = (void *)(uintptr_t)buffer->addr;
		bytes = bytes ? MIN_OF(bytes, (size_t)buffer->len) : buffer->len;
		id = buffer->bid;
	}
	ssize_t got = receive_into(sqe, at, bytes);
	if (got < 0)
		return errno == EAGAIN ? WOULD_BLOCK : -errno;
	if (sqe->flags & IOSQE_BUFFER_SELECT) {
		ring->head++;
		*cqe_flags |= IORING_CQE_F_BUFFER | (uint32_t)id << IORING_CQE_BUFFER_SHIFT;
	}
	if (sqe->opcode == IORING_OP_RECV && got == (ssize_t)bytes)
		*cqe_flags |= IORING_CQE_F_SOCK_NONEMPTY;
	return got;
}

/* What is left to send, as an iovec. Returns how many. */
static unsigned left_to_send(const struct operation *operation, struct iovec *iov)
{
	const struct io_uring_sqe *sqe = &operation->sqe;
	const struct iovec *from = (const void *)(uintptr_t)sqe->addr;
	unsigned count = 0, from_count = sqe->len;
	struct iovec whole = {(void *)(uintptr_t)sqe->addr, sqe->len};
	size_t skip = operation->sent;
	if (sqe->opcode == IORING_OP_SENDMSG || sqe->opcode == IORING_OP_SENDMSG_ZC) {
		const struct msghdr *message = (const void *)(uintptr_t)sqe->addr;
		from = message->msg_iov;
		from_count = message->msg_iovlen;
	} else if (sqe->opcode != IORING_OP_WRITEV) {
		from = &whole;
		from_count = 1;
	}
	if (from_count > SEND_IOVS)
		abort();
	for (unsigned i = 0; i < from_count; i++) {
		size_t here = MIN_OF(skip, from[i].iov_len);
		skip -= here;
		if (from[i].iov_len == here)
			continue;
		iov[count++] =
			(struct iovec){(char *)from[i].iov_base + here, from[i].iov_len - here};
	}
	return count;
}

static int try_send(struct operation *operation)
{
	static struct iovec iov[SEND_IOVS];
	const struct io_uring_sqe *sqe = &operation->sqe;
	bool is_socket = sqe->opcode == IORING_OP_SEND || sqe->opcode == IORING_OP_SENDMSG ||
			 sqe->opcode == IORING_OP_SENDMSG_ZC;
	bool whole = is_socket && (sqe->msg_flags & MSG_WAITALL) && !send_short;
	for (;;) {
		struct msghdr message = {.msg_iov = iov};
		message.msg_iovlen = left_to_send(operation, iov);
		if (!message.msg_iovlen)
			return operation->sent;
		if (send_short) {
			message.msg_iovlen = 1;
			iov[0].iov_len = MIN_OF(iov[0].iov_len, (size_t)SHORT_SEND_BYTES);
		}
		ssize_t sent = is_socket ? sendmsg(sqe->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
					 : writev(sqe->fd, iov, message.msg_iovlen);
		if (sent < 0 && errno == EAGAIN)
			return WOULD_BLOCK;
		if (sent < 0)
			return operation->sent ? (int)operation->sent : -errno;
		operation->sent += sent;
		if (!whole)
			return operation->sent;
	}
}

static int try(struct ring *ring, struct operation *operation, uint32_t *cqe_flags)
{
	switch (operation->sqe.opcode) {
	case IORING_OP_RECV:
	case IORING_OP_READ:
		return try_receive(ring, &operation->sqe, cqe_flags);
	case IORING_OP_SEND:
	case IORING_OP_SENDMSG:
	case IORING_OP_SENDMSG_ZC:
	case IORING_OP_WRITE:
	case IORING_OP_WRITEV:
		return try_send(operation);
	default:
		abort(); /* connections ask for nothing else */
	}
}

static void complete(const struct io_uring_sqe *sqe, int result, uint32_t cqe_flags)
{
	struct uring_op *op = (void *)(uintptr_t)sqe->user_data;
	if (op)
		op->done(op, result, cqe_flags);
}

/* What was in flight with these data; false: nothing. */
static bool take_out(struct ring *ring, uint64_t user_data, struct io_uring_sqe *sqe)
{
	for (unsigned i = 0; i < ring->count; i++) {
		*sqe = ring->pending[i].sqe;
		if (sqe->opcode == IORING_OP_ASYNC_CANCEL || sqe->opcode == NOTIFICATION ||
		    sqe->user_data != user_data)
			continue;
		memmove(&ring->pending[i], &ring->pending[i + 1],
			(--ring->count - i) * sizeof(ring->pending[0]));
		return true;
	}
	return false;
}

static bool is_multishot(const struct ring *ring, uint64_t user_data)
{
	for (unsigned i = 0; i < ring->count; i++) {
		const struct io_uring_sqe *sqe = &ring->pending[i].sqe;
		if (sqe->opcode == IORING_OP_RECV && sqe->user_data == user_data)
			return sqe->ioprio & IORING_RECV_MULTISHOT;
	}
	return false;
}

/* What a cancellation names, if it is in flight. */
static void cancel(struct ring *ring, uint64_t user_data)
{
	struct io_uring_sqe found;
	if (++ring->cancellations % MISSED_EACH == 0 && is_multishot(ring, user_data))
		return;
	if (take_out(ring, user_data, &found))
		complete(&found, -ECANCELED, 0);
}

static unsigned cancel_all(struct ring *ring)
{
	unsigned count = 0;
	for (unsigned i = 0; i < ring->count;) {
		struct operation found = ring->pending[i];
		if (found.sqe.opcode != IORING_OP_ASYNC_CANCEL) {
			i++;
			continue;
		}
		memmove(&ring->pending[i], &ring->pending[i + 1],
			(--ring->count - i) * sizeof(found));
		cancel(ring, found.sqe.addr);
		count++;
		i = 0;
	}
	return count;
}

static void keep(const struct operation *operation)
{
	*container_of(uring_get_sqe(&reactor_self->uring), struct operation, sqe) = *operation;
}

static bool has_ended(int fd)
{
	char byte;
	return recv(fd, &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT) == 0;
}

/* As Linux does where the last bytes and the end come together. */
static void make_deaf(struct ring *ring, uint64_t user_data)
{
	for (unsigned i = 0; i < ring->count; i++)
		if (ring->pending[i].sqe.user_data == user_data)
			ring->pending[i].deaf = true;
}

/* A multishot receive: completions until nothing is there, or it ends. Returns how many. */
static unsigned shoot(struct ring *ring, struct operation *operation)
{
	const struct io_uring_sqe sqe = operation->sqe;
	struct io_uring_sqe ended;
	keep(operation);
	if (operation->deaf)
		return 0;
	for (unsigned done = 0; done < SHOTS_A_ROUND; done++) {
		uint32_t cqe_flags = 0;
		int result = try_receive(ring, &sqe, &cqe_flags);
		if (result == WOULD_BLOCK)
			return done;
		bool goes_on = result > 0 && ++ring->shots % SHOTS_A_FAMILY;
		if (!goes_on)
			take_out(ring, sqe.user_data, &ended);
		else if (has_ended(sqe.fd))
			make_deaf(ring, sqe.user_data);
		complete(&sqe, result, cqe_flags | (goes_on ? IORING_CQE_F_MORE : 0));
		if (!goes_on || has_ended(sqe.fd))
			return done + 1;
	}
	return SHOTS_A_ROUND;
}

/* ---- Sending without copying ---- */

/* Of the first piece, if that is a header: payload may be written to meanwhile. */
static uint64_t first_bytes(const struct msghdr *message, const struct iovec *iov)
{
	const struct tx_batch *batch = container_of(message, struct tx_batch, message);
	const uint8_t *at = iov->iov_base;
	uint64_t bytes = 0;
	if (at >= batch->headers && at < batch->headers + TX_BATCH_HEADER_BYTES)
		memcpy(&bytes, at, MIN_OF(iov->iov_len, sizeof(bytes)));
	return bytes;
}

/* Behind the send's own completion there comes another one. */
static void pin(const struct operation *operation)
{
	struct operation notification = {.sqe = operation->sqe};
	const struct msghdr *message = (const void *)(uintptr_t)operation->sqe.addr;
	struct iovec *iov = malloc(message->msg_iovlen * sizeof(*iov));
	if (!iov)
		abort();
	memcpy(iov, message->msg_iov, message->msg_iovlen * sizeof(*iov));
	notification.sqe.opcode = NOTIFICATION;
	notification.pin =
		(struct pin){iov, message->msg_iovlen, first_bytes(message, iov), PIN_ROUNDS};
	keep(&notification);
}

/* Nobody may have taken away, or begun anew, what it was to send. */
static unsigned notify(struct ring *ring, struct operation *operation)
{
	struct pin *pin = &operation->pin;
	volatile uint8_t seen;
	if (pin->rounds--) {
		keep(operation);
		return 1;
	}
	for (unsigned i = 0; i < pin->count; i++) {
		const uint8_t *bytes = pin->iov[i].iov_base;
		for (size_t at = 0; at < pin->iov[i].iov_len; at += 512)
			seen = bytes[at];
	}
	(void)seen;
	if (first_bytes((const void *)(uintptr_t)operation->sqe.addr, pin->iov) != pin->first)
		abort();
	free((void *)pin->iov);
	bool copied = ++ring->notifications % COPIED_EACH == 0;
	complete(&operation->sqe, copied ? (int)IORING_NOTIF_USAGE_ZC_COPIED : 0,
		 IORING_CQE_F_NOTIF);
	return 1;
}

/* One round over what was in flight when it began. */
static unsigned run(struct poller *poller)
{
	static struct operation taken[PENDING_MOST];
	struct ring *ring = container_of(poller, struct ring, poller);
	unsigned done = cancel_all(ring), count = ring->count;
	memcpy(taken, ring->pending, count * sizeof(taken[0]));
	ring->count = 0;
	for (unsigned i = 0; i < count; i++) {
		uint32_t cqe_flags = 0;
		if (taken[i].sqe.opcode == NOTIFICATION) {
			done += notify(ring, &taken[i]);
			continue;
		}
		bool uncopied = taken[i].sqe.opcode == IORING_OP_SENDMSG_ZC;
		int result = failure;
		failure = 0;
		if (uncopied && ++ring->uncopied % REFUSED_EACH == 0)
			result = -ENOBUFS;
		if (!result && taken[i].sqe.opcode == IORING_OP_RECV &&
		    taken[i].sqe.ioprio & IORING_RECV_MULTISHOT) {
			done += shoot(ring, &taken[i]);
			continue;
		}
		if (!result)
			result = try(ring, &taken[i], &cqe_flags);
		if (result == WOULD_BLOCK) {
			keep(&taken[i]);
			continue;
		}
		done++;
		if (uncopied && result != -ENOBUFS) {
			pin(&taken[i]);
			cqe_flags = IORING_CQE_F_MORE;
		}
		complete(&taken[i].sqe, result, cqe_flags);
	}
	return done;
}

/* ---- The test's side ---- */

void kernel_start(void)
{
	for (unsigned i = 0; i < KERNEL_RINGS; i++) {
		fake_become(i);
		rings[i].poller.poll = run;
		reactor_add_poller(&rings[i].poller);
	}
	fake_become(0);
}

void kernel_fail_next(int error)
{
	failure = -error;
}

void kernel_send_short(bool yes)
{
	send_short = yes;
}

bool kernel_is_idle(unsigned index, unsigned provided)
{
	const struct ring *ring = &rings[index];
	return !ring->count && (uint16_t)(ring->provided->tail - ring->head) == provided;
}
