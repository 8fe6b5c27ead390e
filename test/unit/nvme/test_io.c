/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The half of NVMe that all transports share, on a transport that the test plays: how requests are
 * cut, what they wait for, how they end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <errno.h>

#include "bdev/nvme/controller.h"
#include "bdev/nvme/io.h"
#include "bdev/nvme/namespace.h"
#include "fake/reactor.h"
#include "lib/base/log.h"

enum { DEPTH = 4, MDTS_BYTES = 64 << 10, ISSUED_MAX = 4096, DISK_BYTES = 1 << 30 };

/* ---- A transport ---- */

static struct {
	struct nvme_queue queue;
	struct nvme_command commands[DEPTH];
	struct nvme_command *flying[DEPTH];
	struct nvme_sqe seen[ISSUED_MAX];
	uint32_t bytes[ISSUED_MAX];
	unsigned count, flying_count, aborts;
	bool gone;
} device;

static struct nvme_queue *queue_get(struct nvme_namespace *ns)
{
	return &device.queue;
}

static void queue_put(struct nvme_queue *queue)
{
}

/* What a device could not do with the payload fails the test. */
static void check_payload(const struct nvme_command *command)
{
	uint32_t bytes = 0;
	for (unsigned i = 0; i < command->iovcnt; i++) {
		uintptr_t begin = (uintptr_t)command->iov[i].iov_base;
		if (i && !command->queue->sgl)
			assert_int_equal(begin % NVME_PAGE_BYTES, 0);
		if (i + 1u < command->iovcnt && !command->queue->sgl)
			assert_int_equal((begin + command->iov[i].iov_len) % NVME_PAGE_BYTES, 0);
		bytes += command->iov[i].iov_len;
	}
	assert_int_equal(bytes, command->bytes);
}

static int issue(struct nvme_queue *queue, struct nvme_command *command)
{
	if (device.gone)
		return -ENODEV;
	check_payload(command);
	assert_true(device.count < ISSUED_MAX && device.flying_count < DEPTH);
	device.bytes[device.count] = command->bytes;
	device.seen[device.count++] = command->sqe;
	device.flying[device.flying_count++] = command;
	return 0;
}

static void transport_abort(struct nvme_queue *queue, struct nvme_command *command)
{
	device.aborts++;
}

static const struct nvme_transport transport = {
	.name = "test",
	.queue_get = queue_get,
	.queue_put = queue_put,
	.issue = issue,
	.abort = transport_abort,
};

/* The bdev is never registered here: nothing leaves. */
void nvme_controller_leave(struct nvme_namespace *ns)
{
}

static unsigned doubts; /* calls of nvme_controller_changed() */

void nvme_controller_changed(struct nvme_controller *changed, const uint32_t *nsids, unsigned count)
{
	assert_int_equal(count, 1);
	assert_int_equal(nsids[0], 1);
	doubts++;
}

/* Ends the command that has been in flight for the longest time. */
static void end_one(int status)
{
	assert_true(device.flying_count > 0);
	struct nvme_command *command = device.flying[0];
	memmove(device.flying, device.flying + 1, --device.flying_count * sizeof(command));
	command->done(command, status, 0);
}

static void end_all(int status)
{
	while (device.flying_count)
		end_one(status);
}

/* ---- A namespace ---- */

static struct nvme_controller controller;
static struct nvme_namespace *ns;
static struct bdev_channel *ch;
static uint8_t *memory;

static struct nvme_identify_namespace identity_of(uint8_t shift)
{
	struct nvme_identify_namespace identity = {
		.size = DISK_BYTES >> shift,
		.deallocate = 1 | 1 << 3,
	};
	identity.lba_formats[0].data_shift = shift;
	return identity;
}

static void start(uint8_t shift, uint16_t oncs)
{
	char why[NVME_WHY_BYTES];
	struct nvme_identify_namespace identity = identity_of(shift);
	fake_start(1);
	memset(&device, 0, sizeof(device));
	device.queue = (struct nvme_queue){
		.transport = &transport,
		.reactor = reactor_self,
		.commands = device.commands,
		.depth = DEPTH,
	};
	TAILQ_INIT(&device.queue.waiting);
	for (unsigned i = 0; i < DEPTH; i++) {
		device.commands[i].index = (uint16_t)i;
		device.commands[i].queue = &device.queue;
		device.commands[i].next_free = device.queue.free;
		device.queue.free = &device.commands[i];
	}
	memset(&controller, 0, sizeof(controller));
	controller.transport = &transport;
	controller.identify.oncs = oncs;
	controller.identify.vwc = 1;
	TAILQ_INIT(&controller.namespaces);
	assert_int_equal(nvme_namespace_add(&controller, 1, &identity, MDTS_BYTES, &ns, why), 0);
	ch = calloc(1, sizeof(*ch) + ns->bdev.type->channel_ctx_bytes);
	ch->bdev = &ns->bdev;
	ch->type = ns->bdev.type;
	ch->reactor = reactor_self;
	assert_int_equal(ch->type->channel_open(ch), 0);
	memory = aligned_alloc(NVME_PAGE_BYTES, 2 << 20);
	memset(memory, 0, 2 << 20);
}

static void stop(void)
{
	fake_settle();
	assert_int_equal(ch->inflight, 0);
	ch->type->channel_close(ch);
	free(ch);
	free(memory);
	nvme_namespace_unlink(ns);
	nvme_namespace_free(ns);
	fake_stop();
}

static unsigned done_count;

static void request_done(struct bdev_io *io)
{
	done_count++;
}

static void submit(struct bdev_io *io, enum bdev_op op, uint64_t offset, uint64_t length,
		   uint8_t flags)
{
	*io = (struct bdev_io){.op = op, .offset = offset, .length = length, .flags = flags};
	io->done = request_done;
	bdev_submit(ch, io);
}

static void submit_rw(struct bdev_io *io, struct iovec *iov, enum bdev_op op, uint64_t offset,
		      uint64_t length, uint8_t flags)
{
	*io = (struct bdev_io){.op = op, .offset = offset, .length = length, .flags = flags};
	*iov = (struct iovec){memory, length};
	io->iov = iov;
	io->iovcnt = 1;
	io->done = request_done;
	bdev_submit(ch, io);
}

static uint64_t lba_of(const struct nvme_sqe *sqe)
{
	return sqe->cdw10 | (uint64_t)sqe->cdw11 << 32;
}

static const uint16_t all_oncs = NVME_ONCS_DSM | NVME_ONCS_WRITE_ZEROES;

/* Commands of a READ or WRITE cover [offset, offset + length) once, in order. */
static void check_covered(uint64_t offset, uint64_t length)
{
	uint64_t at = offset;
	for (unsigned i = 0; i < device.count; i++) {
		uint32_t blocks = (device.seen[i].cdw12 & 0xffff) + 1;
		assert_int_equal(lba_of(&device.seen[i]) << ns->block_shift, at);
		assert_int_equal(blocks << ns->block_shift, device.bytes[i]);
		assert_true(device.bytes[i] <= MDTS_BYTES);
		at += device.bytes[i];
	}
	assert_int_equal(at, offset + length);
}

static void one_length(uint64_t offset, uint64_t length)
{
	struct bdev_io io;
	struct iovec iov;
	device.count = done_count = 0;
	submit_rw(&io, &iov, BDEV_READ, offset, length, 0);
	end_all(0);
	assert_int_equal(done_count, 1);
	assert_int_equal(io.status, 0);
	check_covered(offset, length);
	assert_int_equal(device.count, (length + MDTS_BYTES - 1) / MDTS_BYTES);
}

static void every_length(uint8_t shift)
{
	uint64_t block = 1ull << shift;
	start(shift, all_oncs);
	for (uint64_t blocks = 1; blocks <= 64; blocks++)
		one_length(7 * block, blocks * block);
	for (uint64_t edge = MDTS_BYTES; edge < BDEV_IO_MAX_BYTES; edge += MDTS_BYTES) {
		one_length(0, edge - block);
		one_length(0, edge);
		one_length(0, edge + block);
	}
	one_length(DISK_BYTES - BDEV_IO_MAX_BYTES, BDEV_IO_MAX_BYTES);
	stop();
}

static void test_lengths_512(void **state)
{
	every_length(9);
}

static void test_lengths_4096(void **state)
{
	every_length(12);
}

/* Pieces that PRPs can not join are cut apart (check_payload()), and all is covered. */
static void test_pieces(void **state)
{
	struct bdev_io io;
	struct iovec iov[3];
	start(9, all_oncs);
	iov[0] = (struct iovec){memory + 512, 4096};
	iov[1] = (struct iovec){memory + 8192, 8192};
	iov[2] = (struct iovec){memory + 32768, 1024};
	io = (struct bdev_io){.op = BDEV_WRITE, .length = 13312, .iov = iov, .iovcnt = 3};
	io.done = request_done;
	done_count = 0;
	bdev_submit(ch, &io);
	end_all(0);
	assert_int_equal(done_count, 1);
	assert_int_equal(io.status, 0);
	check_covered(0, 13312);
	assert_int_equal(device.count, 2);
	stop();
}

/* A queue that takes SGLs: one command, cut by its size only, inside a segment and inside a block. */
static void test_pieces_by_sgl(void **state)
{
	struct bdev_io io;
	struct iovec iov[BDEV_IO_MAX_IOVS];
	start(9, all_oncs);
	device.queue.sgl = true;
	for (unsigned i = 0; i < BDEV_IO_MAX_IOVS; i++)
		iov[i] = (struct iovec){memory + i * 100000, 5000 + i % 2};
	iov[BDEV_IO_MAX_IOVS - 1].iov_len = 512 * 512 - 15 * 5000 - 7;
	io = (struct bdev_io){.op = BDEV_READ, .length = 512 * 512, .iov = iov};
	io.iovcnt = BDEV_IO_MAX_IOVS;
	io.done = request_done;
	done_count = 0;
	bdev_submit(ch, &io);
	assert_int_equal(device.count, 4);
	end_all(0);
	assert_int_equal(done_count, 1);
	assert_int_equal(io.status, 0);
	check_covered(0, 512 * 512);
	stop();
}

/* More commands than there are: those of the first request go first. */
static void test_waiting(void **state)
{
	struct bdev_io first, second;
	struct iovec iovs[2];
	start(9, all_oncs);
	done_count = 0;
	submit_rw(&first, &iovs[0], BDEV_WRITE, 0, 6 * MDTS_BYTES, BDEV_FUA);
	submit_rw(&second, &iovs[1], BDEV_READ, 1 << 20, 512, 0);
	assert_int_equal(device.count, DEPTH);
	end_one(0);
	end_one(0);
	assert_int_equal(device.count, DEPTH + 2);
	assert_int_equal(device.seen[DEPTH + 1].opcode, NVME_WRITE);
	end_one(0);
	assert_int_equal(device.seen[DEPTH + 2].opcode, NVME_READ);
	end_all(0);
	assert_int_equal(done_count, 2);
	for (unsigned i = 0; i < 6; i++)
		assert_true(device.seen[i].cdw12 & NVME_RW_FUA);
	assert_false(device.seen[6].cdw12 & NVME_RW_FUA);
	stop();
}

static void test_zeroes(void **state)
{
	struct bdev_io io;
	start(9, all_oncs);
	done_count = 0;
	submit(&io, BDEV_WRITE_ZEROES, 512, 65536ull * 512 + 512, 0);
	end_all(0);
	assert_int_equal(device.count, 2);
	assert_int_equal(device.seen[0].opcode, NVME_WRITE_ZEROES);
	assert_int_equal(device.seen[0].cdw12, 0xffff | NVME_RW_DEALLOCATE);
	assert_int_equal(lba_of(&device.seen[1]), 65537);
	assert_int_equal(device.seen[1].cdw12, NVME_RW_DEALLOCATE);
	submit(&io, BDEV_WRITE_ZEROES, 0, 512, BDEV_NO_HOLE | BDEV_FUA);
	end_all(0);
	assert_int_equal(device.seen[2].cdw12, NVME_RW_FUA);
	assert_int_equal(done_count, 2);
	stop();
}

/* A device without the command is written to; that is not fast, and there is no TRIM. */
static void test_without_commands(void **state)
{
	struct bdev_io io;
	start(12, 0);
	done_count = 0;
	submit(&io, BDEV_WRITE_ZEROES, 4096, 3 * MDTS_BYTES, 0);
	end_all(0);
	assert_int_equal(io.status, 0);
	assert_int_equal(device.seen[0].opcode, NVME_WRITE);
	check_covered(4096, 3 * MDTS_BYTES);
	submit(&io, BDEV_WRITE_ZEROES, 0, 4096, BDEV_FAST_ZERO);
	assert_int_equal(io.status, -ENOTSUP);
	submit(&io, BDEV_TRIM, 0, 4096, 0);
	assert_int_equal(io.status, -EOPNOTSUPP);
	assert_int_equal(done_count, 3);
	stop();
}

/* TRIM with FUA: the FLUSH comes when the trimming has ended. */
static void test_trim(void **state)
{
	struct bdev_io io;
	start(9, all_oncs);
	done_count = 0;
	submit(&io, BDEV_TRIM, 1 << 20, 8 << 20, BDEV_FUA);
	assert_int_equal(device.count, 1);
	assert_int_equal(device.seen[0].opcode, NVME_DSM);
	assert_int_equal(device.seen[0].cdw11, NVME_DSM_DEALLOCATE);
	const struct nvme_dsm_range *range = device.flying[0]->iov[0].iov_base;
	assert_int_equal(range->lba, 2048);
	assert_int_equal(range->blocks, 16384);
	end_one(0);
	assert_int_equal(done_count, 0);
	assert_int_equal(device.seen[1].opcode, NVME_FLUSH);
	end_one(0);
	assert_int_equal(done_count, 1);
	submit(&io, BDEV_FLUSH, 0, 0, 0);
	assert_int_equal(device.seen[2].opcode, NVME_FLUSH);
	end_one(0);
	ns->write_cache = false;
	submit(&io, BDEV_FLUSH, 0, 0, 0);
	assert_int_equal(device.count, 3);
	assert_int_equal(done_count, 3);
	stop();
}

/* A status, what the request ends with, and how often the command is sent. */
static void one_status(int status, int error, unsigned sent)
{
	struct bdev_io io;
	struct iovec iov;
	device.count = done_count = 0;
	submit_rw(&io, &iov, BDEV_WRITE, 0, 512, 0);
	end_all(status);
	assert_int_equal(done_count, 1);
	assert_int_equal(io.status, error);
	assert_int_equal(device.count, sent);
}

static void test_statuses(void **state)
{
	const unsigned tries = 1 + NVME_RETRIES_MAX;
	start(9, all_oncs);
	one_status(NVME_SC_CAPACITY_EXCEEDED, -ENOSPC, 1);
	one_status(NVME_SC_LBA_OUT_OF_RANGE, -ENOSPC, 1);
	one_status(NVME_SC_NAMESPACE_WRITE_PROTECTED, -EPERM, 1);
	one_status(NVME_SC_INVALID_NAMESPACE, -ENODEV, 1);
	one_status(NVME_SC_ABORT_REQUESTED, -ECANCELED, 1);
	one_status(NVME_SC_INVALID_FIELD, -EIO, 1);
	one_status(NVME_SC_WRITE_FAULT, -EIO, tries);
	one_status(NVME_SC_WRITE_FAULT | NVME_STATUS_DNR, -EIO, 1);
	one_status(NVME_STATUS(NVME_SCT_PATH, 0x71), -EIO, tries);
	one_status(NVME_STATUS(NVME_SCT_VENDOR, 0x12), -EIO, 1);
	one_status(-ENODEV, -ENODEV, 1);
	fake_settle();
	/* one that was shorter than we thought, one that was not there: one look a second will do */
	assert_int_equal(doubts, 1);
	fake_tick_us(NVME_DOUBT_US);
	fake_pass();
	one_status(NVME_SC_INVALID_FIELD, -EIO, 1); /* one that was detached */
	fake_settle();
	assert_int_equal(doubts, 2);
	fake_tick_us(NVME_DOUBT_US);
	fake_pass();
	one_status(NVME_SC_CAPACITY_EXCEEDED, -ENOSPC, 1);
	fake_settle();
	assert_int_equal(doubts, 3);
	assert_true(ns->errors[0].by_type[NVME_SCT_MEDIA] > 0);
	assert_int_equal(ns->errors[0].no_status, 1);
	assert_int_equal(ns->errors[0].retries, 2 * NVME_RETRIES_MAX);
	device.gone = true;
	device.count = done_count = 0;
	struct bdev_io io;
	struct iovec iov;
	submit_rw(&io, &iov, BDEV_READ, 0, 512, 0);
	assert_int_equal(done_count, 1);
	assert_int_equal(io.status, -ENODEV);
	stop();
}

/* One of several commands fails: the others are waited for, no more are made. */
static void test_one_of_many_fails(void **state)
{
	struct bdev_io io;
	struct iovec iov;
	start(9, all_oncs);
	done_count = 0;
	submit_rw(&io, &iov, BDEV_READ, 0, 8 * MDTS_BYTES, 0);
	end_one(NVME_SC_UNRECOVERED_READ | NVME_STATUS_DNR);
	assert_int_equal(done_count, 0);
	end_all(0);
	assert_int_equal(device.count, DEPTH);
	assert_int_equal(done_count, 1);
	assert_int_equal(io.status, -EIO);
	stop();
}

/* The one that waits ends at once, the other when the device lets go of it. */
static void test_abort(void **state)
{
	struct bdev_io flies, waits;
	struct iovec iovs[2];
	start(9, all_oncs);
	done_count = 0;
	submit_rw(&flies, &iovs[0], BDEV_READ, 0, DEPTH * MDTS_BYTES, 0);
	submit_rw(&waits, &iovs[1], BDEV_READ, 0, 512, 0);
	ch->type->abort(ch, &waits);
	assert_int_equal(done_count, 1);
	assert_int_equal(waits.status, -ETIMEDOUT);
	ch->type->abort(ch, &flies);
	assert_int_equal(device.aborts, DEPTH);
	assert_int_equal(done_count, 1);
	end_all(NVME_SC_ABORT_REQUESTED);
	assert_int_equal(done_count, 2);
	assert_int_equal(flies.status, -ETIMEDOUT);
	stop();
}

/* ---- A namespace that is not what it was ---- */

/* Beyond the end: a status and an error by the operation; the namespace is looked at again. */
static void test_beyond_the_end(void **state)
{
	struct bdev_io io;
	struct iovec iov;
	start(9, all_oncs);
	doubts = 0;
	for (unsigned second = 0; second < 3; second++) {
		for (unsigned i = 0; i < 20; i++) {
			submit_rw(&io, &iov, BDEV_READ, 4096, 512, 0);
			end_all(NVME_SC_LBA_OUT_OF_RANGE | NVME_STATUS_DNR);
			assert_int_equal(io.status, -EINVAL);
			submit(&io, BDEV_WRITE_ZEROES, 4096, 512, 0);
			end_all(NVME_SC_LBA_OUT_OF_RANGE | NVME_STATUS_DNR);
			assert_int_equal(io.status, -ENOSPC);
		}
		fake_settle();
		assert_int_equal(doubts, second + 1);
		fake_tick_us(NVME_DOUBT_US);
		fake_pass();
	}
	stop();
}

/* What waits while the namespace shrinks, and what is cut then, is not sent beyond the end. */
static void test_shrinks(void **state)
{
	struct bdev_io ios[4];
	struct iovec iovs[4];
	start(9, all_oncs);
	done_count = 0;
	submit_rw(&ios[0], &iovs[0], BDEV_WRITE, 1 << 20, 8 * MDTS_BYTES, 0);
	submit_rw(&ios[1], &iovs[1], BDEV_READ, 1 << 20, 4096, 0);
	submit_rw(&ios[2], &iovs[2], BDEV_WRITE, 4096, 4096, 0);
	submit(&ios[3], BDEV_FLUSH, 0, 0, 0);
	assert_int_equal(device.count, DEPTH);
	atomic_store(&ns->bdev.size_bytes, 1 << 20);
	end_all(0);
	assert_int_equal(done_count, 4);
	assert_int_equal(device.count, DEPTH + 2);
	assert_int_equal(ios[0].status, -ENOSPC);
	assert_int_equal(ios[1].status, -EINVAL);
	assert_int_equal(ios[2].status, 0);
	assert_int_equal(ios[3].status, 0);
	/* nor again */
	submit_rw(&ios[0], &iovs[0], BDEV_READ, (1 << 20) - 512, 512, 0);
	atomic_store(&ns->bdev.size_bytes, (1 << 20) - 512);
	device.count = 0;
	end_all(NVME_SC_TRANSIENT);
	assert_int_equal(ios[0].status, -EIO);
	assert_int_equal(device.count, 0);
	submit_rw(&ios[0], &iovs[0], BDEV_READ, (1 << 20) - 512, 512, 0);
	assert_int_equal(ios[0].status, -EINVAL);
	assert_int_equal(device.count, 0);
	stop();
}

/* ---- What is logged ---- */

static void test_fault_lines(void **state)
{
	struct nvme_dsm_range range = {.lba = 7, .blocks = 0x80000000};
	struct nvme_command command = {.sqe = {.opcode = NVME_READ, .nsid = 3}};
	char line[NVME_FAULT_BYTES];
	command.sqe.cdw10 = 0x10;
	command.sqe.cdw11 = 1;
	command.sqe.cdw12 = 7 | NVME_RW_FUA;
	nvme_fault_describe(&command, NVME_SC_UNRECOVERED_READ | NVME_STATUS_DNR, line,
			    sizeof(line));
	assert_string_equal(line, "READ of namespace 3, 8 blocks at LBA 4294967312: SCT 2, SC 0x81 "
				  "(unrecovered read error), DNR");
	command.sqe.opcode = NVME_WRITE_ZEROES;
	command.sqe.cdw12 = 0;
	nvme_fault_describe(&command, NVME_STATUS(NVME_SCT_VENDOR, 0x12), line, sizeof(line));
	assert_string_equal(line, "WRITE ZEROES of namespace 3, 1 block at LBA 4294967312: SCT 7, "
				  "SC 0x12 (an error of the vendor's own)");
	command.sqe.opcode = NVME_DSM;
	command.iov[0] = (struct iovec){&range, sizeof(range)};
	nvme_fault_describe(&command, -ETIMEDOUT, line, sizeof(line));
	assert_string_equal(line, "DATASET MANAGEMENT of namespace 3, 2147483648 blocks at LBA 7: "
				  "no status (Connection timed out)");
	command.sqe.opcode = NVME_FLUSH;
	nvme_fault_describe(&command, NVME_SC_INTERNAL, line, sizeof(line));
	assert_string_equal(line, "FLUSH of namespace 3: SCT 0, SC 0x06 (internal error of the "
				  "device)");
}

static void fail_reads(unsigned count, int status)
{
	struct bdev_io io;
	struct iovec iov;
	for (unsigned i = 0; i < count; i++) {
		device.count = 0;
		submit_rw(&io, &iov, BDEV_READ, 4096, 512, 0);
		end_all(status);
	}
}

/* Lines of the log that hold the text, since the file was opened. */
static unsigned lines_with(FILE *log, const char *text)
{
	char line[1024];
	unsigned count = 0;
	rewind(log);
	while (fgets(line, sizeof(line), log))
		count += strstr(line, text) != NULL;
	return count;
}

/* A device that always fails fills no log; how much was left out is told later. */
static void test_failures_are_logged(void **state)
{
	FILE *log = tmpfile();
	int old = dup(STDERR_FILENO);
	assert_non_null(log);
	start(9, all_oncs);
	strcpy(ns->bdev.name, "Nvme7n1");
	dup2(fileno(log), STDERR_FILENO);
	log_set_level(LOG_NOTICE);
	fail_reads(100, NVME_SC_UNRECOVERED_READ | NVME_STATUS_DNR);
	fail_reads(100, -ENODEV);
	fake_settle();
	unsigned first = lines_with(log, "Nvme7n1: READ of namespace 1, 1 block at LBA 8: SCT 2, "
					 "SC 0x81 (unrecovered read error), DNR");
	fake_tick_us(2000000);
	fake_pass();
	fail_reads(1, NVME_SC_INVALID_FIELD);
	fail_reads(1, 0);
	fake_settle();
	log_set_level(LOG_DISABLED);
	dup2(old, STDERR_FILENO);
	close(old);
	assert_int_equal(first, LOG_LIMIT_LINES_A_SECOND);
	assert_int_equal(lines_with(log, "READ"), LOG_LIMIT_LINES_A_SECOND + 1);
	assert_int_equal(lines_with(log, "90 more failed commands were not logged"), 1);
	fclose(log);
	stop();
}

static int refusal(const struct nvme_identify_namespace *identity, const char *words)
{
	char why[NVME_WHY_BYTES] = "";
	struct nvme_namespace *none;
	int error = nvme_namespace_add(&controller, 2, identity, 0, &none, why);
	assert_non_null(strstr(why, words));
	return error;
}

static void test_formats(void **state)
{
	struct nvme_identify_namespace identity = identity_of(9);
	start(9, all_oncs);
	identity.lba_formats[0].metadata_bytes = 8;
	assert_int_equal(refusal(&identity,
				 "namespace 2 has LBA format 0, blocks of 512 bytes with 8 bytes of "
				 "metadata, which is not served: the device has no format without"),
			 -ENOTSUP);
	/* the format to change to: of the same blocks, else the first that is served */
	identity.formats = 3;
	identity.lba_formats[1] = (struct nvme_lba_format){0, 8, 0};
	identity.lba_formats[2] = (struct nvme_lba_format){0, 12, 0};
	assert_int_equal(refusal(&identity, "nvme format --lbaf=2)"), -ENOTSUP);
	identity.lba_formats[3] = (struct nvme_lba_format){0, 9, 0};
	assert_int_equal(refusal(&identity, "nvme format --lbaf=3)"), -ENOTSUP);
	identity.format = 1 << 5; /* format 16 */
	identity.lba_formats[16] = (struct nvme_lba_format){16, 12, 0};
	identity.protection = 2;
	assert_int_equal(refusal(&identity,
				 "LBA format 16, blocks of 4096 bytes with 16 bytes of metadata and "
				 "protection information of type 2"),
			 -ENOTSUP);
	identity = identity_of(9);
	identity.protection = 1;
	assert_int_equal(refusal(&identity, "nvme format --lbaf=0 --pi=0)"), -ENOTSUP);
	identity = identity_of(8);
	assert_int_equal(refusal(&identity, "2^8"), -ENOTSUP);
	identity = identity_of(9);
	identity.size = 0;
	assert_int_equal(refusal(&identity, "0 blocks"), -EINVAL);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lengths_512),
		cmocka_unit_test(test_lengths_4096),
		cmocka_unit_test(test_pieces),
		cmocka_unit_test(test_pieces_by_sgl),
		cmocka_unit_test(test_waiting),
		cmocka_unit_test(test_zeroes),
		cmocka_unit_test(test_without_commands),
		cmocka_unit_test(test_trim),
		cmocka_unit_test(test_statuses),
		cmocka_unit_test(test_one_of_many_fails),
		cmocka_unit_test(test_abort),
		cmocka_unit_test(test_beyond_the_end),
		cmocka_unit_test(test_shrinks),
		cmocka_unit_test(test_fault_lines),
		cmocka_unit_test(test_failures_are_logged),
		cmocka_unit_test(test_formats),
	};
	log_set_level(LOG_DISABLED);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
