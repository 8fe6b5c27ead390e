/* SPDX-License-Identifier: BSD-3-Clause */
/* Tests of what the device tells by itself: the request, its answer wherever it is found, the log
 * page, and the request anew. */
#include <errno.h>
#include <string.h>

#include "test/unit/nvme_pcie/support.h"

enum { NAMESPACES_CHANGED = NVME_LOG_CHANGED_NAMESPACES << 16 | 0 << 8 | 2, HEALTH = 2 << 16 | 1 };

static void start(struct world *world)
{
	struct device *device = device_new(1);
	device->events_offered = true;
	world_start_on(world, device);
	device_step(device);
}

/* The control thread looks, as it does now and then; a worker reads the page. */
static void look(struct world *world)
{
	pcie_controller_look(&world->controller);
	world_settle(world);
}

static void is_kept_outstanding(void **state)
{
	struct world world;
	start(&world);
	assert_int_equal(world.device->event_config, NVME_EVENTS_NAMESPACES);
	for (uint32_t round = 1; round <= 100; round++) {
		assert_true(world.device->event_asked);
		assert_int_equal(world.device->event_requests, round);
		world.device->changed[0] = round;
		world.device->changed[1] = 1000;
		look(&world); /* nothing yet */
		assert_int_equal(seen.changed, round - 1);
		device_tell(world.device, NAMESPACES_CHANGED);
		look(&world);
		assert_int_equal(seen.changed, round);
		assert_int_equal(seen.changed_count, 2);
		assert_int_equal(seen.changed_first, round);
		assert_int_equal(seen.changed_last, 1000);
	}
	assert_int_equal(world.controller.event.count, 100);
	assert_int_equal(world.controller.admin_strays, 0);
	world_stop(&world);
}

static void where_it_is_not_offered(void **state)
{
	struct world world;
	world_start(&world);
	device_step(world.device);
	assert_int_equal(world.device->event_requests, 0);
	look(&world);
	assert_int_equal(seen.changed, 0);
	world_stop(&world);
}

static void where_it_is_refused(void **state)
{
	struct world world;
	struct device *device = device_new(1);
	device->events_offered = true;
	world_start_on(&world, device);
	device_step(device);
	device->admin_status[NVME_ADMIN_GET_LOG_PAGE] = 2;
	device_tell(device, NAMESPACES_CHANGED);
	look(&world);
	/* without the list it may be any namespace */
	assert_int_equal(seen.changed, 1);
	assert_int_equal(seen.changed_count, 0);
	assert_true(device->event_asked);
	/* an answer with an error: the device does not want to be asked */
	device->event_asked = false;
	device_post(device, 0, PCIE_EVENT_CID, 0, 5, 0);
	look(&world);
	assert_int_equal(device->event_requests, 2);
	world_stop(&world);
}

/* A full list, one that is longer than the page, and one that somebody else has read. */
static void lists(void **state)
{
	struct world world;
	start(&world);
	for (uint32_t i = 0; i < 1024; i++)
		world.device->changed[i] = i + 1;
	device_tell(world.device, NAMESPACES_CHANGED);
	look(&world);
	assert_int_equal(seen.changed_count, 1024);
	assert_int_equal(seen.changed_last, 1024);
	world.device->changed[0] = UINT32_MAX;
	device_tell(world.device, NAMESPACES_CHANGED);
	look(&world);
	assert_int_equal(seen.changed, 2);
	assert_int_equal(seen.changed_count, 0);
	device_tell(world.device, NAMESPACES_CHANGED);
	look(&world);
	assert_int_equal(seen.changed, 2);
	device_tell(world.device, HEALTH);
	look(&world);
	assert_int_equal(seen.changed, 2);
	assert_int_equal(world.controller.event.count, 4);
	assert_true(world.device->event_asked);
	world_stop(&world);
}

/* Who waits for another admin command finds the answer before its own. */
static void among_other_completions(void **state)
{
	struct world world;
	struct nvme_sqe sqe = {.opcode = NVME_ADMIN_ABORT};
	start(&world);
	world.device->changed[0] = 7;
	device_tell(world.device, NAMESPACES_CHANGED);
	assert_int_equal(pcie_controller_admin(&world.controller.base, &sqe, NULL, 0, NULL), 0);
	assert_int_equal(seen.changed, 0);
	look(&world);
	assert_int_equal(seen.changed_first, 7);
	assert_int_equal(world.controller.admin_strays, 0);
	world_stop(&world);
}

/* The ids of admin commands go round: none is the event request's. */
static void ids_go_round(void **state)
{
	struct world world;
	struct nvme_sqe sqe = {.opcode = NVME_ADMIN_ABORT};
	start(&world);
	for (unsigned i = 0; i < 0x10010; i++)
		assert_int_equal(
			pcie_controller_admin(&world.controller.base, &sqe, NULL, 0, NULL), 0);
	device_tell(world.device, NAMESPACES_CHANGED);
	look(&world);
	assert_int_equal(world.controller.event.count, 1);
	world_stop(&world);
}

/* What was told and not yet read is lost with a reset: all are looked at, and it is asked anew. */
static void over_a_reset(void **state)
{
	struct world world;
	start(&world);
	device_tell(world.device, NAMESPACES_CHANGED);
	assert_int_equal(pcie_controller_reset(&world.controller.base, NULL, NULL), 0);
	world_settle(&world);
	assert_int_equal(world.controller.resets, 1);
	assert_int_equal(seen.changed, 1);
	assert_int_equal(seen.changed_count, 0);
	assert_true(world.device->event_asked);
	assert_int_equal(world.device->event_config, NVME_EVENTS_NAMESPACES);
	look(&world);
	assert_int_equal(seen.changed, 1);
	world_stop(&world);
}

/* A log page that never comes: the controller is reset, as for any admin command. */
static void page_never_comes(void **state)
{
	struct world world;
	start(&world);
	device_tell(world.device, NAMESPACES_CHANGED);
	world.device->silent = true;
	pcie_controller_look(&world.controller); /* waited for in vain */
	world.device->silent = false;
	world_settle(&world);
	assert_int_equal(world.controller.resets, 1);
	assert_true(world.device->event_asked);
	world_stop(&world);
}

static void device_goes(void **state)
{
	struct world world;
	start(&world);
	device_tell(world.device, NAMESPACES_CHANGED);
	device_vanish(world.device);
	look(&world);
	assert_int_equal(seen.gone, 1);
	assert_int_equal(seen.changed, 0);
	look(&world);
	assert_int_equal(seen.gone, 1);
	world_stop(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(is_kept_outstanding),
		cmocka_unit_test(where_it_is_not_offered),
		cmocka_unit_test(where_it_is_refused),
		cmocka_unit_test(lists),
		cmocka_unit_test(among_other_completions),
		cmocka_unit_test(ids_go_round),
		cmocka_unit_test(over_a_reset),
		cmocka_unit_test(page_never_comes),
		cmocka_unit_test(device_goes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
