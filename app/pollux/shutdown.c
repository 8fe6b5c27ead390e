/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * shutdown: listeners, then connections and exports, then bdevs, top layers first; each step begins
 * when the one before has ended. A watchdog ends the process where a device never answers.
 */
#include "app/pollux/shutdown.h"

#include <stdlib.h>
#include <unistd.h>

#include "app/pollux/nbd/connection.h"
#include "app/pollux/nbd/listener.h"
#include "lib/base/log.h"
#include "reactor/control.h"

enum { WATCHDOG_AFTER_KICK_US = 10000000 };

static struct {
	bool begun;
	unsigned listeners;
	struct control_timer kick, watchdog, poll;
} state;

static void bdev_gone(void *arg, int error);

static void remove_bdevs(void)
{
	struct bdev *bdev = bdev_first();
	if (bdev_all_gone()) {
		control_stop();
		return;
	}
	/* layers hold what is below them: they go first */
	while (bdev && (bdev_holder(bdev) || bdev->removing))
		bdev = bdev_next(bdev);
	if (bdev && bdev_remove(bdev, false, bdev_gone, NULL) == 0)
		return;
	control_arm_timer(&state.poll, 1000);
}

static void bdev_gone(void *arg, int error)
{
	/* from inside bdev_destroyed(): the driver still frees its struct */
	control_arm_timer(&state.poll, 0);
}

/* Exports and connections: their number falls to 0 by itself. */
static void wait_for_clients(struct control_timer *timer)
{
	struct export *export, *next;
	struct listener *listener, *after;
	/* one whose creation was under way when the end began */
	for (listener = listener_first(); listener; listener = after) {
		after = listener_next(listener);
		if (!listener_is_closing(listener))
			listener_delete(listener, NULL, NULL);
	}
	for (export = export_first(); export; export = next) {
		next = export_next(export);
		if (export->state == EXPORT_READY)
			export_delete(export, false, EXPORT_DRAIN_MS, NULL, NULL);
	}
	if (export_count() || atomic_load(&nbd_connection_count) || listener_first())
		control_arm_timer(timer, 1000);
	else
		remove_bdevs();
}

static void finish_here(void *arg)
{
	struct connection *conn, *next;
	for (conn = TAILQ_FIRST(&nbd_core_here()->connections); conn; conn = next) {
		next = TAILQ_NEXT(conn, link);
		connection_drain(conn, "the server ends");
	}
}

static void kill_here(void *arg)
{
	struct connection *conn, *next;
	for (conn = TAILQ_FIRST(&nbd_core_here()->connections); conn; conn = next) {
		next = TAILQ_NEXT(conn, link);
		connection_kill(conn, "the server ends");
	}
}

static void nothing(void *arg)
{
}

static void all_finishing(void *arg)
{
	wait_for_clients(&state.poll);
}

static void listener_gone(void *arg)
{
	if (--state.listeners == 0)
		control_for_each_reactor(REACTOR_NET, finish_here, all_finishing, NULL);
}

static void kick(struct control_timer *timer)
{
	if (atomic_load(&nbd_connection_count))
		log_warning("pollux", "clients that have not taken their replies are cut off");
	else
		log_warning("pollux", "a device takes long to finish its work: it is waited for");
	control_for_each_reactor(REACTOR_NET, kill_here, nothing, NULL);
	control_arm_timer(&state.watchdog, WATCHDOG_AFTER_KICK_US);
}

static void give_up(struct control_timer *timer)
{
	log_error("pollux", "a device does not answer: ending without it");
	_exit(1);
}

bool shutdown_has_begun(void)
{
	return state.begun;
}

void shutdown_begin(uint32_t kick_after_ms)
{
	struct listener *listener, *next;
	if (state.begun)
		return;
	state.begun = true;
	state.kick.fire = kick;
	state.watchdog.fire = give_up;
	state.poll.fire = wait_for_clients;
	control_arm_timer(&state.kick, kick_after_ms * 1000ull);
	state.listeners = 1;
	for (listener = listener_first(); listener; listener = next) {
		next = listener_next(listener);
		if (listener_is_closing(listener))
			continue;
		state.listeners++;
		listener_delete(listener, listener_gone, NULL);
	}
	listener_gone(NULL);
}
