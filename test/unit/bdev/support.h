/* SPDX-License-Identifier: BSD-3-Clause */
/* support: what the bdev tests share: requests that remember how they ended, opening and removing.
 */
#ifndef POLLUX_TEST_BDEV_SUPPORT_H
#define POLLUX_TEST_BDEV_SUPPORT_H

#include "bdev/bdev.h"

struct request {
	struct bdev_io io;
	struct iovec iov[4];
	unsigned ended; /* how often done() ran */
	int status;
};

/* Fills a request; READ and WRITE with one piece of memory (NULL: a READ that takes a loan). */
void request_init(struct request *request, enum bdev_op op, uint64_t offset, uint64_t length,
		  void *memory);
/* Submits on the calling reactor's channel. */
void request_submit(struct bdev *bdev, struct request *request);
/* Submits, lets passes go by without moving the clock, fails the test unless it has ended. Status.
 */
int request_run(struct bdev *bdev, struct request *request);
/* All of that. */
int do_io(struct bdev *bdev, enum bdev_op op, uint64_t offset, uint64_t length, void *memory,
	  uint8_t flags);
/* READ with BDEV_LEND: compares what is lent with `expected`, gives it back. */
void check_lent(struct bdev *bdev, uint64_t offset, uint64_t length, const uint8_t *expected);

/* The done() of asynchronous calls: fails the test on an error, sets *(bool *)arg. */
void set_true(void *arg, int error);
void open_channels(struct bdev *bdev);
void close_channels(struct bdev *bdev);
/* Removes and waits; fails the test where it takes more than passes. */
void remove_bdev(struct bdev *bdev);

struct bdev *make_malloc(const char *name, uint64_t size_bytes);
struct bdev *make_null(const char *name, uint64_t size_bytes);

#endif
