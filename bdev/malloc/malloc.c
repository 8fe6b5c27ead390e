/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * malloc: a disk in memory. One mapping holds all of it; a READ with BDEV_LEND is answered with
 * that mapping itself, or with shared zeros where nothing was written, a WRITE is copied into it.
 * Both end before submit() returns. TRIM and WRITE_ZEROES may be terabytes: a channel spends a
 * bounded time a pass on them, and continues from a poller.
 *
 * What is lent need not come back, and is not counted: the memory at an offset is that offset's for
 * as long as the bdev lives, and who holds the bdev lets it go after its last reply. A WRITE or
 * TRIM that meets a loan shows in it, as it may: it is in flight together with that READ.
 *
 * Submitting runs on the channel's core, any number of them at once (see map.c for what keeps them
 * apart); the rest is the control thread's.
 */
#include "bdev/malloc/malloc.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/create.h"
#include "bdev/malloc/map.h"
#include "lib/base/why.h"
#include "reactor/control.h"

/* Address space kept behind a bdev for growing: so often its size, within these bounds. */
#define GROWTH_MOST_BYTES (1ull << 40)
enum { GROWTH_FACTOR = 15, GROWTH_LEAST_BYTES = 1 << 30 };

/* Of a map that is read for one EXTENTS: 512 KiB of bits. */
#define EXTENTS_MOST_BYTES (16ull << 30)

struct malloc_disk {
	struct bdev bdev;
	struct malloc_map map;
	bool resizing;
	bool doomed; /* destroy() came while resizing */
	/* of the resize under way */
	uint64_t from, to; /* bytes */
	int error;
	void (*resized)(void *arg, int error);
	void *resized_arg;
};

struct malloc_channel {
	struct malloc_map *map;
	TAILQ_HEAD(, bdev_io) zeroing; /* too big to be done at once */
	struct poller poller;	       /* registered while there are any */
	uint64_t pass;		       /* reactor->now when `budget_ns` was renewed */
	int64_t budget_ns;	       /* left in this pass for zeroing within submit() */
};

struct malloc_io {
	uint64_t at; /* how far zeroing has come */
};

static struct malloc_channel *channel_of(struct bdev_channel *ch)
{
	return (struct malloc_channel *)ch->ctx;
}

/* ---- READ and WRITE ---- */

static bool wants_loan(const struct bdev_io *io)
{
	return io->flags & BDEV_LEND && !io->iovcnt && io->length;
}

static inline void lend_memory(struct bdev_io *io, uint8_t *memory)
{
	io->lent[0] = (struct iovec){memory, io->length};
	io->iov = io->lent;
	io->iovcnt = 1;
	bdev_io_complete(io, 0);
}

/* Zeroes that are to be told as such, or a range that lies across words of the map. */
static never_inline void lend_otherwise(const struct malloc_map *map, struct bdev_io *io)
{
	bool used = malloc_map_any(map, io->offset, io->length);
	if (!used && io->flags & BDEV_SPARSE) {
		io->flags |= BDEV_ZEROES;
		bdev_io_complete(io, 0);
	} else if (used || io->length > REGION_ZEROS_BYTES) {
		lend_memory(io, map->base + io->offset);
	} else {
		lend_memory(io, (uint8_t *)(uintptr_t)map->zeros);
	}
}

_Static_assert(MALLOC_WORD_BLOCKS * MALLOC_BLOCK_BYTES <= REGION_ZEROS_BYTES,
	       "what shares a word of the map can be lent from the zeroes");

static inline void lend(const struct malloc_map *map, struct bdev_io *io)
{
	if (likely(malloc_map_in_word(io->offset, io->length))) {
		bool used = malloc_map_any_in_word(map, io->offset, io->length);
		if (likely(used || !(io->flags & BDEV_SPARSE))) {
			/* lent for reading only: an iovec cannot say so */
			lend_memory(io, used ? map->base + io->offset
					     : (uint8_t *)(uintptr_t)map->zeros);
			return;
		}
	}
	lend_otherwise(map, io);
}

static never_inline void read_out(const struct malloc_map *map, struct bdev_io *io)
{
	const uint8_t *from = map->base + io->offset;
	bool used = malloc_map_any(map, io->offset, io->length);
	bool told = !used && io->flags & BDEV_SPARSE;
	if (told)
		io->flags |= BDEV_ZEROES;
	for (unsigned i = 0; i < io->iovcnt && !told; i++) {
		if (used)
			memcpy(io->iov[i].iov_base, from, io->iov[i].iov_len);
		else
			memset(io->iov[i].iov_base, 0, io->iov[i].iov_len);
		from += io->iov[i].iov_len;
	}
	bdev_io_complete(io, 0);
}

static never_inline void write_in(struct malloc_map *map, struct bdev_io *io)
{
	const struct iovec *iov = io->iov, *end = iov + io->iovcnt;
	uint8_t *to = map->base + io->offset;
	for (; iov < end; iov++) {
		memcpy(to, iov->iov_base, iov->iov_len);
		to += iov->iov_len;
	}
	malloc_map_mark(map, io->offset, io->length);
	bdev_io_complete(io, 0);
}

/* ---- TRIM and WRITE_ZEROES ---- */

/* True when all of it is done. One that was in flight while the bdev shrank stops at its end. */
static bool zero_some(struct bdev_channel *ch, struct bdev_io *io, int64_t *budget_ns)
{
	struct malloc_io *mio = bdev_io_ctx(ch->bdev, io);
	uint64_t size = atomic_load_explicit(&ch->bdev->size_bytes, memory_order_relaxed);
	uint64_t end = MIN_OF(io->offset + io->length, size);
	bool keep = io->op == BDEV_WRITE_ZEROES && io->flags & BDEV_NO_HOLE;
	while (mio->at<end && * budget_ns> 0)
		mio->at = malloc_map_zero(channel_of(ch)->map, mio->at, end, keep, budget_ns);
	return mio->at >= end;
}

/* The big ones take turns, so that a short one does not wait for all of a long one. */
static unsigned zero_poll(struct poller *poller)
{
	struct malloc_channel *mc = container_of(poller, struct malloc_channel, poller);
	int64_t budget_ns = MALLOC_STEP_NS;
	struct bdev_io *io = TAILQ_FIRST(&mc->zeroing);
	bool done = zero_some(io->ch, io, &budget_ns);
	TAILQ_REMOVE(&mc->zeroing, io, link);
	if (!done)
		TAILQ_INSERT_TAIL(&mc->zeroing, io, link);
	if (TAILQ_EMPTY(&mc->zeroing))
		reactor_remove_poller(poller);
	if (done)
		bdev_io_complete(io, 0);
	return 1;
}

static bool zero_may_sleep(struct poller *poller)
{
	return false; /* registered only while there is something to do */
}

static never_inline void submit_zero(struct bdev_channel *ch, struct bdev_io *io)
{
	struct malloc_channel *mc = channel_of(ch);
	struct malloc_io *mio = bdev_io_ctx(ch->bdev, io);
	if (mc->pass != ch->reactor->now) {
		mc->pass = ch->reactor->now;
		mc->budget_ns = MALLOC_STEP_NS;
	}
	mio->at = io->offset;
	if (mc->budget_ns > 0 && zero_some(ch, io, &mc->budget_ns)) {
		bdev_io_complete(io, 0);
		return;
	}
	if (TAILQ_EMPTY(&mc->zeroing))
		reactor_add_poller(&mc->poller);
	TAILQ_INSERT_TAIL(&mc->zeroing, io, link);
}

/* ---- EXTENTS ---- */

/* What is looked at for one request is bounded, so that the core is not held for long. */
static never_inline void tell_extents(const struct malloc_map *map, struct bdev_io *io)
{
	uint64_t at = io->offset;
	uint64_t end = at + MIN_OF(io->length, (uint64_t)EXTENTS_MOST_BYTES);
	bool room = true;
	io->extents = 0;
	while (at < end && room && !io->context) {
		bool hole;
		uint64_t stop = malloc_map_run(map, at, end, &hole);
		room = bdev_extents_add(io, stop - at,
					hole ? BDEV_EXTENT_HOLE | BDEV_EXTENT_ZERO : 0);
		at = stop;
	}
	bdev_io_complete(io, io->context ? -EINVAL : 0);
}

static never_inline void submit_one(struct bdev_channel *ch, struct bdev_io *io)
{
	struct malloc_map *map = channel_of(ch)->map;
	if (unlikely(!io->length)) /* FLUSH, too: nothing outlives the process */
		bdev_io_complete(io, 0);
	else if (io->op == BDEV_WRITE)
		write_in(map, io);
	else if (wants_loan(io))
		lend(map, io);
	else if (io->op == BDEV_READ)
		read_out(map, io);
	else if (io->op == BDEV_TRIM || io->op == BDEV_WRITE_ZEROES)
		submit_zero(ch, io);
	else if (io->op == BDEV_EXTENTS)
		tell_extents(map, io);
	else
		bdev_io_complete(io, io->op == BDEV_FLUSH ? 0 : -EOPNOTSUPP);
}

static void malloc_submit(struct bdev_channel *ch, struct bdev_io **ios, unsigned n)
{
	if (likely(n == 1)) {
		if (likely(wants_loan(ios[0])))
			lend(channel_of(ch)->map, ios[0]);
		else
			submit_one(ch, ios[0]);
		return;
	}
	for (unsigned i = 0; i < n; i++)
		submit_one(ch, ios[i]);
}

static int malloc_channel_open(struct bdev_channel *ch)
{
	struct malloc_channel *mc = channel_of(ch);
	mc->map = &container_of(ch->bdev, struct malloc_disk, bdev)->map;
	TAILQ_INIT(&mc->zeroing);
	mc->poller.poll = zero_poll;
	mc->poller.may_sleep = zero_may_sleep;
	return 0;
}

/* ---- Size ---- */

static void resize_ended(void *arg)
{
	struct malloc_disk *disk = arg;
	disk->resizing = false;
	if (disk->to > disk->from && !disk->error && !disk->doomed) {
		atomic_store(&disk->bdev.size_bytes, disk->to);
		bdev_resized(&disk->bdev);
	}
	disk->resized(disk->resized_arg, disk->error);
	if (disk->doomed)
		disk->bdev.type->destroy(&disk->bdev);
}

static void zero_all(struct malloc_map *map, uint64_t offset, uint64_t end)
{
	while (offset < end) {
		int64_t budget_ns = MALLOC_STEP_NS;
		offset = malloc_map_zero(map, offset, end, false, &budget_ns);
	}
}

/*
 * Worker: a bdev that shrank and grows again must not show what it held; a late WRITE may have left
 * something there even after shrinking had given it back.
 */
static void grow_work(void *arg)
{
	struct malloc_disk *disk = arg;
	uint64_t had = disk->map.memory.bytes;
	disk->error = malloc_map_grow(&disk->map, disk->to);
	if (!disk->error)
		zero_all(&disk->map, disk->from, MIN_OF(had, disk->to));
}

static void shrink_work(void *arg)
{
	struct malloc_disk *disk = arg;
	zero_all(&disk->map, disk->to, disk->from);
}

static void nothing(void *arg)
{
}

/* READs and WRITEs that were in submit() when the size fell have left it: the rest can go. */
static void shrink_passed(void *arg)
{
	control_work(shrink_work, resize_ended, arg);
}

static void malloc_resize(struct bdev *bdev, uint64_t size_bytes,
			  void (*done)(void *arg, int error), void *arg)
{
	struct malloc_disk *disk = container_of(bdev, struct malloc_disk, bdev);
	if (disk->resizing) {
		done(arg, -EBUSY);
		return;
	}
	if (!size_bytes || size_bytes > INT64_MAX || size_bytes % bdev->block_size) {
		done(arg, -EINVAL);
		return;
	}
	disk->resizing = true;
	disk->from = atomic_load(&bdev->size_bytes);
	disk->to = size_bytes;
	disk->error = 0;
	disk->resized = done;
	disk->resized_arg = arg;
	if (disk->to < disk->from) {
		atomic_store(&bdev->size_bytes, disk->to);
		bdev_resized(bdev);
		control_for_each_reactor(0, nothing, shrink_passed, disk);
	} else {
		control_work(grow_work, resize_ended, disk);
	}
}

/* ---- Object ---- */

static void malloc_destroy(struct bdev *bdev)
{
	struct malloc_disk *disk = container_of(bdev, struct malloc_disk, bdev);
	if (disk->resizing) {
		disk->doomed = true;
		return;
	}
	malloc_map_fini(&disk->map);
	bdev_destroyed(bdev);
	free(disk);
}

static void malloc_dump_info(const struct bdev *bdev, json_t *object)
{
	const struct malloc_disk *disk = container_of(bdev, const struct malloc_disk, bdev);
	json_t *info = json_pack("{s:b, s:I}", "hugetlb", disk->map.memory.hugetlb, "growable_to",
				 (json_int_t)disk->map.memory.mapped);
	json_object_set_new(object, "malloc", info);
}

const struct bdev_type bdev_malloc_type = {
	.name = "malloc",
	.product_name = "Malloc disk",
	.channel_ctx_bytes = sizeof(struct malloc_channel),
	.channel_open = malloc_channel_open,
	.submit = malloc_submit,
	.destroy = malloc_destroy,
	.resize = malloc_resize,
	.dump_info = malloc_dump_info,
};

int bdev_malloc_extent(const struct bdev *bdev, uint64_t offset, uint64_t *length, bool *hole)
{
	const struct malloc_disk *disk = container_of(bdev, const struct malloc_disk, bdev);
	uint64_t size = atomic_load(&bdev->size_bytes);
	if (offset >= size)
		return -EINVAL;
	uint64_t most = size - offset;
	if (*length && *length < most)
		most = *length;
	*length = malloc_map_run(&disk->map, offset, offset + most, hole) - offset;
	return 0;
}

static int storage_node(void)
{
	for (unsigned i = 0; i < reactor_count; i++) {
		if (reactors[i]->roles & REACTOR_STORAGE)
			return reactors[i]->node;
	}
	return REGION_ANY_NODE;
}

static int set_up(struct malloc_disk *disk, const struct bdev_malloc_options *options, char *why,
		  size_t why_bytes)
{
	struct bdev *bdev = &disk->bdev;
	uint64_t size = options->size_bytes;
	uint64_t room = MAX_OF((uint64_t)GROWTH_LEAST_BYTES,
			       MIN_OF(size, GROWTH_MOST_BYTES) * GROWTH_FACTOR);
	int node = options->numa_id == REGION_ANY_NODE ? storage_node() : options->numa_id;
	int error = malloc_map_init(&disk->map, size, size + MIN_OF(room, GROWTH_MOST_BYTES), node);
	if (error == -EINVAL)
		snprintf(why, why_bytes, "there is no NUMA node %d", node);
	else if (error)
		snprintf(why, why_bytes, "cannot map %" PRIu64 " bytes of memory: %s", size,
			 strerror(-error));
	if (error)
		return error;
	bdev->type = &bdev_malloc_type;
	bdev->size_bytes = size;
	bdev->block_size = options->block_size ? options->block_size : BDEV_BLOCK_MIN_BYTES;
	bdev->physical_block_size = options->physical_block_size;
	bdev->align_bytes = 1;
	bdev->mem_align_bytes = 1;
	bdev->caps = BDEV_CAP_WRITE | BDEV_CAP_FLUSH | BDEV_CAP_FUA | BDEV_CAP_TRIM |
		     BDEV_CAP_WRITE_ZEROES | BDEV_CAP_FAST_ZERO | BDEV_CAP_LEND | BDEV_CAP_SYNC |
		     BDEV_CAP_EXTENTS;
	bdev->io_ctx_bytes = sizeof(struct malloc_io);
	bdev->numa_id = disk->map.memory.node;
	return 0;
}

int bdev_malloc_create(const struct bdev_malloc_options *options, struct bdev **bdev, char *why,
		       size_t why_bytes)
{
	uint32_t block = options->block_size ? options->block_size : BDEV_BLOCK_MIN_BYTES;
	int error = bdev_check_geometry(options->size_bytes, block, options->physical_block_size,
					why, why_bytes);
	if (error)
		return error;
	struct malloc_disk *disk = aligned_alloc(_Alignof(struct malloc_disk), sizeof(*disk));
	if (!disk)
		return why_refuse(why, why_bytes, -ENOMEM, "out of memory");
	memset(disk, 0, sizeof(*disk));
	error = bdev_set_identity(&disk->bdev, "Malloc", options->name, options->uuid, why,
				  why_bytes);
	if (!error)
		error = set_up(disk, options, why, why_bytes);
	if (error) {
		free(disk);
		return error;
	}
	error = bdev_register_why(&disk->bdev, why, why_bytes);
	if (error) {
		malloc_map_fini(&disk->map);
		free(disk);
		return error;
	}
	*bdev = &disk->bdev;
	return 0;
}
