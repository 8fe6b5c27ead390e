/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * extents: EXTENTS from maps that workers make, and READs of zeroes that need no I/O. A map goes to
 * every core that has the file open and is kept there until a write has made it untrue; a READ
 * looks at it and nothing more. Runs on the channel's core, but for what is marked.
 *
 * A map's way: the core (start) → control thread (begin) → worker (work) → control thread (worked)
 * → every storage core (adopt), and the core that asked (arrive). The core may have closed its
 * channel meanwhile: the job then belongs to nobody, and arrive() frees it. The file stays until
 * the control thread has seen the end of each job.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/file/map.h"
#include "reactor/control.h"

/* One of a channel; `mapping` is NULL once the channel is closed. The rest is set before start. */
struct file_map_job {
	struct file_mapping *mapping;
	struct file *file;
	struct reactor *reactor;
	bool busy;
	uint64_t offset, size; /* bytes */
	struct file_map *map;  /* the result, or NULL: no memory */
};

/* ---- Counting writes ---- */

/*
 * One writer, so no locked instruction. What is counted as begun goes to the kernel next, which
 * makes its effects visible behind a release: whoever sees any of them sees the count.
 */
static void count(_Atomic uint64_t *counter)
{
	uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
	atomic_store_explicit(counter, value + 1, memory_order_release);
}

static unsigned windows_of(const struct file *file, const struct bdev_io *io, uint64_t *first)
{
	*first = io->offset >> file->window_shift;
	uint64_t last = (io->offset + io->length - 1) >> file->window_shift;
	return MIN_OF(last - *first + 1, (uint64_t)FILE_WINDOWS);
}

void file_write_begins(struct file_channel *fc, const struct bdev_io *io)
{
	uint64_t first;
	unsigned windows = windows_of(file_of(io->ch->bdev), io, &first);
	for (unsigned i = 0; i < windows; i++)
		count(&fc->core->writes[(first + i) % FILE_WINDOWS].begun);
}

void file_write_ended(struct file_channel *fc, const struct bdev_io *io)
{
	uint64_t first;
	unsigned windows = windows_of(file_of(io->ch->bdev), io, &first);
	for (unsigned i = 0; i < windows; i++)
		count(&fc->core->writes[(first + i) % FILE_WINDOWS].ended);
}

/* ---- The maps that this core keeps ---- */

static void keep(struct file_mapping *mapping, unsigned place, struct file_map *map)
{
	struct file_map *before = mapping->maps[place];
	mapping->maps[place] = map;
	mapping->count += (map != NULL) - (before != NULL);
	file_map_put(before);
}

/* A true one that covers the offset, or NULL. */
static const struct file_map *find(struct file_mapping *mapping, const struct file *file,
				   uint64_t offset)
{
	unsigned place = file_window_place(file, offset);
	const struct file_map *map = mapping->maps[place];
	if (!map || offset < map->begin || offset >= map->end)
		return NULL;
	if (file_map_is_true(map))
		return map;
	keep(mapping, place, NULL);
	return NULL;
}

void file_forget_maps(struct file_channel *fc, const struct file *file)
{
	/* also those that are still on their way */
	for (unsigned place = 0; place < FILE_WINDOWS; place++) {
		count(&fc->core->writes[place].begun);
		count(&fc->core->writes[place].ended);
		keep(&fc->mapping, place, NULL);
	}
}

bool file_read_mapped_zeroes(struct file_channel *fc, struct bdev_io *io)
{
	const struct file_map *map = find(&fc->mapping, file_of(io->ch->bdev), io->offset);
	if (!map)
		return false;
	const struct file_run *run = file_map_run(map, io->offset);
	if (!(run->flags & BDEV_EXTENT_ZERO))
		return false;
	/* a hole and what was never written are two runs, and read the same */
	const struct file_run *last = &map->runs[map->count - 1];
	while (run->end < io->offset + io->length && run < last && run[1].flags & BDEV_EXTENT_ZERO)
		run++;
	if (run->end < io->offset + io->length)
		return false;
	if (io->flags & BDEV_SPARSE) {
		io->flags |= BDEV_ZEROES;
		return true;
	}
	for (unsigned i = 0; i < io->iovcnt; i++)
		memset(io->iov[i].iov_base, 0, io->iov[i].iov_len);
	return true;
}

/* ---- EXTENTS ---- */

/* What the map says from where the request stands. True: the request is answered. */
static bool tell(struct file_io *fio, const struct file_map *map)
{
	struct bdev_io *io = fio->io;
	uint64_t at = io->offset + fio->progress, end = io->offset + io->length;
	const struct file_run *run = file_map_run(map, at);
	while (at < end && at < map->end) {
		uint64_t stop = MIN_OF(run->end, end);
		if (!bdev_extents_add(io, stop - at, run->flags))
			return true;
		at = stop;
		run++;
	}
	fio->progress = at - io->offset;
	return at == end;
}

static void start(struct bdev_channel *ch);

/* Ends the request, or lets it wait for the next map. */
static void go_on(struct file_io *fio)
{
	struct bdev_io *io = fio->io;
	struct bdev_channel *ch = io->ch;
	struct file_mapping *mapping = &file_channel(ch)->mapping;
	const struct file_map *map;
	bool told = false;
	while (!told && (map = find(mapping, file_of(ch->bdev), io->offset + fio->progress)))
		told = tell(fio, map);
	if (told) {
		file_complete(fio, 0);
		return;
	}
	fio->stage = FILE_MAP_WAITING;
	TAILQ_INSERT_TAIL(&mapping->waiting, fio, link);
	if (!mapping->job->busy)
		start(ch);
}

void file_start_extents(struct file_io *fio)
{
	struct bdev_io *io = fio->io;
	io->extents = 0;
	if (io->context) {
		file_complete(fio, -EINVAL);
	} else if (file_of(io->ch->bdev)->block_device) {
		bdev_extents_add(io, io->length, 0);
		file_complete(fio, 0);
	} else {
		go_on(fio);
	}
}

void file_abort_extents(struct file_io *fio)
{
	struct file_mapping *mapping = &file_channel(fio->io->ch)->mapping;
	bool running = fio->stage == FILE_MAP_RUNNING;
	TAILQ_REMOVE(running ? &mapping->running : &mapping->waiting, fio, link);
	file_complete(fio, -ETIMEDOUT);
}

/* Out of abort()'s reach: what a completion leads to must not find them in another list. */
static void take(struct file_io_list *from, struct file_io_list *to)
{
	struct file_io *fio;
	TAILQ_INIT(to);
	TAILQ_CONCAT(to, from, link);
	TAILQ_FOREACH (fio, to, link)
		fio->stage = FILE_FINISHED;
}

void file_cancel_extents(struct file_channel *fc)
{
	struct file_io_list running, waiting;
	struct file_io *fio;
	take(&fc->mapping.running, &running);
	take(&fc->mapping.waiting, &waiting);
	TAILQ_CONCAT(&running, &waiting, link);
	while ((fio = TAILQ_FIRST(&running))) {
		TAILQ_REMOVE(&running, fio, link);
		file_complete(fio, -ECANCELED);
	}
}

/* ---- A map on its way ---- */

/* One that asked before the map was begun: it is news to it, however long the map stays true. */
static void answer(struct file_io *fio, const struct file_map *map)
{
	struct bdev_io *io = fio->io;
	uint64_t at = io->offset + fio->progress;
	bool told = false;
	if (!map) {
		bdev_extents_add(io, io->length - fio->progress, 0);
		told = true;
	} else if (at >= map->begin && at < map->end) {
		told = tell(fio, map);
	}
	if (told)
		file_complete(fio, 0);
	else
		go_on(fio);
}

/* The core that asked. */
static void arrive(void *arg)
{
	struct file_map_job *job = arg;
	struct file_mapping *mapping = job->mapping;
	struct file_map *map = job->map;
	struct file_io_list asked, others;
	struct file_io *fio;
	job->busy = false;
	if (!mapping) {
		file_map_put(map);
		free(job);
		return;
	}
	take(&mapping->running, &asked);
	take(&mapping->waiting, &others);
	/* the channel may go with the last of them */
	while ((fio = TAILQ_FIRST(&asked))) {
		TAILQ_REMOVE(&asked, fio, link);
		answer(fio, map);
	}
	while ((fio = TAILQ_FIRST(&others))) {
		TAILQ_REMOVE(&others, fio, link);
		go_on(fio);
	}
	file_map_put(map);
}

/* Control thread: the cores have got it. */
static void adopted(void *arg)
{
	struct file_map *map = arg;
	struct file *file = map->file;
	file_map_put(map);
	file->map_jobs--;
	file_destroy_idle(file);
}

/* Each storage core. */
static void adopt(void *arg)
{
	struct file_map *map = arg;
	struct bdev_channel *ch = bdev_channel_here(&map->file->bdev);
	if (ch)
		keep(&file_channel(ch)->mapping, map->place, file_map_get(map));
}

/* Control thread. */
static void worked(void *arg)
{
	struct file_map_job *job = arg;
	struct file *file = job->file;
	bool lasts = job->map && file_map_is_true(job->map);
	if (lasts)
		control_for_each_reactor(REACTOR_STORAGE, adopt, adopted, file_map_get(job->map));
	reactor_send(job->reactor, arrive, job);
	if (!lasts) {
		file->map_jobs--;
		file_destroy_idle(file);
	}
}

/* Worker. */
static void work(void *arg)
{
	struct file_map_job *job = arg;
	job->map = file_map_make(job->file, job->offset, job->size);
}

/* Control thread. */
static void begin(void *arg)
{
	struct file_map_job *job = arg;
	job->file->map_jobs++;
	control_work(work, worked, job);
}

/* For the first that waits; the others may be served by the same. */
static void start(struct bdev_channel *ch)
{
	struct file_channel *fc = file_channel(ch);
	struct file_mapping *mapping = &fc->mapping;
	struct file_io *fio = TAILQ_FIRST(&mapping->waiting);
	mapping->job->busy = true;
	mapping->job->offset = fio->io->offset + fio->progress;
	mapping->job->size = fc->size;
	TAILQ_CONCAT(&mapping->running, &mapping->waiting, link);
	TAILQ_FOREACH (fio, &mapping->running, link)
		fio->stage = FILE_MAP_RUNNING;
	control_send(begin, mapping->job);
}

/* ---- Life ---- */

int file_mapping_init(struct bdev_channel *ch)
{
	struct file_mapping *mapping = &file_channel(ch)->mapping;
	TAILQ_INIT(&mapping->running);
	TAILQ_INIT(&mapping->waiting);
	mapping->job = calloc(1, sizeof(*mapping->job));
	if (!mapping->job)
		return -ENOMEM;
	mapping->job->mapping = mapping;
	mapping->job->file = file_of(ch->bdev);
	mapping->job->reactor = ch->reactor;
	return 0;
}

void file_mapping_fini(struct file_channel *fc)
{
	struct file_mapping *mapping = &fc->mapping;
	for (unsigned place = 0; mapping->count && place < FILE_WINDOWS; place++)
		keep(mapping, place, NULL);
	if (mapping->job->busy)
		mapping->job->mapping = NULL;
	else
		free(mapping->job);
}
