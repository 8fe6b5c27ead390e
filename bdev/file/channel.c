/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * channel: a file on one core: registers its descriptors and this core's I/O buffers with the ring,
 * takes requests in, holds them while a resize needs the file to itself or too many are under way
 * at a remote file, and ends them. Runs on the channel's core; allocates nothing, logs nothing.
 */
#include <errno.h>

#include "bdev/file/internal.h"

_Static_assert(sizeof(struct file_io) <= 256, "other layers need their part of bdev_io.ctx");

/* By reactor index, each written by its core: regions stay registered for the life of the ring. */
static struct {
	bool tried;
	struct side_region region;
} regions[REACTOR_MAX];

/* Where the locked-memory limit forbids it, I/O goes on with plain buffers. */
static const struct side_region *region_of(struct reactor *reactor)
{
	struct side_region *region = &regions[reactor->index].region;
	if (!regions[reactor->index].tried) {
		regions[reactor->index].tried = true;
		side_region_register(region, &reactor->uring, &reactor->buffers);
	}
	return region->bytes ? region : NULL;
}

static void add_target(struct file_target *target, struct uring *uring, int fd)
{
	target->fd = fd;
	target->slot = uring_file_add(uring, fd);
}

static void remove_target(struct file_target *target, struct uring *uring)
{
	if (target->slot >= 0)
		uring_file_remove(uring, target->slot);
}

/* Without a side ring (limits, memory) completions come by interrupts. */
static void get_polled(struct file_channel *fc, const struct file *file)
{
	fc->polled = side_ring_get(SIDE_RING_POLLED, FILE_POLLED_INFLIGHT_MAX, file_polled_done);
	if (!fc->polled)
		return;
	add_target(&fc->polled_body, &fc->polled->uring, file->direct_fd);
	fc->inflight_max = FILE_POLLED_INFLIGHT_MAX;
}

static void put_polled(struct file_channel *fc)
{
	remove_target(&fc->polled_body, &fc->polled->uring);
	side_ring_put(fc->polled, FILE_POLLED_INFLIGHT_MAX);
}

int file_channel_open(struct bdev_channel *ch)
{
	struct file *file = file_of(ch->bdev);
	struct file_channel *fc = file_channel(ch);
	uint64_t limit = atomic_load(&file->resize_limit);
	fc->core = &file->cores[ch->reactor->index];
	fc->size = MIN_OF((uint64_t)atomic_load(&file->bdev.size_bytes), limit);
	fc->direct_end = atomic_load(&file->direct_end);
	fc->paused = limit != UINT64_MAX;
	fc->inflight_max = file->remote ? FILE_REMOTE_INFLIGHT_MAX : UINT32_MAX;
	fc->async = file->remote ? IOSQE_ASYNC : 0;
	TAILQ_INIT(&fc->held);
	TAILQ_INIT(&fc->syncing.running);
	TAILQ_INIT(&fc->syncing.waiting);
	int error = file_mapping_init(ch);
	if (error)
		return error;
	struct uring *uring = &ch->reactor->uring;
	bool direct = file->direct_fd >= 0;
	add_target(&fc->body, uring, direct ? file->direct_fd : file->fd);
	fc->tail = fc->body;
	if (direct && !file->block_device)
		add_target(&fc->tail, uring, file->fd);
	fc->sync = fc->body;
	if (fc->core->sync_fd >= 0)
		add_target(&fc->sync, uring, fc->core->sync_fd);
	if (direct)
		fc->region = region_of(ch->reactor);
	fc->device = direct && !file->remote;
	if (file->polled_bytes_max)
		get_polled(fc, file);
	return 0;
}

void file_channel_close(struct bdev_channel *ch)
{
	struct file_channel *fc = file_channel(ch);
	struct uring *uring = &ch->reactor->uring;
	if (fc->tail.fd != fc->body.fd)
		remove_target(&fc->tail, uring);
	if (fc->sync.fd != fc->body.fd)
		remove_target(&fc->sync, uring);
	remove_target(&fc->body, uring);
	if (fc->polled)
		put_polled(fc);
	file_mapping_fini(fc);
}

static bool may_begin(const struct file_channel *fc)
{
	return likely(fc->inflight < fc->inflight_max && !fc->paused);
}

static void begin_held(struct file_channel *fc);

void file_complete(struct file_io *fio, int status)
{
	struct file_channel *fc = file_channel(fio->io->ch);
	fio->stage = FILE_FINISHED;
	if (unlikely(status && fio->aborted))
		status = -ETIMEDOUT;
	if (file_is_write(fio->io) && fio->io->length)
		file_write_ended(fc, fio->io);
	/* before done(): it may be the last request of a channel that is being closed */
	if (--fc->inflight == 0) {
		if (fc->device)
			reactor_device_idle(fio->io->ch->reactor);
		fc->cancelling = false;
		if (unlikely(fc->draining)) {
			fc->draining = false;
			file_drained(file_of(fio->io->ch->bdev));
		}
	}
	if (unlikely(!TAILQ_EMPTY(&fc->held)))
		begin_held(fc);
	bdev_io_complete(fio->io, status);
}

int file_check(struct file *file, const struct file_channel *fc, const struct bdev_io *io)
{
	bool inside = io->length <= fc->size && io->offset <= fc->size - io->length;
	if (unlikely(!inside && io->op != BDEV_FLUSH))
		return io->op == BDEV_WRITE || io->op == BDEV_WRITE_ZEROES ? -ENOSPC : -EINVAL;
	if (unlikely(file_is_durable(io)))
		return atomic_load_explicit(&file->sync_error, memory_order_relaxed);
	return 0;
}

static void begin(struct file_channel *fc, struct file_io *fio)
{
	struct bdev_io *io = fio->io;
	if (fc->inflight++ == 0 && fc->device)
		reactor_device_busy(io->ch->reactor);
	fio->stage = FILE_RING;
	if (file_is_write(io) && io->length)
		file_write_begins(fc, io);
	int error = file_check(file_of(io->ch->bdev), fc, io);
	if (unlikely(error || (!io->length && io->op != BDEV_FLUSH))) {
		file_complete(fio, error);
		return;
	}
	switch (io->op) {
	case BDEV_READ:
		if (unlikely(fc->mapping.count) && file_read_mapped_zeroes(fc, io)) {
			file_complete(fio, 0);
			break;
		}
		/* fall through */
	case BDEV_WRITE:
		file_start_rw(fio);
		break;
	case BDEV_FLUSH:
		file_sync(fio);
		break;
	case BDEV_TRIM:
	case BDEV_WRITE_ZEROES:
		file_start_zero(fio);
		break;
	case BDEV_CACHE:
		file_start_cache(fio);
		break;
	case BDEV_EXTENTS:
		file_start_extents(fio);
		break;
	default:
		file_complete(fio, -EOPNOTSUPP);
	}
}

/* Not empty. As many as may; those that end at once make room here for more. */
static void begin_held(struct file_channel *fc)
{
	if (fc->resuming)
		return;
	bool more = true;
	fc->resuming = true;
	while (more && may_begin(fc)) {
		struct file_io *fio = TAILQ_FIRST(&fc->held);
		TAILQ_REMOVE(&fc->held, fio, link);
		/* the channel may go with the last of them, which must not be looked at then */
		more = !TAILQ_EMPTY(&fc->held);
		if (!more)
			fc->resuming = false;
		begin(fc, fio);
	}
	if (more)
		fc->resuming = false;
}

void file_submit(struct bdev_channel *ch, struct bdev_io **ios, unsigned n)
{
	struct file_channel *fc = file_channel(ch);
	bool memory = file_of(ch->bdev)->memory;
	for (unsigned i = 0; i < n; i++) {
		struct file_io *fio = bdev_io_ctx(ch->bdev, ios[i]);
		fio->stage = FILE_FINISHED;
		if (memory && file_submit_inline(ch, ios[i]))
			continue;
		fio->io = ios[i];
		fio->progress = 0;
		fio->tries = 0;
		fio->aborted = false;
		if (unlikely(!may_begin(fc))) {
			fio->stage = FILE_HELD;
			TAILQ_INSERT_TAIL(&fc->held, fio, link);
		} else {
			begin(fc, fio);
		}
	}
}

void file_channel_resume(struct bdev_channel *ch)
{
	struct file *file = file_of(ch->bdev);
	struct file_channel *fc = file_channel(ch);
	fc->size = atomic_load(&file->bdev.size_bytes);
	fc->direct_end = atomic_load(&file->direct_end);
	fc->paused = false;
	file_forget_maps(fc, file);
	if (!TAILQ_EMPTY(&fc->held))
		begin_held(fc);
}

void file_abort(struct bdev_channel *ch, struct bdev_io *io)
{
	struct file_channel *fc = file_channel(ch);
	struct file_io *fio = bdev_io_ctx(ch->bdev, io);
	switch (fio->stage) {
	case FILE_HELD:
		TAILQ_REMOVE(&fc->held, fio, link);
		fio->stage = FILE_FINISHED;
		bdev_io_complete(io, -ETIMEDOUT);
		break;
	case FILE_RING:
		fio->aborted = true;
		file_abort_zero(fio);
		/* its own completion calls nobody; -ENOENT would tell that there is nothing to do
		 */
		io_uring_prep_cancel(uring_get_sqe(&ch->reactor->uring), &fio->op, 0);
		break;
	case FILE_SYNC_WAITING:
	case FILE_SYNC_RUNNING:
		file_abort_sync(fio);
		break;
	case FILE_MAP_WAITING:
	case FILE_MAP_RUNNING:
		file_abort_extents(fio);
		break;
	default:
		break;
	}
}

void file_cancel(struct bdev_channel *ch)
{
	struct file_channel *fc = file_channel(ch);
	fc->cancelling = fc->inflight != 0;
	file_cancel_extents(fc);
}
