/* SPDX-License-Identifier: BSD-3-Clause */
/* align_internal: what align.c (who may write when) and align_job.c (read-modify-write) share. */
#ifndef POLLUX_BDEV_ALIGN_INTERNAL_H
#define POLLUX_BDEV_ALIGN_INTERNAL_H

#include "bdev/bdev.h"

enum {
	ALIGN_JOBS = 8,		     /* misaligned requests of a channel under way at once */
	ALIGN_JOB_BYTES = 128 << 10, /* bounced at a time by one of them */
	ALIGN_LEAVE_AFTER_US = 1000000,
};

/* One of a bdev. `serial` is written by the owner, read when a channel opens. */
struct align_state {
	unsigned owner; /* reactor index */
	_Atomic bool serial;
	/* serial mode ends so long after the last misaligned write; constant while channels are open */
	uint64_t leave_after_us;
};

struct align_channel;

/* A misaligned request on its way through the driver, piece by piece. */
struct align_job {
	struct align_channel *ac;
	struct bdev_io *io;		     /* the request */
	uint64_t at;			     /* next byte of the request to do */
	uint64_t begin, end;		     /* this piece, in bytes of the request */
	uint64_t hull, hull_end;	     /* whole blocks around it */
	uint64_t size;			     /* the bdev's, as hull_end was made from it */
	void (*next)(struct align_job *job); /* what follows the child's completion */
	struct bdev_io child;
	struct iovec iov;
	uint8_t *bounce; /* ALIGN_JOB_BYTES and two blocks more */
	STAILQ_ENTRY(align_job) link;
};

struct align_channel {
	struct bdev_channel *ch;
	bool serial;	      /* writes go to the owner */
	bool ack_owed;	      /* to the owner, when free_writes falls to 0 */
	uint32_t free_writes; /* of this channel, straight at the driver */
	/* the owner's */
	bool entered, starting, again;
	unsigned acks_left;	  /* serial mode begins when all have come */
	unsigned jobs_active;	  /* read-modify-writes under way */
	uint64_t last_misaligned; /* ticks */
	struct timer leave;
	TAILQ_HEAD(, bdev_io) active, waiting;
	/* read-modify-write */
	struct align_job *jobs;
	uint8_t *bounce;
	STAILQ_HEAD(, align_job) idle;
	bool beginning; /* a loop takes from the queue */
	struct hop *queued_first, **queued_last; /* wait for a job, linked by align.hop */
};

bool align_is_aligned(const struct bdev *bdev, const struct bdev_io *io);

int align_jobs_init(struct align_channel *ac);
void align_jobs_fini(struct align_channel *ac);
/* READ, WRITE or WRITE_ZEROES of any alignment; ends in align_job_ended(). */
void align_job_start(struct align_channel *ac, struct bdev_io *io);
/* The aligned request under way for a misaligned one on this core, or NULL. */
struct bdev_io *align_job_child(struct align_channel *ac, const struct bdev_io *io);
/* align.c: io->status is set. */
void align_job_ended(struct align_channel *ac, struct bdev_io *io);

#endif
