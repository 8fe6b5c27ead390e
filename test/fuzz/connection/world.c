/* SPDX-License-Identifier: BSD-3-Clause */
/* world: the target that is fuzzed. Its clients are in client.c. */
#include "test/fuzz/connection/world.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/pollux/nbd/connection.h"
#include "bdev/malloc/malloc.h"
#include "bdev/null/null.h"
#include "fake/reactor.h"
#include "lib/base/log.h"
#include "test/fuzz/connection/internal.h"
#include "test/fuzz/connection/kernel.h"
#include "test/fuzz/connection/slow.h"

enum {
	SCARCE_BUFFERS_MOST = 4096,
	HANDSHAKE_MS = 10000,
	ZERO_COPY_BYTES = 2048,
	LEFT_SLOTS = 3,
	LEFT_BYTES = 160 << 10,
};

struct access *world_access[WORLD_TLS_RULES];

static void *taken_buffers[WORLD_CORES][SCARCE_BUFFERS_MOST];
static unsigned taken_buffer_count[WORLD_CORES];
static struct request *taken_slots[WORLD_CORES];
static size_t free_bytes[WORLD_CORES];
static int first_free_fd;

void must_be(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "not so: %s\n", what);
	abort();
}

/* What exports arm is for bdevs that do not answer: these do. */
void control_arm_timer(struct control_timer *timer, uint64_t after_us)
{
}

void control_disarm_timer(struct control_timer *timer)
{
}

/* ---- Making it ---- */

static void created(void *arg, struct export *export, int error)
{
	must(export && !error);
}

static void add_export(const struct export_options *options)
{
	char why[128];
	must(!export_create(options, created, NULL, why, sizeof(why)));
	fake_settle();
}

static void make_exports(void)
{
	static const char *const nobody[] = {"192.0.2.0/24"};
	struct bdev *bdev;
	char why[128];
	struct bdev_malloc_options memory = {.size_bytes = WORLD_DISK_BYTES,
					     .numa_id = REGION_ANY_NODE};
	struct bdev_null_options null = {.name = "null", .size_bytes = 1ull << 50};
	for (unsigned i = 0; i < 2; i++) {
		memory.name = i ? "second" : "memory";
		must(!bdev_malloc_create(&memory, &bdev, why, sizeof(why)));
	}
	must(!bdev_null_create(&null, &bdev, why, sizeof(why)));
	null.name = "other";
	must(!bdev_null_create(&null, &bdev, why, sizeof(why)));
	slow_create("slow", WORLD_DISK_BYTES);
	add_export(&(struct export_options){.name = "", .bdev_name = "memory"});
	add_export(&(struct export_options){
		.name = "s", .bdev_name = "slow", .io_timeout_ms = 1000, .description = "slow"});
	add_export(&(struct export_options){
		.name = "r", .bdev_name = "second", .read_only = true, .max_connections = 1});
	add_export(
		&(struct export_options){.name = "n", .bdev_name = "null", .tls_required = true});
	add_export(&(struct export_options){
		.name = "h", .bdev_name = "other", .allow = nobody, .allow_count = 1});
}

static void make_access(void)
{
	static const enum listener_tls rules[] = {LISTENER_TLS_OFF, LISTENER_TLS_ON,
						  LISTENER_TLS_REQUIRE};
	const char *parameter;
	char why[128];
	for (unsigned i = 0; i < WORLD_TLS_RULES; i++) {
		struct access_options options = {.tls = rules[i]};
		must(!access_create("test", &options, &world_access[i], &parameter, why,
				    sizeof(why)));
	}
}

static int lowest_free_fd(void)
{
	int fd = dup(0);
	must(fd >= 0);
	close(fd);
	return fd;
}

void world_start(void)
{
	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_ERROR);
	fake_start(WORLD_CORES);
	reactors[1]->roles = REACTOR_NET;
	kernel_start();
	nbd_settings.handshake_timeout_ms = HANDSHAKE_MS;
	nbd_settings.zero_copy_bytes = ZERO_COPY_BYTES;
	must(!nbd_cores_start());
	fake_settle();
	make_exports();
	make_access();
	clients_start();
	for (unsigned i = 0; i < WORLD_CORES; i++)
		free_bytes[i] = reactors[i]->buffers.free_bytes;
}

void world_begin(void)
{
	first_free_fd = lowest_free_fd();
}

/* ---- Scarcity ---- */

void world_make_scarce(unsigned index, bool buffers, bool slots)
{
	struct reactor *reactor = reactors[index];
	struct request_pool *pool = &nbd_cores[index]->requests;
	struct request *slot;
	void *buffer;
	while (buffers && reactor->buffers.free_bytes > LEFT_BYTES &&
	       taken_buffer_count[index] < SCARCE_BUFFERS_MOST &&
	       (buffer = buffers_get(&reactor->buffers, LEFT_BYTES / 3)))
		taken_buffers[index][taken_buffer_count[index]++] = buffer;
	while (slots && pool->free_count > LEFT_SLOTS && (slot = request_get(pool))) {
		slot->in_bdev = false;
		slot->next = taken_slots[index];
		taken_slots[index] = slot;
	}
}

void world_give_back(void)
{
	for (unsigned i = 0; i < WORLD_CORES; i++) {
		fake_become(i);
		while (taken_buffer_count[i])
			buffers_put(&reactors[i]->buffers,
				    taken_buffers[i][--taken_buffer_count[i]]);
		while (taken_slots[i]) {
			struct request *slot = taken_slots[i];
			taken_slots[i] = slot->next;
			request_put(&nbd_cores[i]->requests, slot);
		}
		nbd_core_freed(nbd_cores[i]);
	}
	fake_become(0);
}

/* ---- Going on ---- */

void world_settle(void)
{
	do {
		fake_settle();
	} while (clients_receive());
}

void world_advance_us(uint64_t us)
{
	fake_advance_us(us);
	world_settle();
}

void world_end_connections(bool kill)
{
	struct connection *conn, *next;
	for (unsigned i = 0; i < WORLD_CORES; i++) {
		fake_become(i);
		for (conn = TAILQ_FIRST(&nbd_cores[i]->connections); conn; conn = next) {
			next = TAILQ_NEXT(conn, link);
			if (kill)
				connection_kill(conn, "ended");
			else
				connection_drain(conn, "drained");
		}
	}
	fake_become(0);
}

/* ---- Nothing may be left ---- */

bool world_is_at_rest(void)
{
	for (unsigned i = 0; i < WORLD_CORES; i++) {
		if (!TAILQ_EMPTY(&reactors[i]->timers))
			return false;
	}
	return !atomic_load(&nbd_connection_count);
}

static void check_core(struct nbd_core *core)
{
	must(TAILQ_EMPTY(&core->connections) && !core->connection_count);
	must(TAILQ_EMPTY(&core->blocked));
	must(core->requests.free_count == REQUEST_SLOTS);
	must(!core->filling_bytes && core->reserve);
	must(core->reactor->buffers.free_bytes == free_bytes[core->reactor->index]);
	must(core->rx.provided + core->rx.spare_count == RX_BUFFERS);
	must(kernel_is_idle(core->reactor->index, core->rx.provided));
	must(!atomic_load(&core->reactor->load));
	must(TAILQ_EMPTY(&core->reactor->timers));
	/* slots in order of their numbers again, so that each run is as the one before */
	for (unsigned i = 0; i < core->requests.unused; i++)
		must(!core->requests.slots[i].in_bdev);
	core->requests.free = NULL;
	core->requests.unused = 0;
}

static void wiped(struct bdev_io *io)
{
	must(!io->status);
}

static void wipe(const char *name)
{
	static struct bdev_io io;
	struct bdev *bdev = bdev_find(name);
	memset(&io, 0, sizeof(io));
	io.op = BDEV_TRIM;
	io.length = atomic_load(&bdev->size_bytes);
	io.done = wiped;
	bdev_submit(bdev_channel_here(bdev), &io);
	fake_settle();
}

void world_check(void)
{
	for (unsigned i = 0; i < WORLD_CORES; i++)
		check_core(nbd_cores[i]);
	for (struct export *export = export_first(); export; export = export_next(export)) {
		must(!atomic_load(&export->connections));
		for (unsigned i = 0; i < WORLD_CORES; i++)
			must(!export->stats[i].inflight);
		for (unsigned i = 0; i < WORLD_CORES; i++) {
			struct bdev_channel *ch = export->bdev->channels[i];
			must(!ch || !ch->inflight);
		}
	}
	for (unsigned i = 0; i < WORLD_TLS_RULES; i++)
		must(world_access[i]->connections == 0 && world_access[i]->holders == 1);
	must(!nbd_connection_count);
	must(lowest_free_fd() == first_free_fd);
	wipe("memory");
	slow_wipe();
}
