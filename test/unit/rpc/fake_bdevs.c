/* SPDX-License-Identifier: BSD-3-Clause */
/* fake_bdevs: the functions of bdev/ and reactor/ that the general methods call. */
#include "test/unit/rpc/fake_bdevs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/clock.h"

enum { MESSAGES_MAX = 64 };

struct fake_bdevs bdevs;
struct control_timer *timer;
static struct {
	struct reactor *reactor;
	void (*fn)(void *arg);
	void *arg;
} messages[MESSAGES_MAX];
unsigned message_count;
static void (*round_done)(void *arg);
static void *round_arg;
struct bdev *removed_bdev;
bool removed_force;
int remove_error;

uint64_t clock_hz = 1000000000;
unsigned reactor_count = CORES;
struct reactor *reactors[REACTOR_MAX];
__thread struct reactor *reactor_self;

struct bdev *bdev_find(const char *name)
{
	struct bdev *bdev;
	TAILQ_FOREACH (bdev, &bdevs, link) {
		if (!strcmp(bdev->name, name) || !strcmp(bdev->uuid, name))
			return bdev;
	}
	return NULL;
}

struct bdev *bdev_first(void)
{
	return TAILQ_FIRST(&bdevs);
}

struct bdev *bdev_next(const struct bdev *bdev)
{
	return TAILQ_NEXT(bdev, link);
}

const char *bdev_holder(const struct bdev *bdev)
{
	const struct bdev_claim *claim = TAILQ_FIRST(&bdev->claims);
	return claim ? claim->holder : NULL;
}

int bdev_remove(struct bdev *bdev, bool force, void (*done)(void *arg, int error), void *arg)
{
	if (remove_error)
		return remove_error;
	removed_bdev = bdev;
	removed_force = force;
	bdev->removed = done;
	bdev->removed_arg = arg;
	return 0;
}

void bdev_get_stats(const struct bdev *bdev, struct bdev_stats *stats)
{
	*stats = bdev->past;
	for (unsigned i = 0; i < CORES; i++) {
		const struct bdev_channel *ch = atomic_load(&bdev->channels[i]);
		for (int op = 0; ch && op < BDEV_OPS; op++) {
			stats->op[op].ops += ch->stats.op[op].ops;
			stats->op[op].bytes += ch->stats.op[op].bytes;
			stats->op[op].errors += ch->stats.op[op].errors;
			stats->op[op].latency_ticks += ch->stats.op[op].latency_ticks;
			stats->op[op].latency_max_ticks =
				MAX_OF(stats->op[op].latency_max_ticks,
				       ch->stats.op[op].latency_max_ticks);
		}
	}
}

static void reset_here(void *arg)
{
	struct bdev_channel *ch = bdev_channel_here(arg);
	if (ch)
		memset(&ch->stats, 0, sizeof(ch->stats));
}

void bdev_reset_stats(struct bdev *bdev)
{
	memset(&bdev->past, 0, sizeof(bdev->past));
	for (unsigned i = 0; i < CORES; i++)
		reactor_send(reactors[i], reset_here, bdev);
}

void reactor_send(struct reactor *reactor, void (*fn)(void *arg), void *arg)
{
	assert_true(message_count < MESSAGES_MAX);
	messages[message_count].reactor = reactor;
	messages[message_count].fn = fn;
	messages[message_count++].arg = arg;
}

void control_for_each_reactor(unsigned roles, void (*fn)(void *arg), void (*done)(void *arg),
			      void *arg)
{
	for (unsigned i = 0; i < CORES; i++)
		reactor_send(reactors[i], fn, arg);
	round_done = done;
	round_arg = arg;
}

void control_arm_timer(struct control_timer *armed, uint64_t after_us)
{
	assert_true(after_us > 0);
	assert_null(timer);
	timer = armed;
}

void run_cores(void)
{
	for (unsigned i = 0; i < message_count; i++) {
		reactor_self = messages[i].reactor;
		messages[i].fn(messages[i].arg);
	}
	reactor_self = NULL;
	message_count = 0;
	if (round_done)
		round_done(round_arg);
	round_done = NULL;
}

void fire_timer(void)
{
	struct control_timer *due = timer;
	assert_non_null(due);
	timer = NULL;
	due->fire(due);
}

void fake_reset(void)
{
	TAILQ_INIT(&bdevs);
	timer = NULL;
	message_count = 0;
	round_done = NULL;
	removed_bdev = NULL;
	remove_error = 0;
}
