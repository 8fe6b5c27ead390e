/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * inline: files that lie in memory (tmpfs, ramfs). io_uring would hand each operation to a worker
 * thread; the plain system call is faster than that and never waits for a device, so it is made
 * before submit() returns. Zeroing a large range takes its time, and is left to that worker thread.
 * Runs on the channel's core.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bdev/file/internal.h"

static ssize_t move(const struct bdev_io *io, int fd, const struct iovec *iov, int iovcnt,
		    uint64_t position)
{
	int flags = io->op == BDEV_WRITE && io->flags & BDEV_FUA ? RWF_DSYNC : 0;
	ssize_t moved;
	do
		moved = io->op == BDEV_WRITE ? pwritev2(fd, iov, iovcnt, position, flags)
					     : preadv(fd, iov, iovcnt, position);
	while (moved < 0 && errno == EINTR);
	return moved < 0 ? -errno : moved;
}

/* The whole vector at once; what comes back short is finished segment by segment. */
static int move_all(const struct bdev_io *io, int fd)
{
	ssize_t moved = move(io, fd, io->iov, io->iovcnt, io->offset);
	if (likely(moved == (ssize_t)io->length))
		return 0;
	const struct iovec *iov = io->iov;
	uint64_t progress = 0, skip = 0; /* bytes done; of them in the current segment */
	while (moved > 0) {
		progress += moved;
		skip += moved;
		while (progress < io->length && skip >= iov->iov_len)
			skip -= iov++->iov_len;
		if (progress >= io->length)
			return 0;
		struct iovec rest = {(uint8_t *)iov->iov_base + skip, iov->iov_len - skip};
		moved = move(io, fd, &rest, 1, io->offset + progress);
	}
	return moved ? (int)moved : -EIO;
}

static int allocate(int fd, int mode, const struct bdev_io *io)
{
	int result;
	do
		result = fallocate(fd, mode, io->offset, io->length);
	while (result < 0 && errno == EINTR);
	return result < 0 ? -errno : 0;
}

static int write_zeroes(const struct bdev_io *io, int fd)
{
	uint64_t progress = 0;
	while (progress < io->length) {
		uint64_t bytes = MIN_OF(io->length - progress, (uint64_t)FILE_ZERO_PIECE_BYTES);
		ssize_t moved = pwrite(fd, file_zeroes, bytes, io->offset + progress);
		if (moved < 0 && errno == EINTR)
			continue;
		if (moved <= 0)
			return moved ? -errno : -EIO;
		progress += moved;
	}
	return 0;
}

static int zero(struct file *file, const struct bdev_io *io)
{
	for (;;) {
		enum file_method method = file_choose_method(file, io);
		if (method == FILE_METHODS)
			return io->op == BDEV_TRIM ? 0 : -ENOTSUP;
		if (method == FILE_ZERO_WRITE)
			return write_zeroes(io, file->fd);
		int error = allocate(file->fd, file_fallocate_mode(method), io);
		if (!file_method_missing(method, error))
			return error;
		file_forget_method(file, method);
	}
}

static int sync_now(struct file *file, struct file_core *core)
{
	int error = fdatasync(file->fd) ? -errno : 0;
	file_account_fsync(file, core, error);
	return error ? error : atomic_load(&file->sync_error);
}

static int run(struct file *file, struct file_channel *fc, struct bdev_io *io)
{
	int error = file_check(file, fc, io);
	if (error || (!io->length && io->op != BDEV_FLUSH))
		return error;
	switch (io->op) {
	case BDEV_READ:
		if (unlikely(fc->mapping.count) && file_read_mapped_zeroes(fc, io))
			return 0;
		return move_all(io, file->fd);
	case BDEV_WRITE:
		error = move_all(io, file->fd);
		if (io->flags & BDEV_FUA)
			file_account_durable(file, fc->core, error);
		return error;
	case BDEV_FLUSH:
		return sync_now(file, fc->core);
	case BDEV_TRIM:
	case BDEV_WRITE_ZEROES:
		error = zero(file, io);
		return !error && io->flags & BDEV_FUA ? sync_now(file, fc->core) : error;
	default:
		return -EOPNOTSUPP;
	}
}

bool file_submit_inline(struct bdev_channel *ch, struct bdev_io *io)
{
	struct file_channel *fc = file_channel(ch);
	bool write = file_is_write(io) && io->length;
	if (write && io->op != BDEV_WRITE && io->length > FILE_INLINE_ZERO_BYTES)
		return false;
	if (io->op == BDEV_EXTENTS) /* a worker's */
		return false;
	if (write)
		file_write_begins(fc, io);
	int status = run(file_of(ch->bdev), fc, io);
	if (write)
		file_write_ended(fc, io);
	bdev_io_complete(io, status);
	return true;
}
