/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * race: the alignment layer on two real reactors. Both write bytes of the same blocks all the time;
 * whole blocks are written over what is read, modified and written; serial mode is entered and left
 * again and again under load; channels close with requests in flight.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/align_internal.h"
#include "test/unit/align/disk.h"
#include "test/unit/reactor/support.h"

enum {
	REACTORS = 2,
	ALIGN = 512,
	BLOCKS = 12,
	SIZE = BLOCKS * ALIGN - 100, /* with a tail */
	LANES = 6,		     /* requests in flight of one core */
	WRITERS = REACTORS * LANES,
	STRIPE = 5, /* bytes that belong to one writer; the next ones to the next */
	LEAVE_AFTER_US = 200,
};

static struct disk *disk;
static uint8_t shadow[SIZE]; /* what the disk must hold: each byte is its writer's */

static unsigned next_random(unsigned *state)
{
	*state = *state * 1103515245 + 12345;
	return *state >> 8;
}

static void set_true(void *arg, int error)
{
	assert_int_equal(error, 0);
	*(bool *)arg = true;
}

static void open_channels(void)
{
	bool done = false;
	bdev_open_channels(&disk->bdev, set_true, &done);
	control_until(&done);
}

static void close_channels(void)
{
	bool done = false;
	bdev_close_channels(&disk->bdev, set_true, &done);
	control_until(&done);
}

static int start(void **state)
{
	disk = disk_create("disk", ALIGN, SIZE);
	disk->bdev.align->leave_after_us = LEAVE_AFTER_US;
	memset(shadow, 0, sizeof(shadow));
	return 0;
}

static int stop(void **state)
{
	bool done = false;
	assert_int_equal(bdev_remove(&disk->bdev, false, set_true, &done), 0);
	control_until(&done);
	disk_free(disk);
	return 0;
}

/* ---- Writers of bytes: each has stripes of its own in every block ---- */

static struct writer {
	struct bdev_io io;
	struct iovec iov;
	uint8_t bytes[STRIPE];
	unsigned index, random, left;
	bool busy;
} writers[WRITERS];
static _Atomic uint64_t writers_done;
static _Atomic uint64_t requests_done; /* what shows that it goes on, however slow the machine */

static void writer_next(struct writer *writer);

static void writer_done(struct bdev_io *io)
{
	struct writer *writer = container_of(io, struct writer, io);
	uint8_t *at = shadow + io->offset;
	check(writer->busy && io->status == 0);
	check(reactor_self->index == writer->index % REACTORS);
	writer->busy = false;
	atomic_fetch_add_explicit(&requests_done, 1, memory_order_relaxed);
	if (io->op == BDEV_READ)
		check(!memcmp(at, writer->bytes, io->length));
	else if (io->op == BDEV_WRITE)
		memcpy(at, writer->bytes, io->length);
	else
		memset(at, 0, io->length);
	writer_next(writer);
}

static void writer_next(struct writer *writer)
{
	static const enum bdev_op kinds[] = {BDEV_WRITE, BDEV_WRITE, BDEV_WRITE, BDEV_WRITE,
					     BDEV_READ,	 BDEV_WRITE, BDEV_WRITE, BDEV_WRITE_ZEROES};
	struct bdev_io *io = &writer->io;
	if (!writer->left) {
		atomic_fetch_add(&writers_done, 1);
		return;
	}
	writer->left--;
	unsigned round = next_random(&writer->random) % (SIZE / (WRITERS * STRIPE));
	uint64_t begin = (round * WRITERS + writer->index) * STRIPE;
	unsigned skip = next_random(&writer->random) % STRIPE;
	io->op = kinds[next_random(&writer->random) % COUNT_OF(kinds)];
	io->flags = 0;
	io->offset = begin + skip;
	io->length = 1 + next_random(&writer->random) % (STRIPE - skip);
	writer->iov = (struct iovec){writer->bytes, io->length};
	io->iov = io->op == BDEV_WRITE_ZEROES ? NULL : &writer->iov;
	io->iovcnt = io->op != BDEV_WRITE_ZEROES;
	io->done = writer_done;
	if (io->op == BDEV_WRITE)
		memset(writer->bytes, next_random(&writer->random), io->length);
	writer->busy = true;
	bdev_submit(bdev_channel_here(&disk->bdev), io);
}

static void writers_begin(void *arg)
{
	for (unsigned i = reactor_self->index; i < WRITERS; i += REACTORS)
		writer_next(&writers[i]);
}

static void arm_writers(unsigned requests)
{
	atomic_store(&writers_done, 0);
	atomic_store(&requests_done, 0);
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i].index = i;
		writers[i].left = requests;
		if (!writers[i].random)
			writers[i].random = 77 * i + 1;
	}
	for (unsigned i = 0; i < REACTORS; i++)
		reactor_send(reactors[i], writers_begin, NULL);
}

static void nothing(void *arg)
{
}

/* The reactors have ended the pass in which the last request ended. */
static void settle(void)
{
	for (unsigned i = 0; i < REACTORS; i++)
		on_reactor(i, nothing, NULL);
}

static void test_no_neighbour_is_lost(void **state)
{
	open_channels();
	arm_writers(3000 * support_effort());
	wait_for_count(&requests_done, (uint64_t)WRITERS * 3000 * support_effort());
	wait_for_count(&writers_done, WRITERS);
	settle();
	close_channels();
	assert_memory_equal(disk->data, shadow, SIZE);
}

/* ---- Whole blocks over single bytes ---- */

enum { POKED_BYTE = 3 };

static struct {
	struct bdev_io io;
	struct iovec iov;
	uint8_t block[ALIGN];
	uint8_t generation;
	bool reading;
	_Atomic bool stop, stopped;
	uint64_t rounds;
} whole;

static struct {
	struct bdev_io io;
	struct iovec iov;
	uint8_t byte;
	unsigned left;
	_Atomic bool done;
} poke;

static void whole_next(void);

static void whole_done(struct bdev_io *io)
{
	check(io->status == 0);
	if (!whole.reading) {
		whole.reading = true;
		memset(whole.block, 0, sizeof(whole.block));
	} else {
		/* the poked byte is new, or of the one or other block; the rest is of this one */
		for (unsigned i = 0; i < ALIGN; i++)
			check(i == POKED_BYTE || whole.block[i] == whole.generation);
		whole.reading = false;
		whole.generation++;
		whole.rounds++;
	}
	whole_next();
}

static void whole_next(void)
{
	struct bdev_io *io = &whole.io;
	if (!whole.reading) {
		if (atomic_load(&whole.stop)) {
			atomic_store(&whole.stopped, true);
			return;
		}
		memset(whole.block, whole.generation, sizeof(whole.block));
	}
	io->op = whole.reading ? BDEV_READ : BDEV_WRITE;
	io->flags = 0;
	io->offset = 2 * ALIGN;
	io->length = ALIGN;
	whole.iov = (struct iovec){whole.block, ALIGN};
	io->iov = &whole.iov;
	io->iovcnt = 1;
	io->done = whole_done;
	bdev_submit(bdev_channel_here(&disk->bdev), io);
}

static void whole_begin(void *arg)
{
	memset(&whole.io, 0, sizeof(whole.io));
	whole.reading = false;
	whole_next();
}

static void poke_next(void);

static void poke_done(struct bdev_io *io)
{
	check(io->status == 0);
	poke_next();
}

static void poke_next(void)
{
	struct bdev_io *io = &poke.io;
	if (!poke.left--) {
		atomic_store(&poke.done, true);
		return;
	}
	poke.byte++;
	io->op = BDEV_WRITE;
	io->flags = 0;
	io->offset = 2 * ALIGN + POKED_BYTE;
	io->length = 1;
	poke.iov = (struct iovec){&poke.byte, 1};
	io->iov = &poke.iov;
	io->iovcnt = 1;
	io->done = poke_done;
	bdev_submit(bdev_channel_here(&disk->bdev), io);
}

static void poke_begin(void *arg)
{
	memset(&poke.io, 0, sizeof(poke.io));
	poke_next();
}

static void begin_whole(unsigned core)
{
	atomic_store(&whole.stop, false);
	atomic_store(&whole.stopped, false);
	whole.rounds = 0;
	reactor_send(reactors[core], whole_begin, NULL);
}

static void end_whole(void)
{
	atomic_store(&whole.stop, true);
	wait_for(&whole.stopped);
	settle();
}

/* Both with the owner on the one core and on the other. */
static void test_aligned_writes_beside_read_modify_write(void **state)
{
	open_channels();
	for (unsigned core = 0; core < REACTORS; core++) {
		begin_whole(core);
		poke.left = 3000 * support_effort();
		atomic_store(&poke.done, false);
		reactor_send(reactors[!core], poke_begin, NULL);
		wait_for(&poke.done);
		end_whole();
		assert_true(whole.rounds > 20);
	}
	close_channels();
}

/* ---- Entering and leaving again and again ---- */

static void wait_for_free_mode(void)
{
	uint64_t until = monotonic_us() + SUPPORT_PATIENCE_S * 1000000ull;
	while (atomic_load(&disk->bdev.align->serial)) {
		assert_true(monotonic_us() < until);
		sleep_us(100);
	}
}

static void test_modes_change_under_load(void **state)
{
	enum { EPOCHS = 60, REQUESTS = 25 };
	uint8_t before[ALIGN];
	open_channels();
	/* block 2 is the one that is written as a whole: its bytes are nobody else's */
	for (unsigned epoch = 0; epoch < EPOCHS * support_effort(); epoch++) {
		begin_whole(epoch % REACTORS);
		poke.left = REQUESTS;
		atomic_store(&poke.done, false);
		reactor_send(reactors[epoch / 2 % REACTORS], poke_begin, NULL);
		wait_for(&poke.done);
		/* whole blocks go on being written, and yet it ends */
		wait_for_free_mode();
		end_whole();
	}
	memcpy(before, disk->data + 2 * ALIGN, ALIGN);
	for (unsigned i = 0; i < ALIGN; i++)
		assert_true(i == POKED_BYTE || before[i] == before[ALIGN - 1]);
	close_channels();
}

/* ---- Closing with requests in flight ---- */

static void test_closing_with_requests_in_flight(void **state)
{
	unsigned rounds = 150 * support_effort();
	for (unsigned round = 0; round < rounds; round++) {
		open_channels();
		/* one request each: nobody submits to channels that close */
		arm_writers(1);
		if (round % 3 == 0)
			sleep_us(round % 40);
		close_channels();
		assert_int_equal(atomic_load(&writers_done), WRITERS);
		for (unsigned i = 0; i < REACTORS; i++)
			assert_null(atomic_load(&disk->bdev.channels[i]));
	}
	settle();
	assert_memory_equal(disk->data, shadow, SIZE);
}

/* ---- Counters, read while they count ---- */

static void test_counters_are_read_meanwhile(void **state)
{
	struct bdev_stats stats;
	uint64_t last = 0;
	open_channels();
	arm_writers(500);
	while (atomic_load(&writers_done) < WRITERS) {
		bdev_get_stats(&disk->bdev, &stats);
		assert_true(stats.op[BDEV_WRITE].ops >= last);
		last = stats.op[BDEV_WRITE].ops;
		sleep_us(50);
	}
	settle();
	assert_true(last > 0);
	close_channels();
}

#define test(name) cmocka_unit_test_setup_teardown(name, start, stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(test_no_neighbour_is_lost),
		test(test_aligned_writes_beside_read_modify_write),
		test(test_modes_change_under_load),
		test(test_closing_with_requests_in_flight),
		test(test_counters_are_read_meanwhile),
	};
	support_start(REACTORS, 50);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	support_stop();
	return failed;
}
