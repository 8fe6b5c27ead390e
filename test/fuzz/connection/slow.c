/* SPDX-License-Identifier: BSD-3-Clause */
/* slow: a disk whose requests take their time. */
#include "test/fuzz/connection/slow.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/compiler.h"

struct slow_control slow;

struct channel {
	struct poller poller;
	TAILQ_HEAD(waiting, bdev_io) waiting;
};

static struct bdev disk;
static uint8_t *memory, *written; /* a byte a block */
static struct channel *channels[REACTOR_MAX];

static void perform(struct bdev_io *io)
{
	uint8_t *at = memory + io->offset;
	uint64_t first = io->offset / SLOW_BLOCK_BYTES, end = first + io->length / SLOW_BLOCK_BYTES;
	switch (io->op) {
	case BDEV_READ:
		if (io->flags & BDEV_SPARSE && !memchr(written + first, 1, end - first)) {
			io->flags |= BDEV_ZEROES;
			return;
		}
		for (unsigned i = 0; i < io->iovcnt; at += io->iov[i++].iov_len)
			memcpy(io->iov[i].iov_base, at, io->iov[i].iov_len);
		return;
	case BDEV_WRITE:
		for (unsigned i = 0; i < io->iovcnt; at += io->iov[i++].iov_len)
			memcpy(at, io->iov[i].iov_base, io->iov[i].iov_len);
		memset(written + first, 1, end - first);
		return;
	case BDEV_TRIM:
	case BDEV_WRITE_ZEROES:
		memset(at, 0, io->length);
		memset(written + first, 0, end - first);
		return;
	default:
		return;
	}
}

static int tell_extents(struct bdev_io *io)
{
	uint64_t at = io->offset, end = io->offset + io->length;
	io->extents = 0;
	if (io->context > 1)
		return -EINVAL;
	while (at < end) {
		uint64_t next = MIN_OF(end, (at / SLOW_BLOCK_BYTES + 1) * SLOW_BLOCK_BYTES);
		bool hole = !written[at / SLOW_BLOCK_BYTES];
		if (!bdev_extents_add(io, next - at, hole ? 3 : 0))
			break;
		at = next;
	}
	return 0;
}

static void finish(struct channel *channel, struct bdev_io *io, int status)
{
	TAILQ_REMOVE(&channel->waiting, io, link);
	if (!status && io->op == BDEV_EXTENTS)
		status = tell_extents(io);
	else if (!status)
		perform(io);
	bdev_io_complete(io, status);
}

unsigned slow_finish(unsigned most)
{
	struct channel *channel = channels[reactor_self->index];
	unsigned count = 0;
	while (channel && count < most && !TAILQ_EMPTY(&channel->waiting)) {
		struct bdev_io *io = slow.newest_first ? TAILQ_LAST(&channel->waiting, waiting)
						       : TAILQ_FIRST(&channel->waiting);
		int status = slow.failures ? -EIO : 0;
		if (slow.failures)
			slow.failures--;
		finish(channel, io, status);
		count++;
	}
	return count;
}

static unsigned poll(struct poller *poller)
{
	return slow.hold ? 0 : slow_finish(2);
}

static int channel_open(struct bdev_channel *ch)
{
	struct channel *channel = (struct channel *)ch->ctx;
	TAILQ_INIT(&channel->waiting);
	channel->poller.poll = poll;
	reactor_add_poller(&channel->poller);
	channels[reactor_self->index] = channel;
	return 0;
}

static void channel_close(struct bdev_channel *ch)
{
	channels[reactor_self->index] = NULL;
	reactor_remove_poller(&((struct channel *)ch->ctx)->poller);
}

static void submit(struct bdev_channel *ch, struct bdev_io **ios, unsigned n)
{
	struct channel *channel = (struct channel *)ch->ctx;
	for (unsigned i = 0; i < n; i++) {
		uint64_t end = ios[i]->offset + ios[i]->length;
		if (ios[i]->op != BDEV_FLUSH &&
		    (end < ios[i]->offset || end > atomic_load(&disk.size_bytes)))
			abort();
		TAILQ_INSERT_TAIL(&channel->waiting, ios[i], link);
	}
}

/* Every other time it can help it. */
static void abort_request(struct bdev_channel *ch, struct bdev_io *io)
{
	struct channel *channel = (struct channel *)ch->ctx;
	struct bdev_io *at;
	TAILQ_FOREACH (at, &channel->waiting, link) {
		if (at != io)
			continue;
		if (io->offset & SLOW_BLOCK_BYTES)
			finish(channel, io, -ETIMEDOUT);
		return;
	}
}

static const char *context(const struct bdev *bdev, unsigned index)
{
	return index == 1 ? "test:written" : NULL;
}

static const struct bdev_type slow_type = {
	.name = "slow",
	.product_name = "Slow disk",
	.channel_ctx_bytes = sizeof(struct channel),
	.channel_open = channel_open,
	.channel_close = channel_close,
	.submit = submit,
	.abort = abort_request,
	.destroy = bdev_destroyed,
	.context = context,
};

void slow_create(const char *name, uint64_t size_bytes)
{
	memory = calloc(1, size_bytes);
	written = calloc(1, size_bytes / SLOW_BLOCK_BYTES);
	disk.type = &slow_type;
	snprintf(disk.name, sizeof(disk.name), "%s", name);
	disk.size_bytes = size_bytes;
	disk.block_size = disk.align_bytes = SLOW_BLOCK_BYTES;
	disk.mem_align_bytes = SLOW_BLOCK_BYTES;
	disk.caps = BDEV_CAP_WRITE | BDEV_CAP_FLUSH | BDEV_CAP_FUA | BDEV_CAP_TRIM |
		    BDEV_CAP_WRITE_ZEROES | BDEV_CAP_CACHE | BDEV_CAP_EXTENTS;
	if (!memory || !written || bdev_register(&disk))
		abort();
}

void slow_wipe(void)
{
	uint64_t size = atomic_load(&disk.size_bytes);
	if (!memchr(written, 1, size / SLOW_BLOCK_BYTES))
		return;
	memset(memory, 0, size);
	memset(written, 0, size / SLOW_BLOCK_BYTES);
}
