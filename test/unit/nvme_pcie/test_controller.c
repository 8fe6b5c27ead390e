/* SPDX-License-Identifier: BSD-3-Clause */
/* Tests of bringing a controller up and down: what the specification asks for, and each way to
 * fail. */
#include <errno.h>
#include <string.h>

#include "lib/base/log.h"
#include "test/unit/nvme_pcie/support.h"

static char why[NVME_WHY_BYTES];
static struct pcie_controller controller;

static struct device *begin(unsigned cores)
{
	memset(&seen, 0, sizeof(seen));
	log_set_level(LOG_DISABLED);
	why[0] = 0;
	return device_new(cores);
}

static int start(struct device *device)
{
	device_controller(device, &controller);
	return pcie_controller_start(&controller, why);
}

/* It fails with this error, a sentence that says so, and nothing left behind. */
static void fails(struct device *device, int error, const char *words)
{
	assert_int_equal(start(device), error);
	if (!strstr(why, words) || !strstr(why, "0000:01:00.0"))
		fail_msg("'%s' does not say '%s'", why, words);
	assert_int_equal(controller.queue_count, 0);
	device_free(device);
}

static void starts_and_stops(void **state)
{
	static const uint8_t expected[] = {
		NVME_ADMIN_IDENTIFY,  NVME_ADMIN_SET_FEATURES, NVME_ADMIN_CREATE_CQ,
		NVME_ADMIN_CREATE_SQ, NVME_ADMIN_CREATE_CQ,    NVME_ADMIN_CREATE_SQ,
	};
	static const uint8_t expected_then[] = {NVME_ADMIN_DELETE_SQ, NVME_ADMIN_DELETE_CQ,
						NVME_ADMIN_DELETE_SQ, NVME_ADMIN_DELETE_CQ};
	struct device *device = begin(2);
	device->dstrd = 2;
	assert_int_equal(start(device), 0);
	assert_int_equal(device->admin_count, sizeof(expected));
	assert_memory_equal(device->admin_log, expected, sizeof(expected));
	assert_int_equal(device->enables, 1);
	assert_int_equal(controller.queue_count, 2);
	assert_int_equal(controller.queues[1]->ring.id, 2);
	assert_int_equal(controller.queues[1]->base.depth, PCIE_QUEUE_ENTRIES - 1);
	assert_int_equal(device_read(device, NVME_REG_INTMS), UINT32_MAX);
	assert_false(device->shut_down);
	pcie_controller_stop(&controller);
	assert_int_equal(device->admin_count, sizeof(expected) + sizeof(expected_then));
	assert_memory_equal(device->admin_log + sizeof(expected), expected_then,
			    sizeof(expected_then));
	for (unsigned id = 1; id <= 2; id++)
		assert_int_equal(device->queues[id].sq | device->queues[id].cq, 0);
	assert_true(device->shut_down);
	assert_int_equal(device->disables, 1);
	assert_true(device->dma_stopped);
	device_free(device);
}

/* What another driver, or one that was killed, has left enabled is reset first. */
static void takes_an_enabled_one_over(void **state)
{
	struct device *device = begin(1);
	uint32_t cc = NVME_CC_EN | NVME_CC_IOSQES_64 | NVME_CC_IOCQES_16;
	device_controller(device, &controller);
	memcpy(device->bar + NVME_REG_CC, &cc, 4);
	device->bar[NVME_REG_CSTS] = NVME_CSTS_RDY;
	device->enabled = true;
	assert_int_equal(start(device), 0);
	assert_int_equal(device->disables, 1);
	assert_int_equal(device->enables, 1);
	pcie_controller_stop(&controller);
	device_free(device);
}

/* One that was killed between EN and RDY: EN falls only after RDY has risen. */
static void waits_for_ready_before_it_disables(void **state)
{
	struct device *device = begin(1);
	uint32_t cc = NVME_CC_EN | NVME_CC_IOSQES_64 | NVME_CC_IOCQES_16;
	device_controller(device, &controller);
	memcpy(device->bar + NVME_REG_CC, &cc, 4);
	device->enabled = true;
	device->change_ms = device->now_ms;
	device->ready_ms = 100;
	assert_int_equal(start(device), 0);
	assert_in_range(device->now_ms, 300, 330);
	pcie_controller_stop(&controller);
	device_free(device);
}

static void small_queues(void **state)
{
	struct device *device = begin(1);
	device->mqes = 1;
	assert_int_equal(start(device), 0);
	assert_int_equal(controller.queues[0]->base.depth, 1);
	pcie_controller_stop(&controller);
	device_free(device);
	device = begin(1);
	device->mqes = 0;
	fails(device, -ENOTSUP, "one entry");
}

static void capabilities_it_can_not_do_with(void **state)
{
	struct device *device = begin(1);
	device_controller(device, &controller);
	device->bar[NVME_REG_CAP + 4] = 0; /* no NVM command set */
	assert_int_equal(pcie_controller_start(&controller, why), -ENOTSUP);
	assert_non_null(strstr(why, "command set"));
	device_controller(device, &controller);
	device->bar[NVME_REG_CAP + 6] = 1; /* MPSMIN: 8 KiB */
	assert_int_equal(pcie_controller_start(&controller, why), -ENOTSUP);
	assert_non_null(strstr(why, "8192"));
	device_controller(device, &controller);
	controller.registers.bytes = NVME_REG_DOORBELLS + 8; /* the admin queue's only */
	assert_int_equal(pcie_controller_start(&controller, why), -ENOTSUP);
	assert_non_null(strstr(why, "doorbells"));
	device_free(device);
}

static void gone_from_the_start(void **state)
{
	struct device *device = begin(1);
	device_controller(device, &controller);
	device_vanish(device);
	assert_int_equal(pcie_controller_start(&controller, why), -ENODEV);
	assert_non_null(strstr(why, "gone"));
	device_free(device);
}

static void never_becomes_ready(void **state)
{
	struct device *device = begin(1);
	device->never_ready = true;
	uint64_t begun = device->now_ms;
	assert_int_equal(start(device), -ETIMEDOUT);
	/* CAP.TO to become ready; to disable it, once more for RDY, which it never shows */
	assert_in_range(device->now_ms - begun, 5000, 15100);
	assert_non_null(strstr(why, "does not become ready"));
	assert_true(device->dma_stopped);
	device_free(device);
}

static void timeout_is_the_devices(void **state)
{
	struct device *device = begin(1);
	device->timeout = 255;
	device->ready_ms = 127000;
	assert_int_equal(start(device), 0);
	pcie_controller_stop(&controller);
	device_free(device);
	device = begin(1);
	device->timeout = 0; /* no time at all: half a second */
	device->ready_ms = 400;
	assert_int_equal(start(device), 0);
	pcie_controller_stop(&controller);
	device_free(device);
}

static void never_becomes_disabled(void **state)
{
	struct device *device = begin(1);
	device_controller(device, &controller);
	device->bar[NVME_REG_CSTS] = NVME_CSTS_RDY;
	device->never_disabled = true;
	assert_int_equal(pcie_controller_start(&controller, why), -ETIMEDOUT);
	assert_non_null(strstr(why, "can not be reset"));
	device_free(device);
}

static void fatal_status(void **state)
{
	struct device *device = begin(1);
	device->fatal_on_enable = true;
	fails(device, -EIO, "fatal");
}

static void admin_commands_that_fail(void **state)
{
	static const struct {
		uint8_t opcode;
		const char *words;
	} cases[] = {
		{NVME_ADMIN_IDENTIFY, "IDENTIFY"},
		{NVME_ADMIN_SET_FEATURES, "I/O queues"},
		{NVME_ADMIN_CREATE_CQ, "I/O queues"},
		{NVME_ADMIN_CREATE_SQ, "I/O queues"},
	};
	for (unsigned i = 0; i < COUNT_OF(cases); i++) {
		struct device *device = begin(1);
		device->admin_status[cases[i].opcode] = 0x106;
		fails(device, -EIO, cases[i].words);
	}
}

static void silent_for(uint64_t timeout_us)
{
	struct device *device = begin(1);
	device->silent = true;
	device->options.timeout_admin_us = timeout_us;
	uint64_t begun = device->now_ms;
	assert_int_equal(start(device), -ETIMEDOUT);
	assert_in_range(device->now_ms - begun, timeout_us / 1000, timeout_us / 1000 + 50);
	device_free(device);
}

static void admin_queue_that_never_answers(void **state)
{
	silent_for(NVME_TIMEOUT_ADMIN_US);
	silent_for(3000);
}

static void too_few_queues(void **state)
{
	struct device *device = begin(4);
	device->queues_max = 3;
	fails(device, -ENOSPC, "fewer I/O queues");
	device = begin(4);
	device->queues_max = 4;
	assert_int_equal(start(device), 0);
	pcie_controller_stop(&controller);
	device_free(device);
}

static void wrong_admin_completions(void **state)
{
	struct device *device = begin(1);
	device->stray_first = true;
	assert_int_equal(start(device), 0);
	assert_int_equal(controller.admin_strays, device->admin_count);
	/* often enough for the rings to wrap */
	struct nvme_sqe sqe = {.opcode = NVME_ADMIN_IDENTIFY, .cdw10 = NVME_CNS_CONTROLLER};
	struct nvme_identify_controller data;
	for (unsigned i = 0; i < 3 * PCIE_ADMIN_ENTRIES; i++) {
		memset(&data, 0, sizeof(data));
		assert_int_equal(
			pcie_controller_admin(&controller.base, &sqe, &data, sizeof(data), NULL),
			0);
		assert_memory_equal(data.model, "a device", 8);
	}
	assert_int_equal(pcie_controller_admin(&controller.base, &sqe, &data, 4097, NULL), -EINVAL);
	pcie_controller_stop(&controller);
	device_free(device);
}

/* A command that was given up may still write its buffer: no further one until a reset. */
static void admin_after_a_lost_command(void **state)
{
	struct device *device = begin(1);
	assert_int_equal(start(device), 0);
	struct nvme_sqe sqe = {.opcode = NVME_ADMIN_IDENTIFY, .cdw10 = NVME_CNS_CONTROLLER};
	uint8_t data[NVME_IDENTIFY_BYTES];
	device->silent = true;
	assert_int_equal(pcie_controller_admin(&controller.base, &sqe, data, sizeof(data), NULL),
			 -ETIMEDOUT);
	device->silent = false;
	assert_int_equal(pcie_controller_admin(&controller.base, &sqe, data, sizeof(data), NULL),
			 -EIO);
	assert_int_equal(pcie_controller_restart(&controller), 0);
	assert_int_equal(pcie_controller_admin(&controller.base, &sqe, data, sizeof(data), NULL),
			 0);
	assert_int_equal(controller.admin_strays, 0);
	pcie_controller_stop(&controller);
	device_free(device);
}

/* One command that was given up is no reason to take the device its time to shut down. */
static void shutdown_after_a_lost_command(void **state)
{
	struct device *device = begin(1);
	assert_int_equal(start(device), 0);
	struct nvme_sqe sqe = {.opcode = NVME_ADMIN_IDENTIFY, .cdw10 = NVME_CNS_CONTROLLER};
	uint8_t data[NVME_IDENTIFY_BYTES];
	device->silent = true;
	assert_int_equal(pcie_controller_admin(&controller.base, &sqe, data, sizeof(data), NULL),
			 -ETIMEDOUT);
	device->silent = false;
	unsigned count = device->admin_count;
	uint64_t begun = device->now_ms;
	pcie_controller_stop(&controller);
	assert_true(device->shut_down);
	assert_in_range(device->now_ms - begun, 1, 100);
	/* what was silent is answered late; nothing else is sent */
	assert_in_range(device->admin_count, count, count + 1);
	device_free(device);
}

/* Nor is an admin queue that is found to be dead only when the queues are to be deleted. */
static void shutdown_without_admin_commands(void **state)
{
	struct device *device = begin(2);
	assert_int_equal(start(device), 0);
	device->silent = true;
	uint64_t begun = device->now_ms;
	pcie_controller_stop(&controller);
	assert_true(device->shut_down);
	assert_in_range(device->now_ms - begun, 1, NVME_TIMEOUT_ADMIN_US / 1000 + 100);
	device_free(device);
}

/* One that reports a fatal error, or is gone, is not waited for. */
static void no_shutdown_where_it_is_in_vain(void **state)
{
	for (unsigned gone = 0; gone < 2; gone++) {
		struct device *device = begin(1);
		assert_int_equal(start(device), 0);
		if (gone)
			device_vanish(device);
		else
			device->bar[NVME_REG_CSTS] |= NVME_CSTS_CFS;
		uint64_t begun = device->now_ms;
		pcie_controller_stop(&controller);
		assert_false(device->shut_down);
		assert_true(device->dma_stopped);
		assert_in_range(device->now_ms - begun, 0, 100);
		device_free(device);
	}
}

/* It is waited for as long as the device wants (RTD3E), within bounds. */
static void shutdown_is_not_confirmed(void **state)
{
	static const struct {
		uint32_t rtd3e;
		uint64_t ms;
	} cases[] = {
		{0, PCIE_SHUTDOWN_DEFAULT_MS},	      {1, PCIE_SHUTDOWN_MIN_MS},
		{4000000, PCIE_SHUTDOWN_MIN_MS},      {7000001, 7001},
		{25000000, 25000},		      {60000000, PCIE_SHUTDOWN_MAX_MS},
		{UINT32_MAX, PCIE_SHUTDOWN_MAX_MS},
	};
	for (unsigned i = 0; i < COUNT_OF(cases); i++) {
		struct device *device = begin(1);
		device->rtd3e = cases[i].rtd3e;
		assert_int_equal(start(device), 0);
		device->no_shutdown = true;
		uint64_t begun = device->now_ms;
		pcie_controller_stop(&controller);
		assert_in_range(device->now_ms - begun, cases[i].ms, cases[i].ms + 100);
		assert_true(device->dma_stopped);
		device_free(device);
	}
}

/* Success is told by the code alone: a device that has more to tell has done what it was asked to. */
static void success_with_more_to_tell(void **state)
{
	struct device *device = begin(2);
	device->shadows = device->events_offered = true;
	for (unsigned i = 0; i < COUNT_OF(device->admin_status); i++)
		device->admin_status[i] = NVME_STATUS_MORE;
	assert_int_equal(start(device), 0);
	device_step(device);
	assert_true(controller.shadows);
	assert_true(device->event_asked);
	assert_int_equal(pcie_controller_add_namespaces(&controller, why), 0);
	assert_int_equal(seen.namespaces, 1);
	struct nvme_sqe sqe = {.opcode = NVME_ADMIN_IDENTIFY, .cdw10 = NVME_CNS_CONTROLLER};
	uint8_t data[NVME_IDENTIFY_BYTES];
	assert_int_equal(pcie_controller_admin(&controller.base, &sqe, data, sizeof(data), NULL),
			 0);
	pcie_controller_stop(&controller);
	device_free(device);
}

static void transfer_size(void **state)
{
	static const struct {
		uint8_t mdts;
		uint32_t bytes;
	} cases[] = {{0, 1 << 20}, {1, 8192},	  {5, 128 << 10}, {8, 1 << 20},
		     {9, 1 << 20}, {31, 1 << 20}, {255, 1 << 20}};
	for (unsigned i = 0; i < COUNT_OF(cases); i++) {
		struct device *device = begin(1);
		device->mdts = cases[i].mdts;
		assert_int_equal(start(device), 0);
		assert_int_equal(pcie_controller_add_namespaces(&controller, why), 0);
		assert_int_equal(seen.transfer_bytes_max, cases[i].bytes);
		pcie_controller_stop(&controller);
		device_free(device);
	}
}

static void finds_namespaces(void **state)
{
	static const uint32_t counts[] = {1, 2, 1023, 1024, 1025, 2048, 2050};
	for (unsigned i = 0; i < COUNT_OF(counts); i++) {
		struct device *device = begin(1);
		device->namespaces = counts[i];
		assert_int_equal(start(device), 0);
		assert_int_equal(pcie_controller_add_namespaces(&controller, why), 0);
		assert_int_equal(seen.namespaces, counts[i]);
		assert_int_equal(seen.nsids[counts[i] - 1], counts[i]);
		assert_int_equal(seen.size, 1000 + counts[i]);
		pcie_controller_stop(&controller);
		device_free(device);
	}
}

/* NVMe 1.0: ids up to NN, of which some are not in use. */
static void finds_namespaces_without_a_list(void **state)
{
	struct device *device = begin(1);
	device->no_list = true;
	device->namespaces = 5;
	assert_int_equal(start(device), 0);
	assert_int_equal(pcie_controller_add_namespaces(&controller, why), 0);
	assert_int_equal(seen.namespaces, 3);
	assert_int_equal(seen.nsids[2], 5);
	pcie_controller_stop(&controller);
	device_free(device);
}

static void no_namespace_to_serve(void **state)
{
	struct device *device = begin(1);
	device->namespaces = 0;
	assert_int_equal(start(device), 0);
	assert_int_equal(pcie_controller_add_namespaces(&controller, why), -ENODEV);
	assert_non_null(strstr(why, "no namespace"));
	pcie_controller_stop(&controller);
	device_free(device);
	device = begin(1);
	assert_int_equal(start(device), 0);
	seen.add_error = -ENOTSUP;
	assert_int_equal(pcie_controller_add_namespaces(&controller, why), -ENOTSUP);
	assert_string_equal(why, "a sentence");
	pcie_controller_stop(&controller);
	device_free(device);
}

/* One that says it has shadow doorbells but takes none is used without. */
static void refuses_shadow_doorbells(void **state)
{
	struct device *device = begin(1);
	device->shadows = true;
	device->admin_status[NVME_ADMIN_DOORBELL_BUFFER] = 2;
	assert_int_equal(start(device), 0);
	assert_false(controller.shadows);
	assert_null(controller.queues[0]->ring.sq_bell.shadow);
	pcie_controller_stop(&controller);
	device_free(device);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(starts_and_stops),
		cmocka_unit_test(takes_an_enabled_one_over),
		cmocka_unit_test(waits_for_ready_before_it_disables),
		cmocka_unit_test(small_queues),
		cmocka_unit_test(capabilities_it_can_not_do_with),
		cmocka_unit_test(gone_from_the_start),
		cmocka_unit_test(never_becomes_ready),
		cmocka_unit_test(timeout_is_the_devices),
		cmocka_unit_test(never_becomes_disabled),
		cmocka_unit_test(fatal_status),
		cmocka_unit_test(admin_commands_that_fail),
		cmocka_unit_test(admin_queue_that_never_answers),
		cmocka_unit_test(too_few_queues),
		cmocka_unit_test(wrong_admin_completions),
		cmocka_unit_test(admin_after_a_lost_command),
		cmocka_unit_test(shutdown_after_a_lost_command),
		cmocka_unit_test(shutdown_without_admin_commands),
		cmocka_unit_test(no_shutdown_where_it_is_in_vain),
		cmocka_unit_test(shutdown_is_not_confirmed),
		cmocka_unit_test(success_with_more_to_tell),
		cmocka_unit_test(transfer_size),
		cmocka_unit_test(finds_namespaces),
		cmocka_unit_test(finds_namespaces_without_a_list),
		cmocka_unit_test(no_namespace_to_serve),
		cmocka_unit_test(refuses_shadow_doorbells),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
