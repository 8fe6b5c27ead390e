/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * request: a request slot of a net reactor, and its way to the storage core and back. Where the net
 * reactor has the storage role the bdev is called at once; else the slot travels on the I/O rings,
 * and its payload stays in the net core's buffers. Knows no protocol.
 *
 * A slot belongs to the net core that took it; between request_submit() and done() to the storage
 * core. All functions run on the net core.
 */
#ifndef POLLUX_APP_TARGET_REQUEST_H
#define POLLUX_APP_TARGET_REQUEST_H

#include "bdev/bdev.h"

enum {
	REQUEST_SLOTS = 16384, /* of one net core */
	REQUEST_IOVS = 2,
};

struct request {
	struct bdev_io io;
	struct iovec iov[REQUEST_IOVS]; /* io.iov points here, but for loans */
	struct hop hop;
	void (*done)(struct request *request); /* on the net core; io.status is set */
	void *owner;			       /* the front end's connection */
	struct bdev *bdev;
	struct reactor *home;	 /* the net core */
	struct reactor *storage; /* where the bdev's channel is */
	void *buffer;		 /* from home->buffers, or NULL */
	struct request *next;	 /* free list, chains */
	struct request *parent;	 /* of a part of a bigger request */
	/* the front end's own: */
	uint64_t cookie;
	uint64_t offset, length; /* of the whole request */
	uint64_t at;		 /* progress in it */
	uint64_t emitted;	 /* READ in parts: bytes handed to the client's queue */
	uint64_t submitted;	 /* ticks: to the bdev */
	uint32_t reserved;	 /* of the connection's share of the I/O buffers, bytes */
	uint64_t started;	 /* ticks */
	struct request *parts_first, **parts_last;
	uint32_t parts;		/* submitted, not done */
	int32_t status;		/* of the whole: the first error */
	uint64_t status_offset; /* where it happened */
	uint16_t type, flags;
	uint32_t generation; /* of the slot: counts its uses */
	bool at_storage;     /* written by a storage core that is not home */
	bool in_bdev;	     /* between submit and done */
	bool aborted;	     /* timed out: the driver was asked to end it */
	bool answered;	     /* timed out: the client has its error, the rest is dropped */
	bool behind_stuck;   /* a READ in parts: its time-out counts from `started` */
	bool part_done;
	bool last_part;
};

/* The slots of one net core. Never grows. */
struct request_pool {
	struct region region;
	struct request *slots;
	struct request *free;
	unsigned unused; /* slots never taken yet: [unused, REQUEST_SLOTS) */
	unsigned free_count;
};

int request_pool_init(struct request_pool *pool, int node);
void request_pool_fini(struct request_pool *pool);

/* NULL when all are taken. */
static inline struct request *request_get(struct request_pool *pool)
{
	struct request *request = pool->free;
	if (likely(request != NULL))
		pool->free = request->next;
	else if (pool->unused < REQUEST_SLOTS)
		request = &pool->slots[pool->unused++];
	else
		return NULL;
	pool->free_count--;
	return request;
}

static inline void request_put(struct request_pool *pool, struct request *request)
{
	request->generation++;
	request->next = pool->free;
	pool->free = request;
	pool->free_count++;
}

/* On the storage core: submits; at home again: done(). For request_submit(). */
void request_submit_remote(struct request *request);
void request_io_done_remote(struct bdev_io *io);
void request_io_done_local(struct bdev_io *io);

/*
 * Submits request->io (op, flags, offset, length, iov, iovcnt set) to request->bdev's channel on
 * request->storage. done() may run before it returns, where storage is this core.
 */
static inline void request_submit(struct request *request)
{
	request->in_bdev = true;
	request->submitted = request->home->now;
	if (likely(request->storage == request->home)) {
		request->io.done = request_io_done_local;
		bdev_submit(bdev_channel_here(request->bdev), &request->io);
	} else {
		request_submit_remote(request);
	}
}

/* Whether READs may be answered with the bdev's own memory. */
static inline bool request_may_lend(const struct bdev *bdev, const struct reactor *home,
				    const struct reactor *storage)
{
	return (bdev->caps & BDEV_CAP_LEND) && (home == storage || !bdev->type->release);
}

/* The payload of a READ was lent and the loan is still to be returned by request_release(). */
static inline bool request_holds_loan(const struct request *request)
{
	return bdev_io_is_lent(&request->io) && request->io.ch->type->release;
}

/* Gives back what the request holds: its loan, its buffer. The slot stays the caller's. */
void request_release(struct request *request);

/* Asks the driver to end the request early, where it can. */
void request_abort(struct request *request);

#endif
