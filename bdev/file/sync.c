/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sync: durability. FLUSH, and TRIM and WRITE_ZEROES with FUA, end after an fdatasync that began
 * after them. A core has one fdatasync of a file in flight; requests that come meanwhile share the
 * next, so that a crowd of FLUSHes costs two calls.
 *
 * The kernel reports a write-back error once; what it told is kept for the life of the bdev, and
 * from then on every FLUSH and FUA of every core fails with it. Runs on the channel's core.
 */
#include <errno.h>
#include <string.h>

#include "bdev/file/internal.h"
#include "lib/base/log.h"
#include "reactor/control.h"

/* Control thread: once in the life of a bdev. */
static void log_sync_error(void *arg)
{
	struct file *file = arg;
	log_error("file",
		  "bdev %s: data could not be made durable on %s: %s; from now on every FLUSH and "
		  "FUA fails with it",
		  file->bdev.name, file->path, strerror(-atomic_load(&file->sync_error)));
}

static void keep_error(struct file *file, int error)
{
	int none = 0;
	/* control messages are in order: the bdev still is when this one arrives */
	if (atomic_compare_exchange_strong(&file->sync_error, &none, error))
		control_send(log_sync_error, file);
}

/* One writer, so no locked instruction. */
static void count(_Atomic uint64_t *counter)
{
	uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
	atomic_store_explicit(counter, value + 1, memory_order_relaxed);
}

/*
 * A write that was refused (no room, no memory, cancelled) has lost nothing that was promised
 * before: only its own submitter is told. Anything else may be the news of a lost write-back.
 */
void file_account_durable(struct file *file, struct file_core *core, int status)
{
	if (!status) {
		count(&core->durable_writes);
		return;
	}
	count(&core->errors);
	switch (status) {
	case -ENOSPC:
	case -EDQUOT:
	case -EFBIG:
	case -ENOMEM:
	case -EAGAIN:
	case -EINTR:
	case -EINVAL:
	case -ECANCELED:
	case -ETIMEDOUT:
		break;
	default:
		keep_error(file, status);
	}
}

void file_account_fsync(struct file *file, struct file_core *core, int status)
{
	if (!status) {
		count(&core->fsyncs);
		return;
	}
	count(&core->errors);
	if (status != -ECANCELED && status != -EINTR && status != -EAGAIN)
		keep_error(file, status);
}

static void sync_done(struct uring_op *op, int result, uint32_t cqe_flags);

static void sync_issue(struct bdev_channel *ch)
{
	struct file_channel *fc = file_channel(ch);
	struct io_uring_sqe *sqe = uring_get_sqe(&ch->reactor->uring);
	io_uring_prep_fsync(sqe, -1, IORING_FSYNC_DATASYNC);
	file_set_target(sqe, &fc->sync);
	fc->syncing.op.done = sync_done;
	uring_set_op(sqe, &fc->syncing.op);
}

static void sync_begin(struct bdev_channel *ch)
{
	struct file_sync *sync = &file_channel(ch)->syncing;
	struct file_io *fio;
	sync->busy = true;
	sync->cancelled = false;
	sync->tries = 0;
	TAILQ_CONCAT(&sync->running, &sync->waiting, link);
	TAILQ_FOREACH (fio, &sync->running, link)
		fio->stage = FILE_SYNC_RUNNING;
	sync_issue(ch);
}

void file_sync(struct file_io *fio)
{
	struct bdev_channel *ch = fio->io->ch;
	struct file_sync *sync = &file_channel(ch)->syncing;
	fio->stage = FILE_SYNC_WAITING;
	TAILQ_INSERT_TAIL(&sync->waiting, fio, link);
	if (!sync->busy)
		sync_begin(ch);
}

static bool sync_retries(struct file_sync *sync, int result)
{
	return (result == -EAGAIN || result == -EINTR) && !sync->cancelled &&
	       sync->tries++ < FILE_RETRIES_MAX;
}

static void sync_done(struct uring_op *op, int result, uint32_t cqe_flags)
{
	struct file_channel *fc = container_of(op, struct file_channel, syncing.op);
	struct file_sync *sync = &fc->syncing;
	struct bdev_channel *ch = container_of((void *)fc, struct bdev_channel, ctx);
	struct file *file = file_of(ch->bdev);
	if (sync_retries(sync, result)) {
		sync_issue(ch);
		return;
	}
	result = MIN_OF(result, 0);
	file_account_fsync(file, fc->core, result);
	/* another core may have been told meanwhile what this one was not */
	if (!result)
		result = atomic_load(&file->sync_error);
	else if (sync->cancelled)
		result = -ETIMEDOUT;

	struct file_io_list finished = TAILQ_HEAD_INITIALIZER(finished);
	struct file_io *fio, *next;
	TAILQ_CONCAT(&finished, &sync->running, link);
	TAILQ_FOREACH (fio, &finished, link)
		fio->stage = FILE_FINISHED; /* out of abort()'s reach */
	sync->busy = false;
	if (!TAILQ_EMPTY(&sync->waiting))
		sync_begin(ch);
	/* the channel may go with the last of them */
	for (fio = TAILQ_FIRST(&finished); fio; fio = next) {
		next = TAILQ_NEXT(fio, link);
		file_complete(fio, result);
	}
}

void file_abort_sync(struct file_io *fio)
{
	struct bdev_channel *ch = fio->io->ch;
	struct file_sync *sync = &file_channel(ch)->syncing;
	bool running = fio->stage == FILE_SYNC_RUNNING;
	/* the last one stays until the operation is over, which lies in the channel's memory */
	if (running && !TAILQ_NEXT(TAILQ_FIRST(&sync->running), link)) {
		if (!sync->cancelled)
			io_uring_prep_cancel(uring_get_sqe(&ch->reactor->uring), &sync->op, 0);
		sync->cancelled = true;
		return;
	}
	TAILQ_REMOVE(running ? &sync->running : &sync->waiting, fio, link);
	file_complete(fio, -ETIMEDOUT);
}
