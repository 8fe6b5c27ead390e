/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * map: asks the file system what is allocated: by FIEMAP, which tells what was set aside but never
 * written (it reads as zeroes, yet takes space), else by SEEK_DATA and SEEK_HOLE. FIEMAP does not
 * look at what waits in the page cache, so that is written back first. Making a map may take as
 * long as that does: it runs on a worker and nowhere else.
 */
#include "bdev/file/map.h"

#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FIEMAP_EXTENTS = 256 /* asked for at a time */ };

uint8_t file_window_shift(uint64_t size_bytes)
{
	uint8_t shift = FILE_WINDOW_MIN_SHIFT;
	while (size_bytes >> shift > FILE_WINDOWS)
		shift++;
	return shift;
}

/* ---- Whether it is true ---- */

static uint64_t writes_begun(const struct file *file, unsigned place)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < reactor_count; i++)
		sum += atomic_load_explicit(&file->cores[i].writes[place].begun,
					    memory_order_acquire);
	return sum;
}

static uint64_t writes_ended(const struct file *file, unsigned place)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < reactor_count; i++)
		sum += atomic_load_explicit(&file->cores[i].writes[place].ended,
					    memory_order_acquire);
	return sum;
}

bool file_map_is_true(const struct file_map *map)
{
	return map->settled && writes_begun(map->file, map->place) == map->writes;
}

/* ---- Making ---- */

/* The next run, up to `end`; false: there is no room, the map ends here. */
static bool add(struct file_map *map, uint64_t end, uint32_t flags)
{
	if (end <= map->end)
		return true;
	if (!map->count || map->runs[map->count - 1].flags != flags) {
		if (map->count == FILE_MAP_RUNS_MAX)
			return false;
		map->runs[map->count++].flags = flags;
	}
	map->runs[map->count - 1].end = end;
	map->end = end;
	return true;
}

static uint32_t flags_of(const struct fiemap_extent *extent)
{
	bool unwritten = extent->fe_flags & FIEMAP_EXTENT_UNWRITTEN;
	bool cached = extent->fe_flags & FIEMAP_EXTENT_DELALLOC;
	return unwritten && !cached ? BDEV_EXTENT_ZERO : 0;
}

/* Returns 0 or -errno. */
static int walk_fiemap(struct file_map *map, uint64_t end)
{
	union {
		struct fiemap head;
		uint8_t room[sizeof(struct fiemap) + FIEMAP_EXTENTS * sizeof(struct fiemap_extent)];
	} ask;
	uint32_t flags = FIEMAP_FLAG_SYNC;
	bool more = true;
	while (more && map->end < end) {
		memset(&ask.head, 0, sizeof(ask.head));
		ask.head.fm_start = map->end;
		ask.head.fm_length = end - map->end;
		ask.head.fm_flags = flags;
		ask.head.fm_extent_count = FIEMAP_EXTENTS;
		if (ioctl(map->file->fd, FS_IOC_FIEMAP, &ask.head))
			return -errno;
		uint64_t before = map->end;
		for (unsigned i = 0; i < ask.head.fm_mapped_extents; i++) {
			const struct fiemap_extent *extent = &ask.head.fm_extents[i];
			uint64_t to = MIN_OF(extent->fe_logical + extent->fe_length, end);
			if (!add(map, MIN_OF((uint64_t)extent->fe_logical, end),
				 BDEV_EXTENT_HOLE | BDEV_EXTENT_ZERO) ||
			    !add(map, to, flags_of(extent)))
				return 0;
		}
		more = ask.head.fm_mapped_extents == FIEMAP_EXTENTS && map->end > before;
		flags = 0;
	}
	add(map, end, BDEV_EXTENT_HOLE | BDEV_EXTENT_ZERO);
	return 0;
}

static int walk_seek(struct file_map *map, uint64_t end)
{
	while (map->end < end) {
		off_t data = lseek(map->file->fd, map->end, SEEK_DATA);
		if (data < 0 && errno != ENXIO)
			return -errno;
		uint64_t begin = data < 0 ? end : MIN_OF((uint64_t)data, end);
		if (!add(map, begin, BDEV_EXTENT_HOLE | BDEV_EXTENT_ZERO))
			return 0;
		if (begin == end)
			return 0;
		off_t hole = lseek(map->file->fd, begin, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		if ((uint64_t)hole <= begin || !add(map, MIN_OF((uint64_t)hole, end), 0))
			return 0;
	}
	return 0;
}

static void walk(struct file_map *map, uint64_t end)
{
	struct file *file = map->file;
	int error = -EOPNOTSUPP;
	if (!atomic_load(&file->no_fiemap)) {
		error = walk_fiemap(map, end);
		if (error == -EOPNOTSUPP || error == -ENOTTY)
			atomic_store(&file->no_fiemap, true);
	}
	if (error)
		(void)walk_seek(map, end);
}

/* From `begin` on, to the end of its window or of the file. */
static struct file_map *make(struct file *file, uint64_t begin, uint64_t size_bytes)
{
	uint64_t window_end = ((begin >> file->window_shift) + 1) << file->window_shift;
	uint64_t end = MIN_OF(window_end, size_bytes);
	struct file_map *map = malloc(sizeof(*map) + FILE_MAP_RUNS_MAX * sizeof(struct file_run));
	struct stat st;
	if (!map)
		return NULL;
	memset(map, 0, sizeof(*map));
	map->file = file;
	map->refs = 1;
	map->place = file_window_place(file, begin);
	map->begin = map->end = begin;
	/* in this order: equal sums mean that there was a moment between with no write in flight */
	uint64_t ended = writes_ended(file, map->place);
	map->writes = writes_begun(file, map->place);
	map->settled = ended == map->writes;
	/* behind the end of a file that somebody has cut is nothing that reads as zeroes */
	if (!fstat(file->fd, &st) && (uint64_t)st.st_size > begin)
		walk(map, MIN_OF(end, (uint64_t)st.st_size));
	if (map->count < FILE_MAP_RUNS_MAX)
		add(map, end, 0);
	return map;
}

struct file_map *file_map_make(struct file *file, uint64_t offset, uint64_t size_bytes)
{
	uint64_t begin = offset >> file->window_shift << file->window_shift;
	struct file_map *map = make(file, begin, size_bytes);
	if (map && map->end <= offset) { /* too many runs before it */
		free(map);
		map = make(file, offset, size_bytes);
	}
	if (!map)
		return NULL;
	atomic_fetch_add(&file->maps_made, 1);
	struct file_map *smaller =
		realloc(map, sizeof(*map) + map->count * sizeof(struct file_run));
	return smaller ? smaller : map;
}

/* ---- Using ---- */

struct file_map *file_map_get(struct file_map *map)
{
	atomic_fetch_add_explicit(&map->refs, 1, memory_order_relaxed);
	return map;
}

void file_map_put(struct file_map *map)
{
	if (map && atomic_fetch_sub_explicit(&map->refs, 1, memory_order_acq_rel) == 1)
		free(map);
}

const struct file_run *file_map_run(const struct file_map *map, uint64_t offset)
{
	unsigned low = 0, high = map->count - 1;
	while (low < high) {
		unsigned middle = (low + high) / 2;
		if (map->runs[middle].end > offset)
			high = middle;
		else
			low = middle + 1;
	}
	return &map->runs[low];
}
