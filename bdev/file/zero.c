/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * zero: TRIM and WRITE_ZEROES. Each has a list of ways, best first; a way that the kernel says it
 * does not know here (-EOPNOTSUPP) is remembered for all cores and not tried again. Where no way is
 * left, zeroes are written, and a TRIM, which is advice, has succeeded. FUA ends in sync.c. Runs on
 * the channel's core.
 *
 * Where I/O is direct, fallocate() gets whole blocks of the file system only: it would zero a part of
 * one in the page cache, and every direct READ or WRITE near that page would then wait in a worker
 * for its write-back. What is around the whole blocks is written, or in a TRIM left as it is.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <sys/ioctl.h>

#include "bdev/file/internal.h"

/* BLOCK_URING_CMD_DISCARD of linux/blkdev.h (6.12), which the headers here are older than. */
#define FILE_URING_CMD_DISCARD _IO(0x12, 0)

/* Not const: in .bss it costs no room in the program, and reading it maps the zero page. */
_Alignas(FILE_PAGE_BYTES) uint8_t file_zeroes[FILE_ZERO_PIECE_BYTES];

static const uint8_t trim_device[] = {FILE_DISCARD, FILE_DISCARD_STALE, FILE_PUNCH, FILE_METHODS};
static const uint8_t trim_file[] = {FILE_PUNCH, FILE_METHODS};
static const uint8_t zero_any[] = {FILE_PUNCH, FILE_ZERO_RANGE, FILE_ZERO_WRITE, FILE_METHODS};
static const uint8_t zero_fast[] = {FILE_PUNCH, FILE_ZERO_RANGE, FILE_METHODS};
static const uint8_t zero_punch[] = {FILE_PUNCH, FILE_METHODS};
static const uint8_t keep_any[] = {FILE_ZERO_RANGE, FILE_ZERO_WRITE, FILE_METHODS};
static const uint8_t keep_fast[] = {FILE_ZERO_RANGE, FILE_METHODS};
static const uint8_t none[] = {FILE_METHODS};

static const uint8_t *methods_for(const struct file *file, const struct bdev_io *io)
{
	bool fast = io->flags & BDEV_FAST_ZERO;
	if (io->op == BDEV_TRIM)
		return file->block_device ? trim_device : trim_file;
	if (io->flags & BDEV_NO_HOLE) {
		if (!fast)
			return keep_any;
		return file->zero_range_slow ? none : keep_fast;
	}
	if (!fast)
		return zero_any;
	return file->zero_range_slow ? zero_punch : zero_fast;
}

enum file_method file_choose_method(const struct file *file, const struct bdev_io *io)
{
	uint32_t missing = atomic_load_explicit(&file->unsupported, memory_order_relaxed);
	const uint8_t *method = methods_for(file, io);
	while (*method != FILE_METHODS && missing & 1u << *method)
		method++;
	return *method;
}

void file_forget_method(struct file *file, enum file_method method)
{
	atomic_fetch_or_explicit(&file->unsupported, 1u << method, memory_order_relaxed);
}

bool file_method_missing(enum file_method method, int error)
{
	if (method == FILE_ZERO_WRITE)
		return false;
	/* a command that a driver does not know is invalid to it */
	if (method == FILE_DISCARD && (error == -EINVAL || error == -ENOTTY))
		return true;
	return error == -EOPNOTSUPP || error == -ENOSYS;
}

int file_fallocate_mode(enum file_method method)
{
	switch (method) {
	case FILE_DISCARD_STALE:
		return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE | FALLOC_FL_NO_HIDE_STALE;
	case FILE_ZERO_RANGE:
		return FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
	default:
		return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	}
}

struct range {
	uint64_t begin, end; /* bytes */
};

/* What fallocate() gets of a request: nothing where begin is not before end. */
static struct range whole_blocks(const struct bdev_io *io)
{
	uint64_t mask = file_of(io->ch->bdev)->whole_bytes - 1;
	uint64_t end = io->offset + io->length;
	struct range whole = {(io->offset + mask) & ~mask, end};
	if (end < file_channel(io->ch)->direct_end)
		whole.end &= ~mask;
	return whole;
}

static bool has_edges(const struct bdev_io *io)
{
	struct range whole = whole_blocks(io);
	return whole.begin != io->offset || whole.end != io->offset + io->length;
}

static void zero_finish(struct file_io *fio, int status)
{
	if (!status && fio->io->flags & BDEV_FUA)
		file_sync(fio);
	else
		file_complete(fio, status);
}

/* ---- Writing zeroes: FILE_ZERO_PIECES writes in flight ---- */

static void piece_done(struct uring_op *op, int result, uint32_t cqe_flags);

static struct file_io *file_io_of(struct file_piece *piece)
{
	return container_of(piece - piece->index, struct file_io, pieces[0]);
}

static void piece_issue(struct file_piece *piece, unsigned sqe_flags)
{
	const struct bdev_io *io = file_io_of(piece)->io;
	const struct file_channel *fc = file_channel(io->ch);
	struct io_uring_sqe *sqe = uring_get_sqe(&io->ch->reactor->uring);
	bool body = piece->offset < file_boundary(fc, io);
	io_uring_prep_write(sqe, -1, file_zeroes, piece->length, piece->offset);
	file_set_target(sqe, body ? &fc->body : &fc->tail);
	sqe->flags |= sqe_flags | fc->async;
	piece->op.done = piece_done;
	uring_set_op(sqe, &piece->op);
}

/* Hands the next bytes to a free piece; false where there are none. */
static bool piece_begin(struct file_io *fio, struct file_piece *piece)
{
	const struct bdev_io *io = fio->io;
	const struct file_channel *fc = file_channel(io->ch);
	uint64_t offset = io->offset + fio->progress, end = io->offset + io->length;
	uint64_t boundary = file_boundary(fc, io);
	if (fio->edges) {
		struct range whole = whole_blocks(io);
		if (offset < whole.begin)
			end = whole.begin;
		else if (offset < whole.end)
			offset = whole.end;
		fio->progress = offset - io->offset;
	}
	uint64_t left = end - offset;
	if (!left || fio->status || fio->aborted || fc->cancelling)
		return false;
	if (offset < boundary)
		left = MIN_OF(left, boundary - offset);
	piece->offset = offset;
	piece->length = MIN_OF(left, (uint64_t)FILE_ZERO_PIECE_BYTES);
	fio->progress = offset + piece->length - io->offset;
	fio->pieces_busy++;
	piece_issue(piece, 0);
	return true;
}

static void pieces_finish(struct file_io *fio);

/* Of the whole range, or of its edges: then fallocate() takes the rest. */
static void write_zeroes(struct file_io *fio, bool edges)
{
	fio->edges = edges;
	fio->progress = 0;
	fio->status = 0;
	fio->pieces_busy = 0;
	for (unsigned i = 0; i < FILE_ZERO_PIECES; i++) {
		fio->pieces[i].index = i;
		fio->pieces[i].length = 0;
	}
	for (unsigned i = 0; i < FILE_ZERO_PIECES && piece_begin(fio, &fio->pieces[i]); i++)
		;
	if (unlikely(!fio->pieces_busy))
		pieces_finish(fio); /* cut short before it began */
}

static void method_issue(struct file_io *fio, unsigned sqe_flags);

/* The last is done: all were, or there was an error, or the request was cut short. */
static void pieces_finish(struct file_io *fio)
{
	bool cut = fio->progress < fio->io->length || (fio->edges && fio->aborted);
	if (fio->status || cut || !fio->edges)
		zero_finish(fio, !fio->status && cut ? -ECANCELED : fio->status);
	else
		method_issue(fio, 0);
}

static void piece_done(struct uring_op *op, int result, uint32_t cqe_flags)
{
	struct file_piece *piece = container_of(op, struct file_piece, op);
	struct file_io *fio = file_io_of(piece);
	if (file_retries(fio, result)) {
		piece_issue(piece, IOSQE_ASYNC);
		return;
	}
	if (result > 0 && (uint32_t)result < piece->length && !fio->status && !fio->aborted) {
		/* zeroes may be written twice: go on at the start of the block it stopped in */
		uint32_t moved = result;
		if (piece->offset < file_boundary(file_channel(fio->io->ch), fio->io))
			moved &= ~(fio->io->ch->bdev->align_bytes - 1);
		if (moved) {
			piece->offset += moved;
			piece->length -= moved;
			piece_issue(piece, 0);
			return;
		}
	}
	if ((result < 0 || (uint32_t)result < piece->length) && !fio->status)
		fio->status = result < 0 ? result : -EIO;
	piece->length = 0;
	fio->pieces_busy--;
	if (!piece_begin(fio, piece) && !fio->pieces_busy) {
		pieces_finish(fio);
	}
}

/* ---- One operation in the kernel ---- */

static void method_done(struct uring_op *op, int result, uint32_t cqe_flags);

static void method_issue(struct file_io *fio, unsigned sqe_flags)
{
	const struct bdev_io *io = fio->io;
	struct range whole = whole_blocks(io);
	struct io_uring_sqe *sqe = uring_get_sqe(&io->ch->reactor->uring);
	if (fio->method == FILE_DISCARD) {
		io_uring_prep_rw(IORING_OP_URING_CMD, sqe, -1, NULL, 0, 0);
		sqe->cmd_op = FILE_URING_CMD_DISCARD;
		sqe->addr = io->offset;
		sqe->addr3 = io->length;
	} else {
		io_uring_prep_fallocate(sqe, -1, file_fallocate_mode(fio->method),
					whole.begin, whole.end - whole.begin);
	}
	file_set_target(sqe, &file_channel(io->ch)->body);
	sqe->flags |= sqe_flags;
	fio->op.done = method_done;
	uring_set_op(sqe, &fio->op);
}

static void method_begin(struct file_io *fio)
{
	const struct bdev_io *io = fio->io;
	struct range whole = whole_blocks(io);
	fio->method = file_choose_method(file_of(io->ch->bdev), io);
	if (fio->method == FILE_METHODS)
		zero_finish(fio, io->op == BDEV_TRIM ? 0 : -ENOTSUP);
	else if (io->op == BDEV_TRIM && whole.begin >= whole.end)
		zero_finish(fio, 0);
	else if (fio->method == FILE_ZERO_WRITE || whole.begin >= whole.end)
		write_zeroes(fio, false);
	else if (io->op == BDEV_WRITE_ZEROES && has_edges(io) && !fio->edges)
		write_zeroes(fio, true);
	else
		method_issue(fio, 0);
}

static void method_done(struct uring_op *op, int result, uint32_t cqe_flags)
{
	struct file_io *fio = container_of(op, struct file_io, op);
	if (unlikely(file_method_missing(fio->method, result))) {
		file_forget_method(file_of(fio->io->ch->bdev), fio->method);
		method_begin(fio);
	} else if (file_retries(fio, result)) {
		method_issue(fio, IOSQE_ASYNC);
	} else {
		zero_finish(fio, MIN_OF(result, 0));
	}
}

void file_start_zero(struct file_io *fio)
{
	fio->edges = false;
	fio->pieces_busy = 0;
	method_begin(fio);
}

void file_abort_zero(struct file_io *fio)
{
	struct bdev_channel *ch = fio->io->ch;
	if (fio->io->op != BDEV_WRITE_ZEROES || !fio->pieces_busy)
		return;
	for (unsigned i = 0; i < FILE_ZERO_PIECES; i++)
		if (fio->pieces[i].length)
			io_uring_prep_cancel(uring_get_sqe(&ch->reactor->uring), &fio->pieces[i].op,
					     0);
}
