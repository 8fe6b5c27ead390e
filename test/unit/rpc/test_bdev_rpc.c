/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bdev_get_bdevs, bdev_get_iostat, bdev_reset_iostat and the common delete, over a registry of two
 * bdevs made here (fake_bdevs.c).
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/bdev.h"
#include "bdev/modules.h"
#include "bdev/remove_rpc.h"
#include "lib/base/clock.h"
#include "test/unit/rpc/fake_bdevs.h"
#include "test/unit/rpc/harness.h"

/* ---- The two bdevs ---- */

static void dump_info(const struct bdev *bdev, json_t *object)
{
	json_object_set_new(object, "filename", json_string("/srv/disk"));
}

static void dump_stat(const struct bdev *bdev, json_t *object)
{
	json_object_set_new(object, "fsyncs", json_integer(11));
}

static const struct bdev_type file_type = {.name = "file",
					   .product_name = "File disk",
					   .dump_info = dump_info,
					   .dump_stat = dump_stat};
static const struct bdev_type null_type = {.name = "null", .product_name = "Null disk"};

static struct reactor cores[CORES];
static struct bdev file_bdev, null_bdev;
static struct bdev_channel *channels[CORES];

static void delete_file(struct rpc_call *call, const void *params)
{
	bdev_rpc_delete(call, params, &file_type);
}

static void delete_any(struct rpc_call *call, const void *params)
{
	bdev_rpc_delete(call, params, NULL);
}

struct register_params {
	const char *name;
	int64_t error;
};

static const struct rpc_param register_params[] = {
	{.name = "name", .type = RPC_STRING, .offset = offsetof(struct register_params, name)},
	{.name = "error", .type = RPC_I64, .offset = offsetof(struct register_params, error)},
};

static void refuse_register(struct rpc_call *call, const void *decoded)
{
	const struct register_params *params = decoded;
	bdev_rpc_register_error(call, params->name, (int)params->error);
}

static const struct rpc_method delete_methods[] = {
	{"bdev_file_delete", "", bdev_delete_params, 2, sizeof(struct bdev_delete_params),
	 delete_file},
	{"bdev_delete", "", bdev_delete_params, 2, sizeof(struct bdev_delete_params), delete_any},
	{"refuse_register", "", register_params, 2, sizeof(struct register_params),
	 refuse_register},
};

static int setup(void **state)
{
	const struct rpc_table tables[] = {bdev_general_rpc, {delete_methods, 3}, {NULL, 0}};
	fake_reset();
	memset(&file_bdev, 0, sizeof(file_bdev));
	memset(&null_bdev, 0, sizeof(null_bdev));
	file_bdev = (struct bdev){.type = &file_type,
				  .name = "disk",
				  .uuid = "6b0c2b1e-4f0c-4d8f-9a39-0c6d5d2b9b7e",
				  .size_bytes = 10 * 4096 + 7,
				  .block_size = 4096,
				  .physical_block_size = 4096,
				  .align_bytes = 512,
				  .caps = BDEV_CAP_FLUSH,
				  .numa_id = 1};
	null_bdev = (struct bdev){.type = &null_type,
				  .name = "null0",
				  .uuid = "00000000-0000-4000-8000-000000000000",
				  .size_bytes = 1 << 30,
				  .block_size = 512,
				  .physical_block_size = 512,
				  .align_bytes = 1,
				  .caps = BDEV_CAP_WRITE | BDEV_CAP_TRIM | BDEV_CAP_WRITE_ZEROES,
				  .numa_id = REGION_ANY_NODE,
				  .base = &file_bdev};
	TAILQ_INIT(&file_bdev.claims);
	TAILQ_INIT(&null_bdev.claims);
	TAILQ_INSERT_TAIL(&bdevs, &file_bdev, link);
	TAILQ_INSERT_TAIL(&bdevs, &null_bdev, link);
	for (unsigned i = 0; i < CORES; i++) {
		cores[i] = (struct reactor){.index = i, .cpu = (int)(10 + i), .lcore = 20 + i};
		reactors[i] = &cores[i];
		channels[i] = calloc(1, sizeof(struct bdev_channel));
		channels[i]->reactor = reactors[i];
		channels[i]->inflight = i + 1;
		channels[i]->stats.op[BDEV_READ] =
			(struct bdev_op_stats){.ops = 3,
					       .bytes = 3000,
					       .errors = i,
					       .latency_ticks = 300,
					       .latency_max_ticks = 100 + i};
		channels[i]->stats.op[BDEV_FLUSH].ops = 5;
		atomic_store(&file_bdev.channels[i], channels[i]);
	}
	file_bdev.past.op[BDEV_READ] = (struct bdev_op_stats){
		.ops = 1, .bytes = 1, .latency_ticks = 9, .latency_max_ticks = 9, .errors = 1};
	return harness_setup_with(state, tables);
}

static int teardown(void **state)
{
	for (unsigned i = 0; i < CORES; i++)
		free(channels[i]);
	return harness_teardown(state);
}

/* ---- The tests ---- */

static json_int_t number(json_t *object, const char *key)
{
	json_t *value = json_object_get(object, key);
	if (!json_is_integer(value))
		fail_msg("no number '%s'", key);
	return json_integer_value(value);
}

static const char *text(json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));
	if (!value)
		fail_msg("no text '%s'", key);
	return value;
}

static bool truth(json_t *object, const char *key)
{
	json_t *value = json_object_get(object, key);
	if (!json_is_boolean(value))
		fail_msg("no boolean '%s'", key);
	return json_is_true(value);
}

static void lists_all(void **state)
{
	json_t *answer = call_method(*state, "bdev_get_bdevs", NULL);
	json_t *list = json_object_get(answer, "result");
	assert_int_equal(json_array_size(list), 2);
	json_t *disk = json_array_get(list, 0);
	assert_string_equal(text(disk, "name"), "disk");
	assert_string_equal(text(disk, "product_name"), "File disk");
	assert_string_equal(text(disk, "uuid"), file_bdev.uuid);
	assert_string_equal(json_string_value(json_array_get(json_object_get(disk, "aliases"), 0)),
			    file_bdev.uuid);
	assert_int_equal(number(disk, "block_size"), 4096);
	assert_int_equal(number(disk, "num_blocks"), 10);
	assert_int_equal(number(disk, "size_bytes"), 10 * 4096 + 7);
	assert_int_equal(number(disk, "numa_id"), 1);
	assert_true(truth(disk, "read_only"));
	assert_false(truth(disk, "claimed"));
	assert_false(truth(disk, "zoned"));
	assert_string_equal(text(json_object_get(disk, "driver_specific"), "filename"),
			    "/srv/disk");
	json_t *types = json_object_get(disk, "supported_io_types");
	assert_true(truth(types, "read"));
	assert_true(truth(types, "flush"));
	assert_false(truth(types, "write"));
	assert_false(truth(types, "unmap"));
	assert_false(truth(types, "nvme_admin"));

	json_t *null = json_array_get(list, 1);
	types = json_object_get(null, "supported_io_types");
	assert_true(truth(types, "write"));
	assert_true(truth(types, "unmap"));
	assert_true(truth(types, "write_zeroes"));
	assert_false(truth(types, "flush"));
	assert_false(truth(null, "read_only"));
	assert_null(json_object_get(null, "numa_id"));
	assert_string_equal(text(json_object_get(null, "driver_specific"), "base_bdev_name"),
			    "disk");
	json_decref(answer);
}

static void tells_claims(void **state)
{
	struct bdev_claim reader = {.holder = "export a"};
	struct bdev_claim writer = {.holder = "export b", .write = true};
	TAILQ_INSERT_TAIL(&file_bdev.claims, &reader, link);
	json_t *answer = call_method(*state, "bdev_get_bdevs", "{\"name\": \"disk\"}");
	json_t *disk = json_array_get(json_object_get(answer, "result"), 0);
	assert_true(truth(disk, "claimed"));
	assert_string_equal(text(disk, "claim_type"), "read_many_write_none");
	json_decref(answer);
	TAILQ_INSERT_TAIL(&file_bdev.claims, &writer, link);
	answer = call_method(*state, "bdev_get_bdevs", "{\"name\": \"disk\"}");
	disk = json_array_get(json_object_get(answer, "result"), 0);
	assert_string_equal(text(disk, "claim_type"), "exclusive_write");
	assert_int_equal(json_array_size(json_object_get(disk, "claimed_by")), 2);
	json_decref(answer);
}

static void finds_one(void **state)
{
	json_t *answer = call_method(*state, "bdev_get_bdevs", "{\"name\": \"null0\"}");
	assert_int_equal(json_array_size(json_object_get(answer, "result")), 1);
	json_decref(answer);
	answer = call_method(*state, "bdev_get_bdevs",
			     "{\"name\": \"6b0c2b1e-4f0c-4d8f-9a39-0c6d5d2b9b7e\"}");
	assert_string_equal(text(json_array_get(json_object_get(answer, "result"), 0), "name"),
			    "disk");
	json_decref(answer);
	answer = call_method(*state, "bdev_get_bdevs", "{\"name\": \"lost\"}");
	assert_error(answer, -ENODEV, "name");
	assert_non_null(strstr(error_message(answer), "lost"));
	json_decref(answer);
}

static void waits_for_one(void **state)
{
	static const char request[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"bdev_get_bdevs\","
				      "\"params\":{\"name\":\"null0\",\"timeout\":60000.0}}";
	struct harness *harness = *state;
	TAILQ_REMOVE(&bdevs, &null_bdev, link);
	feed(harness, request);
	fire_timer();
	fire_timer();
	assert_int_equal(harness->sends, 0);
	TAILQ_INSERT_TAIL(&bdevs, &null_bdev, link);
	fire_timer();
	assert_null(timer);
	json_t *sent = take_sent(harness);
	json_t *list = json_object_get(json_array_get(sent, 0), "result");
	assert_string_equal(text(json_array_get(list, 0), "name"), "null0");
	json_decref(sent);

	/* it does not come in time */
	feed(harness, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"bdev_get_bdevs\","
		      "\"params\":{\"name\":\"lost\",\"timeout\":1}}");
	uint64_t start = clock_ticks();
	while (clock_ticks() - start < clock_us_to_ticks(20000))
		;
	if (timer)
		fire_timer();
	assert_null(timer);
	sent = take_sent(harness);
	assert_error(json_array_get(sent, 0), -ENODEV, "name");
	json_decref(sent);
}

/* The result of bdev_get_iostat: its first bdev. The answer stays the caller's. */
static json_t *first_stats(json_t *answer, size_t count)
{
	json_t *result = json_object_get(answer, "result");
	json_t *list = json_object_get(result, "bdevs");
	assert_int_equal(number(result, "tick_rate"), clock_hz);
	assert_true(number(result, "ticks") > 0);
	assert_int_equal(json_array_size(list), count);
	return json_array_get(list, 0);
}

static void counts(void **state)
{
	json_t *answer = call_method(*state, "bdev_get_iostat", "{\"per_channel\": false}");
	json_t *stats = first_stats(answer, 2);
	assert_string_equal(text(stats, "name"), "disk");
	assert_int_equal(number(stats, "num_read_ops"), 7);
	assert_int_equal(number(stats, "bytes_read"), 6001);
	assert_int_equal(number(stats, "read_latency_ticks"), 609);
	assert_int_equal(number(stats, "max_read_latency_ticks"), 101);
	assert_int_equal(number(stats, "num_flush_ops"), 10);
	assert_int_equal(number(stats, "num_write_ops"), 0);
	assert_int_equal(number(stats, "num_unmap_ops"), 0);
	assert_int_equal(number(stats, "bytes_copied"), 0);
	assert_int_equal(number(stats, "in_flight"), 3);
	assert_int_equal(number(stats, "fsyncs"), 11);
	json_t *errors = json_object_get(stats, "io_error");
	assert_int_equal(json_object_size(errors), 1);
	assert_int_equal(number(errors, "read"), 2);
	assert_null(json_object_get(stats, "channels"));
	assert_int_equal(message_count, 0);
	json_decref(answer);
}

static void counts_per_channel(void **state)
{
	json_t *answer = call_method(*state, "bdev_get_iostat",
				     "{\"names\": [\"disk\"], \"per_channel\": true}");
	json_t *list = json_object_get(first_stats(answer, 1), "channels");
	assert_int_equal(json_array_size(list), CORES);
	json_t *second = json_array_get(list, 1);
	assert_int_equal(number(second, "thread_id"), 1);
	assert_int_equal(number(second, "lcore"), 11);
	assert_int_equal(number(second, "cpu"), 11);
	assert_int_equal(number(second, "in_flight"), 2);
	assert_int_equal(number(second, "num_read_ops"), 3);
	json_decref(answer);
}

static void chooses(void **state)
{
	json_t *answer =
		call_method(*state, "bdev_get_iostat", "{\"names\": [\"null0\", \"disk\"]}");
	assert_string_equal(text(first_stats(answer, 2), "name"), "null0");
	json_decref(answer);
	answer = call_method(*state, "bdev_get_iostat", "{\"name\": \"null0\"}");
	assert_string_equal(text(first_stats(answer, 1), "name"), "null0");
	json_decref(answer);
	answer = call_method(*state, "bdev_get_iostat", "{\"names\": [\"disk\", \"lost\"]}");
	assert_error(answer, -ENODEV, "names");
	json_decref(answer);
	answer = call_method(*state, "bdev_get_iostat", "{\"name\": \"lost\"}");
	assert_error(answer, -ENODEV, "name");
	json_decref(answer);
	answer = call_method(*state, "bdev_reset_iostat", "{\"name\": \"lost\"}");
	assert_error(answer, -ENODEV, "name");
	json_decref(answer);
	answer = call_method(*state, "bdev_get_iostat", "{\"reset_mode\": \"some\"}");
	assert_error(answer, RPC_INVALID_PARAMS, "reset_mode");
	json_decref(answer);
}

/* Resets, checks that the answer waits for the cores, and returns what is counted then. */
static void reset_and_read(void **state, const char *request, struct bdev_op_stats *read)
{
	struct bdev_stats stats;
	struct harness *harness = *state;
	feed(harness, request);
	assert_int_equal(harness->sends, 0);
	run_cores();
	assert_int_equal(harness->sends, 1);
	bdev_get_stats(&file_bdev, &stats);
	*read = stats.op[BDEV_READ];
}

#define RESET(method, params)                                                                      \
	"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"" method "\",\"params\":{" params "}}"

static void resets_all(void **state)
{
	struct bdev_op_stats read;
	reset_and_read(state, RESET("bdev_reset_iostat", ""), &read);
	assert_int_equal(read.ops, 0);
	assert_int_equal(read.latency_max_ticks, 0);
	json_t *sent = take_sent(*state);
	assert_true(json_is_true(json_object_get(json_array_get(sent, 0), "result")));
	json_decref(sent);
}

static void resets_parts(void **state)
{
	struct bdev_op_stats read;
	reset_and_read(state, RESET("bdev_reset_iostat", "\"mode\":\"maxmin\""), &read);
	assert_int_equal(read.latency_max_ticks, 0);
	assert_int_equal(read.ops, 7);
	assert_int_equal(read.errors, 2);
	json_decref(take_sent(*state));
	reset_and_read(state, RESET("bdev_reset_iostat", "\"mode\":\"error\",\"name\":\"disk\""),
		       &read);
	assert_int_equal(read.errors, 0);
	assert_int_equal(read.ops, 7);
	json_decref(take_sent(*state));
	/* none: nothing to wait for */
	json_decref(call_method(*state, "bdev_reset_iostat", "{\"mode\": \"none\"}"));
}

/* What is read is from before the reset. */
static void resets_after_reading(void **state)
{
	struct bdev_op_stats read;
	reset_and_read(state,
		       RESET("bdev_get_iostat", "\"reset_mode\":\"all\",\"names\":[\"disk\"]"),
		       &read);
	assert_int_equal(read.ops, 0);
	json_t *sent = take_sent(*state);
	json_t *stats = first_stats(json_array_get(sent, 0), 1);
	assert_int_equal(number(stats, "num_read_ops"), 7);
	json_decref(sent);
}

static void deletes(void **state)
{
	struct harness *harness = *state;
	feed(harness, RESET("bdev_file_delete", "\"name\":\"disk\",\"force\":true"));
	assert_ptr_equal(removed_bdev, &file_bdev);
	assert_true(removed_force);
	assert_int_equal(harness->sends, 0);
	file_bdev.removed(file_bdev.removed_arg, 0);
	json_t *sent = take_sent(harness);
	assert_true(json_is_true(json_object_get(json_array_get(sent, 0), "result")));
	json_decref(sent);

	feed(harness, RESET("bdev_delete", "\"name\":\"null0\""));
	assert_ptr_equal(removed_bdev, &null_bdev);
	assert_false(removed_force);
	null_bdev.removed(null_bdev.removed_arg, -EIO);
	sent = take_sent(harness);
	assert_error(json_array_get(sent, 0), -EIO, NULL);
	json_decref(sent);
}

static void refuses_to_delete(void **state)
{
	struct bdev_claim claim = {.holder = "export \"a\"", .write = true};
	json_t *answer = call_method(*state, "bdev_file_delete", "{\"name\": \"lost\"}");
	assert_error(answer, -ENODEV, "name");
	json_decref(answer);
	answer = call_method(*state, "bdev_file_delete", "{\"name\": \"null0\"}");
	assert_error(answer, -ENODEV, "name");
	assert_non_null(strstr(error_message(answer), "of type null, not file"));
	json_decref(answer);

	TAILQ_INSERT_TAIL(&file_bdev.claims, &claim, link);
	remove_error = -EBUSY;
	answer = call_method(*state, "bdev_delete", "{\"name\": \"disk\"}");
	assert_error(answer, -EBUSY, "name");
	assert_non_null(strstr(error_message(answer), "in use by export \"a\""));
	json_decref(answer);

	file_bdev.removing = true;
	answer = call_method(*state, "bdev_delete", "{\"name\": \"disk\", \"force\": true}");
	assert_error(answer, -EBUSY, "name");
	assert_non_null(strstr(error_message(answer), "being removed"));
	json_decref(answer);
}

static void refuses_to_register(void **state)
{
	json_t *answer =
		call_method(*state, "refuse_register", "{\"name\": \"disk\", \"error\": -17}");
	assert_error(answer, -EEXIST, "name");
	assert_non_null(strstr(error_message(answer), "'disk' already"));
	json_decref(answer);
	answer = call_method(*state, "refuse_register", "{\"name\": \"new\", \"error\": -17}");
	assert_error(answer, -EEXIST, "uuid");
	json_decref(answer);
	answer = call_method(*state, "refuse_register", "{\"name\": \"new\", \"error\": -12}");
	assert_error(answer, -ENOMEM, "name");
	json_decref(answer);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(lists_all),
		TEST(tells_claims),
		TEST(finds_one),
		TEST(waits_for_one),
		TEST(counts),
		TEST(counts_per_channel),
		TEST(chooses),
		TEST(resets_all),
		TEST(resets_parts),
		TEST(resets_after_reading),
		TEST(deletes),
		TEST(refuses_to_delete),
		TEST(refuses_to_register),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
