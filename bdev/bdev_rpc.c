/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bdev_rpc: the methods that act on bdevs of any type: bdev_get_bdevs, bdev_get_iostat and
 * bdev_reset_iostat, with SPDK's names, parameters and results. Control thread; the counters are
 * the cores', read a moment late and reset by the cores themselves.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "bdev/bdev.h"
#include "bdev/modules.h"
#include "bdev/remove_rpc.h"
#include "lib/base/clock.h"
#include "lib/base/counter.h"
#include "reactor/control.h"

enum {
	WAIT_STEP_US = 10000, /* how often bdev_get_bdevs looks whether the bdev has come */
	WAIT_MAX_MS = 24 * 3600 * 1000,
};

static const char reset_all[] = "all";
static const char reset_maxmin[] = "maxmin";
static const char reset_error[] = "error";
static const char reset_none[] = "none";
/* RPC_ENUM gives these very pointers, so the modes are compared by address */
static const char *const reset_modes[] = {reset_all, reset_maxmin, reset_error, reset_none, NULL};

/* ---- bdev_get_bdevs ---- */

struct get_bdevs_params {
	const char *name;
	uint64_t timeout_ms;
};

static const struct rpc_param get_bdevs_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct get_bdevs_params, name),
	 .min = 1,
	 .max = BDEV_NAME_MAX_BYTES,
	 .help = "Only the bdev of this name or UUID"},
	{.name = "timeout",
	 .type = RPC_U64,
	 .offset = offsetof(struct get_bdevs_params, timeout_ms),
	 .max = WAIT_MAX_MS,
	 .def = "0",
	 .unit = "ms",
	 .help = "With name: how long to wait for the bdev to appear"},
};

/* A call that waits for a bdev to appear. */
struct wait {
	struct control_timer timer;
	struct rpc_call *call;
	uint64_t until; /* ticks */
};

static json_t *io_types(const struct bdev *bdev)
{
	uint32_t caps = bdev->caps;
	return json_pack("{s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b}", "read", 1,
			 "write", !!(caps & BDEV_CAP_WRITE), "unmap", !!(caps & BDEV_CAP_TRIM),
			 "flush", !!(caps & BDEV_CAP_FLUSH), "reset", 0, "nvme_admin", 0, "nvme_io",
			 0, "write_zeroes", !!(caps & BDEV_CAP_WRITE_ZEROES), "cache",
			 !!(caps & BDEV_CAP_CACHE), "compare", 0, "abort", 0, "copy", 0);
}

/* SPDK's names of the kinds of claims. */
static void add_claims(json_t *object, const struct bdev *bdev)
{
	const struct bdev_claim *claim;
	const char *kind = NULL;
	json_t *holders = json_array();
	TAILQ_FOREACH (claim, &bdev->claims, link) {
		if (claim->write)
			kind = "exclusive_write";
		else if (!kind)
			kind = "read_many_write_none";
		json_array_append_new(holders, json_string(claim->holder));
	}
	json_object_set_new(object, "claimed", json_boolean(kind != NULL));
	if (kind)
		json_object_set_new(object, "claim_type", json_string(kind));
	json_object_set_new(object, "claimed_by", holders);
}

static json_t *describe(const struct bdev *bdev)
{
	uint64_t size = atomic_load(&bdev->size_bytes);
	json_t *object = json_pack("{s:s, s:[s], s:s, s:i, s:i, s:I, s:I, s:s}", "name", bdev->name,
				   "aliases", bdev->uuid, "product_name", bdev->type->product_name,
				   "block_size", (int)bdev->block_size, "physical_block_size",
				   (int)bdev->physical_block_size, "num_blocks",
				   (json_int_t)(size / bdev->block_size), "size_bytes",
				   (json_int_t)size, "uuid", bdev->uuid);
	if (bdev->numa_id != REGION_ANY_NODE)
		json_object_set_new(object, "numa_id", json_integer(bdev->numa_id));
	json_object_set_new(object, "type", json_string(bdev->type->name));
	json_object_set_new(object, "read_only", json_boolean(!(bdev->caps & BDEV_CAP_WRITE)));
	json_object_set_new(object, "alignment_bytes", json_integer(bdev->align_bytes));
	add_claims(object, bdev);
	json_object_set_new(object, "zoned", json_false());
	json_object_set_new(object, "supported_io_types", io_types(bdev));
	json_t *driver = json_object();
	if (bdev->base)
		json_object_set_new(driver, "base_bdev_name", json_string(bdev->base->name));
	if (bdev->type->dump_info)
		bdev->type->dump_info(bdev, driver);
	json_object_set_new(object, "driver_specific", driver);
	return object;
}

/* Answers and frees if the bdev is there or the time is over; else looks again a little later. */
static void look(struct control_timer *timer)
{
	struct wait *wait = container_of(timer, struct wait, timer);
	const struct get_bdevs_params *params = rpc_params(wait->call);
	struct bdev *bdev = bdev_find(params->name);
	if (!bdev && clock_ticks() < wait->until) {
		control_arm_timer(&wait->timer, WAIT_STEP_US);
		return;
	}
	if (bdev)
		rpc_reply(wait->call, json_pack("[o]", describe(bdev)));
	else
		rpc_param_error(wait->call, "name", -ENODEV, "there is no bdev '%s'", params->name);
	free(wait);
}

static void get_bdevs(struct rpc_call *call, const void *decoded)
{
	const struct get_bdevs_params *params = decoded;
	if (!params->name) {
		json_t *list = json_array();
		for (struct bdev *bdev = bdev_first(); bdev; bdev = bdev_next(bdev))
			json_array_append_new(list, describe(bdev));
		rpc_reply(call, list);
		return;
	}
	struct wait *wait = calloc(1, sizeof(*wait));
	if (!wait) {
		rpc_error(call, -ENOMEM, "out of memory");
		return;
	}
	wait->timer.fire = look;
	wait->call = call;
	wait->until = clock_ticks() + clock_us_to_ticks(params->timeout_ms * 1000);
	look(&wait->timer);
}

/* ---- bdev_get_iostat ---- */

struct get_iostat_params {
	const char *name;
	json_t *names;
	bool per_channel;
	const char *reset_mode;
};

static const struct rpc_param get_iostat_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct get_iostat_params, name),
	 .min = 1,
	 .max = BDEV_NAME_MAX_BYTES,
	 .help = "Only the bdev of this name or UUID"},
	{.name = "names",
	 .type = RPC_STRINGS,
	 .offset = offsetof(struct get_iostat_params, names),
	 .help = "Only the bdevs of these names or UUIDs"},
	{.name = "per_channel",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct get_iostat_params, per_channel),
	 .def = "false",
	 .help = "Also the counters of each core's channel"},
	{.name = "reset_mode",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct get_iostat_params, reset_mode),
	 .values = reset_modes,
	 .def = "\"none\"",
	 .help = "What to reset after reading: all counters, the latency maxima, the error counts"},
};

/* How SPDK calls the counters of an operation: bytes_read, num_read_ops, read_latency_ticks, … */
static const struct op_names {
	const char *bytes, *ops, *latency, *latency_max, *error;
} op_names[BDEV_OPS] = {
	[BDEV_READ] = {"bytes_read", "num_read_ops", "read_latency_ticks", "max_read_latency_ticks",
		       "read"},
	[BDEV_WRITE] = {"bytes_written", "num_write_ops", "write_latency_ticks",
			"max_write_latency_ticks", "write"},
	[BDEV_TRIM] = {"bytes_unmapped", "num_unmap_ops", "unmap_latency_ticks",
		       "max_unmap_latency_ticks", "unmap"},
	[BDEV_FLUSH] = {NULL, "num_flush_ops", "flush_latency_ticks", "max_flush_latency_ticks",
			"flush"},
	[BDEV_WRITE_ZEROES] = {"bytes_zeroed", "num_write_zeroes_ops", "write_zeroes_latency_ticks",
			       "max_write_zeroes_latency_ticks", "write_zeroes"},
	[BDEV_CACHE] = {"bytes_cached", "num_cache_ops", "cache_latency_ticks",
			"max_cache_latency_ticks", "cache"},
	[BDEV_EXTENTS] = {NULL, "num_extents_ops", "extents_latency_ticks",
			  "max_extents_latency_ticks", "extents"},
};

static void set_count(json_t *object, const char *key, uint64_t count)
{
	json_object_set_new(object, key, json_integer((json_int_t)count));
}

static void add_stats(json_t *object, const struct bdev_stats *stats)
{
	json_t *errors = json_object();
	for (int op = 0; op < BDEV_OPS; op++) {
		const struct bdev_op_stats *counts = &stats->op[op];
		const struct op_names *names = &op_names[op];
		if (names->bytes)
			set_count(object, names->bytes, counter_read(&counts->bytes));
		set_count(object, names->ops, counter_read(&counts->ops));
		set_count(object, names->latency, counter_read(&counts->latency_ticks));
		set_count(object, names->latency_max, counter_read(&counts->latency_max_ticks));
		if (counter_read(&counts->errors))
			set_count(errors, names->error, counter_read(&counts->errors));
	}
	/* SPDK's clients look for them; no bdev of Pollux copies on its own */
	set_count(object, "bytes_copied", 0);
	set_count(object, "num_copy_ops", 0);
	json_object_set_new(object, "io_error", errors);
}

static uint32_t inflight(const struct bdev_channel *ch)
{
	return counter_read(&ch->inflight);
}

static json_t *channel_stats(const struct bdev_channel *ch)
{
	json_t *object = json_object();
	set_count(object, "thread_id", ch->reactor->index);
	set_count(object, "lcore", ch->reactor->cpu);
	json_object_set_new(object, "cpu", json_integer(ch->reactor->cpu));
	set_count(object, "in_flight", inflight(ch));
	add_stats(object, &ch->stats);
	return object;
}

static json_t *bdev_stats(const struct bdev *bdev, bool per_channel)
{
	struct bdev_stats stats;
	json_t *object = json_object();
	json_t *channels = json_array();
	uint64_t in_flight = 0;
	json_object_set_new(object, "name", json_string(bdev->name));
	bdev_get_stats(bdev, &stats);
	add_stats(object, &stats);
	for (unsigned i = 0; i < reactor_count; i++) {
		const struct bdev_channel *ch = atomic_load(&bdev->channels[i]);
		if (!ch)
			continue;
		in_flight += inflight(ch);
		if (per_channel)
			json_array_append_new(channels, channel_stats(ch));
	}
	set_count(object, "in_flight", in_flight);
	if (bdev->type->dump_stat)
		bdev->type->dump_stat(bdev, object);
	if (per_channel)
		json_object_set(object, "channels", channels);
	json_decref(channels);
	return object;
}

/* ---- Resetting ---- */

static void reset_parts(struct bdev_stats *stats, const char *mode)
{
	for (int op = 0; op < BDEV_OPS; op++) {
		if (mode == reset_maxmin)
			stats->op[op].latency_max_ticks = 0;
		else
			stats->op[op].errors = 0;
	}
}

static void reset_maxmin_on_core(void *bdev)
{
	struct bdev_channel *ch = bdev_channel_here(bdev);
	if (ch)
		reset_parts(&ch->stats, reset_maxmin);
}

static void reset_error_on_core(void *bdev)
{
	struct bdev_channel *ch = bdev_channel_here(bdev);
	if (ch)
		reset_parts(&ch->stats, reset_error);
}

/*
 * Begins it: the cores do their parts soon. A bdev that is removed meanwhile is freed only after
 * its cores have taken what was sent before (registry.c).
 */
static void reset(struct bdev *bdev, const char *mode)
{
	if (mode == reset_none)
		return;
	if (mode == reset_all) {
		bdev_reset_stats(bdev);
		return;
	}
	reset_parts(&bdev->past, mode);
	for (unsigned i = 0; i < reactor_count; i++)
		reactor_send(reactors[i],
			     mode == reset_maxmin ? reset_maxmin_on_core : reset_error_on_core,
			     bdev);
}

static void nothing_on_core(void *arg)
{
}

/* Every core has done its part: who reads now sees it. The call's context is the result. */
static void reset_done(void *arg)
{
	struct rpc_call *call = arg;
	rpc_reply(call, rpc_context(call));
}

static void reply_after_reset(struct rpc_call *call, json_t *result, const char *mode)
{
	if (mode == reset_none) {
		rpc_reply(call, result);
		return;
	}
	rpc_set_context(call, result);
	control_for_each_reactor(0, nothing_on_core, reset_done, call);
}

/*
 * The bdevs a call is about, in a new NULL-terminated array: `name`, `names`, or (both NULL) all.
 * NULL after answering -ENODEV or -ENOMEM.
 */
static struct bdev **choose(struct rpc_call *call, const char *name, json_t *names)
{
	size_t count = json_array_size(names) + 2;
	if (!name && !names) {
		for (struct bdev *bdev = bdev_first(); bdev; bdev = bdev_next(bdev))
			count++;
	}
	struct bdev **chosen = calloc(count, sizeof(struct bdev *));
	if (!chosen) {
		rpc_error(call, -ENOMEM, "out of memory");
		return NULL;
	}
	size_t n = 0, index;
	json_t *entry;
	if (!name && !names) {
		for (struct bdev *bdev = bdev_first(); bdev; bdev = bdev_next(bdev))
			chosen[n++] = bdev;
	}
	if (name && !(chosen[n++] = bdev_rpc_find(call, name, NULL)))
		goto refused;
	json_array_foreach(names, index, entry)
	{
		struct bdev *bdev = bdev_find(json_string_value(entry));
		if (!bdev) {
			rpc_param_error(call, "names", -ENODEV, "there is no bdev '%s'",
					json_string_value(entry));
			goto refused;
		}
		chosen[n++] = bdev;
	}
	return chosen;
refused:
	free(chosen);
	return NULL;
}

static void get_iostat(struct rpc_call *call, const void *decoded)
{
	const struct get_iostat_params *params = decoded;
	struct bdev **chosen = choose(call, params->name, params->names);
	if (!chosen)
		return;
	json_t *list = json_array();
	for (struct bdev **bdev = chosen; *bdev; bdev++) {
		json_array_append_new(list, bdev_stats(*bdev, params->per_channel));
		reset(*bdev, params->reset_mode);
	}
	free(chosen);
	reply_after_reset(call,
			  json_pack("{s:I, s:I, s:o}", "tick_rate", (json_int_t)clock_hz, "ticks",
				    (json_int_t)clock_ticks(), "bdevs", list),
			  params->reset_mode);
}

/* ---- bdev_reset_iostat ---- */

struct reset_iostat_params {
	const char *name;
	const char *mode;
};

static const struct rpc_param reset_iostat_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct reset_iostat_params, name),
	 .min = 1,
	 .max = BDEV_NAME_MAX_BYTES,
	 .help = "Only the bdev of this name or UUID"},
	{.name = "mode",
	 .type = RPC_ENUM,
	 .offset = offsetof(struct reset_iostat_params, mode),
	 .values = reset_modes,
	 .def = "\"all\"",
	 .help = "What to reset: all counters, the latency maxima, the error counts"},
};

static void reset_iostat(struct rpc_call *call, const void *decoded)
{
	const struct reset_iostat_params *params = decoded;
	struct bdev **chosen = choose(call, params->name, NULL);
	if (!chosen)
		return;
	for (struct bdev **bdev = chosen; *bdev; bdev++)
		reset(*bdev, params->mode);
	free(chosen);
	reply_after_reset(call, NULL, params->mode);
}

/* ---- The table ---- */

static const struct rpc_method methods[] = {
	{.name = "bdev_get_bdevs",
	 .help = "Lists the block devices.",
	 .params = get_bdevs_params,
	 .param_count = COUNT_OF(get_bdevs_params),
	 .params_bytes = sizeof(struct get_bdevs_params),
	 .handler = get_bdevs,
	 .result = "[{name, aliases, product_name, block_size, physical_block_size, num_blocks, "
		   "size_bytes, uuid, numa_id, type, read_only, alignment_bytes, claimed, "
		   "claim_type, "
		   "claimed_by, zoned, supported_io_types, driver_specific}]"},
	{.name = "bdev_get_iostat",
	 .help = "Reads the I/O counters of block devices; latencies in ticks, tick_rate a second. "
		 "They "
		 "count what the driver did: a WRITE of part of a block as the READ and the WRITE "
		 "it takes.",
	 .params = get_iostat_params,
	 .param_count = COUNT_OF(get_iostat_params),
	 .params_bytes = sizeof(struct get_iostat_params),
	 .handler = get_iostat,
	 .result =
		 "{tick_rate, ticks, bdevs: [{name, bytes_read, num_read_ops, read_latency_ticks, "
		 "max_read_latency_ticks, the same of written/write, unmapped/unmap, "
		 "zeroed/write_zeroes, cached/cache and flush, io_error, in_flight, channels, and "
		 "the type's own}]}"},
	{.name = "bdev_reset_iostat",
	 .help = "Resets the I/O counters of block devices.",
	 .params = reset_iostat_params,
	 .param_count = COUNT_OF(reset_iostat_params),
	 .params_bytes = sizeof(struct reset_iostat_params),
	 .handler = reset_iostat,
	 .result = "true"},
};

const struct rpc_table bdev_general_rpc = {methods, COUNT_OF(methods)};
