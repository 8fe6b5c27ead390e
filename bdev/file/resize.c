/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * resize: changes the size of a file, or takes over what its size has become. The boundary between
 * direct and buffered I/O moves with the size, and a write that is on its way beyond a smaller size
 * would make the file grow again. So every core holds its new requests and drains those in flight;
 * then the size is changed, and all go on. One resize at a time.
 *
 * Control thread, but for what is marked. Inline I/O is never in flight when a message arrives: it
 * is not held, it only learns the smaller size first.
 */
#include <errno.h>
#include <unistd.h>

#include "bdev/file/internal.h"
#include "reactor/control.h"

static void finish(struct file *file)
{
	struct file_resize *resize = &file->resize;
	/* may lead to destroy(), which leaves the rest to us while a resize is active */
	if (resize->changed && !file->bdev.removing)
		bdev_resized(&file->bdev);
	bool gone = file->destroy_when_idle;
	resize->active = false;
	resize->done(resize->arg, resize->error);
	if (gone)
		file_destroy_idle(file);
}

static void resumed(void *arg)
{
	finish(arg);
}

/* On each storage core. */
static void resume_core(void *arg)
{
	struct file *file = arg;
	struct bdev_channel *ch = bdev_channel_here(&file->bdev);
	if (ch)
		file_channel_resume(ch);
}

static void apply(void *arg)
{
	struct file *file = arg;
	struct file_resize *resize = &file->resize;
	uint64_t size = resize->new_size;
	resize->changed = size != resize->old_size;
	atomic_store(&file->bdev.size_bytes, size);
	atomic_store(&file->direct_end, file_direct_end(file, size));
	atomic_store(&file->resize_limit, UINT64_MAX);
	control_for_each_reactor(REACTOR_STORAGE, resume_core, resumed, file);
}

/* On a worker. */
static void truncate_work(void *arg)
{
	struct file *file = arg;
	struct file_resize *resize = &file->resize;
	uint64_t size;
	if (ftruncate(file->fd, resize->new_size))
		resize->error = -errno;
	/* what is true now, whatever came of it */
	resize->new_size = file_read_size(file, &size) || !size ? resize->old_size : size;
}

static void drained(void *arg)
{
	struct file *file = arg;
	if (file->resize.truncate)
		control_work(truncate_work, apply, file);
	else
		apply(file);
}

/* Any thread. */
void file_drained(struct file *file)
{
	if (atomic_fetch_sub(&file->resize.draining, 1) == 1)
		control_send(drained, file);
}

static void paused(void *arg)
{
	file_drained(arg);
}

/* On each storage core. */
static void pause_core(void *arg)
{
	struct file *file = arg;
	struct bdev_channel *ch = bdev_channel_here(&file->bdev);
	if (!ch)
		return;
	struct file_channel *fc = file_channel(ch);
	fc->size = MIN_OF(fc->size, (uint64_t)atomic_load(&file->resize_limit));
	fc->paused = true;
	if (fc->inflight) {
		fc->draining = true;
		atomic_fetch_add(&file->resize.draining, 1);
	}
}

static void pause_all(struct file *file)
{
	struct file_resize *resize = &file->resize;
	/* a channel that opens from now on begins paused */
	atomic_store(&file->resize_limit, MIN_OF(resize->old_size, resize->new_size));
	atomic_store(&resize->draining, 1);
	control_for_each_reactor(REACTOR_STORAGE, pause_core, paused, file);
}

static int begin(struct file *file, void (*done)(void *arg, int error), void *arg)
{
	struct file_resize *resize = &file->resize;
	if (file->bdev.removing)
		return -ENODEV;
	if (resize->active)
		return -EBUSY;
	resize->active = true;
	resize->truncate = resize->changed = false;
	resize->old_size = atomic_load(&file->bdev.size_bytes);
	resize->new_size = 0;
	resize->error = 0;
	resize->done = done;
	resize->arg = arg;
	return 0;
}

/* On a worker. `new_size` is what was asked for, or 0. */
static void rescan_work(void *arg)
{
	struct file *file = arg;
	struct file_resize *resize = &file->resize;
	uint64_t size = 0, asked = resize->new_size;
	resize->error = file_read_size(file, &size);
	resize->new_size = resize->old_size;
	if (resize->error)
		return;
	/* nobody else sees that a file was emptied as anything but an error; devices have their
	 * size */
	if (!size || (asked && asked != size))
		resize->error = -EINVAL;
	if (size)
		resize->new_size = size;
}

static void rescanned(void *arg)
{
	struct file *file = arg;
	if (file->resize.new_size == file->resize.old_size)
		finish(file);
	else
		pause_all(file);
}

void file_rescan(struct bdev *bdev, void (*done)(void *arg, int error), void *arg)
{
	struct file *file = file_of(bdev);
	int error = begin(file, done, arg);
	if (error)
		done(arg, error);
	else
		control_work(rescan_work, rescanned, file);
}

void file_resize(struct bdev *bdev, uint64_t size_bytes, void (*done)(void *arg, int error),
		 void *arg)
{
	struct file *file = file_of(bdev);
	int error = 0;
	if (!size_bytes || size_bytes > INT64_MAX)
		error = -EINVAL;
	else if (file->read_only && !file->block_device)
		error = -EPERM;
	if (!error)
		error = begin(file, done, arg);
	if (error) {
		done(arg, error);
		return;
	}
	file->resize.new_size = size_bytes;
	file->resize.truncate = !file->block_device;
	if (file->block_device)
		control_work(rescan_work, rescanned, file);
	else
		pause_all(file);
}
