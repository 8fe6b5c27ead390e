/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Tests of PRPs: payloads of every length and place, described by the driver and walked by the
 * device, which fails at anything that the specification does not allow.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "test/unit/nvme_pcie/support.h"

enum { PAGE = 4096, BLOCK = DEVICE_BLOCK_BYTES };

static uint8_t pattern(size_t at)
{
	return (uint8_t)(at * 31 + at / 253);
}

/* Reads into the segments what the disk has from `block` on, and writes it back elsewhere. */
static void there_and_back(struct world *world, const struct iovec *iov, unsigned iovcnt,
			   bool bounced)
{
	struct request request = {0};
	struct device *device = world->device;
	size_t bytes = 0, at = 0;
	uint64_t bounces = world->queue->stats.bounces;
	for (unsigned i = 0; i < iovcnt; i++) {
		memset(iov[i].iov_base, 0, iov[i].iov_len);
		bytes += iov[i].iov_len;
	}
	assert_int_equal(bytes % BLOCK, 0);
	assert_int_equal(request_issue(world, &request, NVME_READ, 5, iov, iovcnt), 0);
	fake_pass();
	assert_int_equal(device_fetch(device), 1);
	device_end(device, 0, 0);
	fake_pass();
	assert_done(&request, 0);
	for (unsigned i = 0; i < iovcnt; i++) {
		assert_memory_equal(iov[i].iov_base, device->disk + 5 * BLOCK + at, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	memset(device->disk + (2 << 20), 0, (1 << 20) + BLOCK);
	assert_int_equal(request_issue(world, &request, NVME_WRITE, (2 << 20) / BLOCK, iov, iovcnt),
			 0);
	fake_pass();
	device_fetch(device);
	device_end(device, 0, 0);
	fake_pass();
	assert_done(&request, 0);
	assert_memory_equal(device->disk + (2 << 20), device->disk + 5 * BLOCK, bytes);
	assert_int_equal(device->disk[(2 << 20) + bytes], 0);
	assert_int_equal(world->queue->stats.bounces - bounces, bounced ? 2 : 0);
}

static int setup(void **state)
{
	struct world *world = calloc(1, sizeof(*world));
	world_start(world);
	for (size_t i = 0; i < 2 << 20; i++)
		world->device->disk[i] = pattern(i);
	*state = world;
	return 0;
}

static int teardown(void **state)
{
	world_stop(*state);
	free(*state);
	return 0;
}

/* 1 to 64 blocks, from every block and some odd places of the first page. */
static void one_segment(void **state)
{
	static const unsigned offsets[] = {0,	 4,    512,  1024, 1536, 2048,
					   2052, 2560, 3072, 3584, 3588, 4092};
	uint8_t *buffer = buffers_get(&reactor_self->buffers, 64 << 10);
	for (unsigned i = 0; i < COUNT_OF(offsets); i++) {
		for (unsigned blocks = 1; blocks <= 64; blocks++) {
			struct iovec iov = {buffer + offsets[i], blocks * BLOCK};
			there_and_back(*state, &iov, 1, false);
		}
	}
	buffers_put(&reactor_self->buffers, buffer);
}

/* Up to the largest payload, around the multiples of a page, in the two worst places. */
static void large_segments(void **state)
{
	uint8_t *buffer = buffers_get(&reactor_self->buffers, BUFFER_MAX_BYTES);
	uint8_t *next = buffers_get(&reactor_self->buffers, BUFFER_MAX_BYTES);
	uint8_t *low = MIN_OF(buffer, next);
	assert_true(low + BUFFER_MAX_BYTES == MAX_OF(buffer, next));
	for (size_t bytes = 128 << 10; bytes <= PCIE_TRANSFER_MAX_BYTES; bytes *= 2) {
		for (int difference = -1; difference <= 1; difference++) {
			size_t length = bytes + difference * BLOCK;
			if (length > PCIE_TRANSFER_MAX_BYTES)
				continue;
			there_and_back(*state, &(struct iovec){low, length}, 1, false);
			there_and_back(*state, &(struct iovec){low + PAGE - 4, length}, 1, false);
		}
	}
	buffers_put(&reactor_self->buffers, buffer);
	buffers_put(&reactor_self->buffers, next);
}

/* Segments in different buffers: inner ends at page boundaries are described, others copied. */
static void several_segments(void **state)
{
	uint8_t *a = buffers_get(&reactor_self->buffers, 16384);
	uint8_t *b = buffers_get(&reactor_self->buffers, 16384);
	uint8_t *c = buffers_get(&reactor_self->buffers, 16384);
	struct iovec good[] = {{b + 512, PAGE - 512 + PAGE}, {a, 2 * PAGE}, {c, 1536}};
	there_and_back(*state, good, 3, false);
	there_and_back(*state, good, 2, false);
	struct iovec ends_early[] = {{a, 512}, {b, 512}};
	there_and_back(*state, ends_early, 2, true);
	struct iovec begins_late[] = {{a, PAGE}, {b + 512, 512}};
	there_and_back(*state, begins_late, 2, true);
	struct iovec odd[] = {{a + 1, 512}};
	there_and_back(*state, odd, 1, true);
	struct iovec odd_length[] = {{a, PAGE}, {b, 1}, {c, 511}};
	there_and_back(*state, odd_length, 3, true);
	static uint8_t foreign[PAGE];
	struct iovec half_foreign[] = {{a, PAGE}, {foreign, PAGE}};
	there_and_back(*state, half_foreign, 2, true);
	struct iovec many[BDEV_IO_MAX_IOVS];
	for (unsigned i = 0; i < BDEV_IO_MAX_IOVS; i++)
		many[i] = (struct iovec){(i % 2 ? a : b) + i / 4 * PAGE, PAGE};
	/* a page twice in one payload is nothing a client does, but each is described */
	struct iovec distinct[8];
	for (unsigned i = 0; i < 8; i++)
		distinct[i] = (struct iovec){(i % 2 ? a : b) + i / 2 * PAGE, PAGE};
	there_and_back(*state, distinct, 8, false);
	many[BDEV_IO_MAX_IOVS - 1] = (struct iovec){c, PAGE};
	struct request request = {0};
	assert_int_equal(request_issue(*state, &request, NVME_WRITE, 0, many, BDEV_IO_MAX_IOVS), 0);
	fake_pass();
	device_fetch(((struct world *)*state)->device);
	device_end(((struct world *)*state)->device, 0, 0);
	fake_pass();
	assert_done(&request, 0);
	buffers_put(&reactor_self->buffers, a);
	buffers_put(&reactor_self->buffers, b);
	buffers_put(&reactor_self->buffers, c);
}

/* A payload that runs out of the mapped memory at its end must not be described. */
static void edges_of_the_mapping(void **state)
{
	struct pcie_dma dma = {.count = 2};
	unsigned hint = 1;
	uint64_t iova;
	dma.ranges[0] = (struct pcie_dma_range){0x10000, 0x2000, 0x7000000};
	dma.ranges[1] = (struct pcie_dma_range){0x20000, 0x1000, 0x9000000};
	assert_true(pcie_dma_find(&dma, &hint, (void *)0x10000, 0x2000, &iova));
	assert_int_equal(iova, 0x7000000);
	assert_int_equal(hint, 0);
	assert_true(pcie_dma_find(&dma, &hint, (void *)0x11fff, 1, &iova));
	assert_int_equal(iova, 0x7001fff);
	assert_false(pcie_dma_find(&dma, &hint, (void *)0x10001, 0x2000, &iova));
	assert_false(pcie_dma_find(&dma, &hint, (void *)0x12000, 1, &iova));
	assert_false(pcie_dma_find(&dma, &hint, (void *)0xffff, 1, &iova));
	assert_false(pcie_dma_find(&dma, &hint, (void *)0x10000, SIZE_MAX, &iova));
	assert_true(pcie_dma_find(&dma, &hint, (void *)0x20800, 0x800, &iova));
	assert_int_equal(iova, 0x9000800);
	dma.count = 0;
	assert_false(pcie_dma_find(&dma, &hint, (void *)0x20800, 0x800, &iova));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_segment, setup, teardown),
		cmocka_unit_test_setup_teardown(large_segments, setup, teardown),
		cmocka_unit_test_setup_teardown(several_segments, setup, teardown),
		cmocka_unit_test(edges_of_the_mapping),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
