/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * channel: opening and closing a bdev's per-core halves. A channel is counted by its holders on the
 * core; the last one to let go waits until nothing is in flight. Its memory is freed by the control
 * thread, which reads its counters.
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
		sum->op[op].ops += part->op[op].ops;
		sum->op[op].bytes += part->op[op].bytes;
		sum->op[op].errors += part->op[op].errors;
		sum->op[op].latency_ticks += part->op[op].latency_ticks;
		sum->op[op].latency_max_ticks =
			MAX_OF(sum->op[op].latency_max_ticks, part->op[op].latency_max_ticks);
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
	if (--ch->refs == 0)
		close_here(ch);
}

/* In a later pass, when no caller up the stack touches the channel (or its base) any more. */
static void run_drained(void *arg)
{
	struct bdev_channel *ch = arg;
	void (*drained)(struct bdev_channel *) = ch->drained;
	if (!drained || ch->inflight)
		return;
	ch->drained = NULL;
	drained(ch);
}

void bdev_channel_drained(struct bdev_channel *ch)
{
	reactor_send(ch->reactor, run_drained, ch);
}

/* ---- All cores: rounds led by the control thread ---- */

struct round {
	struct bdev *bdev;
	void (*done)(void *arg, int error);
	void *arg;
	_Atomic unsigned left;
	_Atomic int error;
	_Atomic bool opened[REACTOR_MAX];
};

static void round_free(struct round *round)
{
	void (*done)(void *, int) = round->done;
	void *arg = round->arg;
	int error = atomic_load(&round->error);
	free(round);
	done(arg, error);
}

static void round_end(void *arg)
{
	round_free(arg);
}

static void round_leave(struct round *round)
{
	if (atomic_fetch_sub(&round->left, 1) == 1)
		control_send(round_end, round);
}

static void close_drained(struct bdev_channel *ch)
{
	struct round *round = ch->drained_arg;
	bdev_channel_put(ch);
	round_leave(round);
}

static void close_on_core(void *arg)
{
	struct round *round = arg;
	struct bdev_channel *ch = bdev_channel_here(round->bdev);
	if (ch && ch->refs == 1 && ch->inflight) {
		ch->drained = close_drained;
		ch->drained_arg = round;
		ch->inflight++; /* cancel() may end the last request: drained only after it */
		if (ch->type->cancel)
			ch->type->cancel(ch);
		if (--ch->inflight == 0)
			bdev_channel_drained(ch);
		return;
	}
	if (ch)
		bdev_channel_put(ch);
	round_leave(round);
}

/* Some core could not open: those that did close again. */
static void open_undo_on_core(void *arg)
{
	struct round *round = arg;
	if (atomic_load(&round->opened[reactor_self->index]))
		bdev_channel_put(bdev_channel_here(round->bdev));
}

static void open_undone(void *arg)
{
	round_free(arg);
}

static void open_ended(void *arg)
{
	struct round *round = arg;
	if (atomic_load(&round->error))
		control_for_each_reactor(REACTOR_STORAGE, open_undo_on_core, open_undone, round);
	else
		round_free(round);
}

static void open_on_core(void *arg)
{
	struct round *round = arg;
	if (bdev_channel_get(round->bdev))
		atomic_store(&round->opened[reactor_self->index], true);
	else
		atomic_store(&round->error, -errno);
}

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

void bdev_open_channels(struct bdev *bdev, void (*done)(void *arg, int error), void *arg)
{
	struct round *round = new_round(bdev, done, arg);
	control_for_each_reactor(REACTOR_STORAGE, open_on_core, open_ended, round);
}

void bdev_close_channels(struct bdev *bdev, void (*done)(void *arg, int error), void *arg)
{
	struct round *round = new_round(bdev, done, arg);
	unsigned cores = 0;
	for (unsigned i = 0; i < reactor_count; i++)
		cores += !!(reactors[i]->roles & REACTOR_STORAGE);
	atomic_store(&round->left, cores);
	for (unsigned i = 0; i < reactor_count; i++) {
		if (reactors[i]->roles & REACTOR_STORAGE)
			reactor_send(reactors[i], close_on_core, round);
	}
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
	if (ch)
		memset(&ch->stats, 0, sizeof(ch->stats));
}

void bdev_reset_stats(struct bdev *bdev)
{
	memset(&bdev->past, 0, sizeof(bdev->past));
	for (unsigned i = 0; i < reactor_count; i++)
		reactor_send(reactors[i], reset_on_core, bdev);
}
