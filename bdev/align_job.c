/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * align_job: carries a misaligned READ, WRITE or WRITE_ZEROES through a driver that takes whole
 * blocks only, piece by piece through a bounce buffer of its own. The jobs and their memory are set
 * aside with the channel: a request that waits for one holds nothing that another needs.
 *
 * All functions run on the channel's core. Whoever calls keeps overlapping writes apart (align.c).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/align_internal.h"

static void next_piece(struct align_job *job);

/* ---- The request's payload, seen as one run of bytes ---- */

static void copy_payload(const struct bdev_io *io, uint64_t at, uint8_t *bytes, size_t count,
			 bool to_payload)
{
	for (int i = 0; i < io->iovcnt && count; i++) {
		size_t length = io->iov[i].iov_len;
		if (at >= length) {
			at -= length;
			continue;
		}
		size_t n = MIN_OF(length - at, count);
		uint8_t *payload = (uint8_t *)io->iov[i].iov_base + at;
		if (to_payload)
			memcpy(payload, bytes, n);
		else
			memcpy(bytes, payload, n);
		bytes += n;
		count -= n;
		at = 0;
	}
}

/* ---- A job's end, and the next one waiting ---- */

static void begin(struct align_channel *ac, struct bdev_io *io)
{
	struct align_job *job = STAILQ_FIRST(&ac->idle);
	STAILQ_REMOVE_HEAD(&ac->idle, link);
	job->io = io;
	job->at = 0;
	next_piece(job);
}

/* Jobs may end as soon as they begin, and so come back here: one loop starts them all. */
static void begin_queued(struct align_channel *ac)
{
	struct hop *queued;
	if (ac->beginning)
		return;
	ac->beginning = true;
	while ((queued = ac->queued_first) && !STAILQ_EMPTY(&ac->idle)) {
		ac->queued_first = queued->next;
		if (!ac->queued_first)
			ac->queued_last = &ac->queued_first;
		begin(ac, container_of(queued, struct bdev_io, align.hop));
	}
	ac->beginning = false;
}

static void end(struct align_job *job, int status)
{
	struct align_channel *ac = job->ac;
	struct bdev_io *io = job->io;
	job->io = NULL;
	STAILQ_INSERT_HEAD(&ac->idle, job, link);
	io->status = status;
	align_job_ended(ac, io);
	begin_queued(ac);
}

/* ---- The child: one aligned request to the driver ---- */

static void child_done(struct bdev_io *child)
{
	struct align_job *job = container_of(child, struct align_job, child);
	if (child->status < 0)
		end(job, child->status);
	else
		job->next(job);
}

static void submit_child(struct align_job *job, enum bdev_op op, uint8_t flags, uint64_t offset,
			 uint64_t length, uint8_t *memory, void (*next)(struct align_job *job))
{
	struct bdev_channel *ch = job->ac->ch;
	struct bdev_io *child = &job->child;
	child->ch = ch;
	child->op = op;
	child->flags = flags;
	child->offset = offset;
	child->length = length;
	child->done = child_done;
	child->started = ch->reactor->now;
	child->status = 0;
	child->iov = &job->iov;
	child->iovcnt = memory ? 1 : 0;
	job->iov = (struct iovec){memory, length};
	job->next = next;
	counter_add(&ch->inflight, 1);
	ch->type->submit(ch, &child, 1);
}

/* ---- Pieces ---- */

static void piece_done(struct align_job *job)
{
	if (job->io->op == BDEV_READ)
		copy_payload(job->io, job->begin,
			     job->bounce + (job->io->offset + job->begin - job->hull),
			     job->end - job->begin, true);
	job->at = job->end;
	next_piece(job);
}

/* The old edges are in the bounce buffer: lay the new bytes between them and write. */
static void write_hull(struct align_job *job)
{
	struct bdev_io *io = job->io;
	if (unlikely(atomic_load(&job->ac->ch->bdev->size_bytes) != job->size)) {
		next_piece(job); /* the last block may have grown: the same piece anew */
		return;
	}
	uint8_t *at = job->bounce + (io->offset + job->begin - job->hull);
	if (io->op == BDEV_WRITE)
		copy_payload(io, job->begin, at, job->end - job->begin, false);
	else
		memset(at, 0, job->end - job->begin);
	submit_child(job, BDEV_WRITE, io->flags & BDEV_FUA, job->hull, job->hull_end - job->hull,
		     job->bounce, piece_done);
}

static void read_tail(struct align_job *job)
{
	uint64_t align = job->ac->ch->bdev->align_bytes;
	uint64_t block = (job->hull_end - 1) & ~(align - 1);
	bool needed = job->io->offset + job->end != job->hull_end;
	bool read_already = job->io->offset + job->begin != job->hull && block == job->hull;
	if (needed && !read_already)
		submit_child(job, BDEV_READ, 0, block, job->hull_end - block,
			     job->bounce + (block - job->hull), write_hull);
	else
		write_hull(job);
}

static void read_head(struct align_job *job)
{
	uint64_t align = job->ac->ch->bdev->align_bytes;
	if (job->io->offset + job->begin != job->hull)
		submit_child(job, BDEV_READ, 0, job->hull, MIN_OF(align, job->hull_end - job->hull),
			     job->bounce, read_tail);
	else
		read_tail(job);
}

/* The bytes of this piece: a bounce buffer's worth, or an edge block of a WRITE_ZEROES. */
static uint64_t piece_bytes(const struct align_job *job, uint64_t offset, uint64_t left)
{
	uint64_t align = job->ac->ch->bdev->align_bytes;
	uint64_t room = (job->io->op == BDEV_WRITE_ZEROES ? align : ALIGN_JOB_BYTES) -
			(offset & (align - 1));
	return MIN_OF(left, room);
}

static void next_piece(struct align_job *job)
{
	struct bdev_io *io = job->io;
	const struct bdev *bdev = job->ac->ch->bdev;
	uint64_t mask = bdev->align_bytes - 1, size = atomic_load(&bdev->size_bytes);
	uint64_t offset = io->offset + job->at, left = io->length - job->at;
	if (!left) {
		end(job, 0);
		return;
	}
	if (unlikely(offset + left > size)) { /* the bdev has shrunk meanwhile */
		end(job, io->op == BDEV_READ ? -EINVAL : -ENOSPC);
		return;
	}
	job->size = size;
	job->begin = job->at;
	if (io->op == BDEV_WRITE_ZEROES && !(offset & mask) &&
	    (left > mask || offset + left == size)) {
		uint64_t whole = offset + left == size ? left : left & ~mask;
		job->end = job->begin + whole;
		submit_child(job, BDEV_WRITE_ZEROES, io->flags, offset, whole, NULL, piece_done);
		return;
	}
	job->end = job->begin + piece_bytes(job, offset, left);
	job->hull = offset & ~mask;
	job->hull_end = MIN_OF((io->offset + job->end + mask) & ~mask, size);
	if (io->op == BDEV_READ)
		submit_child(job, BDEV_READ, 0, job->hull, job->hull_end - job->hull, job->bounce,
			     piece_done);
	else
		read_head(job);
}

void align_job_start(struct align_channel *ac, struct bdev_io *io)
{
	io->align.hop.next = NULL;
	*ac->queued_last = &io->align.hop;
	ac->queued_last = &io->align.hop.next;
	begin_queued(ac);
}

struct bdev_io *align_job_child(struct align_channel *ac, const struct bdev_io *io)
{
	for (unsigned i = 0; i < ALIGN_JOBS; i++) {
		if (ac->jobs[i].io == io)
			return &ac->jobs[i].child;
	}
	return NULL;
}

/* ---- Life ---- */

int align_jobs_init(struct align_channel *ac)
{
	size_t bytes = ALIGN_JOB_BYTES + 2 * (size_t)ac->ch->bdev->align_bytes;
	bytes = (bytes + REGION_PAGE_BYTES - 1) & ~(size_t)(REGION_PAGE_BYTES - 1);
	STAILQ_INIT(&ac->idle);
	ac->queued_last = &ac->queued_first;
	ac->jobs = calloc(ALIGN_JOBS, sizeof(*ac->jobs));
	ac->bounce = aligned_alloc(BDEV_MAX_ALIGN_BYTES,
				   (ALIGN_JOBS * bytes + BDEV_MAX_ALIGN_BYTES - 1) &
					   ~(size_t)(BDEV_MAX_ALIGN_BYTES - 1));
	if (!ac->jobs || !ac->bounce) {
		align_jobs_fini(ac);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < ALIGN_JOBS; i++) {
		ac->jobs[i].ac = ac;
		ac->jobs[i].bounce = ac->bounce + i * bytes;
		STAILQ_INSERT_TAIL(&ac->idle, &ac->jobs[i], link);
	}
	return 0;
}

void align_jobs_fini(struct align_channel *ac)
{
	free(ac->jobs);
	free(ac->bounce);
	ac->jobs = NULL;
	ac->bounce = NULL;
}
