/* SPDX-License-Identifier: BSD-3-Clause */
/* Tests of what ends badly: time-outs, Abort, resets, controllers that go. Every request is
 * answered. */
#include <errno.h>
#include <string.h>

#include "bdev/nvme/status.h"
#include "test/unit/nvme_pcie/support.h"

enum { COUNT = 8, SECOND_US = 1000000 };

static struct request requests[COUNT];
static unsigned told; /* calls of was_reset() */
static int told_error;

static void was_reset(void *arg, int error)
{
	assert_non_null(arg);
	told++;
	told_error = error;
}

/* COUNT reads are at the device. */
static void begin(struct world *world, uint8_t *buffer)
{
	told = 0;
	for (unsigned i = 0; i < COUNT; i++) {
		requests[i].again = false;
		world->device->disk[i * 512] = (uint8_t)(i + 1);
		assert_int_equal(
			request_rw(world, &requests[i], NVME_READ, i, buffer + 512 * i, 512), 0);
	}
	fake_pass();
	assert_int_equal(device_fetch(world->device), COUNT);
}

static uint8_t *buffer_get(void)
{
	uint8_t *buffer = buffers_get(&reactor_self->buffers, 4096);
	assert_non_null(buffer);
	memset(buffer, 0, 4096);
	return buffer;
}

/* What was in flight is done again after a reset; its data arrives once, whole. */
static void reset_does_commands_again(void **state)
{
	struct world world;
	struct request late = {0};
	world_start(&world);
	uint8_t *buffer = buffer_get();
	begin(&world, buffer);
	device_end(world.device, 3, 0);
	fake_settle();
	assert_done(&requests[3], 0);
	assert_int_equal(pcie_controller_reset(&world.controller.base, was_reset, &world), 0);
	assert_int_equal(pcie_controller_reset(&world.controller.base, was_reset, NULL), -EBUSY);
	fake_pass(); /* the queues pause */
	assert_int_equal(request_rw(&world, &late, NVME_FLUSH, 0, NULL, 0), 0);
	fake_settle();
	assert_int_equal(world.device->enables, 2);
	assert_int_equal(world.controller.resets, 1);
	assert_int_equal(told, 1);
	assert_int_equal(told_error, 0);
	assert_int_equal(device_fetch(world.device), COUNT); /* seven and the late one */
	device_end_all(world.device);
	fake_settle();
	for (unsigned i = 0; i < COUNT; i++) {
		assert_done(&requests[i], 0);
		assert_int_equal(buffer[512 * i], i + 1);
	}
	assert_done(&late, 0);
	assert_int_equal(world.queue->stats.retries, COUNT - 1);
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
	assert_int_equal(seen.gone, 0);
}

/* done() that issues again while the queue resumes: none is begun twice. */
static void resume_with_new_commands(void **state)
{
	struct world world;
	world_start(&world);
	uint8_t *buffer = buffer_get();
	begin(&world, buffer);
	for (unsigned round = 0; round < PCIE_TRIES_MAX; round++) {
		for (unsigned i = 0; i < COUNT; i++)
			requests[i].again = round == PCIE_TRIES_MAX - 1;
		assert_int_equal(pcie_controller_reset(&world.controller.base, NULL, NULL), 0);
		fake_settle();
		assert_int_equal(device_fetch(world.device), COUNT);
		for (unsigned i = 0; i < COUNT; i++)
			assert_pending(&requests[i]);
	}
	/* the third reset has ended them with -EIO, and done() began new ones: with new tries */
	for (unsigned i = 0; i < COUNT; i++)
		assert_int_equal(requests[i].status, -EIO);
	device_end_all(world.device);
	fake_settle();
	for (unsigned i = 0; i < COUNT; i++)
		assert_done(&requests[i], 0);
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

/* A bounced WRITE's copy survives a reset. */
static void reset_with_bounced_payload(void **state)
{
	struct world world;
	struct request request = {0};
	uint8_t payload[1024];
	world_start(&world);
	memset(payload, 0x5a, sizeof(payload));
	request_rw(&world, &request, NVME_WRITE, 9, payload, sizeof(payload));
	fake_pass();
	device_fetch(world.device);
	assert_int_equal(pcie_controller_reset(&world.controller.base, NULL, NULL), 0);
	fake_settle();
	device_fetch(world.device);
	device_end_all(world.device);
	fake_settle();
	assert_done(&request, 0);
	assert_memory_equal(world.device->disk + 9 * 512, payload, sizeof(payload));
	world_stop(&world);
}

static void abort_ends_a_command(void **state)
{
	struct world world;
	world_start(&world);
	uint8_t *buffer = buffer_get();
	begin(&world, buffer);
	uint16_t cid = world.device->pending[2].sqe.cid;
	pcie_queue_abort(&world.queue->base, requests[2].command);
	pcie_queue_abort(&world.queue->base, requests[2].command); /* once is enough */
	world_settle(&world);
	assert_int_equal(world.device->last_abort.cdw10, (uint32_t)cid << 16 | 1);
	assert_pending(&requests[2]);
	device_end(world.device, 2, 0x007); /* aborted */
	device_end_all(world.device);
	fake_settle();
	assert_done(&requests[2], -ETIMEDOUT);
	assert_done(&requests[1], 0);
	assert_int_equal(world.queue->stats.timeouts, 1);
	assert_int_equal(world.controller.resets, 0);
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

/* The command came just in time: its data counts. So it does where the device has more to tell. */
static void abort_comes_too_late(void **state)
{
	struct world world;
	world_start(&world);
	uint8_t *buffer = buffer_get();
	begin(&world, buffer);
	pcie_queue_abort(&world.queue->base, requests[0].command);
	pcie_queue_abort(&world.queue->base, requests[1].command);
	device_end(world.device, 1, NVME_STATUS_MORE);
	device_end_all(world.device);
	world_settle(&world);
	assert_done(&requests[0], 0);
	assert_int_equal(buffer[0], 1);
	assert_done(&requests[1], 0);
	assert_int_equal(buffer[512], 2);
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

/* Old, aborted, not ended: a reset, after which only that one has failed. */
/* An Abort that is sent after its command's end: the next one under its id is not what was meant. */
static void abort_meets_the_next_command(void **state)
{
	struct world world;
	world_start(&world);
	uint8_t *buffer = buffer_get();
	begin(&world, buffer);
	uint16_t cid = requests[0].command->index;
	requests[0].again = true;
	pcie_queue_abort(&world.queue->base, requests[0].command);
	device_end(world.device, 0, 0);
	fake_pass();
	assert_int_equal(requests[0].command->index, cid);
	unsigned count = device_fetch(world.device), at = 0;
	while (at < count && world.device->pending[at].sqe.cid != cid)
		at++;
	assert_in_range(at, 0, count - 1);
	device_end(world.device, at, 0x007);
	fake_settle();
	assert_int_equal(requests[0].status, NVME_SC_ABORT_SQ_DELETED); /* may be tried again */
	device_end_all(world.device);
	fake_settle();
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

/* Several are to be aborted when the device goes: nothing waits for the Aborts that are not sent. */
static void aborts_when_the_device_goes(void **state)
{
	struct world world;
	world_start(&world);
	uint8_t *buffer = buffer_get();
	begin(&world, buffer);
	for (unsigned i = 0; i < 3; i++)
		pcie_queue_abort(&world.queue->base, requests[i].command);
	device_vanish(world.device);
	fake_settle();
	fake_advance_us(60 * SECOND_US);
	assert_int_equal(atomic_load(&world.controller.pending), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(requests[i].done, 1);
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

static void age_leads_to_abort_and_reset(void **state)
{
	struct world world;
	world_start(&world);
	uint8_t *buffer = buffer_get();
	begin(&world, buffer);
	fake_advance_us(NVME_TIMEOUT_US - SECOND_US);
	assert_int_equal(world.queue->stats.timeouts, 0);
	fake_advance_us(2 * SECOND_US);
	assert_int_equal(world.queue->stats.timeouts, COUNT);
	assert_int_equal(world.controller.resets, 0);
	device_end(world.device, 5, 0); /* this one does answer */
	fake_advance_us((PCIE_ABORT_GRACE_MS + 1000) * 1000);
	assert_int_equal(world.controller.resets, 1);
	for (unsigned i = 0; i < COUNT; i++)
		assert_done(&requests[i], i == 5 ? 0 : -ETIMEDOUT);
	assert_int_equal(device_fetch(world.device), 0);
	begin(&world, buffer);
	device_end_all(world.device);
	fake_settle();
	for (unsigned i = 0; i < COUNT; i++)
		assert_done(&requests[i], 0);
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

/* COUNT reads are at a device whose driver has these time-outs. */
static uint8_t *begin_with(struct world *world, uint64_t timeout_us,
			   enum nvme_timeout_action action)
{
	struct device *device = device_new(1);
	device->options.timeout_us = timeout_us;
	device->options.action_on_timeout = action;
	world_start_on(world, device);
	uint8_t *buffer = buffer_get();
	begin(world, buffer);
	return buffer;
}

static void end_with(struct world *world, uint8_t *buffer)
{
	device_end_all(world->device);
	fake_settle();
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(world);
}

/* Milliseconds: looked at often enough, and not before. */
static void short_time_leads_to_abort(void **state)
{
	struct world world;
	uint8_t *buffer = begin_with(&world, 8000, NVME_TIMEOUT_ABORT);
	fake_advance_us(7000);
	assert_int_equal(world.queue->stats.timeouts, 0);
	fake_advance_us(3001);
	assert_int_equal(world.queue->stats.timeouts, COUNT);
	assert_int_equal(world.controller.resets, 0);
	for (unsigned i = 0; i < COUNT; i++)
		device_end(world.device, 0, 0x007);
	fake_settle();
	for (unsigned i = 0; i < COUNT; i++)
		assert_done(&requests[i], -ETIMEDOUT);
	end_with(&world, buffer);
}

/* All that are too old end by the one reset; one that is younger is done again. */
static void short_time_leads_to_reset(void **state)
{
	struct world world;
	struct request young = {0};
	uint8_t *buffer = begin_with(&world, 8000, NVME_TIMEOUT_RESET);
	fake_advance_us(6000);
	assert_int_equal(request_rw(&world, &young, NVME_READ, 1, buffer, 512), 0);
	fake_advance_us(4001);
	assert_int_equal(world.device->last_abort.opcode, 0);
	assert_int_equal(world.controller.resets, 1);
	assert_int_equal(world.queue->stats.timeouts, COUNT);
	for (unsigned i = 0; i < COUNT; i++)
		assert_done(&requests[i], -ETIMEDOUT);
	assert_pending(&young);
	assert_int_equal(device_fetch(world.device), 1);
	device_end_all(world.device);
	fake_settle();
	assert_done(&young, 0);
	end_with(&world, buffer);
}

/* Nothing is done but counting, once a command: it ends in its own time, with its data. */
static void late_without_action(void **state)
{
	struct world world;
	uint8_t *buffer = begin_with(&world, 8000, NVME_TIMEOUT_NONE);
	fake_advance_us(60 * SECOND_US);
	assert_int_equal(world.queue->stats.timeouts, COUNT);
	assert_int_equal(world.device->last_abort.opcode, 0);
	assert_int_equal(world.controller.resets, 0);
	/* a request whose own time has passed is aborted all the same */
	pcie_queue_abort(&world.queue->base, requests[0].command);
	fake_settle();
	assert_int_equal(world.device->last_abort.opcode, NVME_ADMIN_ABORT);
	device_end_all(world.device);
	fake_settle();
	for (unsigned i = 0; i < COUNT; i++)
		assert_done(&requests[i], 0);
	assert_int_equal(buffer[0], 1);
	end_with(&world, buffer);
}

static void no_timeout(void **state)
{
	struct world world;
	uint8_t *buffer = begin_with(&world, 0, NVME_TIMEOUT_ABORT);
	fake_advance_us(2ull * NVME_TIMEOUT_US);
	assert_int_equal(world.queue->stats.timeouts, 0);
	device_end_all(world.device);
	fake_settle();
	assert_done(&requests[0], 0);
	end_with(&world, buffer);
}

/* An admin queue that does not answer to Abort either: a reset at once. */
static void abort_without_an_answer(void **state)
{
	struct world world;
	world_start(&world);
	uint8_t *buffer = buffer_get();
	begin(&world, buffer);
	world.device->silent = true;
	pcie_queue_abort(&world.queue->base, requests[0].command);
	fake_pass(); /* the alarm arrives; the Abort is waited for in vain */
	world.device->silent = false;
	fake_settle();
	assert_int_equal(world.controller.resets, 1);
	assert_done(&requests[0], -ETIMEDOUT);
	assert_int_equal(device_fetch(world.device), COUNT - 1);
	device_end_all(world.device);
	fake_settle();
	assert_done(&requests[1], 0);
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

static void fatal_status_leads_to_reset(void **state)
{
	struct world world;
	world_start(&world);
	uint8_t *buffer = buffer_get();
	begin(&world, buffer);
	world.device->bar[NVME_REG_CSTS] |= NVME_CSTS_CFS;
	fake_advance_us(SECOND_US);
	assert_int_equal(world.controller.resets, 1);
	assert_int_equal(device_fetch(world.device), COUNT);
	device_end_all(world.device);
	fake_settle();
	for (unsigned i = 0; i < COUNT; i++)
		assert_done(&requests[i], 0);
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

/* The end of a device: all are answered with -ENODEV, later ones too, and it is told once. */
static void assert_gone(struct world *world)
{
	struct request late = {0};
	for (unsigned i = 0; i < COUNT; i++)
		assert_done(&requests[i], -ENODEV);
	assert_int_equal(seen.gone, 1);
	assert_true(world->device->dma_stopped);
	assert_int_equal(request_rw(world, &late, NVME_FLUSH, 0, NULL, 0), -ENODEV);
	assert_int_equal(pcie_controller_reset(&world->controller.base, NULL, NULL), -ENODEV);
	pcie_controller_remove(&world->controller);
	fake_advance_us(60 * SECOND_US);
	assert_int_equal(seen.gone, 1);
}

static void all_ones_are_a_removal(void **state)
{
	struct world world;
	world_start(&world);
	uint8_t *buffer = buffer_get();
	begin(&world, buffer);
	device_vanish(world.device);
	fake_advance_us(SECOND_US);
	assert_false(world.device->shut_down);
	assert_gone(&world);
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

/*
 * Asked for by the kernel, the device still works: it is told to shut down, then disabled, before
 * buffers are given back.
 */
static void removal_on_request(void **state)
{
	struct world world;
	world_start(&world);
	uint8_t *buffer = buffer_get();
	begin(&world, buffer);
	requests[1].again = true; /* what is issued anew fails as well */
	pcie_controller_remove(&world.controller);
	fake_settle();
	assert_true(world.device->shut_down);
	assert_int_equal(world.device->disables, 1);
	assert_gone(&world);
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

static void reset_that_fails(void **state)
{
	struct world world;
	world_start(&world);
	uint8_t *buffer = buffer_get();
	begin(&world, buffer);
	world.device->never_ready = true;
	assert_int_equal(pcie_controller_reset(&world.controller.base, was_reset, &world), 0);
	fake_settle();
	assert_int_equal(told, 1);
	assert_int_equal(told_error, -ETIMEDOUT);
	assert_gone(&world);
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

static void reset_that_never_disables(void **state)
{
	struct world world;
	world_start(&world);
	uint8_t *buffer = buffer_get();
	begin(&world, buffer);
	world.device->never_disabled = true;
	assert_int_equal(pcie_controller_reset(&world.controller.base, NULL, NULL), 0);
	fake_settle();
	assert_gone(&world);
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

static void removal_during_a_reset(void **state)
{
	struct world world;
	world_start(&world);
	uint8_t *buffer = buffer_get();
	begin(&world, buffer);
	assert_int_equal(pcie_controller_reset(&world.controller.base, NULL, NULL), 0);
	pcie_controller_remove(&world.controller);
	fake_settle();
	assert_gone(&world);
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

/* With shadow doorbells and on several cores, over and over. */
static void many_resets(void **state)
{
	struct world world;
	struct device *device = device_new(3);
	device->shadows = true;
	world_start_on(&world, device);
	uint8_t *buffer = buffer_get();
	for (unsigned round = 0; round < 10; round++) {
		begin(&world, buffer);
		assert_int_equal(pcie_controller_reset(&world.controller.base, NULL, NULL), 0);
		fake_settle();
		assert_int_equal(device_fetch(device), COUNT);
		device_end_all(device);
		fake_settle();
		for (unsigned i = 0; i < COUNT; i++)
			assert_done(&requests[i], 0);
	}
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reset_does_commands_again),
		cmocka_unit_test(resume_with_new_commands),
		cmocka_unit_test(reset_with_bounced_payload),
		cmocka_unit_test(abort_ends_a_command),
		cmocka_unit_test(abort_comes_too_late),
		cmocka_unit_test(abort_meets_the_next_command),
		cmocka_unit_test(aborts_when_the_device_goes),
		cmocka_unit_test(age_leads_to_abort_and_reset),
		cmocka_unit_test(short_time_leads_to_abort),
		cmocka_unit_test(short_time_leads_to_reset),
		cmocka_unit_test(late_without_action),
		cmocka_unit_test(no_timeout),
		cmocka_unit_test(abort_without_an_answer),
		cmocka_unit_test(fatal_status_leads_to_reset),
		cmocka_unit_test(all_ones_are_a_removal),
		cmocka_unit_test(removal_on_request),
		cmocka_unit_test(reset_that_fails),
		cmocka_unit_test(reset_that_never_disables),
		cmocka_unit_test(removal_during_a_reset),
		cmocka_unit_test(many_resets),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
