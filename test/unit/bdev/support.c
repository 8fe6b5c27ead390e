/* SPDX-License-Identifier: BSD-3-Clause */
/* support: requests, channels and bdevs of the bdev tests. */
#include "bdev/support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/malloc/malloc.h"
#include "bdev/null/null.h"
#include "fake/reactor.h"

static void on_done(struct bdev_io *io)
{
	struct request *request = container_of(io, struct request, io);
	request->ended++;
	request->status = io->status;
}

void request_init(struct request *request, enum bdev_op op, uint64_t offset, uint64_t length,
		  void *memory)
{
	memset(request, 0, offsetof(struct request, io.ctx));
	memset(request->io.ctx, 0xee, sizeof(request->io.ctx)); /* no layer may count on zeros */
	request->ended = 0;
	request->status = 1;
	request->io.op = op;
	request->io.offset = offset;
	request->io.length = length;
	request->io.done = on_done;
	if (memory) {
		request->iov[0] = (struct iovec){memory, length};
		request->io.iov = request->iov;
		request->io.iovcnt = 1;
	} else if (op == BDEV_READ) {
		request->io.flags = BDEV_LEND;
	}
}

void request_submit(struct bdev *bdev, struct request *request)
{
	struct bdev_channel *ch = bdev_channel_here(bdev);
	assert_non_null(ch);
	bdev_submit(ch, &request->io);
}

int request_run(struct bdev *bdev, struct request *request)
{
	request_submit(bdev, request);
	if (!request->ended)
		fake_settle();
	assert_int_equal(request->ended, 1);
	return request->status;
}

int do_io(struct bdev *bdev, enum bdev_op op, uint64_t offset, uint64_t length, void *memory,
	  uint8_t flags)
{
	struct request request;
	request_init(&request, op, offset, length, memory);
	request.io.flags |= flags;
	return request_run(bdev, &request);
}

void check_lent(struct bdev *bdev, uint64_t offset, uint64_t length, const uint8_t *expected)
{
	struct request request;
	uint64_t at = 0;
	request_init(&request, BDEV_READ, offset, length, NULL);
	assert_int_equal(request_run(bdev, &request), 0);
	assert_true(bdev_io_is_lent(&request.io));
	for (unsigned i = 0; i < request.io.iovcnt; i++) {
		assert_memory_equal(request.io.iov[i].iov_base, expected + at,
				    request.io.iov[i].iov_len);
		at += request.io.iov[i].iov_len;
	}
	assert_int_equal(at, length);
	bdev_io_release(request.io.ch, &request.io);
}

void set_true(void *arg, int error)
{
	assert_int_equal(error, 0);
	*(bool *)arg = true;
}

void open_channels(struct bdev *bdev)
{
	bool done = false;
	bdev_open_channels(bdev, set_true, &done);
	fake_settle();
	assert_true(done);
}

void close_channels(struct bdev *bdev)
{
	bool done = false;
	bdev_close_channels(bdev, set_true, &done);
	fake_settle();
	assert_true(done);
}

void remove_bdev(struct bdev *bdev)
{
	bool done = false;
	assert_int_equal(bdev_remove(bdev, false, set_true, &done), 0);
	fake_settle();
	assert_true(done);
}

struct bdev *make_malloc(const char *name, uint64_t size_bytes)
{
	const struct bdev_malloc_options options = {
		.name = name, .size_bytes = size_bytes, .numa_id = REGION_ANY_NODE};
	struct bdev *bdev = NULL;
	char why[256] = "";
	int error = bdev_malloc_create(&options, &bdev, why, sizeof(why));
	if (error)
		fail_msg("%d: %s", error, why);
	return bdev;
}

struct bdev *make_null(const char *name, uint64_t size_bytes)
{
	const struct bdev_null_options options = {.name = name, .size_bytes = size_bytes};
	struct bdev *bdev = NULL;
	char why[256] = "";
	int error = bdev_null_create(&options, &bdev, why, sizeof(why));
	if (error)
		fail_msg("%d: %s", error, why);
	return bdev;
}
