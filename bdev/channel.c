/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * channel: opening and closing a bdev's per-core halves. A channel counts its holders on the core;
 * when the last one lets go, all cores wait until nothing is in flight on any of them. Its memory
 * is freed by the control thread, which reads its counters.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/align.h"
#include "bdev/bdev.h"
#include "lib/base/log.h"
#include "reactor/control.h"

/* ---- On the core ---- */

static struct bdev_channel *open_here(struct bdev *bdev, int *error)
{
	size_t bytes = sizeof(struct bdev_channel) + bdev->type->channel_ctx_bytes;
	struct bdev_channel *ch =
		aligned_alloc(CACHE_LINE_BYTES,
			      (bytes + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES);
	if (!ch) {
		*error = -ENOMEM;
		return NULL;
	}
	memset(ch, 0, bytes);
	ch->bdev = bdev;
	ch->type = bdev->type;
	ch->reactor = reactor_self;
	ch->refs = 1;
	*error = align_channel_init(ch);
	if (!*error) {
		*error = bdev->type->channel_open ? bdev->type->channel_open(ch) : 0;
		if (*error)
			align_channel_fini(ch);
	}
	if (*error) {
		free(ch);
		return NULL;
	}
	atomic_store_explicit(&bdev->channels[reactor_self->index], ch, memory_order_release);
	return ch;
}

struct bdev_channel *bdev_channel_get(struct bdev *bdev)
{
	struct bdev_channel *ch = bdev_channel_here(bdev);
	if (ch) {
		ch->refs++;
		return ch;
	}
	int error;
	ch = open_here(bdev, &error);
	if (!ch)
		errno = -error;
	return ch;
}

static void add_stats(struct bdev_stats *sum, const struct bdev_stats *part)
{
	for (int op = 0; op < BDEV_OPS; op++) {
		struct bdev_op_stats *to = &sum->op[op];
		const struct bdev_op_stats *from = &part->op[op];
		to->ops += counter_read(&from->ops);
		to->bytes += counter_read(&from->bytes);
		to->errors += counter_read(&from->errors);
		to->latency_ticks += counter_read(&from->latency_ticks);
		to->latency_max_ticks =
			MAX_OF(to->latency_max_ticks, counter_read(&from->latency_max_ticks));
	}
}

/* Control thread: nobody uses the channel any more, but its counters count on. */
static void retire(void *arg)
{
	struct bdev_channel *ch = arg;
	add_stats(&ch->bdev->past, &ch->stats);
	free(ch);
}

static void close_here(struct bdev_channel *ch)
{
	if (ch->type->channel_close)
		ch->type->channel_close(ch);
	align_channel_fini(ch);
	atomic_store_explicit(&ch->bdev->channels[ch->reactor->index], NULL, memory_order_release);
	control_send(retire, ch);
}

void bdev_channel_put(struct bdev_channel *ch)
{
	if (--ch->refs == 0 && !ch->closing)
		close_here(ch);
}

/* ---- All cores: rounds led by the control thread ---- */

/* A core's part of a round that waits until nothing is in flight there. */
struct bdev_drain {
	struct round *round;
	struct bdev_drain *next;
};

struct round {
	struct bdev *bdev;
	void (*done)(void *arg, int error);
	void *arg;
	_Atomic unsigned left;
	_Atomic int error;
	_Atomic bool opened[REACTOR_MAX];
	struct bdev_drain drains[REACTOR_MAX];
};

static struct round *new_round(struct bdev *bdev, void (*done)(void *arg, int error), void *arg)
{
	struct round *round = calloc(1, sizeof(*round));
	if (!round) {
		log_error("bdev", "no memory to open or close %s", bdev->name);
		abort();
	}
	round->bdev = bdev;
	round->done = done;
	round->arg = arg;
	return round;
}

static void round_end(void *arg)
{
	struct round *round = arg;
	void (*done)(void *, int) = round->done;
	void *done_arg = round->arg;
	int error = atomic_load(&round->error);
	free(round);
	done(done_arg, error);
}

/* ---- Closing: all cores drain, then all cores close ---- */

/*
 * Not each on its own: while another core has requests in flight they may still come to this one,
 * which owns their blocks (align.c) or does their work.
 */
static void close_on_core(void *arg)
{
	struct round *round = arg;
	struct bdev_channel *ch = bdev_channel_here(round->bdev);
	if (ch && --ch->closing == 0 && !ch->refs)
		close_here(ch);
}

static void all_drained(void *arg)
{
	control_for_each_reactor(REACTOR_STORAGE, close_on_core, round_end, arg);
}

static void drain_leave(struct round *round)
{
	if (atomic_fetch_sub(&round->left, 1) == 1)
		control_send(all_drained, round);
}

/* In a later pass, when no caller up the stack touches the channel (or its base) any more. */
static void run_drained(void *arg)
{
	struct bdev_channel *ch = arg;
	if (ch->inflight)
		return;
	struct bdev_drain *drain = ch->drains, *next;
	for (ch->drains = NULL; drain; drain = next) {
		next = drain->next;
		drain_leave(drain->round);
	}
}

void bdev_channel_drained(struct bdev_channel *ch)
{
	reactor_send(ch->reactor, run_drained, ch);
}

static void drain_on_core(void *arg)
{
	struct round *round = arg;
	struct bdev_channel *ch = bdev_channel_here(round->bdev);
	if (!ch) {
		drain_leave(round);
		return;
	}
	ch->closing++;
	if (--ch->refs) {
		drain_leave(round);
		return;
	}
	struct bdev_drain *drain = &round->drains[reactor_self->index];
	drain->round = round;
	drain->next = ch->drains;
	ch->drains = drain;
	counter_add(&ch->inflight,
		    1); /* cancel() may end the last request: drained only after it */
	if (ch->type->cancel)
		ch->type->cancel(ch);
	bdev_channel_leave(ch);
}

void bdev_close_channels(struct bdev *bdev, void (*done)(void *arg, int error), void *arg)
{
	struct round *round = new_round(bdev, done, arg);
	atomic_store(&round->left, 1);
	for (unsigned i = 0; i < reactor_count; i++) {
		if (!(reactors[i]->roles & REACTOR_STORAGE))
			continue;
		atomic_fetch_add(&round->left, 1);
		reactor_send(reactors[i], drain_on_core, round);
	}
	drain_leave(round);
}

/* ---- Opening ---- */

/* Some core could not open: those that did close again. */
static void open_undo_on_core(void *arg)
{
	struct round *round = arg;
	if (atomic_load(&round->opened[reactor_self->index]))
		bdev_channel_put(bdev_channel_here(round->bdev));
}

static void open_ended(void *arg)
{
	struct round *round = arg;
	if (atomic_load(&round->error))
		control_for_each_reactor(REACTOR_STORAGE, open_undo_on_core, round_end, round);
	else
		round_end(round);
}

static void open_on_core(void *arg)
{
	struct round *round = arg;
	if (bdev_channel_get(round->bdev))
		atomic_store(&round->opened[reactor_self->index], true);
	else
		atomic_store(&round->error, -errno);
}

void bdev_open_channels(struct bdev *bdev, void (*done)(void *arg, int error), void *arg)
{
	struct round *round = new_round(bdev, done, arg);
	control_for_each_reactor(REACTOR_STORAGE, open_on_core, open_ended, round);
}

/* ---- Counters ---- */

void bdev_get_stats(const struct bdev *bdev, struct bdev_stats *stats)
{
	*stats = bdev->past;
	for (unsigned i = 0; i < reactor_count; i++) {
		const struct bdev_channel *ch = atomic_load(&bdev->channels[i]);
		if (ch)
			add_stats(stats, &ch->stats);
	}
}

static void reset_on_core(void *arg)
{
	struct bdev_channel *ch = bdev_channel_here(arg);
	for (int op = 0; ch && op < BDEV_OPS; op++) {
		struct bdev_op_stats *stats = &ch->stats.op[op];
		counter_set(&stats->ops, 0);
		counter_set(&stats->bytes, 0);
		counter_set(&stats->errors, 0);
		counter_set(&stats->latency_ticks, 0);
		counter_set(&stats->latency_max_ticks, 0);
	}
}

void bdev_reset_stats(struct bdev *bdev)
{
	memset(&bdev->past, 0, sizeof(bdev->past));
	for (unsigned i = 0; i < reactor_count; i++)
		reactor_send(reactors[i], reset_on_core, bdev);
}
