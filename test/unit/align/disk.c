/* SPDX-License-Identifier: BSD-3-Clause */
/* disk: a driver in memory for tests of what stands above drivers. */
#include "test/unit/align/disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/unit/reactor/support.h"

struct disk_channel {
	struct poller poller;
	struct bdev_channel *ch;
	struct bdev_io *pending[DISK_PENDING_MOST];
	unsigned count;
	unsigned random;
};

struct disk_io {
	uint64_t offset, length; /* what was submitted: nobody may change it meanwhile */
	bool pending;
};

static struct disk *disk_of(const struct bdev *bdev)
{
	return container_of(bdev, struct disk, bdev);
}

static struct disk_channel *channel_of(struct bdev_channel *ch)
{
	return (void *)ch->ctx;
}

static unsigned next_random(struct disk_channel *dc)
{
	dc->random = dc->random * 1103515245 + 12345;
	return dc->random >> 16;
}

/* A disk's own memory is no business of ThreadSanitizer: hosts may read what others write. */
__attribute__((no_sanitize("thread"), noinline)) static void
copy(volatile uint8_t *to, const volatile uint8_t *from, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		to[i] = from ? from[i] : 0;
}

static void perform(struct disk *disk, struct bdev_io *io)
{
	uint8_t *at = disk->data + io->offset;
	switch (io->op) {
	case BDEV_READ:
		for (int i = 0; i < io->iovcnt; at += io->iov[i++].iov_len)
			copy(io->iov[i].iov_base, at, io->iov[i].iov_len);
		break;
	case BDEV_WRITE:
		for (int i = 0; i < io->iovcnt; at += io->iov[i++].iov_len)
			copy(at, io->iov[i].iov_base, io->iov[i].iov_len);
		break;
	case BDEV_WRITE_ZEROES:
	case BDEV_TRIM:
		copy(at, NULL, io->length);
		break;
	default:
		break;
	}
}

static void check_contract(struct disk *disk, const struct bdev_io *io)
{
	uint64_t mask = disk->bdev.align_bytes - 1, size = atomic_load(&disk->bdev.size_bytes);
	uint64_t bytes = 0;
	if (io->op == BDEV_FLUSH)
		return;
	check(io->length > 0 && io->length <= size && io->offset <= size - io->length);
	check(!(io->offset & mask));
	check(!(io->length & mask) || io->offset + io->length == size);
	if (io->op != BDEV_READ && io->op != BDEV_WRITE)
		return;
	check(io->iovcnt > 0);
	for (int i = 0; i < io->iovcnt; i++)
		bytes += io->iov[i].iov_len;
	check(bytes == io->length);
}

static void finish(struct disk *disk, struct bdev_io *io, int status)
{
	struct disk_io *dio = bdev_io_ctx(&disk->bdev, io);
	check(io->op == BDEV_FLUSH || (dio->offset == io->offset && dio->length == io->length));
	if (!status)
		perform(disk, io);
	bdev_io_complete(io, status);
}

static void submit(struct bdev_channel *ch, struct bdev_io **ios, unsigned n)
{
	struct disk *disk = disk_of(ch->bdev);
	struct disk_channel *dc = channel_of(ch);
	for (unsigned i = 0; i < n; i++) {
		struct bdev_io *io = ios[i];
		struct disk_io *dio = bdev_io_ctx(&disk->bdev, io);
		check(ch->reactor == reactor_self && io->ch == ch);
		check_contract(disk, io);
		memset(&io->link, 0xa5, sizeof(io->link)); /* a driver's to use */
		*dio = (struct disk_io){io->offset, io->length};
		if (io->op == BDEV_READ)
			atomic_fetch_add(&disk->reads, 1);
		else if (io->op != BDEV_FLUSH && io->op != BDEV_CACHE)
			atomic_fetch_add(&disk->taken[reactor_self->index], 1);
		int status = disk->on_submit ? disk->on_submit(disk, io) : 0;
		if (status || disk->timing == DISK_AT_ONCE ||
		    (disk->timing == DISK_MIXED && next_random(dc) & 1)) {
			finish(disk, io, status);
			continue;
		}
		check(dc->count < DISK_PENDING_MOST);
		dc->pending[dc->count++] = io;
		if (dc->count > atomic_load(&disk->most_pending))
			atomic_store(&disk->most_pending, dc->count);
	}
}

/* Some of what is pending, in any order. */
static unsigned poll(struct poller *poller)
{
	struct disk_channel *dc = container_of(poller, struct disk_channel, poller);
	struct disk *disk = disk_of(dc->ch->bdev);
	unsigned n = next_random(dc) % 4, before = dc->count;
	if (disk->hold)
		return 0;
	for (; n && dc->count; n--) {
		unsigned at = next_random(dc) % dc->count;
		struct bdev_io *io = dc->pending[at];
		dc->pending[at] = dc->pending[--dc->count];
		finish(disk, io, 0);
	}
	return before;
}

static bool may_sleep(struct poller *poller)
{
	return !container_of(poller, struct disk_channel, poller)->count;
}

static void disk_abort(struct bdev_channel *ch, struct bdev_io *io)
{
	struct disk_channel *dc = channel_of(ch);
	atomic_fetch_add(&disk_of(ch->bdev)->aborts, 1);
	for (unsigned i = 0; i < dc->count; i++) {
		if (dc->pending[i] != io)
			continue;
		dc->pending[i] = dc->pending[--dc->count];
		finish(disk_of(ch->bdev), io, -ETIMEDOUT);
		return;
	}
}

static void disk_cancel(struct bdev_channel *ch)
{
	atomic_fetch_add(&disk_of(ch->bdev)->cancels, 1);
}

static int channel_open(struct bdev_channel *ch)
{
	struct disk *disk = disk_of(ch->bdev);
	struct disk_channel *dc = channel_of(ch);
	if (disk->open_fails_on == (int)reactor_self->index)
		return -EMFILE;
	dc->ch = ch;
	dc->random = 1 + reactor_self->index;
	dc->poller.poll = poll;
	dc->poller.may_sleep = may_sleep;
	reactor_add_poller(&dc->poller);
	return 0;
}

static void channel_close(struct bdev_channel *ch)
{
	check(!channel_of(ch)->count);
	check(!ch->inflight && !ch->refs);
	reactor_remove_poller(&channel_of(ch)->poller);
}

static void destroy(struct bdev *bdev)
{
	for (unsigned i = 0; i < reactor_count; i++)
		check(!atomic_load(&bdev->channels[i]));
	atomic_store(&disk_of(bdev)->destroyed, true);
	bdev_destroyed(bdev);
}

const struct bdev_type disk_type = {
	.name = "disk",
	.product_name = "test disk",
	.channel_ctx_bytes = sizeof(struct disk_channel),
	.channel_open = channel_open,
	.channel_close = channel_close,
	.submit = submit,
	.abort = disk_abort,
	.cancel = disk_cancel,
	.destroy = destroy,
};

struct disk *disk_create(const char *name, uint32_t align_bytes, uint64_t size_bytes)
{
	struct disk *disk = aligned_alloc(_Alignof(struct disk), sizeof(*disk));
	check(disk);
	memset(disk, 0, sizeof(*disk));
	disk->room = size_bytes;
	disk->data = malloc(size_bytes); /* exactly: AddressSanitizer sees a byte too much */
	check(disk->data);
	memset(disk->data, 0, size_bytes);
	disk->open_fails_on = -1;
	disk->timing = DISK_LATER;
	disk->bdev.type = &disk_type;
	snprintf(disk->bdev.name, sizeof(disk->bdev.name), "%s", name);
	disk->bdev.size_bytes = size_bytes;
	disk->bdev.block_size = 512;
	disk->bdev.align_bytes = align_bytes;
	disk->bdev.mem_align_bytes = 1;
	disk->bdev.caps = BDEV_CAP_WRITE | BDEV_CAP_FLUSH | BDEV_CAP_FUA | BDEV_CAP_TRIM |
			  BDEV_CAP_WRITE_ZEROES | BDEV_CAP_CACHE;
	disk->bdev.io_ctx_bytes = sizeof(struct disk_io);
	check(!bdev_register(&disk->bdev));
	return disk;
}

void disk_free(struct disk *disk)
{
	check(atomic_load(&disk->destroyed));
	free(disk->data);
	free(disk);
}
