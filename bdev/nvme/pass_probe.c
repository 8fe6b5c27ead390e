/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pass_probe: tries, on a ring that is made for it, what the cores will do: a read of the first
 * block, into a registered buffer and into a plain one. On a worker.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/nvme/pass_internal.h"

enum {
	PROBE_ENTRIES = 4,
	DEFAULT_KIB = 128, /* where sysfs does not tell */
	DEFAULT_SEGMENTS = 33,
	MANY_SEGMENTS = 1024,
};

/* The completion's result: 0, an NVMe status, or -errno. */
static int read_once(struct io_uring *ring, struct nvme_command *command, int fd, bool fixed)
{
	const struct pass_target target = {.fd = fd, .slot = -1, .fixed = fixed};
	const struct side_region region = {
		.base = (uintptr_t)command->iov[0].iov_base,
		.bytes = command->iov[0].iov_len,
	};
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	if (!sqe)
		return -EBUSY;
	pass_ring_prepare(sqe, command, &target, &region);
	int error = io_uring_submit_and_wait(ring, 1);
	if (error >= 0)
		error = io_uring_wait_cqe(ring, &cqe);
	if (error < 0)
		return error;
	int result = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return result;
}

/* Of queue/NAME of the disk in sysfs; `otherwise` where it does not tell. */
static uint64_t queue_limit(const struct pass *pass, const char *name, uint64_t otherwise)
{
	char path[160];
	unsigned long long value;
	snprintf(path, sizeof(path), "/sys/block/%s/queue/%s", pass->disk, name);
	FILE *file = pass->disk[0] ? fopen(path, "re") : NULL;
	if (!file)
		return otherwise;
	if (fscanf(file, "%llu", &value) != 1)
		value = otherwise;
	fclose(file);
	return value;
}

/*
 * What one command may move: the kernel refuses what has more pieces than the device takes, and
 * pages that are not huge ones may lie anywhere.
 */
static void find_transfer_max(struct pass *pass)
{
	unsigned shift = pass->base.identify.mdts;
	uint64_t most = queue_limit(pass, "max_hw_sectors_kb", DEFAULT_KIB) << 10;
	uint64_t segments = queue_limit(pass, "max_segments", DEFAULT_SEGMENTS);
	uint64_t pieces = BUFFER_MIN_BYTES;
	bool huge = true;
	if (shift && shift < 20)
		most = MIN_OF(most, (uint64_t)NVME_PAGE_BYTES << shift);
	for (unsigned i = 0; i < reactor_count; i++)
		huge = huge && reactors[i]->buffers.region.hugetlb;
	if (!huge && segments > 1 && most > (segments - 1) * NVME_PAGE_BYTES) {
		/* a power of two cuts large requests evenly */
		while (pieces * 2 <= (segments - 1) * NVME_PAGE_BYTES)
			pieces *= 2;
		most = pieces;
	}
	pass->transfer_bytes_max = (uint32_t)MIN_OF(most, (uint64_t)BDEV_IO_MAX_BYTES);
}

static int probe_commands(struct pass *pass, uint32_t nsid, void *memory, size_t memory_bytes,
			  uint32_t block_bytes)
{
	struct nvme_command command = {
		.sqe = {.opcode = NVME_READ, .nsid = nsid},
		.iov = {{memory, block_bytes}},
		.iovcnt = 1,
		.bytes = block_bytes,
	};
	struct iovec buffer = {memory, memory_bytes};
	struct io_uring ring;
	int error =
		io_uring_queue_init(PROBE_ENTRIES, &ring, IORING_SETUP_SQE128 | IORING_SETUP_CQE32);
	if (error)
		return error;
	/* a status of the device's is as good an answer as data: the command has passed */
	int result = read_once(&ring, &command, pass->fd, false);
	error = result < 0 ? result : 0;
	if (!error && !io_uring_register_buffers(&ring, &buffer, 1))
		pass->fixed = read_once(&ring, &command, pass->fd, true) == result;
	io_uring_queue_exit(&ring);
	return error;
}

int pass_probe(struct pass *pass, uint32_t nsid, uint32_t block_bytes)
{
	/*
	 * More pages than a command may have pieces: Linux 6.1 refuses a command into such a
	 * registered buffer, however little of it is meant.
	 */
	uint64_t segments = queue_limit(pass, "max_segments", DEFAULT_SEGMENTS);
	size_t bytes =
		BDEV_MAX_ALIGN_BYTES + MIN_OF(segments, (uint64_t)MANY_SEGMENTS) * NVME_PAGE_BYTES;
	uint8_t *memory = aligned_alloc(NVME_PAGE_BYTES, bytes);
	if (!memory)
		return -ENOMEM;
	int error = probe_commands(pass, nsid, memory, bytes, block_bytes);
	free(memory);
	pass->polled = queue_limit(pass, "io_poll", 0) != 0;
	find_transfer_max(pass);
	return error;
}
