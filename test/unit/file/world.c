/* SPDX-License-Identifier: BSD-3-Clause */
/* world: the surroundings of the file bdev, played by one thread. */
#include "test/unit/file/world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/file/map.h"
#include "lib/base/log.h"
#include "reactor/control.h"

struct call {
	void (*fn)(void *arg);
	void *arg;
	struct reactor *reactor; /* or NULL: the control thread's, or a worker's */
	TAILQ_ENTRY(call) link;
};

struct world world;
struct reactor world_reactors[WORLD_CORES];
unsigned reactor_count = WORLD_CORES;
struct reactor *reactors[REACTOR_MAX];
__thread struct reactor *reactor_self;
struct uring_caps reactor_caps;
enum log_level log_level_now = LOG_NOTICE;

static TAILQ_HEAD(call_list, call) calls = TAILQ_HEAD_INITIALIZER(calls);

void world_reset(void)
{
	memset(&world, 0, sizeof(world));
	assert_true(TAILQ_EMPTY(&calls));
	for (unsigned i = 0; i < WORLD_CORES; i++) {
		reactors[i] = &world_reactors[i];
		reactors[i]->index = i;
		reactors[i]->roles = REACTOR_STORAGE;
	}
	world_on_core(0);
}

void world_on_core(unsigned core)
{
	reactor_self = reactors[core];
}

bool world_step(void)
{
	struct call *call = TAILQ_FIRST(&calls);
	if (!call)
		return false;
	struct reactor *before = reactor_self;
	TAILQ_REMOVE(&calls, call, link);
	if (call->reactor)
		reactor_self = call->reactor;
	call->fn(call->arg);
	reactor_self = before;
	free(call);
	return true;
}

void world_run(void)
{
	while (world_step())
		;
}

/* ---- reactor/control.h, reactor/reactor.h ---- */

static void queue(struct reactor *reactor, void (*fn)(void *arg), void *arg)
{
	struct call *call = calloc(1, sizeof(*call));
	assert_non_null(call);
	*call = (struct call){.fn = fn, .arg = arg, .reactor = reactor};
	TAILQ_INSERT_TAIL(&calls, call, link);
}

void control_send(void (*fn)(void *arg), void *arg)
{
	queue(NULL, fn, arg);
}

void control_work(void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
	control_send(work, arg);
	control_send(done, arg);
}

void control_for_each_reactor(unsigned roles, void (*fn)(void *arg), void (*done)(void *arg),
			      void *arg)
{
	struct reactor *before = reactor_self;
	for (unsigned i = 0; i < WORLD_CORES; i++) {
		world_on_core(i);
		fn(arg);
	}
	reactor_self = before;
	control_send(done, arg);
}

void reactor_send(struct reactor *reactor, void (*fn)(void *arg), void *arg)
{
	queue(reactor, fn, arg);
}

/* Nothing here has a side ring of its own. */
void reactor_add_poller(struct poller *poller)
{
	fail();
}

void reactor_remove_poller(struct poller *poller)
{
	fail();
}

/* ---- lib/base/log.h ---- */

void log_write(enum log_level level, const char *component, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(world.last_log, sizeof(world.last_log), format, arguments);
	va_end(arguments);
	world.log_lines++;
}

/* ---- bdev/bdev.h ---- */

static struct bdev *registered;

int bdev_register(struct bdev *bdev)
{
	if (registered && !strcmp(registered->name, bdev->name))
		return -EEXIST;
	world.registered++;
	registered = bdev;
	return 0;
}

struct bdev *bdev_find(const char *name)
{
	return registered && !strcmp(registered->name, name) ? registered : NULL;
}

int bdev_check_name(const char *name)
{
	return bdev_find(name) ? -EEXIST : 0;
}

void bdev_make_name(const char *prefix, char name[BDEV_NAME_MAX_BYTES + 1])
{
	snprintf(name, BDEV_NAME_MAX_BYTES + 1, "%s0", prefix);
}

void bdev_resized(struct bdev *bdev)
{
	world.resized++;
}

void bdev_destroyed(struct bdev *bdev)
{
	world.destroyed++;
	if (registered == bdev)
		registered = NULL;
}

void bdev_align_submit(struct bdev_channel *ch, struct bdev_io *io)
{
	fail_msg("no channel here has an alignment layer");
}

void bdev_channel_drained(struct bdev_channel *ch)
{
}

/* ---- Files and channels ---- */

struct bdev_channel *world_open_channel(struct file *file, unsigned core)
{
	size_t bytes = sizeof(struct bdev_channel) + bdev_file_type.channel_ctx_bytes;
	struct bdev_channel *ch = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
	assert_non_null(ch);
	memset(ch, 0, bytes);
	ch->bdev = &file->bdev;
	ch->type = &bdev_file_type;
	ch->reactor = reactors[core];
	world_on_core(core);
	assert_int_equal(bdev_file_type.channel_open(ch), 0);
	atomic_store(&file->bdev.channels[core], ch);
	return ch;
}

void world_close_channel(struct bdev_channel *ch)
{
	assert_int_equal(ch->inflight, 0);
	world_on_core(ch->reactor->index);
	bdev_file_type.channel_close(ch);
	atomic_store(&ch->bdev->channels[ch->reactor->index], NULL);
	free(ch);
}

/* The descriptors are numbers that no system call may be made on. */
struct file *world_make_file(uint64_t size, bool direct)
{
	struct file *file = calloc(1, sizeof(*file));
	assert_non_null(file);
	file->cores = aligned_alloc(64, WORLD_CORES * sizeof(*file->cores));
	assert_non_null(file->cores);
	memset(file->cores, 0, WORLD_CORES * sizeof(*file->cores));
	file->path = strdup("/the/file");
	file->fd = 1000;
	file->direct_fd = direct ? 1001 : -1;
	file->whole_bytes = direct ? FILE_PAGE_BYTES : 1;
	for (unsigned i = 0; i < WORLD_CORES; i++)
		file->cores[i].sync_fd = 1002 + i;
	file->resize_limit = UINT64_MAX;
	file->bdev.type = &bdev_file_type;
	file->bdev.size_bytes = size;
	file->bdev.align_bytes = file->bdev.mem_align_bytes = direct ? 512 : 1;
	file->bdev.io_ctx_bytes = sizeof(struct file_io);
	snprintf(file->bdev.name, sizeof(file->bdev.name), "File0");
	file->direct_end = file_direct_end(file, size);
	file->window_shift = file_window_shift(size);
	return file;
}

void world_free_file(struct file *file)
{
	world_run();
	free(file->cores);
	free(file->path);
	free(file);
}

/* ---- Requests ---- */

static void request_done(struct bdev_io *io)
{
	struct request *request = container_of(io, struct request, io);
	assert_int_equal(request->done, 0);
	request->done++;
	request->status = io->status;
}

void request_submit(struct request *request, struct bdev_channel *ch, enum bdev_op op,
		    unsigned flags, uint64_t offset, uint64_t length)
{
	struct bdev_io *io = &request->io;
	request->done = 0;
	request->status = 1;
	io->op = op;
	io->flags = flags;
	io->offset = offset;
	io->length = length;
	io->iov = request->iov;
	io->done = request_done;
	/* what a driver must not rely on */
	memset(io->ctx, 0xa5, sizeof(io->ctx));
	world_on_core(ch->reactor->index);
	bdev_submit(ch, io);
}

void request_submit_buffer(struct request *request, struct bdev_channel *ch, enum bdev_op op,
			   unsigned flags, uint64_t offset, void *buffer, uint64_t length)
{
	request->iov[0] = (struct iovec){buffer, length};
	request->io.iovcnt = 1;
	request_submit(request, ch, op, flags, offset, length);
}
