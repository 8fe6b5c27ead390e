/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * io: READ, WRITE and CACHE through the ring. A request is one operation; what comes back short is
 * continued one segment of the iovec after another, and so is a request that crosses from the part
 * of the file that O_DIRECT reaches into its buffered tail. Runs on the channel's core.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>

#include "bdev/file/internal.h"

static void prep_single(struct io_uring_sqe *sqe, const struct side_region *region, bool write,
			void *base, unsigned bytes, uint64_t position)
{
	int index = region ? side_region_index(region, base, bytes) : -1;
	if (index >= 0 && write)
		io_uring_prep_write_fixed(sqe, -1, base, bytes, position, index);
	else if (index >= 0)
		io_uring_prep_read_fixed(sqe, -1, base, bytes, position, index);
	else if (write)
		io_uring_prep_write(sqe, -1, base, bytes, position);
	else
		io_uring_prep_read(sqe, -1, base, bytes, position);
}

/* The part of the iovec at `progress`: what is left of its segment, at most `most` bytes. */
static struct iovec segment_at(const struct bdev_io *io, uint64_t progress, uint64_t most)
{
	const struct iovec *iov = io->iov;
	while (progress >= iov->iov_len)
		progress -= iov++->iov_len;
	return (struct iovec){
		.iov_base = (uint8_t *)iov->iov_base + progress,
		.iov_len = MIN_OF((uint64_t)iov->iov_len - progress, most),
	};
}

/*
 * What waits in one of the kernel's threads, or was refused before, is left to the main ring; so is
 * what the kernel may have to split: long ones, pieces with gaps between them, a FUA write.
 */
static bool may_poll(const struct file_io *fio, const struct file_target *target, uint64_t bytes,
		     unsigned sqe_flags)
{
	const struct bdev_io *io = fio->io;
	return target == &file_channel(io->ch)->body && io->iovcnt == 1 &&
	       bytes <= file_of(io->ch->bdev)->polled_bytes_max && !(io->flags & BDEV_FUA) &&
	       !fio->tries && !sqe_flags;
}

static void rw_done(struct uring_op *op, int result, uint32_t cqe_flags);

static void rw_issue(struct file_io *fio, unsigned sqe_flags)
{
	struct bdev_io *io = fio->io;
	struct bdev_channel *ch = io->ch;
	struct file_channel *fc = file_channel(ch);
	bool write = io->op == BDEV_WRITE;
	uint64_t position = io->offset + fio->progress;
	uint64_t most = io->length - fio->progress;
	uint64_t boundary = file_boundary(fc, io);
	const struct file_target *target = &fc->tail;
	if (likely(position < boundary)) {
		target = &fc->body;
		most = MIN_OF(most, boundary - position);
	}

	const struct side_region *region = fc->region;
	struct io_uring_sqe *sqe;
	if (fc->polled && may_poll(fio, target, most, sqe_flags)) {
		target = &fc->polled_body;
		region = &fc->polled->region;
		sqe = side_ring_sqe(fc->polled);
	} else {
		sqe = uring_get_sqe(&ch->reactor->uring);
	}
	if (most < io->length) {
		struct iovec segment = segment_at(io, fio->progress, most);
		prep_single(sqe, region, write, segment.iov_base, segment.iov_len, position);
	} else if (io->iovcnt == 1) {
		prep_single(sqe, region, write, io->iov->iov_base, io->length, position);
	} else if (write) {
		io_uring_prep_writev(sqe, -1, io->iov, io->iovcnt, position);
	} else {
		io_uring_prep_readv(sqe, -1, io->iov, io->iovcnt, position);
	}
	if (write && io->flags & BDEV_FUA)
		sqe->rw_flags = RWF_DSYNC;
	file_set_target(sqe, target);
	sqe->flags |= sqe_flags | fc->async;
	fio->op.done = rw_done;
	uring_set_op(sqe, &fio->op);
}

static void rw_finish(struct file_io *fio, int status)
{
	struct bdev_io *io = fio->io;
	if (io->op == BDEV_WRITE && io->flags & BDEV_FUA)
		file_account_durable(file_of(io->ch->bdev), file_channel(io->ch)->core, status);
	file_complete(fio, status);
}

/*
 * Counts what was moved. O_DIRECT that stopped inside a block (the file was cut there) is taken up
 * at that block's start. Returns -EIO where that is no headway: the bytes are not there.
 */
static int rw_advance(struct file_io *fio, uint64_t moved)
{
	const struct bdev_io *io = fio->io;
	uint64_t progress = fio->progress + moved;
	uint64_t position = io->offset + progress;
	if (unlikely(progress < io->length && position < file_boundary(file_channel(io->ch), io)))
		progress -= position & (io->ch->bdev->align_bytes - 1);
	if (unlikely((int64_t)progress <= (int64_t)fio->progress))
		return -EIO;
	fio->progress = progress;
	return 0;
}

static void rw_done(struct uring_op *op, int result, uint32_t cqe_flags)
{
	struct file_io *fio = container_of(op, struct file_io, op);
	int error = result < 0 ? result : rw_advance(fio, result);
	if (likely(!error && fio->progress == fio->io->length)) {
		rw_finish(fio, 0);
	} else if (!error && !fio->aborted) {
		rw_issue(fio, 0);
	} else if (file_retries(fio, error)) {
		/* a worker of the kernel's may wait where the submission could not */
		rw_issue(fio, IOSQE_ASYNC);
	} else {
		rw_finish(fio, error ? error : -ECANCELED);
	}
}

void file_polled_done(const struct io_uring_cqe *cqe)
{
	struct uring_op *op = io_uring_cqe_get_data(cqe);
	struct file_io *fio = container_of(op, struct file_io, op);
	/* what can not be polled after all is done the other way */
	int result = cqe->res == -EOPNOTSUPP && !fio->tries ? -EAGAIN : cqe->res;
	rw_done(op, result, cqe->flags);
}

void file_start_rw(struct file_io *fio)
{
	rw_issue(fio, 0);
}

static void cache_done(struct uring_op *op, int result, uint32_t cqe_flags);

static void cache_issue(struct file_io *fio)
{
	struct bdev_io *io = fio->io;
	struct io_uring_sqe *sqe = uring_get_sqe(&io->ch->reactor->uring);
	uint64_t bytes = MIN_OF(io->length - fio->progress, (uint64_t)FILE_CACHE_PIECE_BYTES);
	io_uring_prep_fadvise(sqe, -1, io->offset + fio->progress, bytes, POSIX_FADV_WILLNEED);
	file_set_target(sqe, &file_channel(io->ch)->body);
	fio->op.done = cache_done;
	uring_set_op(sqe, &fio->op);
}

static void cache_done(struct uring_op *op, int result, uint32_t cqe_flags)
{
	struct file_io *fio = container_of(op, struct file_io, op);
	if (!result)
		fio->progress += FILE_CACHE_PIECE_BYTES;
	bool more = fio->progress < fio->io->length;
	if (fio->aborted && more)
		file_complete(fio, -ECANCELED);
	else if (more && (!result || file_retries(fio, result)))
		cache_issue(fio);
	else
		file_complete(fio, result);
}

void file_start_cache(struct file_io *fio)
{
	cache_issue(fio);
}
