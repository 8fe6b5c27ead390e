/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bdev: the block device contract. A bdev is an object of the control thread; a bdev_channel is its
 * per-core half, owned by one reactor with the storage role; a bdev_io is one request, owned by the
 * channel's core from bdev_submit() until its done() runs.
 *
 * Bytes, not blocks: any offset and length inside the bdev may be submitted. A driver states the
 * alignment it needs (align_bytes); the alignment layer (bdev/align.c) above it turns the rest into
 * read-modify-write, serialised across cores.
 */
#ifndef POLLUX_BDEV_BDEV_H
#define POLLUX_BDEV_BDEV_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "lib/base/compiler.h"
#include "lib/base/counter.h"
#include "reactor/reactor.h"

enum bdev_op {
	BDEV_READ,
	BDEV_WRITE,
	BDEV_FLUSH, /* no range: all writes completed before it, by whichever channel, become durable */
	BDEV_TRIM,
	BDEV_WRITE_ZEROES,
	BDEV_CACHE,
	BDEV_EXTENTS, /* what lies where: see struct bdev_extent */
	BDEV_OPS,
};

enum bdev_io_flags {
	BDEV_FUA = 1,	     /* WRITE, TRIM, WRITE_ZEROES: durable before done() */
	BDEV_NO_HOLE = 2,    /* WRITE_ZEROES: keep the space allocated */
	BDEV_FAST_ZERO = 4,  /* WRITE_ZEROES: -ENOTSUP at once rather than slower than TRIM would be */
	BDEV_LEND = 8,	     /* READ: the driver may answer with memory of its own */
	/*
	 * READ: where all of it is known to be zeroes, the driver may say BDEV_ZEROES in place of
	 * providing them.
	 */
	BDEV_SPARSE = 16,
	/*
	 * Set by the driver, of a READ with BDEV_SPARSE only: it has read zeroes. The payload memory
	 * is as it was; none is lent.
	 */
	BDEV_ZEROES = 32,
};

enum bdev_caps {
	BDEV_CAP_WRITE = 1,	  /* else read-only */
	BDEV_CAP_FLUSH = 2,
	BDEV_CAP_FUA = 4,
	BDEV_CAP_TRIM = 8,
	BDEV_CAP_WRITE_ZEROES = 16,
	BDEV_CAP_FAST_ZERO = 32,
	BDEV_CAP_CACHE = 64,	  /* CACHE does something */
	BDEV_CAP_LEND = 128,	  /* READ with BDEV_LEND may leave iovcnt 0 and get memory lent */
	/*
	 * READ and WRITE: done() runs before submit() returns, and payload memory may have any
	 * alignment: the caller may pass memory that it takes back right after. The other operations
	 * may take longer.
	 */
	BDEV_CAP_SYNC = 256,
	BDEV_CAP_ROTATIONAL = 512,
	BDEV_CAP_EXTENTS = 1024, /* EXTENTS is answered */
};

/* Of a bdev_extent in context 0. Both clear is always true. */
enum bdev_extent_flags {
	BDEV_EXTENT_HOLE = 1, /* takes no space: a WRITE may find none */
	BDEV_EXTENT_ZERO = 2, /* reads as zeroes */
};

enum {
	BDEV_NAME_MAX_BYTES = 255,
	BDEV_LAYERS_MAX = 8,	  /* of a stack */
	BDEV_IO_CTX_BYTES = 320,  /* room for all layers' contexts of one request */
	BDEV_IO_MAX_BYTES = 1 << 20, /* payload of one READ or WRITE; zeroing and trim: no limit */
	BDEV_IO_MAX_IOVS = 16,
	BDEV_LENT_IOVS = 2,
	BDEV_MAX_ALIGN_BYTES = 64 << 10,
};

struct bdev;
struct bdev_channel;
struct bdev_io;

/*
 * A run of bytes of one status; EXTENTS fills an array of them. The submitter gives the array as
 * iov[0] (room for one extent at least, iovcnt 1) and the number of the metadata context that it
 * asks about in `context`: 0 is the allocation, whose flags are enum bdev_extent_flags; what
 * further ones mean is told by their names (bdev_context_name()). Offset and length (not 0) may
 * have any alignment, whatever align_bytes is.
 *
 * On success io->extents (at least 1) of them lie one behind the other from io->offset on. They end
 * where the range does, or earlier: where the array is full, or where looking further would take
 * long. Neighbours differ in flags; no length is 0. They are true of some moment between submit and
 * done(), each of its own. -EINVAL: there is no such context.
 */
struct bdev_extent {
	uint64_t length; /* bytes */
	uint32_t flags;
};

/*
 * One request. The submitter fills op, flags, offset, length, iov, iovcnt, done; the rest is the
 * layers'. READ and WRITE: the iovec's bytes sum up to length, except a READ with BDEV_LEND, which has
 * iovcnt 0 - the driver then sets iov to `lent` and iovcnt; that memory is the driver's and stays
 * as it is until bdev_io_release(). Nobody else sets iov to `lent`.
 */
struct bdev_io {
	struct bdev_channel *ch;
	void (*done)(struct bdev_io *io); /* on the channel's core; may run before bdev_submit() returns */
	/* bytes; the alignment layer fits a TRIM's and a CACHE's to whole blocks */
	uint64_t offset;
	uint64_t length;
	struct iovec *iov;
	uint16_t iovcnt;
	uint8_t op;    /* enum bdev_op */
	uint8_t flags; /* enum bdev_io_flags */
	int32_t status; /* in done(): 0 or -errno */
	uint64_t started; /* ticks: reactor->now at submit */
	struct iovec lent[BDEV_LENT_IOVS];
	TAILQ_ENTRY(bdev_io) link; /* for the driver that holds the request: a waiting list */
	uint32_t context;	   /* EXTENTS: which metadata context */
	uint32_t extents;	   /* EXTENTS, in done(): how many were told */
	struct {	      /* the alignment layer's, while it holds the request */
		bool held;
		struct hop hop;
		TAILQ_ENTRY(bdev_io) link; /* the driver may use the other one */
		struct bdev_channel *home; /* where it was submitted */
		void (*done)(struct bdev_io *io);
	} align;
	_Alignas(16) uint8_t ctx[BDEV_IO_CTX_BYTES];
};

/*
 * A kind of bdev: one folder in bdev/. Functions marked (core) run on the channel's core, the rest on
 * the control thread.
 */
struct bdev_type {
	const char *name;	  /* "malloc", as in SPEC and the RPC names */
	const char *product_name; /* as bdev_get_bdevs prints it */
	size_t channel_ctx_bytes; /* driver's part of a channel, zeroed */

	/* (core) Opens what the core needs: registers files, opens the base's channel. 0 or -errno. */
	int (*channel_open)(struct bdev_channel *ch);
	/* (core) No request is in flight. */
	void (*channel_close)(struct bdev_channel *ch);
	/*
	 * (core) Takes n requests; each gets its done() exactly once, through bdev_io_complete(). Offset
	 * and length are within the bdev and aligned to align_bytes (a length may also end at the bdev's
	 * last byte), but for EXTENTS; payload memory is aligned to mem_align_bytes.
	 */
	void (*submit)(struct bdev_channel *ch, struct bdev_io **ios, unsigned n);
	/* (core) The lent memory of a READ is no longer used. May be NULL. */
	void (*release)(struct bdev_channel *ch, struct bdev_io *io);
	/* (core) A request has passed its time-out: try to end it early. May be NULL. */
	void (*abort)(struct bdev_channel *ch, struct bdev_io *io);
	/*
	 * (core) The channel is about to be drained (its last user closes it, the bdev is removed or
	 * reset): end what would otherwise wait for long, with -ECANCELED. May be NULL.
	 */
	void (*cancel)(struct bdev_channel *ch);

	/* All channels are closed, nobody has it open: frees what the driver holds, then calls
	 * bdev_destroyed(bdev). May take its time. */
	void (*destroy)(struct bdev *bdev);
	/* Changes the size; calls done(arg, 0 or -errno) once, here or later. May be NULL. */
	void (*resize)(struct bdev *bdev, uint64_t size_bytes, void (*done)(void *arg, int error),
		       void *arg);
	/*
	 * Any thread: the name of metadata context `index`, from 1 on; NULL past the last. The
	 * string lives as long as the bdev. NULL: the allocation is all there is. With
	 * BDEV_CAP_EXTENTS only.
	 */
	const char *(*context)(const struct bdev *bdev, unsigned index);
	/* Adds driver_specific members for bdev_get_bdevs. May be NULL. */
	void (*dump_info)(const struct bdev *bdev, json_t *object);
	/* Adds members for bdev_get_iostat (durability counters, …). May be NULL. */
	void (*dump_stat)(const struct bdev *bdev, json_t *object);
};

struct bdev_op_stats {
	uint64_t ops, bytes, errors;
	uint64_t latency_ticks, latency_max_ticks;
};

/* Kept by the owning core with counter_add(), read by the control thread with counter_read(). */
struct bdev_stats {
	struct bdev_op_stats op[BDEV_OPS];
};

/* The per-core half of a bdev. */
struct bdev_channel {
	struct bdev *bdev;
	const struct bdev_type *type;
	struct reactor *reactor;
	struct bdev_channel *base; /* of the bdev below, or NULL */
	uint32_t inflight;	   /* a counter: submitted and not done, or lent and not released */
	uint32_t refs;		   /* holders on this core */
	uint32_t closing;	   /* bdev_close_channels() that have drained it and not yet ended */
	struct bdev_drain *drains; /* those that wait for inflight to fall to 0 */
	struct bdev_stats stats;
	struct align_channel *align; /* the alignment layer's part, NULL where align_bytes is 1 */
	_Alignas(16) uint8_t ctx[];  /* channel_ctx_bytes of the driver */
};

enum bdev_event {
	BDEV_EVENT_RESIZE, /* size_bytes changed */
	BDEV_EVENT_REMOVE, /* the holder must let go, soon: close channels, then bdev_release() */
};

/* A hold on a bdev: an export's, or that of the bdev above. Owned by the holder. Control thread. */
struct bdev_claim {
	struct bdev *bdev;
	const char *holder; /* "export disk", "bdev delay0": for messages */
	bool write;
	void (*event)(struct bdev_claim *claim, enum bdev_event event);
	TAILQ_ENTRY(bdev_claim) link;
};

/*
 * Embedded in the driver's own struct. The driver fills what is above the line before
 * bdev_register(); the registry owns the rest. Geometry is constant but for size_bytes.
 */
struct bdev {
	const struct bdev_type *type;
	char name[BDEV_NAME_MAX_BYTES + 1];
	char uuid[37]; /* empty: a random one is made */
	_Atomic uint64_t size_bytes;
	uint32_t block_size;	  /* reported: 512 or 4096, … */
	uint32_t physical_block_size; /* 0: block_size */
	uint32_t align_bytes;	  /* of offset and length; power of two, 1: none */
	uint32_t mem_align_bytes; /* of payload memory; power of two, 1: none */
	uint32_t caps;		  /* enum bdev_caps */
	uint32_t io_ctx_bytes;	  /* this layer's part of bdev_io.ctx */
	int numa_id;		  /* REGION_ANY_NODE or the node its memory lies on */
	/* The bdev below, claimed by this one's driver, or NULL. Alignment is the lowest bdev's alone:
	 * bdev_register() sets align_bytes to 1 where there is a base. */
	struct bdev *base;
	/* ---- the registry's ---- */
	uint32_t io_ctx_offset; /* of this layer's part of bdev_io.ctx */
	bool removing;
	unsigned pending; /* asynchronous work of the registry on it */
	TAILQ_HEAD(, bdev_claim) claims;
	TAILQ_ENTRY(bdev) link;
	struct align_state *align; /* of the alignment layer, NULL where align_bytes is 1 */
	struct bdev_channel *_Atomic channels[REACTOR_MAX]; /* by reactor index */
	struct bdev_stats past;	 /* of channels that were closed */
	void (*removed)(void *arg, int error); /* bdev_remove()'s callback */
	void *removed_arg;
};

/* ---- Registry: control thread ---- */

/*
 * Makes it visible under its name. Returns 0; -EEXIST (name taken, -EEXIST as SPDK's -17), -EINVAL
 * (bad name, size 0, size beyond INT64_MAX, bad geometry, too many layers), -ENOMEM. On error the
 * driver still owns it.
 */
int bdev_register(struct bdev *bdev);
struct bdev *bdev_find(const char *name);
/* bdev_first(), bdev_next(): in order of registration. */
struct bdev *bdev_first(void);
struct bdev *bdev_next(const struct bdev *bdev);
/* Why a new bdev of this name cannot be: 0, -EEXIST, -EINVAL. Before slow work is begun. */
int bdev_check_name(const char *name);
/* "Malloc3": prefix and the lowest number free. */
void bdev_make_name(const char *prefix, char name[BDEV_NAME_MAX_BYTES + 1]);

/*
 * claim->holder, write, event are set by the caller. Returns 0; -EBUSY where write is asked for and
 * held, or an exclusive holder is there; -EPERM for write on a read-only bdev; -ENODEV while it is
 * being removed.
 */
int bdev_claim(struct bdev *bdev, struct bdev_claim *claim);
void bdev_release(struct bdev_claim *claim);
/* The first claim's holder, or NULL. */
const char *bdev_holder(const struct bdev *bdev);

/*
 * Takes it out of the registry: -EBUSY at once where it is claimed and !force. With force every
 * holder gets BDEV_EVENT_REMOVE first. done(arg, 0) when all is freed. Returns 0 (done will be called,
 * maybe before it returns) or -errno (it will not).
 */
int bdev_remove(struct bdev *bdev, bool force, void (*done)(void *arg, int error), void *arg);
/* None is registered, none of those that were is still being let go of by its driver. */
bool bdev_all_gone(void);
/* From type->destroy(), when the driver is done; the driver frees its struct right after it returns. */
void bdev_destroyed(struct bdev *bdev);

/* From a driver: size_bytes has changed; tells holders. */
void bdev_resized(struct bdev *bdev);

/* The sum over all channels, past and present. */
void bdev_get_stats(const struct bdev *bdev, struct bdev_stats *stats);
void bdev_reset_stats(struct bdev *bdev);

/*
 * Opens (closes) a channel on every reactor with the storage role; done(arg, 0 or -errno) later, on
 * the control thread; on error none is left open. Opened and closed as often as there are holders.
 * The last holder's closing waits for the requests in flight on all cores before any core closes;
 * an earlier one's does not wait: it has let its own requests end before.
 */
void bdev_open_channels(struct bdev *bdev, void (*done)(void *arg, int error), void *arg);
void bdev_close_channels(struct bdev *bdev, void (*done)(void *arg, int error), void *arg);

/* ---- Channel: on its core ---- */

/* The channel on this core, NULL where none is open. */
static inline struct bdev_channel *bdev_channel_here(struct bdev *bdev)
{
	return atomic_load_explicit(&bdev->channels[reactor_self->index], memory_order_acquire);
}

/* For drivers of a layer: opens (closes) the base's channel on this core. NULL: errno tells why. */
struct bdev_channel *bdev_channel_get(struct bdev *bdev);
void bdev_channel_put(struct bdev_channel *ch);

/* The alignment layer's entry (bdev/align.c). */
void bdev_align_submit(struct bdev_channel *ch, struct bdev_io *io);

/*
 * Submits one request that lies inside the bdev. done() runs exactly once. The stack is not bounded
 * where done() submits again at once: callers loop instead of recursing.
 */
static inline void bdev_submit(struct bdev_channel *ch, struct bdev_io *io)
{
	reactor_assert_owner(ch->reactor);
	io->ch = ch;
	io->started = ch->reactor->now;
	counter_add(&ch->inflight, 1);
	if (ch->align)
		bdev_align_submit(ch, io);
	else
		ch->type->submit(ch, &io, 1);
}

/*
 * Asks for an early end of a request that was submitted to `ch` on this core and is not done. It ends
 * with -ETIMEDOUT or -ECANCELED, or in its own time where the driver can not help it.
 */
void bdev_abort(struct bdev_channel *ch, struct bdev_io *io);

void bdev_channel_drained(struct bdev_channel *ch);

/* A request or a loan less. */
static inline void bdev_channel_leave(struct bdev_channel *ch)
{
	counter_add(&ch->inflight, -1);
	if (unlikely(ch->drains != NULL) && !ch->inflight)
		bdev_channel_drained(ch);
}

/* From a driver: io->status is set (0 or -errno); accounts for it and calls done(). */
static inline void bdev_io_complete(struct bdev_io *io, int status)
{
	struct bdev_channel *ch = io->ch;
	struct bdev_op_stats *stats = &ch->stats.op[io->op];
	uint64_t ticks = ch->reactor->now - io->started;
	reactor_assert_owner(ch->reactor);
	io->status = status;
	counter_add(&stats->ops, 1);
	counter_add(&stats->bytes, io->length);
	counter_add(&stats->latency_ticks, ticks);
	if (unlikely(ticks > stats->latency_max_ticks))
		counter_set(&stats->latency_max_ticks, ticks);
	if (unlikely(status < 0))
		counter_add(&stats->errors, 1);
	/* a loan that must come back counts as in flight until bdev_io_release() */
	bool loan = ch->type->release && io->iov == io->lent;
	io->done(io);
	if (!loan)
		bdev_channel_leave(ch);
}

/* True in done(): the payload of this READ is lent and must be released. */
static inline bool bdev_io_is_lent(const struct bdev_io *io)
{
	return io->iov == io->lent;
}

/*
 * On the channel's core: the loan returns. A driver without type->release() lends what stays as
 * long as the bdev itself: the holder of the bdev sees to that, and nothing is to be returned.
 */
static inline void bdev_io_release(struct bdev_channel *ch, struct bdev_io *io)
{
	if (!ch->type->release)
		return;
	ch->type->release(ch, io);
	bdev_channel_leave(ch);
}

/* ---- Metadata contexts ---- */

/* Any thread: the name of a metadata context as NBD clients know it; NULL past the last. */
static inline const char *bdev_context_name(const struct bdev *bdev, unsigned index)
{
	if (!(bdev->caps & BDEV_CAP_EXTENTS))
		return NULL;
	if (!index)
		return "base:allocation";
	return bdev->type->context ? bdev->type->context(bdev, index) : NULL;
}

/*
 * From a driver, in EXTENTS: tells the next run, merged with the one before where their flags are
 * the same. io->extents was 0 before the first. False: there is no room for it.
 */
static inline bool bdev_extents_add(struct bdev_io *io, uint64_t length, uint32_t flags)
{
	struct bdev_extent *extents = io->iov[0].iov_base;
	uint32_t count = io->extents;
	if (count && extents[count - 1].flags == flags) {
		extents[count - 1].length += length;
		return true;
	}
	if (count >= io->iov[0].iov_len / sizeof(*extents))
		return false;
	extents[count] = (struct bdev_extent){length, flags};
	io->extents = count + 1;
	return true;
}

/* ---- Layers ---- */

/* This layer's context in a request. */
static inline void *bdev_io_ctx(const struct bdev *bdev, struct bdev_io *io)
{
	return io->ctx + bdev->io_ctx_offset;
}

/* What a layer keeps of the layer above while the request is below: first member of its context. */
struct bdev_io_frame {
	struct bdev_channel *ch;
	void (*done)(struct bdev_io *io);
	uint64_t started;
};

/*
 * Passes a request to the base unchanged; `done` (of the layer) runs when the base has completed it,
 * and must end in bdev_io_pop(). The layer's context begins with a struct bdev_io_frame.
 */
static inline void bdev_io_push(struct bdev_channel *ch, struct bdev_io *io,
				void (*done)(struct bdev_io *io))
{
	struct bdev_io_frame *frame = bdev_io_ctx(ch->bdev, io);
	frame->ch = ch;
	frame->done = io->done;
	frame->started = io->started;
	io->done = done;
	bdev_submit(ch->base, io);
}

/* Where the context of the layer above a bdev begins. */
static inline uint32_t bdev_io_ctx_end(const struct bdev *bdev)
{
	return (bdev->io_ctx_offset + bdev->io_ctx_bytes + 15) & ~15u;
}

/*
 * In the layer's done(): restores the layer's own view of the request and returns the layer's
 * channel; the layer then calls bdev_io_complete(), now or later.
 */
static inline struct bdev_channel *bdev_io_pop(struct bdev_io *io)
{
	struct bdev_io_frame *frame = (void *)(io->ctx + bdev_io_ctx_end(io->ch->bdev));
	io->ch = frame->ch;
	io->done = frame->done;
	io->started = frame->started;
	return frame->ch;
}

#endif
