/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * io: cutting. A READ or WRITE becomes commands of at most MDTS bytes, each of a payload that PRPs can
 * describe: pages, whole but at its two ends (unless the queue takes SGLs). WRITE_ZEROES becomes
 * commands of at most 65536 blocks, or writes of zeroes; TRIM one range a command. Failed commands
 * are sent again where the device allows it. Allocates and logs nothing but for what has failed
 * (fault.h).
 */
#include "bdev/nvme/io.h"

#include <errno.h>
#include <string.h>

#include "bdev/nvme/namespace.h"
#include "lib/base/clock.h"
#include "reactor/control.h"

_Static_assert(sizeof(struct nvme_io) <= 128, "other layers need their part of bdev_io.ctx");

static inline struct nvme_channel *channel_of(struct bdev_channel *ch)
{
	return (struct nvme_channel *)ch->ctx;
}

static inline struct nvme_io *nvme_io_of(struct bdev_io *io)
{
	return bdev_io_ctx(io->ch->bdev, io);
}

/* ---- Payload ---- */

static inline bool on_page(uintptr_t address)
{
	return !(address & (NVME_PAGE_BYTES - 1));
}

/*
 * Takes the next `most` bytes of the request's payload, or as many as one command can describe.
 * Returns how many, whole blocks; 0: not even one block can be.
 */
static uint32_t take_payload(struct nvme_io *nio, struct nvme_command *command, uint32_t most,
			     uint32_t block)
{
	const struct bdev_io *io = nio->io;
	uint16_t at = nio->iov_at;
	size_t offset = nio->iov_offset;
	uint32_t bytes = 0;
	command->iovcnt = 0;
	while (bytes < most && at < io->iovcnt) {
		uint8_t *base = (uint8_t *)io->iov[at].iov_base + offset;
		size_t length = MIN_OF(io->iov[at].iov_len - offset, (size_t)(most - bytes));
		if (command->iovcnt && !command->queue->sgl) {
			const struct iovec *last = &command->iov[command->iovcnt - 1];
			uintptr_t end = (uintptr_t)last->iov_base + last->iov_len;
			if (!on_page(end) || !on_page((uintptr_t)base))
				break;
		}
		if (length)
			command->iov[command->iovcnt++] = (struct iovec){base, length};
		bytes += length;
		offset += length;
		if (offset == io->iov[at].iov_len) {
			at++;
			offset = 0;
		}
	}
	/* what is left of a block goes to the next command */
	uint32_t excess = bytes & (block - 1);
	bytes -= excess;
	while (excess) {
		struct iovec *last = &command->iov[command->iovcnt - 1];
		size_t cut = MIN_OF(last->iov_len, (size_t)excess);
		last->iov_len -= cut;
		excess -= cut;
		command->iovcnt -= !last->iov_len;
		if (!offset)
			offset = io->iov[--at].iov_len;
		offset -= cut;
	}
	nio->iov_at = at;
	nio->iov_offset = offset;
	return bytes;
}

/* ---- Commands ---- */

static void set_blocks(struct nvme_sqe *sqe, uint64_t lba, uint32_t blocks, uint32_t flags)
{
	sqe->cdw10 = (uint32_t)lba;
	sqe->cdw11 = (uint32_t)(lba >> 32);
	sqe->cdw12 = (blocks - 1) | flags;
}

static bool make_rw(struct nvme_io *nio, struct nvme_command *command,
		    const struct nvme_namespace *ns)
{
	const struct bdev_io *io = nio->io;
	uint32_t block = 1u << ns->block_shift;
	uint64_t most = MIN_OF(io->length - nio->cut, (uint64_t)ns->transfer_bytes_max);
	command->bytes = take_payload(nio, command, (uint32_t)most, block);
	if (!command->bytes)
		return false;
	command->sqe.opcode = io->op == BDEV_READ ? NVME_READ : NVME_WRITE;
	set_blocks(&command->sqe, (io->offset + nio->cut) >> ns->block_shift,
		   command->bytes >> ns->block_shift,
		   io->op == BDEV_WRITE && io->flags & BDEV_FUA ? NVME_RW_FUA : 0);
	nio->cut += command->bytes;
	return true;
}

static void make_write_zeroes(struct nvme_io *nio, struct nvme_command *command,
			      const struct nvme_namespace *ns)
{
	const struct bdev_io *io = nio->io;
	uint64_t blocks = MIN_OF((io->length - nio->cut) >> ns->block_shift,
				 (uint64_t)NVME_COMMAND_BLOCKS_MAX);
	uint32_t flags = io->flags & BDEV_FUA ? NVME_RW_FUA : 0;
	if (ns->deac && !(io->flags & BDEV_NO_HOLE))
		flags |= NVME_RW_DEALLOCATE;
	command->sqe.opcode = NVME_WRITE_ZEROES;
	set_blocks(&command->sqe, (io->offset + nio->cut) >> ns->block_shift, (uint32_t)blocks,
		   flags);
	nio->cut += blocks << ns->block_shift;
}

static void make_zero_write(struct nvme_io *nio, struct nvme_command *command,
			    const struct nvme_namespace *ns, uint8_t *zeroes)
{
	const struct bdev_io *io = nio->io;
	uint64_t bytes = MIN_OF(io->length - nio->cut, (uint64_t)ns->transfer_bytes_max);
	bytes = MIN_OF(bytes, (uint64_t)NVME_ZERO_BYTES * BDEV_IO_MAX_IOVS);
	command->bytes = (uint32_t)bytes;
	command->iovcnt = 0;
	for (uint64_t left = bytes; left;) {
		size_t length = MIN_OF(left, (uint64_t)NVME_ZERO_BYTES);
		command->iov[command->iovcnt++] = (struct iovec){zeroes, length};
		left -= length;
	}
	command->sqe.opcode = NVME_WRITE;
	set_blocks(&command->sqe, (io->offset + nio->cut) >> ns->block_shift,
		   command->bytes >> ns->block_shift, io->flags & BDEV_FUA ? NVME_RW_FUA : 0);
	nio->cut += bytes;
}

static void make_trim(struct nvme_io *nio, struct nvme_command *command,
		      const struct nvme_namespace *ns, struct nvme_dsm_range *ranges)
{
	const struct bdev_io *io = nio->io;
	struct nvme_dsm_range *range = &ranges[command->index];
	uint64_t blocks = MIN_OF((io->length - nio->cut) >> ns->block_shift,
				 (uint64_t)NVME_DSM_BLOCKS_MAX);
	*range = (struct nvme_dsm_range){
		.blocks = (uint32_t)blocks,
		.lba = (io->offset + nio->cut) >> ns->block_shift,
	};
	command->iov[0] = (struct iovec){range, sizeof(*range)};
	command->iovcnt = 1;
	command->bytes = sizeof(*range);
	command->sqe.opcode = NVME_DSM;
	command->sqe.cdw10 = 0; /* ranges, less one */
	command->sqe.cdw11 = NVME_DSM_DEALLOCATE;
	nio->cut += blocks << ns->block_shift;
}

/* The request's next command. False: its payload can not be described. */
static bool make(struct nvme_io *nio, struct nvme_command *command, struct nvme_channel *nc)
{
	const struct nvme_namespace *ns = nvme_namespace_of(nio->io->ch->bdev);
	bool made = true;
	command->sqe = (struct nvme_sqe){.nsid = ns->nsid};
	command->iovcnt = 0;
	command->bytes = 0;
	if (nio->syncing || nio->io->op == BDEV_FLUSH) {
		command->sqe.opcode = NVME_FLUSH;
		nio->whole = true;
		return true;
	}
	switch (nio->io->op) {
	case BDEV_WRITE_ZEROES:
		if (nc->zeroes)
			make_zero_write(nio, command, ns, nc->zeroes);
		else
			make_write_zeroes(nio, command, ns);
		break;
	case BDEV_TRIM:
		make_trim(nio, command, ns, nc->ranges);
		break;
	default:
		made = make_rw(nio, command, ns);
	}
	nio->whole = !made || nio->cut == nio->io->length;
	return made;
}

/* ---- Requests ---- */

/* The namespace may have shrunk since the request was taken. */
static int check_end(const struct nvme_namespace *ns, const struct bdev_io *io)
{
	uint64_t size = atomic_load_explicit(&ns->bdev.size_bytes, memory_order_relaxed);
	if (likely(io->length <= size && io->offset <= size - io->length))
		return 0;
	return io->op == BDEV_WRITE || io->op == BDEV_WRITE_ZEROES ? -ENOSPC : -EINVAL;
}

static void command_done(struct nvme_command *command, int status, uint32_t result);

static void fail(struct nvme_io *nio, int error)
{
	if (!nio->status)
		nio->status = error;
	nio->whole = true;
}

static void put(struct nvme_queue *queue, struct nvme_command *command)
{
	command->owner = NULL;
	command->next_free = queue->free;
	queue->free = command;
}

static int check_now(const struct nvme_io *nio)
{
	if (nio->io->op == BDEV_FLUSH || nio->syncing)
		return 0;
	return check_end(nvme_namespace_of(nio->io->ch->bdev), nio->io);
}

/* Makes commands while there are free ones. True: it has all that it needs. */
static bool issue(struct nvme_io *nio, struct nvme_channel *nc)
{
	struct nvme_queue *queue = nc->queue;
	while (!nio->whole) {
		struct nvme_command *command = queue->free;
		if (!command)
			return false;
		int gone = nio->waiting || nio->cut ? check_now(nio) : 0;
		if (unlikely(gone)) {
			fail(nio, gone);
			break;
		}
		if (unlikely(!make(nio, command, nc))) {
			fail(nio, -EINVAL);
			break;
		}
		queue->free = command->next_free;
		command->owner = nio;
		command->done = command_done;
		command->issued = queue->reactor->now;
		nio->commands++;
		int error = queue->transport->issue(queue, command);
		if (unlikely(error)) {
			nio->commands--;
			put(queue, command);
			fail(nio, error);
		}
	}
	return true;
}

/* Nothing of it is in flight, nothing is to be made. */
static void end(struct nvme_io *nio)
{
	int status = nio->status;
	if (unlikely(status && nio->aborted))
		status = -ETIMEDOUT;
	bdev_io_complete(nio->io, status);
}

static bool wants_sync(const struct nvme_io *nio)
{
	const struct bdev_io *io = nio->io;
	return io->op == BDEV_TRIM && io->flags & BDEV_FUA && !nio->syncing && !nio->status &&
	       nvme_namespace_of(io->ch->bdev)->write_cache;
}

/* After a command has ended, or when none could be made. */
static void go_on(struct nvme_io *nio, struct nvme_channel *nc)
{
	if (nio->commands || !nio->whole)
		return;
	if (unlikely(wants_sync(nio))) {
		nio->syncing = true;
		nio->whole = false;
		if (!issue(nio, nc)) {
			nio->waiting = true;
			TAILQ_INSERT_TAIL(&nc->queue->waiting, nio, link);
			return;
		}
		if (nio->commands)
			return;
	}
	end(nio);
}

/* Gives free commands to those that wait, of any namespace of the queue's. */
static void serve_waiting(struct nvme_queue *queue)
{
	struct nvme_io *nio;
	while (queue->free && (nio = TAILQ_FIRST(&queue->waiting))) {
		struct nvme_channel *nc = channel_of(nio->io->ch);
		if (!issue(nio, nc))
			return;
		TAILQ_REMOVE(&queue->waiting, nio, link);
		nio->waiting = false;
		go_on(nio, nc);
	}
}

static void count_error(struct nvme_channel *nc, int status)
{
	if (status < 0)
		counter_add(&nc->errors->no_status, 1);
	else
		counter_add(&nc->errors->by_type[(status & NVME_STATUS_CODE) >> 8], 1);
}

/* True: the command is on its way again. */
static bool retry(struct nvme_io *nio, struct nvme_command *command, struct nvme_channel *nc,
		  int status)
{
	struct nvme_queue *queue = nc->queue;
	if (nio->aborted || nio->status || nio->retries >= NVME_RETRIES_MAX ||
	    !nvme_status_may_retry(status) || check_now(nio))
		return false;
	nio->retries++;
	counter_add(&nc->errors->retries, 1);
	command->issued = queue->reactor->now;
	return !queue->transport->issue(queue, command);
}

static void look_again(void *arg)
{
	struct nvme_namespace *ns = arg;
	if (ns->controller)
		nvme_controller_changed(ns->controller, &ns->nsid, 1);
}

/*
 * The device knows the namespace in another way than we do: who does not tell of such changes by
 * itself is asked. The bdev is there until the message has been taken: the closing of its channels
 * comes behind it.
 */
static void doubt(struct nvme_namespace *ns, struct nvme_channel *nc)
{
	uint64_t now = nc->queue->reactor->now;
	uint64_t *last = &nc->errors->doubted;
	if (*last && now - *last < clock_us_to_ticks(NVME_DOUBT_US))
		return;
	*last = now;
	control_send(look_again, ns);
}

/*
 * A namespace that was detached from the controller makes its id an invalid field (Base 3.2.1); beyond
 * the end of one that has shrunk some targets find the capacity exceeded (Linux's).
 */
static bool casts_doubt(int code)
{
	return code == NVME_SC_LBA_OUT_OF_RANGE || code == NVME_SC_INVALID_NAMESPACE ||
	       code == NVME_SC_INVALID_FIELD || code == NVME_SC_CAPACITY_EXCEEDED;
}

static void failed(struct nvme_io *nio, struct nvme_command *command, struct nvme_channel *nc,
		   int status)
{
	struct nvme_namespace *ns = nvme_namespace_of(nio->io->ch->bdev);
	int error = nvme_status_errno(status), code = status < 0 ? 0 : status & NVME_STATUS_CODE;
	nvme_fault_log(ns, command, status, &nc->errors->limit);
	if (casts_doubt(code))
		doubt(ns, nc);
	if (code == NVME_SC_LBA_OUT_OF_RANGE && (nio->io->op == BDEV_READ || nio->io->op == BDEV_TRIM))
		error = -EINVAL;
	fail(nio, error);
}

static void command_done(struct nvme_command *command, int status, uint32_t result)
{
	struct nvme_queue *queue = command->queue;
	struct nvme_io *nio = command->owner;
	struct nvme_channel *nc = channel_of(nio->io->ch);
	if (unlikely(nvme_status_errno(status))) {
		count_error(nc, status);
		if (retry(nio, command, nc, status))
			return;
		failed(nio, command, nc, status);
	}
	put(queue, command);
	nio->commands--;
	if (unlikely(nio->waiting && nio->whole)) {
		TAILQ_REMOVE(&queue->waiting, nio, link);
		nio->waiting = false;
	}
	/* The last request's end may close its channel, and with it the queue: unless others wait. */
	bool others = !TAILQ_EMPTY(&queue->waiting);
	go_on(nio, nc);
	if (unlikely(others))
		serve_waiting(queue);
}

/* ---- The bdev's functions ---- */

static int check(const struct nvme_namespace *ns, const struct nvme_channel *nc,
		 const struct bdev_io *io)
{
	if (io->op == BDEV_FLUSH)
		return 0;
	int error = check_end(ns, io);
	if (unlikely(error))
		return error;
	switch (io->op) {
	case BDEV_READ:
	case BDEV_WRITE:
		return 0;
	case BDEV_WRITE_ZEROES:
		return nc->zeroes && io->flags & BDEV_FAST_ZERO ? -ENOTSUP : 0;
	case BDEV_TRIM:
		return nc->ranges ? 0 : -EOPNOTSUPP;
	default:
		return -EOPNOTSUPP;
	}
}

static void submit_one(struct bdev_channel *ch, struct bdev_io *io)
{
	struct nvme_channel *nc = channel_of(ch);
	const struct nvme_namespace *ns = nvme_namespace_of(ch->bdev);
	struct nvme_io *nio = nvme_io_of(io);
	int error = check(ns, nc, io);
	/* without a volatile cache everything that was acknowledged is on the medium */
	bool nothing = io->op == BDEV_FLUSH ? !ns->write_cache : !io->length;
	if (unlikely(error || nothing)) {
		bdev_io_complete(io, error);
		return;
	}
	*nio = (struct nvme_io){.io = io};
	if (unlikely(!TAILQ_EMPTY(&nc->queue->waiting)) || unlikely(!issue(nio, nc))) {
		nio->waiting = true;
		TAILQ_INSERT_TAIL(&nc->queue->waiting, nio, link);
		return;
	}
	if (unlikely(!nio->commands))
		end(nio);
}

void nvme_submit(struct bdev_channel *ch, struct bdev_io **ios, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		submit_one(ch, ios[i]);
}

void nvme_abort(struct bdev_channel *ch, struct bdev_io *io)
{
	struct nvme_channel *nc = channel_of(ch);
	struct nvme_queue *queue = nc->queue;
	struct nvme_io *nio = nvme_io_of(io);
	nio->aborted = true;
	fail(nio, -ETIMEDOUT);
	if (nio->waiting) {
		TAILQ_REMOVE(&queue->waiting, nio, link);
		nio->waiting = false;
	}
	if (!nio->commands) {
		end(nio);
		return;
	}
	for (unsigned i = 0; i < queue->depth; i++)
		if (queue->commands[i].owner == nio)
			queue->transport->abort(queue, &queue->commands[i]);
}

/* ---- Opening and closing ---- */

static int get_memory(struct bdev_channel *ch)
{
	struct nvme_channel *nc = channel_of(ch);
	struct buffers *buffers = &ch->reactor->buffers;
	if (ch->bdev->caps & BDEV_CAP_TRIM) {
		nc->ranges = buffers_get(buffers, nc->queue->depth * sizeof(*nc->ranges));
		if (!nc->ranges)
			return -ENOMEM;
	}
	if (!(ch->bdev->caps & BDEV_CAP_FAST_ZERO)) {
		nc->zeroes = buffers_get(buffers, NVME_ZERO_BYTES);
		if (!nc->zeroes)
			return -ENOMEM;
		memset(nc->zeroes, 0, NVME_ZERO_BYTES);
	}
	return 0;
}

int nvme_channel_open(struct bdev_channel *ch)
{
	struct nvme_namespace *ns = nvme_namespace_of(ch->bdev);
	struct nvme_channel *nc = channel_of(ch);
	nc->queue = ns->transport->queue_get(ns);
	if (!nc->queue)
		return -errno;
	nc->errors = &ns->errors[ch->reactor->index];
	int error = get_memory(ch);
	if (error)
		nvme_channel_close(ch);
	return error;
}

void nvme_channel_close(struct bdev_channel *ch)
{
	struct nvme_channel *nc = channel_of(ch);
	struct buffers *buffers = &ch->reactor->buffers;
	if (nc->zeroes)
		buffers_put(buffers, nc->zeroes);
	if (nc->ranges)
		buffers_put(buffers, nc->ranges);
	nc->queue->transport->queue_put(nc->queue);
}
