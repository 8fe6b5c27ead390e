/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * map: what is allocated in one window of a file, as the file system tells it. Made on a worker,
 * never changed, shared by the cores, freed by whoever lets go of it last.
 *
 * A map is true as long as no WRITE, TRIM or WRITE_ZEROES has been begun in its window since it was
 * begun, and none was in flight then. So nobody tells the cores that a map is no longer true: each
 * core counts its own writes by window (struct file_writes), and who uses a map compares the sum.
 */
#ifndef POLLUX_BDEV_FILE_MAP_H
#define POLLUX_BDEV_FILE_MAP_H

#include "bdev/file/internal.h"

/* Up to where, from the end of the one before. */
struct file_run {
	uint64_t end;	/* bytes, in the file */
	uint32_t flags; /* enum bdev_extent_flags */
};

struct file_map {
	struct file *file;
	_Atomic unsigned refs;
	unsigned place;	     /* of its window: [FILE_WINDOWS] */
	bool settled;	     /* no write was in flight when it was begun: it may be kept */
	uint64_t writes;     /* begun in its window until then */
	uint64_t begin, end; /* what it covers, bytes; begin < end */
	unsigned count;
	struct file_run runs[]; /* neighbours differ in flags */
};

/* The windows of a file that has this size when it is opened. */
uint8_t file_window_shift(uint64_t size_bytes);

/* Where what belongs to the window around `offset` is kept. */
static inline unsigned file_window_place(const struct file *file, uint64_t offset)
{
	return (offset >> file->window_shift) % FILE_WINDOWS;
}

/*
 * Worker: a map that covers `offset` (before `size`), with one reference; of the whole window, if
 * that has not too many runs. What can not be found out is told as data. NULL: no memory.
 */
struct file_map *file_map_make(struct file *file, uint64_t offset, uint64_t size_bytes);

/* Any thread. */
struct file_map *file_map_get(struct file_map *map);
void file_map_put(struct file_map *map);

/* Any thread: whether what it says is still so. */
bool file_map_is_true(const struct file_map *map);
/* The run that an offset in the map lies in. */
const struct file_run *file_map_run(const struct file_map *map, uint64_t offset);

#endif
