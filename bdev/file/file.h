/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * file: regular files and block devices as bdevs, through the core's io_uring. Control thread;
 * opening runs on a worker.
 */
#ifndef POLLUX_BDEV_FILE_H
#define POLLUX_BDEV_FILE_H

#include "bdev/bdev.h"

extern const struct bdev_type bdev_file_type;

enum bdev_file_direct { BDEV_FILE_DIRECT_AUTO, BDEV_FILE_DIRECT_ON, BDEV_FILE_DIRECT_OFF };

struct bdev_file_options {
	const char *name; /* NULL: one is made */
	const char *uuid;
	const char *path;
	enum bdev_file_direct direct; /* AUTO: O_DIRECT where the file system takes it */
	bool read_only;
	uint32_t block_size; /* 0: the device's or file system's; else at least that */
};

/*
 * Opens and registers; the options are copied. created(arg, bdev, 0, NULL) or created(arg, NULL,
 * -errno, sentence) runs once, later, on the control thread. The sentence names the path and what
 * is wrong: no such file, permission denied, is a directory, is empty, not a file or block device,
 * in use.
 */
void bdev_file_create(const struct bdev_file_options *options,
		      void (*created)(void *arg, struct bdev *bdev, int error, const char *why),
		      void *arg);

/* Of a file bdev: READs and WRITEs are polled for, without interrupts. */
bool bdev_file_is_polled(const struct bdev *bdev);

#endif
