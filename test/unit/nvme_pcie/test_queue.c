/* SPDX-License-Identifier: BSD-3-Clause */
/* Tests of an I/O queue: order, wrap-around, wrong completions, doorbells, time-outs, bounced
 * payloads. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/nvme/status.h"
#include "test/unit/nvme_pcie/support.h"

enum { DEPTH = PCIE_QUEUE_ENTRIES - 1 };

static struct request requests[DEPTH + 1];

static uint32_t sq_register(const struct world *world)
{
	return device_read(world->device, NVME_REG_DOORBELLS + 2 * (4u << world->device->dstrd));
}

static uint8_t *buffer_get(size_t bytes)
{
	uint8_t *buffer = buffers_get(&reactor_self->buffers, bytes);
	assert_non_null(buffer);
	return buffer;
}

static void buffer_put(uint8_t *buffer)
{
	buffers_put(&reactor_self->buffers, buffer);
}

static void data_comes_and_goes(void **state)
{
	struct world world;
	struct request request = {0};
	world_start(&world);
	uint8_t *buffer = buffer_get(8192);
	for (unsigned i = 0; i < 8192; i++)
		buffer[i] = (uint8_t)(i * 7);
	assert_int_equal(request_rw(&world, &request, NVME_WRITE, 16, buffer, 8192), 0);
	fake_pass();
	assert_int_equal(device_fetch(world.device), 1);
	device_end(world.device, 0, 0);
	fake_pass();
	assert_done(&request, 0);
	assert_memory_equal(world.device->disk + 16 * 512, buffer, 8192);
	memset(buffer, 0, 8192);
	assert_int_equal(request_rw(&world, &request, NVME_READ, 17, buffer, 512), 0);
	fake_pass();
	device_fetch(world.device);
	device_end(world.device, 0, 0);
	fake_pass();
	assert_done(&request, 0);
	assert_memory_equal(world.device->disk + 17 * 512, buffer, 512);
	assert_int_equal(world.queue->stats.bounces, 0);
	buffer_put(buffer);
	world_stop(&world);
}

/* Without a payload: both PRPs are 0. */
static void flush_has_no_payload(void **state)
{
	struct world world;
	struct request request = {0};
	world_start(&world);
	request_rw(&world, &request, NVME_FLUSH, 0, NULL, 0);
	fake_pass();
	device_fetch(world.device);
	assert_int_equal(world.device->pending[0].sqe.prp1, 0);
	assert_int_equal(world.device->pending[0].sqe.prp2, 0);
	device_end(world.device, 0, 0);
	fake_pass();
	assert_done(&request, 0);
	world_stop(&world);
}

static void doorbell_rings_once_a_pass(void **state)
{
	struct world world;
	world_start(&world);
	for (unsigned i = 0; i < 10; i++) {
		request_rw(&world, &requests[i], NVME_FLUSH, 0, NULL, 0);
		assert_int_equal(sq_register(&world), 0);
	}
	fake_pass();
	assert_int_equal(sq_register(&world), 10);
	device_fetch(world.device);
	device_end_all(world.device);
	fake_pass();
	/* and the completions' */
	assert_int_equal(device_read(world.device, NVME_REG_DOORBELLS + 3 * 4), 10);
	for (unsigned i = 0; i < 10; i++)
		assert_done(&requests[i], 0);
	world_stop(&world);
}

/* Full queues, ended in random order, over and over: ids, phases and wrap-around. */
static void full_queue_in_any_order(void **state)
{
	struct world world;
	world_start(&world);
	uint8_t *buffer = buffer_get(BUFFER_MAX_BYTES);
	srand(1);
	for (unsigned round = 0; round < 20; round++) {
		unsigned count = round % 2 ? DEPTH : 100;
		for (unsigned i = 0; i < count; i++) {
			requests[i].again = i % 5 == 0;
			assert_int_equal(request_rw(&world, &requests[i], NVME_READ, i,
						    buffer + 512 * i, 512),
					 0);
			world.device->disk[i * 512] = (uint8_t)(i + round);
		}
		fake_pass();
		while (device_fetch(world.device)) {
			unsigned many = 1 + (unsigned)rand() % 40;
			for (; many && world.device->pending_count; many--)
				device_end(world.device,
					   (unsigned)rand() % world.device->pending_count, 0);
			fake_pass();
		}
		for (unsigned i = 0; i < count; i++) {
			assert_done(&requests[i], 0);
			assert_int_equal(buffer[512 * i], (uint8_t)(i + round));
		}
	}
	assert_null(TAILQ_FIRST(&world.queue->held));
	assert_int_equal(world.queue->stats.strays, 0);
	buffer_put(buffer);
	world_stop(&world);
}

/*
 * The status reaches the caller as it came, for all types and codes, with "more" and "do not retry",
 * but for the Abort of a command that nobody wanted to be aborted: that may be tried again. Where the
 * code is 0 it is success, whatever stands beside.
 */
static void every_status(void **state)
{
	struct world world;
	struct request request = {0};
	world_start(&world);
	for (unsigned status = 0; status < 0x8000; status += status % 0x800 < 0x100 ? 1 : 0x100) {
		request_rw(&world, &request, NVME_FLUSH, 0, NULL, 0);
		fake_pass();
		device_fetch(world.device);
		device_end(world.device, 0, (uint16_t)status);
		fake_pass();
		bool aborted = (status & NVME_STATUS_CODE) == NVME_SC_ABORT_REQUESTED;
		bool success = !(status & NVME_STATUS_CODE);
		assert_done(&request, aborted	? NVME_SC_ABORT_SQ_DELETED
				      : success ? 0
						: (int)status);
	}
	world_stop(&world);
}

static void wrong_completions_are_ignored(void **state)
{
	struct world world;
	struct request request = {0};
	world_start(&world);
	request_rw(&world, &request, NVME_FLUSH, 0, NULL, 0);
	fake_pass();
	device_fetch(world.device);
	uint16_t cid = world.device->pending[0].sqe.cid;
	device_post(world.device, 1, 0xffff, 1, 0, 0);	/* no such command */
	device_post(world.device, 1, DEPTH, 1, 0, 0);	/* the first id that is none */
	device_post(world.device, 1, cid ^ 1, 1, 0, 0); /* a free one */
	device_post(world.device, 1, cid, 2, 0, 0);	/* another queue's */
	device_post(world.device, 1, 0xffff, 0xffff, 0x7fff, UINT32_MAX);
	fake_pass();
	assert_pending(&request);
	assert_int_equal(world.queue->stats.strays, 5);
	device_end(world.device, 0, 0);
	device_post(world.device, 1, cid, 1, 0, 0); /* a second time */
	fake_pass();
	assert_done(&request, 0);
	assert_int_equal(world.queue->stats.strays, 6);
	world_stop(&world);
}

static void core_does_not_sleep_while_commands_fly(void **state)
{
	struct world world;
	struct request request = {0};
	world_start(&world);
	struct poller *poller = &world.queue->poller;
	assert_true(poller->may_sleep(poller));
	request_rw(&world, &request, NVME_FLUSH, 0, NULL, 0);
	assert_false(poller->may_sleep(poller));
	fake_pass();
	assert_false(poller->may_sleep(poller));
	device_fetch(world.device);
	device_end(world.device, 0, 0);
	fake_pass();
	assert_true(poller->may_sleep(poller));
	world_stop(&world);
}

/* Registers are written only where the device's mark is passed. */
static void shadow_doorbells(void **state)
{
	struct world world;
	struct device *device = device_new(1);
	struct request request[4] = {{0}};
	device->shadows = true;
	device->dstrd = 1;
	world_start_on(&world, device);
	assert_true(world.controller.shadows);
	volatile uint32_t *shadow = device_at(device, device->shadow + 2 * 8, 4);
	volatile uint32_t *event = device_at(device, device->events + 2 * 8, 4);
	request_rw(&world, &request[0], NVME_FLUSH, 0, NULL, 0);
	fake_pass(); /* mark 0 is passed by 0 → 1 */
	assert_int_equal(*shadow, 1);
	assert_int_equal(sq_register(&world), 1);
	request_rw(&world, &request[1], NVME_FLUSH, 0, NULL, 0);
	fake_pass(); /* the device is still at it: mark 0 is not passed by 1 → 2 */
	assert_int_equal(*shadow, 2);
	assert_int_equal(sq_register(&world), 1);
	*event = 2; /* it goes to sleep, having seen 2 */
	request_rw(&world, &request[2], NVME_FLUSH, 0, NULL, 0);
	request_rw(&world, &request[3], NVME_FLUSH, 0, NULL, 0);
	fake_pass();
	assert_int_equal(*shadow, 4);
	assert_int_equal(sq_register(&world), 4);
	assert_int_equal(device_fetch(device), 4);
	device_end_all(device);
	fake_pass();
	assert_int_equal(*(uint32_t *)device_at(device, device->shadow + 3 * 8, 4), 4);
	for (unsigned i = 0; i < 4; i++)
		assert_done(&request[i], 0);
	world_stop(&world);
}

/* The core's own I/O buffers are found at once, another core's too; other memory is copied. */
static void memory_the_device_can_not_reach(void **state)
{
	struct world world;
	struct request request = {0};
	world_start_on(&world, device_new(2));
	uint8_t *theirs = buffers_get(&reactors[1]->buffers, 4096);
	uint8_t *foreign = malloc(70000);
	for (unsigned i = 0; i < 70000; i++)
		foreign[i] = (uint8_t)(i % 251);
	request_rw(&world, &request, NVME_WRITE, 3, foreign + 1, 65536);
	fake_pass();
	device_fetch(world.device);
	device_end(world.device, 0, 0);
	fake_pass();
	assert_done(&request, 0);
	assert_memory_equal(world.device->disk + 3 * 512, foreign + 1, 65536);
	assert_int_equal(world.queue->stats.bounces, 1);
	memset(foreign, 0xee, 70000);
	request_rw(&world, &request, NVME_READ, 3, foreign + 1, 512 * 9);
	fake_pass();
	device_fetch(world.device);
	device_end(world.device, 0, 0);
	fake_pass();
	assert_memory_equal(world.device->disk + 3 * 512, foreign + 1, 512 * 9);
	assert_int_equal(foreign[0], 0xee);
	assert_int_equal(foreign[1 + 512 * 9], 0xee);
	request_rw(&world, &request, NVME_READ, 3, theirs, 4096);
	fake_pass();
	device_fetch(world.device);
	device_end(world.device, 0, 0);
	fake_pass();
	assert_memory_equal(world.device->disk + 3 * 512, theirs, 4096);
	assert_int_equal(world.queue->stats.bounces, 2);
	/* what fails leaves the memory as it was */
	memset(foreign, 0xee, 512);
	request_rw(&world, &request, NVME_READ, 3, foreign, 512);
	fake_pass();
	device_fetch(world.device);
	device_end(world.device, 0, 0x281);
	fake_pass();
	assert_done(&request, 0x281);
	assert_int_equal(foreign[0], 0xee);
	/* a success with more to tell is one */
	request_rw(&world, &request, NVME_READ, 3, foreign, 512);
	fake_pass();
	device_fetch(world.device);
	device_end(world.device, 0, NVME_STATUS_MORE);
	fake_pass();
	assert_done(&request, 0);
	assert_memory_equal(world.device->disk + 3 * 512, foreign, 512);
	buffers_put(&reactors[1]->buffers, theirs);
	free(foreign);
	world_stop(&world);
}

/* More bounced payloads than there are pages: the rest waits, in order, and all is right. */
static void bounced_payloads_wait_for_pages(void **state)
{
	enum { COUNT = 40, BYTES = 64 << 10 };
	struct world world;
	world_start(&world);
	uint8_t *foreign = malloc((size_t)COUNT * BYTES);
	for (unsigned i = 0; i < COUNT * BYTES; i++)
		world.device->disk[i] = (uint8_t)(i / 512 + i);
	for (unsigned i = 0; i < COUNT; i++)
		assert_int_equal(request_rw(&world, &requests[i], NVME_READ, i * (BYTES / 512),
					    foreign + (size_t)i * BYTES, BYTES),
				 0);
	fake_pass();
	assert_in_range(device_fetch(world.device), 1, COUNT - 1);
	/* one that is held is asked to end */
	pcie_queue_abort(&world.queue->base, requests[COUNT - 1].command);
	assert_pending(&requests[COUNT - 1]);
	fake_settle();
	assert_done(&requests[COUNT - 1], -ETIMEDOUT);
	while (device_fetch(world.device)) {
		device_end(world.device, 0, 0);
		fake_settle();
	}
	for (unsigned i = 0; i < COUNT - 1; i++)
		assert_done(&requests[i], 0);
	assert_memory_equal(foreign, world.device->disk, (size_t)(COUNT - 1) * BYTES);
	free(foreign);
	world_stop(&world);
}

/* iov and bytes disagree, or there are more bytes than a command may have: nothing is sent. */
static void impossible_payloads(void **state)
{
	struct world world;
	struct request request = {0};
	world_start(&world);
	static uint8_t big[PCIE_TRANSFER_MAX_BYTES + 512];
	assert_int_equal(request_rw(&world, &request, NVME_READ, 0, big, sizeof(big)), -EINVAL);
	uint8_t *buffer = buffer_get(BUFFER_MAX_BYTES);
	const struct iovec iov[] = {{buffer, BUFFER_MAX_BYTES}, {buffer, 4096}};
	assert_int_equal(request_issue(&world, &request, NVME_READ, 0, iov, 2), -EINVAL);
	/* more bytes than the segments have: nothing beyond them is reached */
	for (unsigned segments = 0; segments <= 2; segments++) {
		struct nvme_command *command = world.queue->base.free;
		command->sqe = (struct nvme_sqe){.opcode = NVME_READ, .nsid = 1};
		command->iov[0] = (struct iovec){buffer, 4096};
		command->iov[1] = (struct iovec){buffer + 8192, 4096};
		command->iovcnt = (uint16_t)segments;
		command->bytes = segments * 4096 + 512;
		assert_int_equal(pcie_queue_issue(&world.queue->base, command), -EINVAL);
	}
	buffer_put(buffer);
	fake_pass();
	assert_int_equal(device_fetch(world.device), 0);
	world_stop(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(data_comes_and_goes),
		cmocka_unit_test(flush_has_no_payload),
		cmocka_unit_test(doorbell_rings_once_a_pass),
		cmocka_unit_test(full_queue_in_any_order),
		cmocka_unit_test(every_status),
		cmocka_unit_test(wrong_completions_are_ignored),
		cmocka_unit_test(core_does_not_sleep_while_commands_fly),
		cmocka_unit_test(shadow_doorbells),
		cmocka_unit_test(memory_the_device_can_not_reach),
		cmocka_unit_test(bounced_payloads_wait_for_pages),
		cmocka_unit_test(impossible_payloads),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
