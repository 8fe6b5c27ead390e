/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * read_cost WAY: what a READ of 4 KiB costs in a bdev, for callgrind, which counts the instructions
 * inside measured() only: 32 requests are submitted, and a reactor's passes end them. Ways: null,
 * pcie (NVMe from user space), pass (NVMe through the kernel, polled), file (a block device),
 * polled (a block device with queues to be polled). The device, or the kernel's side of the ring,
 * is played in plain memory outside measured(). Prints how many requests there were. Payload memory
 * is taken and given back as the server does it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/file/internal.h"
#include "bdev/nvme/namespace.h"
#include "bdev/nvme/pass.h"
#include "bdev/nvme/pass_internal.h"
#include "bdev/nvme/transports.h"
#include "bdev/null/null.h"
#include "fake/kernel_ring.h"
#include "fake/reactor.h"
#include "lib/base/log.h"
#include "nvme_pcie/device.h"

enum { DEPTH = 32, BATCHES = 500, READ_BYTES = 4096, DISK_BYTES = 1 << 20, SQ_ENTRIES = 64 };

struct uring_caps reactor_caps = {
	.sparse_files = true, .sparse_buffers = true, .fixed_buffers = true};

static struct bdev *bdev;
static struct bdev_channel *channel;
static struct {
	struct bdev_io io;
	struct iovec iov;
} requests[DEPTH];
static unsigned done_count;

/* What the device, or the kernel, does. */
static void (*play)(void);

/* ---- Measured ---- */

static void done(struct bdev_io *io)
{
	if (!bdev_io_is_lent(io))
		buffers_put(&reactor_self->buffers, io->iov->iov_base);
	else
		bdev_io_release(channel, io);
	done_count += !io->status;
}

static void submit(unsigned i, uint64_t offset)
{
	struct bdev_io *io = &requests[i].io;
	io->op = BDEV_READ;
	io->offset = offset;
	io->length = READ_BYTES;
	io->iov = &requests[i].iov;
	io->done = done;
	if (bdev->caps & BDEV_CAP_LEND) {
		io->flags = BDEV_LEND;
		io->iovcnt = 0;
	} else {
		io->flags = 0;
		io->iovcnt = 1;
		io->iov->iov_base = buffers_get(&reactor_self->buffers, READ_BYTES);
		io->iov->iov_len = READ_BYTES;
	}
	bdev_submit(channel, io);
}

/* A reactor's pass. The requests, if there are any, come in it. */
__attribute__((noinline)) static void measured(unsigned count)
{
	uring_reap(&reactor_self->uring, DEPTH);
	for (unsigned i = 0; i < count; i++)
		submit(i, (uint64_t)i * READ_BYTES);
	fake_pass();
	uring_submit(&reactor_self->uring);
}

/* ---- The ways ---- */

static void nothing(void)
{
}

static void opened(void *arg, int error)
{
	assert_int_equal(error, 0);
}

static void open_channel(void)
{
	bdev_open_channels(bdev, opened, NULL);
	fake_settle();
	channel = bdev_channel_here(bdev);
	assert_non_null(channel);
}

static void start_null(void)
{
	char why[256];
	const struct bdev_null_options options = {.size_bytes = DISK_BYTES};
	assert_int_equal(bdev_null_create(&options, &bdev, why, sizeof(why)), 0);
	play = nothing;
}

static void add_namespace(struct nvme_controller *base)
{
	struct nvme_identify_namespace identify = {.size = DISK_BYTES >> 9};
	struct nvme_namespace *ns;
	char why[NVME_WHY_BYTES];
	identify.lba_formats[0].data_shift = 9;
	TAILQ_INIT(&base->namespaces);
	base->identify.oncs = NVME_ONCS_DSM | NVME_ONCS_WRITE_ZEROES;
	assert_int_equal(nvme_namespace_add(base, 1, &identify, 0, &ns, why), 0);
	bdev = &ns->bdev;
	strcpy(bdev->name, "Nvme0n1");
	assert_int_equal(bdev_register(bdev), 0);
}

static struct device *device;
static struct pcie_controller controller;

static struct nvme_queue *pcie_queue_get(struct nvme_namespace *ns)
{
	pcie_queue_open(controller.queues[0]);
	return &controller.queues[0]->base;
}

static const struct nvme_transport pcie_transport = {
	.name = "PCIe",
	.queue_get = pcie_queue_get,
	.queue_put = pcie_queue_close,
	.issue = pcie_queue_issue,
	.abort = pcie_queue_abort,
};

static void play_device(void)
{
	device_fetch(device);
	device_end_all(device);
}

static void start_pcie(void)
{
	char why[NVME_WHY_BYTES];
	device_controller(device, &controller);
	controller.base.transport = &pcie_transport;
	if (pcie_controller_start(&controller, why))
		fail_msg("%s", why);
	add_namespace(&controller.base);
	play = play_device;
}

static void play_kernel(void)
{
	kernel_take();
	while (kernel_op_count) {
		bool command = kernel_sqe(0)->opcode == IORING_OP_URING_CMD;
		kernel_end(0, command ? 0 : READ_BYTES);
	}
}

static struct pass pass = {.fd = 1000, .claim_fd = -1, .polled = true, .fixed = true};

static void start_pass(void)
{
	pass.base.transport = &nvme_pass_transport;
	add_namespace(&pass.base);
	play = play_kernel;
}

/* A block device, as file_open() would leave it. */
static void make_file(uint32_t polled_bytes_max)
{
	static struct file_core cores[1] = {{.sync_fd = 1002}};
	static struct file file = {
		.bdev = {.type = &bdev_file_type,
			 .name = "File0",
			 .size_bytes = DISK_BYTES,
			 .block_size = 512,
			 .align_bytes = 512,
			 .mem_align_bytes = 512,
			 .caps = BDEV_CAP_WRITE | BDEV_CAP_FLUSH | BDEV_CAP_FUA | BDEV_CAP_EXTENTS,
			 .io_ctx_bytes = sizeof(struct file_io),
			 .numa_id = REGION_ANY_NODE},
		.fd = 1000,
		.direct_fd = 1001,
		.block_device = true,
		.whole_bytes = 1,
		.window_shift = FILE_WINDOW_MIN_SHIFT,
		.cores = cores,
		.direct_end = UINT64_MAX,
		.resize_limit = UINT64_MAX,
	};
	file.polled_bytes_max = polled_bytes_max;
	bdev = &file.bdev;
	assert_int_equal(bdev_register(bdev), 0);
	play = play_kernel;
}

static void start_file(void)
{
	make_file(0);
}

static void start_polled(void)
{
	make_file(FILE_POLLED_MAX_BYTES);
}

/* Nothing is attached by address. */
const struct nvme_transport *nvme_transport_of(const char *address, char why[NVME_WHY_BYTES])
{
	fail();
	return NULL;
}

const char *nvme_address_full(const char *address, char full[NVME_ADDRESS_BYTES])
{
	return address;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*start)(void);
	} ways[] = {{"null", start_null},
		    {"pcie", start_pcie},
		    {"pass", start_pass},
		    {"file", start_file},
		    {"polled", start_polled}};
	unsigned way = 0;
	while (way < COUNT_OF(ways) && (argc != 2 || strcmp(argv[1], ways[way].name)))
		way++;
	if (way == COUNT_OF(ways)) {
		fprintf(stderr, "usage: read_cost null|pcie|pass|file|polled\n");
		return 2;
	}
	log_set_level(LOG_DISABLED);
	device = device_new(1);
	assert_int_equal(uring_init(&reactor_self->uring, &reactor_caps, SQ_ENTRIES, SQ_ENTRIES),
			 0);
	ways[way].start();
	open_channel();
	for (unsigned i = 0; i < BATCHES; i++) {
		measured(DEPTH);
		play();
		measured(0);
	}
	assert_int_equal(done_count, DEPTH * BATCHES);
	printf("%u\n", done_count);
	return 0;
}
