/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * delay: passes requests to its base at once and their completions on later. A channel has one
 * queue for each latency, in order of time as long as the latency stays the same, and one timer for
 * the earliest head: a request costs the same however many wait. Submitting, completing and the
 * timer are on the channel's core, the rest is the control thread's.
 */
#include "bdev/delay/delay.h"

#include <errno.h>
#include <stdlib.h>

#include "bdev/layer.h"
#include "lib/base/clock.h"
#include "lib/base/why.h"

struct delay_disk {
	struct bdev_layer layer;
	_Atomic uint64_t latency_us[BDEV_DELAY_CLASSES];
};

struct delay_channel {
	TAILQ_HEAD(delay_queue, bdev_io) queues[BDEV_DELAY_CLASSES];
	struct timer timer;
	struct bdev_channel *ch;
	uint64_t due;	 /* what the timer is armed for, in ticks; valid while it is */
	uint64_t random; /* state of the generator, never 0 */
	bool draining;	 /* since cancel(): nobody waits any more */
};

struct delay_io {
	struct bdev_io_frame frame;
	uint64_t due; /* ticks */
	uint8_t class;
	bool queued;
};

static struct delay_disk *disk_of(const struct bdev *bdev)
{
	return container_of(bdev, struct delay_disk, layer.bdev);
}

static struct delay_channel *channel_of(struct bdev_channel *ch)
{
	return (struct delay_channel *)ch->ctx;
}

/* ---- The queues ---- */

/* xorshift64 */
static bool one_in_a_hundred(struct delay_channel *dc)
{
	uint64_t x = dc->random;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	dc->random = x;
	return x % 100 == 0;
}

static void arm(struct delay_channel *dc, uint64_t due)
{
	uint64_t now = dc->ch->reactor->now;
	uint64_t us = due > now ? clock_ticks_to_us(due - now) : 0;
	if (now + clock_us_to_ticks(us) < due)
		us++;
	dc->due = due;
	reactor_arm_timer(&dc->timer, us);
}

static void arm_for_earliest(struct delay_channel *dc)
{
	uint64_t due = UINT64_MAX;
	for (unsigned class = 0; class < BDEV_DELAY_CLASSES; class ++) {
		struct bdev_io *io = TAILQ_FIRST(&dc->queues[class]);
		if (io) {
			const struct delay_io *dio = bdev_io_ctx(dc->ch->bdev, io);
			due = MIN_OF(due, dio->due);
		}
	}
	if (due != UINT64_MAX)
		arm(dc, due);
}

static void enqueue(struct delay_channel *dc, struct bdev_io *io, unsigned class, uint64_t due)
{
	struct delay_io *dio = bdev_io_ctx(dc->ch->bdev, io);
	bool first = TAILQ_EMPTY(&dc->queues[class]);
	dio->due = due;
	dio->class = (uint8_t) class;
	dio->queued = true;
	TAILQ_INSERT_TAIL(&dc->queues[class], io, link);
	if (first && (!dc->timer.armed || due < dc->due))
		arm(dc, due);
}

static void dequeue(struct delay_channel *dc, struct bdev_io *io)
{
	struct delay_io *dio = bdev_io_ctx(dc->ch->bdev, io);
	dio->queued = false;
	TAILQ_REMOVE(&dc->queues[dio->class], io, link);
}

/* Completes, of each queue, what is due; `now` UINT64_MAX: everything. */
static void complete_due(struct delay_channel *dc, uint64_t now)
{
	for (unsigned class = 0; class < BDEV_DELAY_CLASSES; class ++) {
		struct bdev_io *io;
		while ((io = TAILQ_FIRST(&dc->queues[class]))) {
			const struct delay_io *dio = bdev_io_ctx(dc->ch->bdev, io);
			if (dio->due > now)
				break;
			dequeue(dc, io);
			bdev_io_complete(io, io->status);
		}
	}
}

static void fire(struct timer *timer)
{
	struct delay_channel *dc = container_of(timer, struct delay_channel, timer);
	complete_due(dc, dc->ch->reactor->now);
	arm_for_earliest(dc);
}

/* ---- Requests ---- */

static void base_done(struct bdev_io *io)
{
	struct bdev_channel *ch = bdev_io_pop(io);
	struct delay_channel *dc = channel_of(ch);
	bool slow = one_in_a_hundred(dc);
	bool read = io->op == BDEV_READ || io->op == BDEV_EXTENTS;
	unsigned class = read ? (slow ? BDEV_DELAY_P99_READ : BDEV_DELAY_AVG_READ)
			      : (slow ? BDEV_DELAY_P99_WRITE : BDEV_DELAY_AVG_WRITE);
	uint64_t us =
		atomic_load_explicit(&disk_of(ch->bdev)->latency_us[class], memory_order_relaxed);
	if (us && !dc->draining)
		enqueue(dc, io, class, ch->reactor->now + clock_us_to_ticks(us));
	else
		bdev_io_complete(io, io->status);
}

static void delay_submit(struct bdev_channel *ch, struct bdev_io **ios, unsigned n)
{
	channel_of(ch)->draining = false;
	for (unsigned i = 0; i < n; i++) {
		struct delay_io *dio = bdev_io_ctx(ch->bdev, ios[i]);
		dio->queued = false;
		bdev_io_push(ch, ios[i], base_done);
	}
}

static void delay_abort(struct bdev_channel *ch, struct bdev_io *io)
{
	struct delay_io *dio = bdev_io_ctx(ch->bdev, io);
	if (!dio->queued) {
		bdev_layer_abort_below(ch, io);
		return;
	}
	dequeue(channel_of(ch), io);
	bdev_layer_drop_loan(ch, io);
	bdev_io_complete(io, -ETIMEDOUT);
}

/* What the base has done, or does from now on, is told at once, as it ended. */
static void delay_cancel(struct bdev_channel *ch)
{
	struct delay_channel *dc = channel_of(ch);
	dc->draining = true;
	bdev_layer_cancel_below(ch);
	complete_due(dc, UINT64_MAX);
}

static int delay_channel_open(struct bdev_channel *ch)
{
	struct delay_channel *dc = channel_of(ch);
	for (unsigned class = 0; class < BDEV_DELAY_CLASSES; class ++)
		TAILQ_INIT(&dc->queues[class]);
	dc->timer.fire = fire;
	dc->ch = ch;
	dc->random = clock_ticks() | 1;
	return bdev_layer_channel_open(ch);
}

static void delay_channel_close(struct bdev_channel *ch)
{
	reactor_disarm_timer(&channel_of(ch)->timer);
	bdev_layer_channel_close(ch);
}

/* ---- Object ---- */

static void delay_dump_info(const struct bdev *bdev, json_t *object)
{
	struct delay_disk *disk = disk_of(bdev);
	json_int_t us[BDEV_DELAY_CLASSES];
	for (unsigned class = 0; class < BDEV_DELAY_CLASSES; class ++)
		us[class] = (json_int_t)atomic_load(&disk->latency_us[class]);
	json_t *info =
		json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "name", bdev->name, "base_bdev_name",
			  bdev->base->name, "avg_read_latency", us[BDEV_DELAY_AVG_READ],
			  "p99_read_latency", us[BDEV_DELAY_P99_READ], "avg_write_latency",
			  us[BDEV_DELAY_AVG_WRITE], "p99_write_latency", us[BDEV_DELAY_P99_WRITE]);
	json_object_set_new(object, "delay", info);
}

const struct bdev_type bdev_delay_type = {
	.name = "delay",
	.product_name = "delay",
	.channel_ctx_bytes = sizeof(struct delay_channel),
	.channel_open = delay_channel_open,
	.channel_close = delay_channel_close,
	.submit = delay_submit,
	.release = bdev_layer_release,
	.abort = delay_abort,
	.cancel = delay_cancel,
	.destroy = bdev_layer_destroy,
	.context = bdev_layer_context,
	.dump_info = delay_dump_info,
};

static void free_disk(struct bdev_layer *layer)
{
	free(container_of(layer, struct delay_disk, layer));
}

int bdev_delay_create(const struct bdev_delay_options *options, struct bdev **bdev, char *why,
		      size_t why_bytes)
{
	const struct bdev_layer_options layer = {
		.type = &bdev_delay_type,
		.base_name = options->base_name,
		.name = options->name,
		.uuid = options->uuid,
		.io_ctx_bytes = sizeof(struct delay_io),
	};
	struct delay_disk *disk = calloc(1, sizeof(*disk));
	if (!disk)
		return why_refuse(why, why_bytes, -ENOMEM, "out of memory");
	disk->layer.free = free_disk;
	for (unsigned class = 0; class < BDEV_DELAY_CLASSES; class ++)
		atomic_init(&disk->latency_us[class], options->latency_us[class]);
	int error = bdev_layer_register(&disk->layer, &layer, why, why_bytes);
	if (error)
		free(disk);
	else
		*bdev = &disk->layer.bdev;
	return error;
}

void bdev_delay_set_latency(struct bdev *bdev, enum bdev_delay_class class, uint64_t latency_us)
{
	atomic_store(&disk_of(bdev)->latency_us[class], latency_us);
}
