/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Tests of namespaces that change under a controller, on a transport that the test plays: sizes,
 * formats, namespaces that go and come, and who is told.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>

#include "bdev/nvme/controller.h"
#include "bdev/nvme/namespace.h"
#include "bdev/nvme/rescan.h"
#include "bdev/nvme/status.h"
#include "bdev/nvme/transports.h"
#include "fake/reactor.h"
#include "lib/base/log.h"

enum { IDS = 4, TRANSFER_BYTES = 128 << 10 };

/* The device: namespace i has blocks[i] blocks, 0: it is not there. */
static struct {
	uint64_t blocks[IDS + 1];
	uint8_t shift[IDS + 1], nguid[IDS + 1];
	int identify_status, list_status;
	unsigned identifies, lists;
	enum { LIST_TRUE, LIST_STUCK, LIST_ENDLESS, LIST_OF_ALL } list;
} device;

static struct nvme_identify_namespace identity_of(uint32_t nsid)
{
	struct nvme_identify_namespace identity = {0};
	if (nsid > IDS)
		return identity;
	identity.size = device.blocks[nsid];
	identity.lba_formats[0].data_shift = device.shift[nsid];
	identity.nguid[0] = device.nguid[nsid];
	return identity;
}

static int attach(const char *address, struct nvme_controller **made, char why[NVME_WHY_BYTES]);

static void detach(struct nvme_controller *controller)
{
	free(controller);
}

static int admin(struct nvme_controller *controller, const struct nvme_sqe *sqe, void *data,
		 uint32_t bytes, uint32_t *result)
{
	uint32_t *list = data;
	assert_int_equal(sqe->opcode, NVME_ADMIN_IDENTIFY);
	assert_int_equal(bytes, NVME_IDENTIFY_BYTES);
	if (sqe->cdw10 == NVME_CNS_ACTIVE_NAMESPACES) {
		device.lists++;
		for (uint32_t i = sqe->nsid + 1; i <= IDS; i++)
			if (device.blocks[i])
				*list++ = i;
		/* a device that lies: the same full list each time, one without end, and the id of all */
		for (uint32_t i = 0; device.list == LIST_STUCK && i < 1024; i++)
			((uint32_t *)data)[i] = i + 1;
		for (uint32_t i = 0; device.list == LIST_ENDLESS && i < 1024; i++)
			((uint32_t *)data)[i] = sqe->nsid + i + 1;
		if (device.list == LIST_OF_ALL)
			*list++ = NVME_ALL_NAMESPACES;
		return device.list_status;
	}
	struct nvme_identify_namespace identity = identity_of(sqe->nsid);
	device.identifies++;
	memcpy(data, &identity, sizeof(identity));
	return device.identify_status;
}

static struct nvme_transport transport = {
	.name = "test",
	.lists_namespaces = true,
	.attach = attach,
	.detach = detach,
	.admin = admin,
};

static int attach(const char *address, struct nvme_controller **made, char why[NVME_WHY_BYTES])
{
	struct nvme_controller *controller = calloc(1, sizeof(*controller));
	controller->transport = &transport;
	TAILQ_INIT(&controller->namespaces);
	for (uint32_t i = 1; i <= IDS; i++) {
		struct nvme_identify_namespace identity = identity_of(i);
		if (device.blocks[i])
			assert_int_equal(nvme_namespace_add(controller, i, &identity,
							    TRANSFER_BYTES, NULL, why),
					 0);
	}
	*made = controller;
	return 0;
}

const struct nvme_transport *nvme_transport_of(const char *address, char why[NVME_WHY_BYTES])
{
	return &transport;
}

const char *nvme_address_full(const char *address, char full[NVME_ADDRESS_BYTES])
{
	return address;
}

/* ---- A controller, and a holder of its first bdev ---- */

static struct nvme_controller *controller;
static unsigned resized, removals, answers;
static bool holds_on; /* the holder lets go of the bdev only when the test does */
static int answer_error;

static void event(struct bdev_claim *claim, enum bdev_event what)
{
	if (what == BDEV_EVENT_RESIZE) {
		resized++;
		return;
	}
	removals++;
	if (!holds_on)
		bdev_release(claim);
}

static struct bdev_claim claim = {.holder = "the test", .write = true, .event = event};

static void attached(void *arg, struct nvme_controller *made, int error, const char *why)
{
	assert_int_equal(error, 0);
	controller = made;
}

static void answered(void *arg, int error)
{
	answers++;
	answer_error = error;
}

/* Namespaces 1 and 2 of 1000 blocks; the first is held. */
static void start(void)
{
	const struct nvme_attach_options options = {.name = "Nvme0", .address = "somewhere"};
	fake_start(2);
	memset(&device, 0, sizeof(device));
	memset(device.shift, 9, sizeof(device.shift));
	device.blocks[1] = device.blocks[2] = 1000;
	resized = removals = answers = 0;
	holds_on = false;
	transport.lists_namespaces = true;
	nvme_attach(&options, attached, NULL);
	fake_settle();
	assert_non_null(bdev_find("Nvme0n1"));
	assert_int_equal(bdev_claim(bdev_find("Nvme0n1"), &claim), 0);
}

static void stop(void)
{
	if (nvme_controller_find("Nvme0"))
		nvme_detach(controller, answered, NULL);
	fake_settle();
	assert_null(bdev_first());
	assert_null(nvme_controller_first());
	fake_stop();
}

static void rescan(int error)
{
	answers = 0;
	nvme_rescan(controller, answered, NULL);
	fake_settle();
	assert_int_equal(answers, 1);
	assert_int_equal(answer_error, error);
}

static uint64_t size_of(const char *name)
{
	struct bdev *bdev = bdev_find(name);
	return bdev ? atomic_load(&bdev->size_bytes) : 0;
}

static void test_grows_and_shrinks(void **state)
{
	start();
	rescan(0);
	assert_int_equal(resized, 0);
	device.blocks[1] = 5000;
	rescan(0);
	assert_int_equal(size_of("Nvme0n1"), 5000 * 512);
	assert_int_equal(resized, 1);
	device.blocks[1] = 8;
	rescan(0);
	assert_int_equal(size_of("Nvme0n1"), 8 * 512);
	assert_int_equal(resized, 2);
	assert_int_equal(size_of("Nvme0n2"), 1000 * 512);
	stop();
}

/* Told by the device: the others are not asked about. */
static void test_told(void **state)
{
	const uint32_t second = 2;
	start();
	device.blocks[1] = 7;
	device.blocks[2] = 9;
	nvme_controller_changed(controller, &second, 1);
	fake_settle();
	assert_int_equal(device.identifies, 1);
	assert_int_equal(device.lists, 0);
	assert_int_equal(size_of("Nvme0n1"), 1000 * 512);
	assert_int_equal(size_of("Nvme0n2"), 9 * 512);
	/* what comes meanwhile is looked at behind it, once */
	nvme_controller_changed(controller, &second, 1);
	nvme_controller_changed(controller, &second, 1);
	nvme_rescan(controller, answered, NULL);
	nvme_rescan(controller, answered, NULL);
	fake_settle();
	assert_int_equal(answers, 2);
	assert_int_equal(device.identifies, 1 + 1 + 2);
	assert_int_equal(size_of("Nvme0n1"), 7 * 512);
	stop();
}

static void test_goes_and_comes(void **state)
{
	start();
	device.blocks[1] = 0;
	rescan(0);
	assert_null(bdev_find("Nvme0n1"));
	assert_int_equal(removals, 1);
	device.blocks[1] = 3;
	device.blocks[4] = 4;
	rescan(0);
	assert_int_equal(size_of("Nvme0n1"), 3 * 512);
	assert_int_equal(size_of("Nvme0n4"), 4 * 512);
	assert_int_equal(nvme_namespace_of(bdev_find("Nvme0n4"))->transfer_bytes_max,
			 TRANSFER_BYTES);
	/* one that is not served does no harm to the others */
	device.blocks[3] = 3;
	device.shift[3] = 3;
	device.blocks[1] = 30;
	rescan(-ENOTSUP);
	assert_null(bdev_find("Nvme0n3"));
	assert_int_equal(size_of("Nvme0n1"), 30 * 512);
	stop();
}

/* A way to one namespace only: nothing is listed, nothing comes. */
static void test_of_one_namespace(void **state)
{
	start();
	transport.lists_namespaces = false;
	device.blocks[1] = 31;
	device.blocks[3] = 3;
	rescan(0);
	assert_int_equal(device.lists, 0);
	assert_int_equal(size_of("Nvme0n1"), 31 * 512);
	assert_null(bdev_find("Nvme0n3"));
	stop();
}

/* What a bdev can not take on while it lives takes it away; what is there then is a new one. */
static void test_is_another(void **state)
{
	start();
	struct bdev *second = bdev_find("Nvme0n2");
	char uuid[sizeof(second->uuid)];
	memcpy(uuid, second->uuid, sizeof(uuid));
	device.shift[1] = 12;
	rescan(0);
	assert_int_equal(removals, 1);
	assert_int_equal(size_of("Nvme0n1"), 1000 * 4096);
	assert_string_equal(bdev_find("Nvme0n2")->uuid, uuid);
	device.nguid[2] = 1;
	rescan(0);
	assert_string_not_equal(bdev_find("Nvme0n2")->uuid, uuid);
	assert_int_equal(size_of("Nvme0n2"), 1000 * 512);
	stop();
}

/* The first one's bdev is removed, and its holder does not let go of it. */
static void begin_to_leave(void)
{
	const uint32_t first = 1;
	holds_on = true;
	device.blocks[1] = 0;
	nvme_controller_changed(controller, &first, 1);
	fake_settle();
	assert_int_equal(removals, 1);
	assert_true(bdev_find("Nvme0n1")->removing);
}

/* A namespace that is back before its old bdev has gone is looked at again when that has. */
static void test_back_while_it_leaves(void **state)
{
	const uint32_t first = 1;
	start();
	begin_to_leave();
	device.blocks[1] = 77;
	nvme_controller_changed(controller, &first, 1);
	fake_settle();
	assert_int_equal(size_of("Nvme0n1"), 1000 * 512);
	bdev_release(&claim);
	fake_settle();
	assert_int_equal(size_of("Nvme0n1"), 77 * 512);
	assert_false(bdev_find("Nvme0n1")->removing);
	/* once more, but it goes again before: nothing is left of it */
	holds_on = true;
	assert_int_equal(bdev_claim(bdev_find("Nvme0n1"), &claim), 0);
	removals = 0;
	begin_to_leave();
	device.blocks[1] = 78;
	rescan(0);
	device.blocks[1] = 0;
	rescan(0);
	bdev_release(&claim);
	fake_settle();
	assert_null(bdev_find("Nvme0n1"));
	assert_non_null(nvme_controller_find("Nvme0"));
	stop();
}

/* The only one is back: the controller does not go with the old bdev. */
static void test_last_is_back(void **state)
{
	start();
	device.blocks[2] = 0;
	rescan(0);
	begin_to_leave();
	device.blocks[1] = 77;
	rescan(0);
	bdev_release(&claim);
	fake_settle();
	assert_ptr_equal(nvme_controller_find("Nvme0"), controller);
	assert_int_equal(size_of("Nvme0n1"), 77 * 512);
	stop();
}

/* The old bdev goes while the device is being asked: the answer counts, whatever it is. */
static void last_leaves_while_asked(bool back)
{
	const uint32_t first = 1;
	start();
	device.blocks[2] = 0;
	rescan(0);
	begin_to_leave();
	device.blocks[1] = back ? 77 : 0;
	nvme_controller_changed(controller, &first, 1);
	bdev_release(&claim);
	fake_settle();
	assert_int_equal(size_of("Nvme0n1"), back ? 77 * 512 : 0);
	assert_int_equal(nvme_controller_find("Nvme0") != NULL, back);
	stop();
}

static void test_last_leaves_while_asked(void **state)
{
	last_leaves_while_asked(true);
	last_leaves_while_asked(false);
}

/* The last one's bdev has left, the device is asked whether it is back: then it is to be detached. */
static void test_detach_while_last_is_asked_for(void **state)
{
	start();
	device.blocks[2] = 0;
	rescan(0);
	begin_to_leave();
	device.blocks[1] = 77;
	rescan(0);
	bdev_release(&claim);
	answers = 0;
	while (!controller->last)
		assert_true(fake_pass());
	nvme_detach(controller, answered, NULL);
	fake_settle();
	assert_int_equal(answers, 1);
	assert_null(nvme_controller_first());
	stop();
}

static void test_errors(void **state)
{
	start();
	device.blocks[1] = 5;
	device.identify_status = NVME_SC_INTERNAL;
	rescan(-EIO);
	assert_int_equal(size_of("Nvme0n1"), 1000 * 512);
	device.identify_status = 0;
	device.list_status = NVME_SC_INVALID_FIELD;
	rescan(0);
	assert_int_equal(size_of("Nvme0n1"), 5 * 512);
	device.identify_status = NVME_SC_INVALID_NAMESPACE;
	rescan(0);
	assert_null(bdev_first());
	stop();
}

/* The last namespace takes the controller along; a rescan that is under way ends before. */
static void test_detach_meanwhile(void **state)
{
	start();
	nvme_rescan(controller, answered, NULL);
	nvme_rescan(controller, answered, NULL);
	nvme_detach(controller, answered, NULL);
	fake_settle();
	assert_int_equal(answers, 3);
	assert_null(nvme_controller_first());
	stop();
}

/* A device that lies about its namespaces is asked for a while, not for ever. */
static void test_lists_that_lie(void **state)
{
	start();
	device.list = LIST_STUCK;
	rescan(0);
	assert_int_equal(device.lists, 2);
	assert_int_equal(device.identifies, 1024);
	device.lists = device.identifies = 0;
	device.list = LIST_ENDLESS;
	rescan(0);
	assert_int_equal(device.lists, NVME_NAMESPACES_MAX / 1024);
	assert_int_equal(device.identifies, NVME_NAMESPACES_MAX);
	device.identifies = 0;
	device.list = LIST_OF_ALL;
	rescan(0);
	assert_int_equal(device.identifies, 2);
	assert_int_equal(size_of("Nvme0n2"), 512000);
	stop();
}

static uint32_t chance(uint32_t below)
{
	static uint64_t seed = 1;
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % below;
}

/* Garbage, often enough with numbers that are nearly right. */
static void invent(struct nvme_identify_namespace *identity)
{
	static const uint64_t sizes[] = {0, 1, 1000, INT64_MAX >> 9, (INT64_MAX >> 9) + 1,
					 1ull << 63, UINT64_MAX};
	for (size_t i = 0; i < sizeof(*identity); i++)
		((uint8_t *)identity)[i] = (uint8_t)chance(256);
	if (chance(2))
		identity->size = sizes[chance(sizeof(sizes) / sizeof(sizes[0]))];
	if (chance(4))
		identity->protection = 0;
	for (unsigned i = 0; i < 64; i++) {
		if (chance(4))
			identity->lba_formats[i].metadata_bytes = 0;
		if (chance(2))
			identity->lba_formats[i].data_shift = (uint8_t)chance(20);
	}
}

/* Whatever IDENTIFY tells: a sentence, or a geometry that can be served. */
static void test_any_geometry(void **state)
{
	static struct nvme_identify_controller of_controller;
	static struct nvme_identify_namespace identity;
	unsigned served = 0;
	for (unsigned i = 0; i < 20000; i++) {
		char why[NVME_WHY_BYTES] = "";
		struct nvme_namespace ns = {.nsid = 1};
		uint32_t most = chance(2) ? 0 : 1u << chance(32);
		invent(&identity);
		int error = nvme_namespace_describe(&ns, &of_controller, &identity, most, why);
		if (error) {
			assert_true(error == -EINVAL || error == -ENOTSUP);
			assert_true(why[0] && strlen(why) < sizeof(why));
			continue;
		}
		uint64_t size = atomic_load(&ns.bdev.size_bytes);
		served++;
		assert_true(size && size <= INT64_MAX && !(size % ns.bdev.block_size));
		assert_int_equal(size / ns.bdev.block_size, identity.size);
		assert_in_range(ns.bdev.block_size, 512, 65536);
		assert_int_equal(ns.bdev.block_size, 1u << ns.block_shift);
		assert_true(ns.transfer_bytes_max >= ns.bdev.block_size);
		assert_int_equal(ns.transfer_bytes_max % ns.bdev.block_size, 0);
		assert_true(!most || ns.transfer_bytes_max <= most);
		assert_true(!ns.bdev.uuid[0] || strlen(ns.bdev.uuid) == 36);
	}
	assert_in_range(served, 100, 19000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_grows_and_shrinks),
		cmocka_unit_test(test_told),
		cmocka_unit_test(test_goes_and_comes),
		cmocka_unit_test(test_of_one_namespace),
		cmocka_unit_test(test_is_another),
		cmocka_unit_test(test_back_while_it_leaves),
		cmocka_unit_test(test_last_is_back),
		cmocka_unit_test(test_last_leaves_while_asked),
		cmocka_unit_test(test_detach_while_last_is_asked_for),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_detach_meanwhile),
		cmocka_unit_test(test_lists_that_lie),
		cmocka_unit_test(test_any_geometry),
	};
	log_set_level(LOG_DISABLED);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
