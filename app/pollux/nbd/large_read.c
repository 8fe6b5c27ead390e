/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * large_read: READs beyond a part's size. One of a connection at a time is under way, up to three
 * of its parts ahead; what they bring goes out in order. In simple mode nothing else may be sent
 * between its parts.
 */
#include <errno.h>
#include <string.h>

#include "app/pollux/nbd/command.h"

enum {
	READ_PARTS_AHEAD = 3, /* submitted or waiting for their turn */
};

static void part_done(struct request *part);

/*
 * No further part is wanted: nobody takes it, the time-out has answered it, or - in simple mode,
 * where an error can only stand alone - one part has failed. Elsewhere each part tells its own
 * error.
 */
static bool is_given_up(const struct connection *conn, const struct request *read)
{
	return conn->mute || read->answered ||
	       (conn->limits.mode == NBD_MODE_SIMPLE && read->status);
}

/* Hands the parts that are ready to the client's queue, in order. True when the READ is over. */
static bool emit_parts(struct connection *conn, struct request *read)
{
	bool simple = conn->limits.mode == NBD_MODE_SIMPLE;
	while (read->parts_first && read->parts_first->part_done) {
		struct request *part = read->parts_first;
		read->parts_first = part->next;
		if (!read->parts_first)
			read->parts_last = &read->parts_first;
		read->parts--;
		bool first = !read->emitted, last = read->emitted + part->length == read->length;
		read->emitted += part->length;
		if (part->io.status < 0) {
			read->status = part->io.status;
			if (simple && conn->big_exclusive)
				connection_kill(conn, "a READ failed after its reply had begun");
			else if (!simple && !is_given_up(conn, read))
				transmit_error_at(conn, read, part, last);
		}
		if (part->io.status < 0 || is_given_up(conn, read)) {
			connection_put_request(conn, part);
			continue;
		}
		conn->big_exclusive |= simple;
		transmit_part(conn, read, part, first, last);
	}
	if (read->parts)
		return false;
	return read->emitted == read->length || is_given_up(conn, read);
}

/*
 * The buffer of the next part of conn->big: as much as there is. Returns its bytes, 0 if it has to
 * wait.
 *
 * In simple mode the replies that wait behind a READ that has begun may hold buffers: its next part
 * must never wait for those. So it is not bound to the connection's share, and where nothing is
 * left at all it takes the core's reserve, which comes back when that part has been sent.
 */
static uint64_t part_destination(struct connection *conn, struct request *part, uint64_t most)
{
	struct nbd_core *core = conn->core;
	bool must_go_on = conn->big_exclusive && !conn->big->parts;
	if (likely(conn->lends))
		return most;
	if (!must_go_on && command_over_share(conn, most))
		return 0;
	for (uint64_t length = most; length; length = length > BUFFER_MIN_BYTES ? length / 2 : 0) {
		if (length < most)
			length =
				(length + BUFFER_MIN_BYTES - 1) & ~(uint64_t)(BUFFER_MIN_BYTES - 1);
		if (command_give_destination(conn, part, length))
			return length;
	}
	if (!must_go_on || !core->reserve)
		return 0;
	uint64_t length = MIN_OF(most, (uint64_t)CORE_RESERVE_BYTES);
	part->buffer = core->reserve;
	core->reserve = NULL;
	part->iov[0] = (struct iovec){part->buffer, length};
	part->io.iovcnt = 1;
	return length;
}

/* One part more is submitted. False: not now. */
static bool submit_part(struct connection *conn, struct request *read)
{
	if (read->at == read->length || read->parts == READ_PARTS_AHEAD || is_given_up(conn, read))
		return false;
	struct request *part = command_take_slot(conn);
	uint64_t length =
		part ? part_destination(conn, part,
					MIN_OF(read->length - read->at, command_part_bytes(conn)))
		     : 0;
	if (!length) {
		if (part)
			request_put(&conn->core->requests, part);
		connection_block(conn);
		return false;
	}
	part->parent = read;
	part->part_done = false;
	part->cookie = read->cookie;
	part->type = NBD_CMD_READ;
	part->offset = read->offset + read->at;
	part->length = length;
	part->started = read->started;
	part->next = NULL;
	*read->parts_last = part;
	read->parts_last = &part->next;
	read->parts++;
	read->at += length;
	part->io.op = BDEV_READ;
	part->io.flags = conn->read_flags;
	part->io.offset = part->offset;
	part->io.length = length;
	part->done = part_done;
	request_submit(part);
	return true;
}

static void end_large_read(struct connection *conn, struct request *read)
{
	conn->big = NULL;
	/* told already: structured errors by part, and a simple reply that has begun and gone wrong
	 */
	bool told = read->emitted &&
		    !(conn->limits.mode == NBD_MODE_SIMPLE && read->status && !conn->big_exclusive);
	if (told || conn->mute || read->answered)
		transmit_read_end(conn, read);
	else
		transmit_reply(conn, read);
}

void command_continue_read(struct connection *conn)
{
	if (conn->big_running)
		return; /* a part that completed at once: the loop below goes on with it */
	conn->big_running = true;
	for (;;) {
		if (!conn->big) {
			conn->big = conn->big_first;
			if (!conn->big)
				break;
			conn->big_first = conn->big->next;
			if (!conn->big_first)
				conn->big_last = &conn->big_first;
		}
		struct request *read = conn->big;
		while (submit_part(conn, read))
			;
		if (!emit_parts(conn, read)) {
			if (unlikely(conn->stuck && conn->blocked && !read->parts)) {
				/* it is left, or the connection killed: either way it is given up */
				connection_time_out(conn, read);
				continue;
			}
			if (read->parts == READ_PARTS_AHEAD || read->at == read->length ||
			    conn->blocked || read->parts)
				break;
			continue;
		}
		end_large_read(conn, read);
	}
	conn->big_running = false;
}

/* A part more of a READ that was left has ended. */
static void drop_part(struct request *part)
{
	struct request *read = part->parent;
	struct connection *conn = part->owner;
	connection_put_request(conn, part);
	if (--read->parts == 0)
		transmit_left_read_end(conn, read);
}

/*
 * The READs that wait behind one that the device does not end. From here on their time counts from
 * when they came, or each would have to wait for its own time-out after all those before it. Those
 * whose time is over fail now, before they take buffers to a device that does not answer.
 */
static void time_out_queue(struct connection *conn)
{
	struct request *read;
	for (read = conn->big_first; read; read = read->next)
		read->behind_stuck = true;
	while ((read = conn->big_first) && connection_is_late(conn, read->started)) {
		conn->big_first = read->next;
		if (!conn->big_first)
			conn->big_last = &conn->big_first;
		connection_time_out(conn, read);
		transmit_left_read_end(conn, read);
	}
}

void command_leave_read(struct connection *conn)
{
	struct request *read = conn->big, *part = read->parts_first, *next;
	conn->big = NULL;
	time_out_queue(conn);
	read->parts++; /* it ends after the walk */
	for (; part; part = next) {
		next = part->next;
		if (part->part_done)
			drop_part(part);
	}
	if (--read->parts == 0)
		transmit_left_read_end(conn, read);
	command_continue_read(conn);
}

static void part_done(struct request *part)
{
	struct connection *conn = part->owner;
	part->part_done = true;
	if (part->io.status >= 0)
		part->parent->behind_stuck = false; /* the device answers again */
	if (likely(conn->big == part->parent))
		command_continue_read(conn);
	else
		drop_part(part);
}

void command_begin_large_read(struct connection *conn, struct request *request)
{
	request->at = request->emitted = 0;
	request->behind_stuck = false;
	request->parts = 0;
	request->parts_first = NULL;
	request->parts_last = &request->parts_first;
	request->next = NULL;
	*conn->big_last = request;
	conn->big_last = &request->next;
	command_continue_read(conn);
}
