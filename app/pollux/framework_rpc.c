/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * framework_rpc: spdk_get_version, framework_*, log_*. Results of SPDK's methods have SPDK's form.
 * Counters of reactors are read while they count: each is right, a moment late. Control thread.
 */
#include "app/pollux/framework_rpc.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "app/pollux/nbd/core.h"
#include "app/pollux/options.h"
#include "app/pollux/shutdown.h"
#include "lib/base/clock.h"
#include "lib/base/counter.h"
#include "lib/base/log.h"
#include "reactor/control.h"

uint32_t framework_shutdown_timeout_ms = 5000;

/* ---- The start ---- */

static bool started;
static struct rpc_call *waiting; /* for it to end; the context of each is the next */

static void wait_init(struct rpc_call *call, const void *params)
{
	if (started) {
		rpc_reply(call, NULL);
		return;
	}
	rpc_set_context(call, waiting);
	waiting = call;
}

void framework_started(int error)
{
	started = true;
	while (waiting) {
		struct rpc_call *call = waiting;
		waiting = rpc_context(call);
		if (error)
			rpc_error(call, error, "ended before all of the command line was served");
		else
			rpc_reply(call, NULL);
	}
}

/* ---- The process ---- */

static void get_version(struct rpc_call *call, const void *params)
{
	int major = 0, minor = 0, patch = 0;
	sscanf(POLLUX_VERSION, "%d.%d.%d", &major, &minor, &patch);
	rpc_reply(call, json_pack("{s:s, s:{s:i, s:i, s:i, s:s}}", "version",
				  "Pollux v" POLLUX_VERSION, "fields", "major", major, "minor",
				  minor, "patch", patch, "suffix", ""));
}

static json_t *role_names(unsigned roles)
{
	json_t *names = json_array();
	if (roles & REACTOR_NET)
		json_array_append_new(names, json_string("net"));
	if (roles & REACTOR_STORAGE)
		json_array_append_new(names, json_string("storage"));
	return names;
}

static json_t *describe_reactor(const struct reactor *reactor)
{
	const struct nbd_core *core = nbd_cores[reactor->index];
	uint64_t idle = counter_read(&reactor->stats.idle_ticks);
	uint64_t pass = counter_read(&reactor->now); /* before the clock, or it may be later */
	if (atomic_load(&reactor->sleeping)) /* the sleep under way is added when it ends */
		idle += clock_ticks() - pass;
	json_t *object = json_pack(
		"{s:i, s:i, s:I, s:I, s:b, s:i, s:i, s:[]}", "lcore", reactor->cpu, "tid",
		reactor->tid, "busy", (json_int_t)counter_read(&reactor->stats.busy_ticks), "idle",
		(json_int_t)idle, "in_interrupt", (int)atomic_load(&reactor->sleeping), "irq", 0,
		"sys", 0, "lw_threads");
	json_object_set_new(object, "roles", role_names(reactor->roles));
	json_object_set_new(object, "numa_id", json_integer(reactor->node));
	json_object_set_new(object, "loops", json_integer(counter_read(&reactor->stats.loops)));
	json_object_set_new(object, "busy_poll_us", json_integer(reactor->busy_poll_us));
	json_object_set_new(object, "sleeps", json_integer(counter_read(&reactor->stats.sleeps)));
	json_object_set_new(object, "io_uring_enters",
			    json_integer(counter_read(&reactor->uring.enters)));
	json_object_set_new(object, "connections", json_integer(atomic_load(&reactor->load)));
	json_object_set_new(object, "buffer_bytes_total",
			    json_integer(reactor->buffers.total_bytes));
	json_object_set_new(object, "buffer_bytes_free",
			    json_integer(counter_read(&reactor->buffers.free_bytes)));
	json_object_set_new(object, "registered_buffers",
			    json_boolean(counter_read(&reactor->uring.buffer_count) > 0));
	if (core)
		json_object_set_new(object, "request_slots_free",
				    json_integer(counter_read(&core->requests.free_count)));
	return object;
}

static void get_reactors(struct rpc_call *call, const void *params)
{
	json_t *list = json_array();
	for (unsigned i = 0; i < reactor_count; i++)
		json_array_append_new(list, describe_reactor(reactors[i]));
	rpc_reply(call, json_pack("{s:I, s:i, s:o}", "tick_rate", (json_int_t)clock_hz, "pid",
				  (int)getpid(), "reactors", list));
}

static void get_info(struct rpc_call *call, const void *params)
{
	rpc_reply(call,
		  json_pack("{s:s, s:i, s:i, s:I, s:i, s:{s:b, s:b, s:b, s:b, s:b, s:b}}",
			    "version", POLLUX_VERSION, "pid", (int)getpid(), "reactors",
			    (int)reactor_count, "connections",
			    (json_int_t)atomic_load(&nbd_connection_count), "numa_nodes",
			    region_node_count(), "io_uring", "multishot_accept",
			    reactor_caps.multishot_accept, "buffer_ring", reactor_caps.buf_ring,
			    "registered_files", reactor_caps.sparse_files, "registered_buffers",
			    reactor_caps.sparse_buffers, "send_zc", reactor_caps.send_zc,
			    "uring_cmd", reactor_caps.uring_cmd));
}

static json_t *describe_ring(unsigned from, unsigned to)
{
	const struct hop_lane *lane = &reactors[from]->lanes[to];
	uint64_t arrivals = counter_read(&lane->arrivals);
	uint64_t average = arrivals ? counter_read(&lane->latency_ticks) / arrivals : 0;
	return json_pack("{s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I}", "from",
			 reactors[from]->cpu, "to", reactors[to]->cpu, "entries",
			 (int)REACTOR_HOP_ENTRIES, "depth",
			 (json_int_t)reactor_ring_depth(from, to), "sent",
			 (json_int_t)counter_read(&lane->sent), "bursts",
			 (json_int_t)counter_read(&lane->bursts), "stalls",
			 (json_int_t)counter_read(&lane->stalls), "latency_average_ns",
			 (json_int_t)clock_ticks_to_ns(average), "latency_max_ns",
			 (json_int_t)clock_ticks_to_ns(counter_read(&lane->latency_max_ticks)));
}

static void get_rings(struct rpc_call *call, const void *params)
{
	json_t *list = json_array();
	for (unsigned i = 0; i < reactor_count; i++) {
		for (unsigned k = 0; k < reactor_count; k++) {
			if (i == k)
				continue;
			json_array_append_new(list, describe_ring(i, k));
		}
	}
	rpc_reply(call, list);
}

struct level_params {
	const char *level;
};

static const char *const level_values[] = {"ERROR", "WARNING",	"NOTICE", "INFO",
					   "DEBUG", "DISABLED", NULL};

static const struct rpc_param level_params[] = {
	{.name = "level",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct level_params, level),
	 .required = true,
	 .values = level_values,
	 .help = "What is logged: this level and those more severe"},
};

static void set_level(struct rpc_call *call, const void *params)
{
	const struct level_params *p = params;
	enum log_level level;
	log_level_parse(p->level, &level);
	log_set_level(level);
	rpc_reply(call, NULL);
}

static void get_level(struct rpc_call *call, const void *params)
{
	rpc_reply(call, json_string(log_level_name(log_level_now)));
}

static void shut_down(struct rpc_call *call, const void *params)
{
	rpc_reply(call, NULL);
	log_notice("pollux", "framework_shutdown: finishing what is in flight");
	shutdown_begin(framework_shutdown_timeout_ms);
}

static const struct rpc_method methods[] = {
	{.name = "spdk_get_version",
	 .help = "The version, in SPDK's form.",
	 .handler = get_version,
	 .result = "{version, fields: {major, minor, patch, suffix}}"},
	{.name = "framework_wait_init",
	 .help = "Answers when everything on the command line is served; at once after that.",
	 .handler = wait_init,
	 .result = "true"},
	{.name = "framework_get_reactors",
	 .help = "The reactors with their busy and idle ticks, connections and memory.",
	 .handler = get_reactors,
	 .result = "{tick_rate, pid, reactors: [{lcore, busy, idle, roles, connections, …}]}"},
	{.name = "framework_get_info",
	 .help = "The process and what it found in the kernel.",
	 .handler = get_info,
	 .result = "{version, pid, reactors, connections, numa_nodes, io_uring: {…}}"},
	{.name = "framework_get_rings",
	 .help = "The I/O rings between each pair of reactors: how full they are, what went "
		 "through them, "
		 "how often one was full, and how long the first of a burst was on its way.",
	 .handler = get_rings,
	 .result = "[{from, to, entries, depth, sent, bursts, stalls, latency_average_ns, "
		   "latency_max_ns}]"},
	{.name = "log_set_level",
	 .help = "Sets what is logged.",
	 .params = level_params,
	 .param_count = COUNT_OF(level_params),
	 .params_bytes = sizeof(struct level_params),
	 .handler = set_level,
	 .result = "true"},
	{.name = "log_get_level",
	 .help = "What is logged.",
	 .handler = get_level,
	 .result = "the level"},
	{.name = "framework_shutdown",
	 .help = "Ends the process as SIGTERM does: finishes what is in flight, flushes, exits.",
	 .handler = shut_down,
	 .result = "true"},
};

const struct rpc_table framework_rpc = {methods, COUNT_OF(methods)};
