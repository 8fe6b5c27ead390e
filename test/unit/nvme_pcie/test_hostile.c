/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Tests of devices that lie, at every moment at which they can: fatal status and removal at each
 * admin command, lists without end, registers and IDENTIFY full of garbage, completions by chance.
 * Attaching ends, with a sentence if it fails; every request is answered once; nothing is left.
 */
#include <errno.h>
#include <string.h>

#include "bdev/nvme/namespace.h"
#include "lib/base/log.h"
#include "test/unit/nvme_pcie/support.h"

enum { ROUNDS = 200, READS = 32, SECOND_US = 1000000 };

static char why[NVME_WHY_BYTES];
static struct pcie_controller controller;
static uint64_t seed;
static unsigned countdown; /* admin commands until something happens */

static uint32_t chance(uint32_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % below;
}

static void fill(void *to, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		((uint8_t *)to)[i] = (uint8_t)chance(256);
}

static struct device *begin(unsigned cores)
{
	memset(&seen, 0, sizeof(seen));
	log_set_level(LOG_DISABLED);
	why[0] = 0;
	return device_new(cores);
}

/* 0 or an error with a sentence; in the end nothing is mapped. */
static int attach(struct device *device)
{
	device_controller(device, &controller);
	int error = pcie_controller_start(&controller, why);
	if (!error) {
		error = pcie_controller_add_namespaces(&controller, why);
		pcie_controller_stop(&controller);
		assert_true(device->dma_stopped);
	}
	assert_true(error <= 0);
	if (error && (!why[0] || strlen(why) >= NVME_WHY_BYTES))
		fail_msg("error %d without a sentence", error);
	device_free(device);
	return error;
}

/* ---- At every moment ---- */

static void fatal_then(struct device *device, const struct nvme_sqe *sqe)
{
	if (!countdown--)
		device_fatal(device);
}

static void gone_then(struct device *device, const struct nvme_sqe *sqe)
{
	if (!countdown--)
		device_vanish(device);
}

static void silent_then(struct device *device, const struct nvme_sqe *sqe)
{
	if (!countdown--)
		device->silent = true;
}

static void fails_at_each_command(void (*meddle)(struct device *, const struct nvme_sqe *),
				  int expected)
{
	unsigned at = 0;
	int error;
	do {
		struct device *device = begin(2);
		device->shadows = device->events_offered = true;
		device->meddle = meddle;
		countdown = at++;
		error = attach(device);
		if (error)
			assert_int_equal(error, expected);
		assert_true(at < 100);
	} while (error);
	/* IDENTIFY, queues, shadows, two of each queue, events, the list, a namespace */
	assert_in_range(at, 10, 20);
}

static void fatal_at_any_time(void **state)
{
	fails_at_each_command(fatal_then, -EIO);
}

static void gone_at_any_time(void **state)
{
	fails_at_each_command(gone_then, -ENODEV);
}

static void silent_at_any_time(void **state)
{
	struct device *device = begin(1);
	for (unsigned at = 0; at < 8; at++) {
		device->meddle = silent_then;
		countdown = at;
		(void)attach(device);
		assert_in_range(seen.namespaces, 0, 1);
		device = begin(1);
	}
	assert_int_equal(attach(device), 0);
}

/* ---- Registers ---- */

/* Doorbells that are further apart than the registers reach, at every distance. */
static void doorbells_far_apart(void **state)
{
	for (unsigned dstrd = 0; dstrd < 16; dstrd++) {
		struct device *device = begin(1);
		device->dstrd = dstrd;
		/* four doorbells are needed, and 4 KiB are there */
		bool room = 4 * (4u << dstrd) <= 4096;
		int error = attach(device);
		assert_int_equal(error, room ? 0 : -ENOTSUP);
		if (!room)
			assert_non_null(strstr(why, "doorbells"));
	}
}

static void garbage_capabilities(void **state)
{
	seed = 1;
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct device *device = begin(2);
		device_controller(device, &controller);
		/* what remains must not be what the device of the tests can not do */
		fill(device->bar + NVME_REG_CAP, 8);
		device->dstrd = device->bar[NVME_REG_CAP + 4] & 0xf;
		memcpy(&device->mqes, device->bar + NVME_REG_CAP, 2);
		int error = pcie_controller_start(&controller, why);
		if (!error)
			pcie_controller_stop(&controller);
		else
			assert_int_equal(error, -ENOTSUP);
		device_free(device);
	}
}

/* ---- IDENTIFY ---- */

static void spoil_all(struct device *device, const struct nvme_sqe *sqe, void *page)
{
	struct nvme_identify_controller *data = page;
	fill(page, NVME_IDENTIFY_BYTES);
	if (sqe->cdw10 != NVME_CNS_CONTROLLER)
		return;
	data->oacs = (uint16_t)(chance(2) ? NVME_OACS_DOORBELL_BUFFER : 0);
	data->oaes = device->events_offered ? UINT32_MAX : 0;
}

static void garbage_everywhere(void **state)
{
	seed = 2;
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct device *device = begin(1);
		device->spoil = spoil_all;
		device->events_offered = chance(2);
		device->no_list = chance(2);
		(void)attach(device);
		assert_in_range(seen.namespaces, 0, NVME_NAMESPACES_MAX);
	}
}

static void spoil_list_stuck(struct device *device, const struct nvme_sqe *sqe, void *page)
{
	for (uint32_t i = 0; sqe->cdw10 == NVME_CNS_ACTIVE_NAMESPACES && i < 1024; i++)
		((uint32_t *)page)[i] = i + 1;
}

/* The same full list, wherever it is to begin. */
static void list_that_stays(void **state)
{
	struct device *device = begin(1);
	device->spoil = spoil_list_stuck;
	assert_int_equal(attach(device), 0);
	assert_int_equal(seen.namespaces, 1024);
}

static void spoil_list_endless(struct device *device, const struct nvme_sqe *sqe, void *page)
{
	for (uint32_t i = 0; sqe->cdw10 == NVME_CNS_ACTIVE_NAMESPACES && i < 1024; i++)
		((uint32_t *)page)[i] = sqe->nsid + i + 1;
}

static void list_without_end(void **state)
{
	struct device *device = begin(1);
	device->spoil = spoil_list_endless;
	assert_int_equal(attach(device), 0);
	assert_int_equal(seen.namespaces, NVME_NAMESPACES_MAX);
}

/* NVMe 1.0 with 2^32 - 1 ids, of which every other one is in use. */
static void ids_without_end(void **state)
{
	struct device *device = begin(1);
	device->no_list = true;
	device->namespaces = UINT32_MAX;
	assert_int_equal(attach(device), 0);
	assert_int_equal(seen.namespaces, NVME_NAMESPACES_MAX / 2);
}

static void spoil_broadcast(struct device *device, const struct nvme_sqe *sqe, void *page)
{
	uint32_t *list = page;
	if (sqe->cdw10 != NVME_CNS_ACTIVE_NAMESPACES)
		return;
	memset(list, 0, NVME_IDENTIFY_BYTES);
	list[0] = 7;
	list[1] = NVME_ALL_NAMESPACES;
}

/* What means all of them is no namespace of its own. */
static void id_of_all(void **state)
{
	struct device *device = begin(1);
	device->spoil = spoil_broadcast;
	assert_int_equal(attach(device), 0);
	assert_int_equal(seen.namespaces, 1);
	assert_int_equal(seen.nsids[0], 7);
}

/* ---- Queues ---- */

/* 0's based: one each, which does for one core only. */
static void one_queue_granted(void **state)
{
	for (unsigned cores = 1; cores <= 2; cores++) {
		struct device *device = begin(cores);
		device->queues_max = 1;
		assert_int_equal(attach(device), cores == 1 ? 0 : -ENOSPC);
	}
}

/* What is written is read again, often enough for queues of any size to go round. */
static void data_goes_round(struct device *device)
{
	struct world world;
	struct request request = {0};
	world_start_on(&world, device);
	uint8_t *buffer = buffers_get(&reactor_self->buffers, 12288);
	assert_non_null(buffer);
	for (unsigned i = 0; i < 140; i++) {
		uint8_t *payload = buffer + 512 * chance(8);
		uint32_t bytes = 512 * (1 + chance(16)), block = chance(1000);
		enum nvme_opcode opcode = chance(2) ? NVME_WRITE : NVME_READ;
		memset(buffer, (int)i, 12288);
		assert_int_equal(request_rw(&world, &request, opcode, block, payload, bytes), 0);
		fake_pass();
		assert_int_equal(device_fetch(device), 1);
		device_end(device, 0, 0);
		fake_pass();
		assert_done(&request, 0);
		assert_memory_equal(payload, device->disk + block * 512, bytes);
	}
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

/* Controllers that are right, but odd: each property with each other. */
static void odd_but_right(void **state)
{
	static const unsigned mqes[] = {1, 2, 6, 62, 65535};
	seed = 4;
	for (unsigned i = 0; i < COUNT_OF(mqes) * 3 * 3 * 2; i++) {
		struct device *device = begin(1);
		device->mqes = mqes[i % COUNT_OF(mqes)];
		device->dstrd = i / COUNT_OF(mqes) % 3 * 4;
		device->sgls = i / COUNT_OF(mqes) / 3 % 3;
		device->shadows = i / COUNT_OF(mqes) / 9;
		device->mdts = (uint8_t)(1 + chance(3));
		data_goes_round(device);
	}
}

/* A completion that may be anything, or is of a command in flight. */
static void post_by_chance(struct device *device)
{
	struct device_queue *queue = &device->queues[1];
	struct nvme_cqe *cqe;
	uint32_t before = queue->sq_head;
	queue->sq_head = chance(65536);
	switch (chance(4)) {
	case 0:
		device_post(device, 1, (uint16_t)chance(65536), (uint16_t)chance(65536),
			    (uint16_t)chance(32768), chance(65536));
		break;
	case 1: /* the right queue, an id that may be in flight */
		device_post(device, 1, (uint16_t)chance(READS), 1, (uint16_t)chance(32768), 0);
		break;
	case 2: /* the other phase: nobody may see it */
		cqe = device_at(device, queue->cq + queue->cq_tail * sizeof(*cqe), sizeof(*cqe));
		*cqe = (struct nvme_cqe){.sqid = 1, .cid = (uint16_t)chance(READS),
					 .status = queue->phase ^ 1};
		break;
	default:
		device_post(device, 1, (uint16_t)chance(READS), (uint16_t)chance(3), 0, 0);
		break;
	}
	queue->sq_head = before;
}

/* Whatever it completes: each request ends once, if need be by a reset, and then all is well. */
static void completions_by_chance(void **state)
{
	static struct request requests[READS];
	struct world world;
	seed = 3;
	for (unsigned round = 0; round < 20; round++) {
		world_start(&world);
		uint8_t *buffer = buffers_get(&reactor_self->buffers, READS * 512);
		assert_non_null(buffer);
		for (unsigned i = 0; i < READS; i++)
			assert_int_equal(request_rw(&world, &requests[i], NVME_READ, i,
						    buffer + 512 * i, 512), 0);
		fake_pass();
		device_fetch(world.device);
		for (unsigned i = 0; i < 400 && world.queue->flying; i++) {
			post_by_chance(world.device);
			fake_pass();
		}
		for (unsigned i = 0; i < READS; i++)
			assert_in_range(requests[i].done, 0, 1);
		world.device->pending_count = 0; /* the rest never comes */
		assert_int_equal(pcie_controller_reset(&world.controller.base, NULL, NULL), 0);
		fake_settle();
		device_fetch(world.device);
		device_end_all(world.device);
		fake_settle();
		for (unsigned i = 0; i < READS; i++)
			assert_int_equal(requests[i].done, 1);
		buffers_put(&reactor_self->buffers, buffer);
		world_stop(&world);
	}
}

/* CFS that comes again after each reset: commands are not tried for ever. */
static void fatal_again_and_again(void **state)
{
	struct world world;
	static struct request request;
	world_start(&world);
	uint8_t *buffer = buffers_get(&reactor_self->buffers, 512);
	assert_int_equal(request_rw(&world, &request, NVME_READ, 0, buffer, 512), 0);
	fake_pass();
	for (unsigned i = 0; i < 20 && !request.done; i++) {
		device_fetch(world.device);
		device_fatal(world.device);
		fake_advance_us(2 * SECOND_US);
		fake_settle();
	}
	assert_int_equal(request.done, 1);
	assert_int_equal(request.status, -EIO);
	assert_in_range(world.controller.resets, 1, 10);
	buffers_put(&reactor_self->buffers, buffer);
	world.device->pending_count = 0;
	world_stop(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fatal_at_any_time),
		cmocka_unit_test(gone_at_any_time),
		cmocka_unit_test(silent_at_any_time),
		cmocka_unit_test(doorbells_far_apart),
		cmocka_unit_test(garbage_capabilities),
		cmocka_unit_test(garbage_everywhere),
		cmocka_unit_test(list_that_stays),
		cmocka_unit_test(list_without_end),
		cmocka_unit_test(ids_without_end),
		cmocka_unit_test(id_of_all),
		cmocka_unit_test(one_queue_granted),
		cmocka_unit_test(odd_but_right),
		cmocka_unit_test(completions_by_chance),
		cmocka_unit_test(fatal_again_and_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
