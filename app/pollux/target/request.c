/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * request: the slots' pool, and the way of a slot to a storage core that is not its home. A loan
 * from a driver without release() is returned to the channel at once: the memory stays as long as
 * the bdev's channels are open, and the export keeps those open until its last connection has gone.
 */
#include "app/pollux/target/request.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int request_pool_init(struct request_pool *pool, int node)
{
	struct region region;
	int error =
		region_map(&region, sizeof(struct request) * (size_t)REQUEST_SLOTS, node, false);
	if (error)
		return error;
	pool->region = region;
	pool->slots = region.base;
	pool->free = NULL;
	pool->unused = 0;
	pool->free_count = REQUEST_SLOTS;
	return 0;
}

void request_pool_fini(struct request_pool *pool)
{
	if (pool->slots)
		region_unmap(&pool->region);
	pool->slots = NULL;
}

static inline struct request *of_io(struct bdev_io *io)
{
	return container_of(io, struct request, io);
}

void request_io_done_local(struct bdev_io *io)
{
	struct request *request = of_io(io);
	request->in_bdev = false;
	request->done(request);
}

static void arrive_home(struct hop *hop)
{
	struct request *request = container_of(hop, struct request, hop);
	request->in_bdev = false;
	request->done(request);
}

void request_io_done_remote(struct bdev_io *io)
{
	struct request *request = of_io(io);
	request->at_storage = false;
	request->hop.arrive = arrive_home;
	reactor_hop(request->home->index, &request->hop);
}

static void arrive_storage(struct hop *hop)
{
	struct request *request = container_of(hop, struct request, hop);
	request->at_storage = true;
	bdev_submit(bdev_channel_here(request->bdev), &request->io);
}

void request_submit_remote(struct request *request)
{
	request->io.done = request_io_done_remote;
	request->hop.arrive = arrive_storage;
	reactor_hop(request->storage->index, &request->hop);
}

void request_release(struct request *request)
{
	if (request_holds_loan(request))
		bdev_io_release(request->io.ch, &request->io);
	if (request->buffer) {
		buffers_put(&request->home->buffers, request->buffer);
		request->buffer = NULL;
	}
}

struct abort_call {
	struct request *request;
	uint32_t generation;
};

/* On the storage core: the slot may have gone home meanwhile, and be another request by now. */
static void abort_at_storage(void *arg)
{
	struct abort_call *call = arg;
	struct request *request = call->request;
	if (request->at_storage && request->generation == call->generation) {
		bdev_abort(bdev_channel_here(request->bdev), &request->io);
	}
	free(call);
}

void request_abort(struct request *request)
{
	if (!request->in_bdev)
		return;
	if (request->storage == request->home) {
		bdev_abort(bdev_channel_here(request->bdev), &request->io);
		return;
	}
	struct abort_call *call = malloc(sizeof(*call));
	if (!call)
		return;
	*call = (struct abort_call){request, request->generation};
	reactor_send(request->storage, abort_at_storage, call);
}
