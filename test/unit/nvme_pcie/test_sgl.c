/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Tests of scatter gather lists: payloads of every shape, described by the driver and walked by the
 * device, which fails at anything that the specification does not allow. And when there are none.
 */
#include <stdlib.h>
#include <string.h>

#include "test/unit/nvme_pcie/support.h"

enum { PAGE = 4096, BLOCK = DEVICE_BLOCK_BYTES, AT = 5 * BLOCK, COPY_AT = 2 << 20 };

static struct world world;
static uint8_t *buffer;

static void start(uint32_t sgls, bool wanted)
{
	struct device *device = device_new(1);
	device->sgls = sgls;
	device->options.sgl = wanted;
	world_start_on(&world, device);
	buffer = buffers_get(&reactor_self->buffers, BUFFER_MAX_BYTES);
	assert_non_null(buffer);
	for (size_t i = 0; i < COPY_AT; i++)
		device->disk[i] = (uint8_t)(i * 31 + i / 253);
}

static void stop(void)
{
	buffers_put(&reactor_self->buffers, buffer);
	world_stop(&world);
}

static void run(enum nvme_opcode opcode, uint64_t block, const struct iovec *iov, unsigned iovcnt)
{
	struct request request = {0};
	assert_int_equal(request_issue(&world, &request, opcode, block, iov, iovcnt), 0);
	fake_pass();
	assert_int_equal(device_fetch(world.device), 1);
	device_end(world.device, 0, 0);
	fake_pass();
	assert_done(&request, 0);
}

/* What a payload was described by. */
struct shape {
	unsigned segments; /* of an SGL; 0: PRPs */
	bool bounced;
};

static const struct shape by_prps = {0}, is_copied = {.bounced = true};

static struct shape by_sgl(unsigned segments)
{
	return (struct shape){.segments = segments};
}

/* Reads into the segments, and writes what is there elsewhere. */
static void there_and_back(const struct iovec *iov, unsigned iovcnt, struct shape shape)
{
	struct device *device = world.device;
	uint64_t bounces = world.queue->stats.bounces;
	unsigned sgls = device->sgl_count;
	size_t at = 0;
	for (unsigned i = 0; i < iovcnt; i++)
		memset(iov[i].iov_base, 0, iov[i].iov_len);
	run(NVME_READ, AT / BLOCK, iov, iovcnt);
	for (unsigned i = 0; i < iovcnt; i++) {
		assert_memory_equal(iov[i].iov_base, device->disk + AT + at, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	memset(device->disk + COPY_AT, 0, (1 << 20) + BLOCK);
	run(NVME_WRITE, COPY_AT / BLOCK, iov, iovcnt);
	assert_memory_equal(device->disk + COPY_AT, device->disk + AT, at);
	assert_int_equal(device->disk[COPY_AT + at], 0);
	assert_int_equal(device->sgl_count - sgls, shape.segments ? 2 : 0);
	if (shape.segments)
		assert_int_equal(device->sgl_segments, shape.segments);
	assert_int_equal(world.queue->stats.bounces - bounces, shape.bounced ? 2 : 0);
}

/* A page or two need no list; more are one descriptor, wherever they begin. */
static void one_segment(void **state)
{
	static const unsigned offsets[] = {0, 1, 4, 511, 512, 2049, 3584, 4092, 4095};
	start(NVME_SGLS_ANY, true);
	for (unsigned i = 0; i < COUNT_OF(offsets); i++) {
		for (unsigned blocks = 1; blocks <= 64; blocks++) {
			struct iovec iov = {buffer + offsets[i], blocks * BLOCK};
			bool small = iov.iov_len <= PAGE && !(offsets[i] & 3);
			there_and_back(&iov, 1, small ? by_prps : by_sgl(1));
		}
	}
	there_and_back(&(struct iovec){buffer, BUFFER_MAX_BYTES}, 1, by_sgl(1));
	stop();
}

/* Anything goes that has whole blocks in all; what lies side by side is one. */
static void several_segments(void **state)
{
	start(NVME_SGLS_ANY, true);
	struct iovec odd[] = {{buffer + 8192, 511}, {buffer + 1, 1}, {buffer + 20000, 1024}};
	there_and_back(odd, 3, by_sgl(3));
	struct iovec side_by_side[] = {{buffer + 100, 412}, {buffer + 512, 100}, {buffer + 9999, 512}};
	there_and_back(side_by_side, 3, by_sgl(2));
	there_and_back(side_by_side, 2, by_sgl(1));
	/* the other way round, they are two */
	struct iovec backwards[] = {{buffer + 512, 100}, {buffer + 100, 412}};
	there_and_back(backwards, 2, by_sgl(2));
	stop();
}

/* As many segments as a request can have; the largest payload in pieces; all of a queue's lists. */
static void edges_of_the_list(void **state)
{
	struct iovec many[BDEV_IO_MAX_IOVS];
	start(NVME_SGLS_ANY, true);
	for (unsigned i = 0; i < BDEV_IO_MAX_IOVS; i++)
		many[i] = (struct iovec){buffer + 3 + i * 40000, 33 * BLOCK};
	for (unsigned count = 2; count <= BDEV_IO_MAX_IOVS; count++)
		there_and_back(many, count, by_sgl(count));
	for (unsigned i = 0; i < BDEV_IO_MAX_IOVS; i++)
		many[i] = (struct iovec){buffer + (BDEV_IO_MAX_IOVS - 1 - i) * (64 << 10), 64 << 10};
	there_and_back(many, BDEV_IO_MAX_IOVS, by_sgl(BDEV_IO_MAX_IOVS));
	stop();
}

/* Every command has a list of its own: all of them at once, ended in another order. */
static void all_lists_at_once(void **state)
{
	static struct request requests[PCIE_QUEUE_ENTRIES - 1];
	start(NVME_SGLS_ANY, true);
	unsigned depth = world.queue->base.depth;
	assert_int_equal(depth, COUNT_OF(requests));
	memset(buffer, 0, depth * 1024);
	for (unsigned i = 0; i < depth; i++) {
		struct iovec iov[] = {{buffer + i * 1024 + 600, 424}, {buffer + i * 1024, 600}};
		requests[i].again = false;
		assert_int_equal(request_issue(&world, &requests[i], NVME_READ, 2 * i, iov, 2), 0);
	}
	fake_pass();
	assert_int_equal(device_fetch(world.device), depth);
	while (world.device->pending_count)
		device_end(world.device, world.device->pending_count / 2, 0);
	fake_settle();
	for (unsigned i = 0; i < depth; i++) {
		const uint8_t *disk = world.device->disk + i * 1024;
		assert_done(&requests[i], 0);
		assert_memory_equal(buffer + i * 1024 + 600, disk, 424);
		assert_memory_equal(buffer + i * 1024, disk + 424, 600);
	}
	stop();
}

/* A device that wants words: what has none is copied, by PRPs as ever; so is foreign memory. */
static void what_is_copied(void **state)
{
	static uint8_t foreign[PAGE];
	start(NVME_SGLS_ALIGNED, true);
	there_and_back(&(struct iovec){buffer + 4, 8192}, 1, by_sgl(1));
	there_and_back(&(struct iovec){buffer + 2, 8192}, 1, is_copied);
	struct iovec words[] = {{buffer + 40000, 20}, {buffer + 4, 8172}};
	there_and_back(words, 2, by_sgl(2));
	struct iovec bytes[] = {{buffer + 400, 21}, {buffer + 8192, 8171}};
	there_and_back(bytes, 2, is_copied);
	struct iovec half[] = {{buffer, PAGE}, {foreign, PAGE}};
	there_and_back(half, 2, is_copied);
	stop();
}

/* The list survives a reset, as PRPs do. */
static void over_a_reset(void **state)
{
	struct request request = {0};
	start(NVME_SGLS_ANY, true);
	struct iovec iov[] = {{buffer + 1, 1023}, {buffer + 5000, 1}};
	assert_int_equal(request_issue(&world, &request, NVME_READ, 7, iov, 2), 0);
	fake_pass();
	assert_int_equal(device_fetch(world.device), 1);
	assert_int_equal(pcie_controller_reset(&world.controller.base, NULL, NULL), 0);
	world_settle(&world);
	assert_int_equal(device_fetch(world.device), 1);
	device_end(world.device, 0, 0);
	fake_settle();
	assert_done(&request, 0);
	assert_memory_equal(buffer + 1, world.device->disk + 7 * BLOCK, 1023);
	assert_int_equal(buffer[5000], world.device->disk[7 * BLOCK + 1023]);
	stop();
}

/* Without them, or without wanting them. */
static void without(void **state)
{
	static const struct {
		uint32_t sgls;
		bool wanted;
	} cases[] = {{0, true}, {3, true}, {NVME_SGLS_ANY, false}};
	for (unsigned i = 0; i < COUNT_OF(cases); i++) {
		start(cases[i].sgls, cases[i].wanted);
		assert_false(world.queue->base.sgl);
		there_and_back(&(struct iovec){buffer + 512, 64 << 10}, 1, by_prps);
		struct iovec iov[] = {{buffer + 512, 512}, {buffer + 8192, 512}};
		there_and_back(iov, 2, is_copied);
		stop();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_segment),
		cmocka_unit_test(several_segments),
		cmocka_unit_test(edges_of_the_list),
		cmocka_unit_test(all_lists_at_once),
		cmocka_unit_test(what_is_copied),
		cmocka_unit_test(over_a_reset),
		cmocka_unit_test(without),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
