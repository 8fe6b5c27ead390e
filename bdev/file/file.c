/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * file: the bdev type: creating, describing and destroying. Control thread; what may block for long
 * (open, close, probing) runs on a worker, so that a hung mount stops nothing else.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/file/internal.h"
#include "reactor/control.h"

/* One bdev_file_create() under way. */
struct creation {
	struct bdev_file_options options; /* its strings are those below */
	char name[BDEV_NAME_MAX_BYTES + 1];
	char uuid[37];
	char *path;
	struct file *file;
	int error;
	char why[FILE_WHY_BYTES];
	void (*created)(void *arg, struct bdev *bdev, int error, const char *why);
	void *arg;
};

static void free_file(struct file *file)
{
	if (!file)
		return;
	free(file->cores);
	free(file->path);
	free(file);
}

/* On a worker. */
static void close_work(void *arg)
{
	file_close(arg);
}

static void closed_unregistered(void *arg)
{
	free_file(arg);
}

static void creation_finish(void *arg)
{
	struct creation *creation = arg;
	struct file *file = creation->file;
	if (creation->error && file)
		control_work(close_work, closed_unregistered, file);
	if (creation->error)
		creation->created(creation->arg, NULL, creation->error, creation->why);
	else
		creation->created(creation->arg, &file->bdev, 0, NULL);
	free(creation->path);
	free(creation);
}

static void creation_opened(void *arg)
{
	struct creation *creation = arg;
	struct bdev *bdev = &creation->file->bdev;
	if (!creation->error) {
		if (creation->name[0])
			snprintf(bdev->name, sizeof(bdev->name), "%s", creation->name);
		else
			bdev_make_name("File", bdev->name);
		creation->error = bdev_register(bdev);
		if (creation->error == -EEXIST && !bdev_find(bdev->name))
			snprintf(creation->why, sizeof(creation->why),
				 "another bdev has the UUID %s already", bdev->uuid);
		else if (creation->error == -EEXIST)
			snprintf(creation->why, sizeof(creation->why),
				 "a bdev named %s exists already", bdev->name);
		else if (creation->error)
			snprintf(creation->why, sizeof(creation->why),
				 "%s can not be registered as bdev %s: %s", creation->path,
				 bdev->name, strerror(-creation->error));
	}
	creation_finish(creation);
}

/* On a worker. */
static void creation_work(void *arg)
{
	struct creation *creation = arg;
	creation->error = file_open(creation->file, &creation->options, creation->why);
}

static struct file *alloc_file(const char *path)
{
	struct file *file = calloc(1, sizeof(*file));
	if (!file)
		return NULL;
	size_t bytes = reactor_count * sizeof(*file->cores);
	file->fd = file->direct_fd = -1;
	file->resize_limit = UINT64_MAX;
	file->path = strdup(path);
	file->cores = aligned_alloc(_Alignof(struct file_core), bytes);
	if (!file->path || !file->cores) {
		free_file(file);
		return NULL;
	}
	memset(file->cores, 0, bytes);
	for (unsigned i = 0; i < reactor_count; i++)
		file->cores[i].sync_fd = -1;
	return file;
}

/* What is wrong without looking at the file. */
static int creation_check(struct creation *creation, const struct bdev_file_options *options)
{
	if (!options->path || !options->path[0]) {
		snprintf(creation->why, sizeof(creation->why), "the path of the file is empty");
		return -EINVAL;
	}
	int error = 0;
	if (options->name) {
		error = bdev_check_name(options->name);
		if (error == -EEXIST)
			snprintf(creation->why, sizeof(creation->why),
				 "a bdev named %s exists already", options->name);
		else if (error)
			snprintf(creation->why, sizeof(creation->why), "'%.64s' is no bdev name",
				 options->name);
		else
			snprintf(creation->name, sizeof(creation->name), "%s", options->name);
	}
	if (options->uuid)
		snprintf(creation->uuid, sizeof(creation->uuid), "%s", options->uuid);
	return error;
}

void bdev_file_create(const struct bdev_file_options *options,
		      void (*created)(void *arg, struct bdev *bdev, int error, const char *why),
		      void *arg)
{
	struct creation *creation = calloc(1, sizeof(*creation));
	if (!creation) {
		created(arg, NULL, -ENOMEM, "no memory");
		return;
	}
	creation->created = created;
	creation->arg = arg;
	creation->error = creation_check(creation, options);
	if (!creation->error) {
		creation->path = strdup(options->path);
		creation->file = creation->path ? alloc_file(options->path) : NULL;
		if (!creation->file) {
			creation->error = -ENOMEM;
			snprintf(creation->why, sizeof(creation->why), "no memory");
		}
	}
	if (creation->error) {
		control_send(creation_finish, creation);
		return;
	}
	creation->options = *options;
	creation->options.name = creation->name;
	creation->options.uuid = options->uuid ? creation->uuid : NULL;
	creation->options.path = creation->path;
	control_work(creation_work, creation_opened, creation);
}

static void closed(void *arg)
{
	struct file *file = arg;
	bdev_destroyed(&file->bdev);
	free_file(file);
}

bool bdev_file_is_polled(const struct bdev *bdev)
{
	return file_of(bdev)->polled_bytes_max != 0;
}

void file_destroy_idle(struct file *file)
{
	if (file->destroy_when_idle && !file->resize.active && !file->map_jobs)
		control_work(close_work, closed, file);
}

static void destroy(struct bdev *bdev)
{
	struct file *file = file_of(bdev);
	file->destroy_when_idle = true;
	file_destroy_idle(file);
}

static void dump_info(const struct bdev *bdev, json_t *object)
{
	const struct file *file = file_of(bdev);
	int error = -atomic_load(&file->sync_error);
	json_t *info = json_object();
	json_object_set_new(info, "filename", json_string(file->path));
	json_object_set_new(info, "kind",
			    json_string(file->block_device ? "block device" : "regular file"));
	json_object_set_new(info, "direct", json_boolean(file->direct_fd >= 0));
	json_object_set_new(info, "polled", json_boolean(file->polled_bytes_max != 0));
	json_object_set_new(info, "io", json_string(file->memory ? "inline" : "io_uring"));
	json_object_set_new(info, "readonly", json_boolean(file->read_only));
	json_object_set_new(info, "size", json_integer(atomic_load(&bdev->size_bytes)));
	json_object_set_new(info, "sync_error",
			    error ? json_string(strerrorname_np(error)) : json_null());
	json_object_set_new(object, "file", info);
}

static void dump_stat(const struct bdev *bdev, json_t *object)
{
	const struct file *file = file_of(bdev);
	uint64_t fsyncs = 0, durable_writes = 0, errors = 0;
	for (unsigned i = 0; i < reactor_count; i++) {
		struct file_core *core = &file->cores[i];
		fsyncs += atomic_load_explicit(&core->fsyncs, memory_order_relaxed);
		durable_writes += atomic_load_explicit(&core->durable_writes, memory_order_relaxed);
		errors += atomic_load_explicit(&core->errors, memory_order_relaxed);
	}
	json_t *durability = json_object();
	json_object_set_new(durability, "fsyncs", json_integer(fsyncs));
	json_object_set_new(durability, "durable_writes", json_integer(durable_writes));
	json_object_set_new(durability, "errors", json_integer(errors));
	json_object_set_new(object, "durability", durability);
	json_object_set_new(object, "maps_made", json_integer(atomic_load(&file->maps_made)));
}

const struct bdev_type bdev_file_type = {
	.name = "file",
	.product_name = "File disk",
	.channel_ctx_bytes = sizeof(struct file_channel),
	.channel_open = file_channel_open,
	.channel_close = file_channel_close,
	.submit = file_submit,
	.abort = file_abort,
	.cancel = file_cancel,
	.destroy = destroy,
	.resize = file_resize,
	.dump_info = dump_info,
	.dump_stat = dump_stat,
};
