/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * align: who may write when. Passes what is aligned straight to the driver, brings what is not -
 * and, in serial mode, every write - to the owner core, and starts it there when nothing that
 * overlaps is under way. The read-modify-write itself is bdev/align_job.c.
 *
 * All functions run on the channel's core, but the state's init and fini (control thread).
 */
#include "bdev/align.h"

#include <errno.h>
#include <stdlib.h>

#include "bdev/align_internal.h"
#include "lib/base/clock.h"

static bool is_write(const struct bdev_io *io)
{
	return io->op == BDEV_WRITE || io->op == BDEV_WRITE_ZEROES || io->op == BDEV_TRIM;
}

bool align_is_aligned(const struct bdev *bdev, const struct bdev_io *io)
{
	uint64_t mask = bdev->align_bytes - 1;
	if (io->offset & mask)
		return false;
	return !(io->length & mask) || io->offset + io->length == atomic_load(&bdev->size_bytes);
}

/* ---- Free mode ---- */

static void send_ack(struct align_channel *ac);

static void finish_home(struct bdev_io *io)
{
	struct bdev_channel *ch = io->align.home;
	io->ch = ch;
	io->align.held = false;
	io->done = io->align.done;
	io->done(io);
	bdev_channel_leave(ch);
}

/* A write that went straight to the driver; bdev_io_complete() accounts for it. */
static void free_write_done(struct bdev_io *io)
{
	struct align_channel *ac = io->ch->align;
	ac->free_writes--;
	io->done = io->align.done;
	io->done(io);
	if (unlikely(ac->ack_owed) && !ac->free_writes)
		send_ack(ac);
}

/* ---- The owner: what is under way, what waits ---- */

static uint64_t hull_begin(const struct bdev *bdev, const struct bdev_io *io)
{
	return io->offset & ~(uint64_t)(bdev->align_bytes - 1);
}

static uint64_t hull_end(const struct bdev *bdev, const struct bdev_io *io)
{
	uint64_t mask = bdev->align_bytes - 1;
	return (io->offset + io->length + mask) & ~mask;
}

static bool overlaps(const struct bdev *bdev, const struct bdev_io *a, const struct bdev_io *b)
{
	return hull_begin(bdev, a) < hull_end(bdev, b) && hull_begin(bdev, b) < hull_end(bdev, a);
}

/* Whether it must wait for something under way, or for something that waits before it. */
static bool must_wait(struct align_channel *ac, const struct bdev_io *io)
{
	const struct bdev *bdev = ac->ch->bdev;
	const struct bdev_io *other;
	TAILQ_FOREACH (other, &ac->active, align.link) {
		if (overlaps(bdev, io, other))
			return true;
	}
	TAILQ_FOREACH (other, &ac->waiting, align.link) {
		if (other == io)
			break;
		if (overlaps(bdev, io, other))
			return true;
	}
	return false;
}

static void home_arrive(struct hop *hop)
{
	finish_home(container_of(hop, struct bdev_io, align.hop));
}

static void start_waiting(struct align_channel *ac);

/* On the owner: the write has ended, io->status is set; the request goes back where it came from.
 */
static void owned_end(struct align_channel *ac, struct bdev_io *io)
{
	TAILQ_REMOVE(&ac->active, io, align.link);
	struct reactor *home = io->align.home->reactor;
	if (home == reactor_self) {
		finish_home(io);
	} else {
		io->align.hop.arrive = home_arrive;
		reactor_hop(home->index, &io->align.hop);
	}
	if (!TAILQ_EMPTY(&ac->waiting))
		start_waiting(ac);
}

void align_job_ended(struct align_channel *ac, struct bdev_io *io)
{
	if (io->op == BDEV_READ) {
		finish_home(io);
		return;
	}
	struct bdev_channel *ch = ac->ch;
	ac->jobs_active--;
	owned_end(ac, io);
	bdev_channel_leave(ch);
}

static void owned_direct_done(struct bdev_io *io)
{
	owned_end(io->ch->align, io);
}

static void owned_start(struct align_channel *ac, struct bdev_io *io)
{
	struct bdev_channel *ch = ac->ch;
	TAILQ_INSERT_TAIL(&ac->active, io, align.link);
	counter_add(&ch->inflight, 1);
	io->ch = ch;
	if (align_is_aligned(ch->bdev, io)) {
		if (io->align.home == ch)
			io->align.held = false; /* the driver can abort it */
		io->started = ch->reactor->now;
		io->done = owned_direct_done;
		ch->type->submit(ch, &io, 1);
	} else {
		ac->jobs_active++;
		ac->last_misaligned = ch->reactor->now;
		align_job_start(ac, io);
	}
}

static void start_waiting(struct align_channel *ac)
{
	struct bdev_io *io, *next;
	if (!ac->serial || ac->acks_left || ac->starting)
		return;
	/* owned_start() may complete at once and come back here: the outer loop goes on instead.
	 * What it adds stands at the end, and nobody else takes from the list. */
	ac->starting = true;
	do {
		ac->again = false;
		for (io = TAILQ_FIRST(&ac->waiting); io; io = next) {
			next = TAILQ_NEXT(io, align.link);
			if (must_wait(ac, io))
				continue;
			TAILQ_REMOVE(&ac->waiting, io, align.link);
			owned_start(ac, io);
			ac->again = true;
		}
	} while (ac->again);
	ac->starting = false;
}

/* ---- Changing the mode: the owner asks, every core answers ---- */

static void ack_arrived(void *arg)
{
	struct bdev *bdev = arg;
	struct bdev_channel *ch = bdev_channel_here(bdev);
	if (ch && --ch->align->acks_left == 0)
		start_waiting(ch->align);
}

static void send_ack(struct align_channel *ac)
{
	struct bdev *bdev = ac->ch->bdev;
	ac->ack_owed = false;
	reactor_send(reactors[bdev->align->owner], ack_arrived, bdev);
}

/* On each storage core. */
static void enter_serial(void *arg)
{
	struct bdev *bdev = arg;
	struct bdev_channel *ch = bdev_channel_here(bdev);
	if (!ch) {
		reactor_send(reactors[bdev->align->owner], ack_arrived, bdev);
		return;
	}
	ch->align->serial = true;
	if (ch->align->free_writes)
		ch->align->ack_owed = true;
	else
		send_ack(ch->align);
}

static void leave_serial(void *arg)
{
	struct bdev_channel *ch = bdev_channel_here(arg);
	if (ch)
		ch->align->serial = false;
}

static void tell_storage_cores(struct bdev *bdev, void (*fn)(void *arg))
{
	for (unsigned i = 0; i < reactor_count; i++) {
		if (reactors[i]->roles & REACTOR_STORAGE)
			reactor_send(reactors[i], fn, bdev);
	}
}

static void begin_serial(struct align_channel *ac)
{
	struct bdev *bdev = ac->ch->bdev;
	unsigned cores = 0;
	for (unsigned i = 0; i < reactor_count; i++)
		cores += !!(reactors[i]->roles & REACTOR_STORAGE);
	ac->entered = true;
	ac->acks_left = cores;
	atomic_store(&bdev->align->serial, true);
	tell_storage_cores(bdev, enter_serial);
	reactor_arm_timer(&ac->leave, bdev->align->leave_after_us);
}

static void maybe_leave(struct timer *timer)
{
	struct align_channel *ac = container_of(timer, struct align_channel, leave);
	struct bdev *bdev = ac->ch->bdev;
	uint64_t after_us = bdev->align->leave_after_us;
	bool quiet = ac->ch->reactor->now - ac->last_misaligned >= clock_us_to_ticks(after_us);
	if (!quiet || ac->acks_left || ac->jobs_active || !TAILQ_EMPTY(&ac->waiting)) {
		reactor_arm_timer(timer, after_us);
		return;
	}
	ac->entered = false;
	atomic_store(&bdev->align->serial, false);
	tell_storage_cores(bdev, leave_serial);
}

/* ---- Entry ---- */

static void owner_take(struct align_channel *ac, struct bdev_io *io)
{
	/* on its way when serial mode ended, or from a core that has not heard of the end: as free
	 * as on its own core, and no reason to begin again */
	if (!ac->entered && align_is_aligned(ac->ch->bdev, io)) {
		owned_start(ac, io);
		return;
	}
	TAILQ_INSERT_TAIL(&ac->waiting, io, align.link);
	if (!ac->entered)
		begin_serial(ac);
	else
		start_waiting(ac);
}

static void owner_arrive(struct hop *hop)
{
	struct bdev_io *io = container_of(hop, struct bdev_io, align.hop);
	owner_take(bdev_channel_here(io->align.home->bdev)->align, io);
}

static void to_owner(struct bdev_channel *ch, struct bdev_io *io)
{
	unsigned owner = ch->bdev->align->owner;
	io->align.home = ch;
	io->align.done = io->done;
	io->align.held = true;
	if (owner == ch->reactor->index) {
		owner_take(ch->align, io);
	} else {
		io->align.hop.arrive = owner_arrive;
		reactor_hop(owner, &io->align.hop);
	}
}

/* TRIM: the whole blocks inside. CACHE: the whole blocks around. */
static void adjust(const struct bdev *bdev, struct bdev_io *io)
{
	uint64_t mask = bdev->align_bytes - 1, size = atomic_load(&bdev->size_bytes);
	uint64_t begin = io->offset, end = io->offset + io->length;
	if (io->op == BDEV_TRIM) {
		begin = (begin + mask) & ~mask;
		if (end != size)
			end &= ~mask;
	} else {
		begin &= ~mask;
		end = MIN_OF((end + mask) & ~mask, size);
	}
	io->offset = begin;
	io->length = end > begin ? end - begin : 0;
}

void bdev_align_submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct align_channel *ac = ch->align;
	io->align.held = false;
	bool aligned = io->op == BDEV_FLUSH || align_is_aligned(ch->bdev, io);
	if (!aligned && (io->op == BDEV_TRIM || io->op == BDEV_CACHE)) {
		adjust(ch->bdev, io);
		aligned = true;
		if (!io->length) {
			bdev_io_complete(io, 0);
			return;
		}
	}
	if (is_write(io)) {
		if (unlikely(!aligned || ac->serial)) {
			to_owner(ch, io);
			return;
		}
		ac->free_writes++;
		io->align.done = io->done;
		io->done = free_write_done;
	} else if (unlikely(!aligned)) {
		io->align.home = ch;
		io->align.done = io->done;
		io->align.held = true;
		align_job_start(ac, io);
		return;
	}
	ch->type->submit(ch, &io, 1);
}

/*
 * A request the layer holds was never the driver's own: only the child of its job is. One that
 * waits, or that runs on another core, ends in its own time.
 */
void bdev_abort(struct bdev_channel *ch, struct bdev_io *io)
{
	struct bdev_io *at_driver = io;
	if (ch->align && io->align.held)
		at_driver = align_job_child(ch->align, io);
	if (at_driver && ch->type->abort)
		ch->type->abort(ch, at_driver);
}

/* ---- Life ---- */

int align_state_init(struct bdev *bdev)
{
	static unsigned next;
	unsigned storage[REACTOR_MAX], count = 0;
	bdev->align = NULL;
	if (bdev->align_bytes <= 1)
		return 0;
	for (unsigned i = 0; i < reactor_count; i++) {
		if (reactors[i]->roles & REACTOR_STORAGE)
			storage[count++] = i;
	}
	bdev->align = calloc(1, sizeof(*bdev->align));
	if (!bdev->align)
		return -ENOMEM;
	bdev->align->owner = count ? storage[next++ % count] : 0;
	bdev->align->leave_after_us = ALIGN_LEAVE_AFTER_US;
	return 0;
}

void align_state_fini(struct bdev *bdev)
{
	free(bdev->align);
	bdev->align = NULL;
}

int align_channel_init(struct bdev_channel *ch)
{
	if (!ch->bdev->align)
		return 0;
	struct align_channel *ac = calloc(1, sizeof(*ac));
	if (!ac)
		return -ENOMEM;
	ac->ch = ch;
	ac->serial = atomic_load(&ch->bdev->align->serial);
	ac->leave.fire = maybe_leave;
	TAILQ_INIT(&ac->active);
	TAILQ_INIT(&ac->waiting);
	int error = align_jobs_init(ac);
	if (error) {
		free(ac);
		return error;
	}
	ch->align = ac;
	return 0;
}

void align_channel_fini(struct bdev_channel *ch)
{
	struct align_channel *ac = ch->align;
	if (!ac)
		return;
	reactor_disarm_timer(&ac->leave);
	if (ac->entered)
		atomic_store(&ch->bdev->align->serial, false);
	align_jobs_fini(ac);
	free(ac);
	ch->align = NULL;
}
