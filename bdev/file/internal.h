/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * internal: what the files of the file bdev share. `struct file` belongs to the control thread, but
 * for its atomic fields and for cores[i], which reactor i writes; `struct file_channel` and
 * `struct file_io` belong to the channel's core.
 *
 * A file in memory (tmpfs, ramfs) is served by system calls inside submit() (inline.c), but for
 * large zeroings; everything else goes through the core's io_uring (io.c, sync.c, zero.c). A remote
 * file's operations are left to io_uring's worker threads: handing them over may wait for the other
 * side as well, and the reactor must not.
 */
#ifndef POLLUX_BDEV_FILE_INTERNAL_H
#define POLLUX_BDEV_FILE_INTERNAL_H

#include "bdev/file/file.h"
#include "bdev/side_ring.h"

enum {
	FILE_PAGE_BYTES = 4096,
	FILE_ZERO_PIECE_BYTES = 1 << 20,   /* of one write of zeroes */
	FILE_ZERO_PIECES = 4,		   /* such writes in flight for one request */
	FILE_INLINE_ZERO_BYTES = 4 << 20,  /* in memory, larger ranges are left to the ring */
	FILE_CACHE_PIECE_BYTES = 1 << 30,  /* fadvise's length has 32 bits in older kernels */
	FILE_RETRIES_MAX = 100, /* of -EAGAIN and -EINTR, one request */
	/* requests of a remote file that a core begins: each may keep one of URING_WORKERS */
	FILE_REMOTE_INFLIGHT_MAX = 32,
	FILE_POLLED_INFLIGHT_MAX = 128, /* of a polled device on a core: its part of the side ring */
	FILE_POLLED_MAX_BYTES = 128 << 10,
	FILE_WHY_BYTES = 512,
	/* the map of what is allocated is made, kept and invalidated in windows */
	FILE_WINDOWS = 64, /* kept of a file; those of a larger one share their places */
	FILE_WINDOW_MIN_SHIFT = 26,
	FILE_MAP_RUNS_MAX = 2048, /* in one map; it ends where they do */
};

/* Ways to take away or to zero a range; their bits in file->unsupported. */
enum file_method {
	FILE_DISCARD,	    /* block device: io_uring's discard command, since Linux 6.12 */
	FILE_DISCARD_STALE, /* block device: fallocate() with NO_HIDE_STALE, before 6.12 */
	FILE_PUNCH,	    /* reads as zeroes afterwards, space is given back */
	FILE_ZERO_RANGE,    /* reads as zeroes, space is kept */
	FILE_ZERO_WRITE,    /* zeroes are written */
	FILE_METHODS,	    /* none is left */
};

/* The WRITEs, TRIMs and WRITE_ZEROES of one core in one window; counted by that core. */
struct file_writes {
	_Atomic uint64_t begun, ended;
};

/* What reactor i keeps of a file, longer than its channel lives. */
struct file_core {
	cache_aligned _Atomic uint64_t fsyncs; /* fdatasync calls completed */
	_Atomic uint64_t durable_writes;       /* FUA writes completed */
	_Atomic uint64_t errors;	       /* of both */
	/*
	 * For nothing but fdatasync: the kernel reports a write-back error once per open file, and
	 * a descriptor of its own means that no other core's call can swallow it. -1: none.
	 */
	int sync_fd;
	struct file_writes writes[FILE_WINDOWS];
};

struct file_resize {
	bool active;
	bool truncate; /* else the size was changed by somebody else and is only taken over */
	bool changed;
	uint64_t old_size, new_size; /* bytes */
	int error;
	void (*done)(void *arg, int error);
	void *arg;
	_Atomic unsigned draining; /* channels with requests still in flight, plus one */
};

struct file {
	struct bdev bdev;
	/* constant after opening */
	char *path;
	int fd;	       /* buffered; holds the lock, or the block device's exclusive claim */
	int direct_fd; /* O_DIRECT, or -1 */
	bool memory;   /* tmpfs, ramfs: system calls inside submit() */
	bool remote;   /* FUSE, NFS, …: another process or machine answers, or does not */
	bool block_device;
	/*
	 * Block device with queues to be polled: READs and WRITEs of up to so many bytes are done on
	 * the side ring. 0: none. The kernel (6.1) tries for ever to poll for what it has to split.
	 */
	uint32_t polled_bytes_max;
	bool read_only;
	bool zero_range_slow;	 /* block device that is zeroed by writing */
	uint32_t whole_bytes;	 /* fallocate() gets multiples; a power of two */
	uint8_t window_shift;	 /* of a window's bytes */
	struct file_core *cores; /* [reactor_count] */
	/* shared */
	_Atomic int sync_error;	      /* 0, or the first durability error: -errno, for ever */
	_Atomic uint32_t unsupported; /* bits by enum file_method */
	_Atomic uint64_t
		direct_end; /* from here to the end I/O is buffered; UINT64_MAX: no such part */
	_Atomic uint64_t resize_limit; /* during a resize: the smaller size; else UINT64_MAX */
	_Atomic bool no_fiemap;	       /* its file system does not know it */
	_Atomic uint64_t maps_made;
	/* the control thread's */
	struct file_resize resize;
	unsigned map_jobs;	/* under way, with a worker or to the cores */
	bool destroy_when_idle; /* as soon as none is, nor a resize */
};

/* A descriptor as this core's ring knows it. */
struct file_target {
	int fd;
	int slot; /* of the ring's registered files, or negative: use fd */
};

/* Where a request is; what abort() has to do depends on it. */
enum file_stage {
	FILE_HELD,	   /* waits in held for the end of a resize, or for others to end */
	FILE_RING,	   /* its own operations are in the ring */
	FILE_SYNC_WAITING, /* for the next fdatasync */
	FILE_SYNC_RUNNING, /* for the one in the ring */
	FILE_MAP_WAITING,  /* EXTENTS: for the next map */
	FILE_MAP_RUNNING,  /* for the one that a worker makes */
	FILE_FINISHED,	   /* its status is known, done() is about to run */
};

struct file_io;

/* One write of zeroes. */
struct file_piece {
	struct uring_op op;
	uint64_t offset; /* bytes */
	uint32_t length; /* bytes still to be written; 0: free */
	uint8_t index;	 /* in file_io.pieces */
};

/* The driver's part of a request. */
struct file_io {
	struct uring_op op;
	struct bdev_io *io;
	uint64_t progress; /* bytes done; while zeroes are written: bytes handed out to pieces */
	TAILQ_ENTRY(file_io) link;
	int32_t status;
	uint8_t stage;	/* enum file_stage */
	uint8_t method; /* enum file_method */
	uint8_t tries;
	uint8_t pieces_busy;
	bool aborted;
	bool edges; /* zeroes are, or were, written around the whole blocks that fallocate() takes */
	struct file_piece pieces[FILE_ZERO_PIECES];
};

TAILQ_HEAD(file_io_list, file_io);

/* fdatasync, one at a time: who comes while one runs shares the next. */
struct file_sync {
	struct uring_op op;
	bool busy;
	bool cancelled;
	uint8_t tries;
	struct file_io_list running, waiting;
};

struct file_map;
struct file_map_job;

/* EXTENTS on one core: one map is made at a time. */
struct file_mapping {
	struct file_map *maps[FILE_WINDOWS]; /* by window, modulo FILE_WINDOWS; or NULL */
	unsigned count;			     /* of them that are not NULL */
	struct file_map_job *job;	     /* outlives the channel while a worker has it */
	struct file_io_list running, waiting;
};

struct file_channel {
	struct file_target body, tail, sync; /* tail: the body again where there is none */
	const struct side_region *region;    /* NULL: no fixed buffers */
	struct side_ring *polled;	     /* NULL: the main ring serves all */
	struct file_target polled_body;	     /* the body, as the side ring knows it */
	struct file_core *core;
	uint64_t size; /* bytes; nothing beyond it is touched */
	uint64_t direct_end;
	uint32_t inflight; /* without those held */
	uint32_t inflight_max;
	unsigned async;	   /* IOSQE_ASYNC for a remote file: of each operation that could wait */
	bool device;	   /* of this machine: worth waiting for */
	bool paused;	   /* a resize waits for `inflight` to fall to 0, everything new is held */
	bool draining;	   /* and has not been told yet */
	bool cancelling;   /* the channel is being drained: what writes zeroes for long stops */
	bool resuming;	   /* begin_held() is on the stack */
	struct file_io_list held;
	struct file_sync syncing;
	struct file_mapping mapping;
};

static inline struct file *file_of(const struct bdev *bdev)
{
	return container_of(bdev, struct file, bdev);
}

static inline struct file_channel *file_channel(struct bdev_channel *ch)
{
	return (struct file_channel *)ch->ctx;
}

static inline bool file_is_write(const struct bdev_io *io)
{
	return io->op == BDEV_WRITE || io->op == BDEV_TRIM || io->op == BDEV_WRITE_ZEROES;
}

/* Its success says that data is on stable storage. */
static inline bool file_is_durable(const struct bdev_io *io)
{
	return io->op == BDEV_FLUSH ||
	       (io->flags & BDEV_FUA && io->op != BDEV_READ && io->op != BDEV_CACHE);
}

/* After io_uring_prep_*(), which clears what this sets. */
static inline void file_set_target(struct io_uring_sqe *sqe, const struct file_target *target)
{
	if (likely(target->slot >= 0)) {
		sqe->fd = target->slot;
		sqe->flags |= IOSQE_FIXED_FILE;
	} else {
		sqe->fd = target->fd;
	}
}

/*
 * The request's bytes before this are read and written through the body's descriptor, the others
 * through the tail's: those behind direct_end, and the last few of a request that ended where the
 * file did until the file grew, inside what is now a direct block.
 */
static inline uint64_t file_boundary(const struct file_channel *fc, const struct bdev_io *io)
{
	uint64_t end = MIN_OF(io->offset + io->length, fc->direct_end);
	return end & ~(uint64_t)(io->ch->bdev->align_bytes - 1);
}

/* -EAGAIN and -EINTR say "again", a cancelled request does not want to. */
static inline bool file_retries(struct file_io *fio, int result)
{
	return (result == -EAGAIN || result == -EINTR) && !fio->aborted &&
	       fio->tries++ < FILE_RETRIES_MAX;
}

/* Block devices take ranges of whole blocks only, and never end inside a page: they have no tail.
 */
static inline uint64_t file_direct_end(const struct file *file, uint64_t size_bytes)
{
	if (file->direct_fd < 0 || file->block_device)
		return UINT64_MAX;
	return size_bytes &
	       ~(uint64_t)(MAX_OF(file->bdev.align_bytes, (uint32_t)FILE_PAGE_BYTES) - 1);
}

/* ---- channel.c ---- */
int file_channel_open(struct bdev_channel *ch);
void file_channel_close(struct bdev_channel *ch);
void file_submit(struct bdev_channel *ch, struct bdev_io **ios, unsigned n);
void file_abort(struct bdev_channel *ch, struct bdev_io *io);
void file_cancel(struct bdev_channel *ch);
/* Ends a request that was begun; the channel may be gone when it returns. */
void file_complete(struct file_io *fio, int status);
/*
 * Why a request can not be begun: a durability error of the past; or it lies beyond the size,
 * because it was on its way when the bdev shrank (a write there would make the file grow). 0: it
 * can.
 */
int file_check(struct file *file, const struct file_channel *fc, const struct bdev_io *io);
/* After a resize: takes the new size over and begins what was held. */
void file_channel_resume(struct bdev_channel *ch);

/* ---- io.c ---- */
void file_start_rw(struct file_io *fio);
void file_start_cache(struct file_io *fio);
/* For the side ring. */
void file_polled_done(const struct io_uring_cqe *cqe);

/* ---- sync.c ---- */
/* Ends the request after an fdatasync that begins after this call. */
void file_sync(struct file_io *fio);
void file_abort_sync(struct file_io *fio);
/* A durable write has ended: counts it, and remembers an error of the kind that must not be lost.
 */
void file_account_durable(struct file *file, struct file_core *core, int status);
/* The same for an fdatasync. */
void file_account_fsync(struct file *file, struct file_core *core, int status);

/* ---- zero.c ---- */
/* TRIM and WRITE_ZEROES. */
void file_start_zero(struct file_io *fio);
void file_abort_zero(struct file_io *fio);
/* fallocate()'s mode. */
int file_fallocate_mode(enum file_method method);
bool file_method_missing(enum file_method method, int error);
/* The best way for this request, as far as is known; FILE_METHODS: there is none. */
enum file_method file_choose_method(const struct file *file, const struct bdev_io *io);
void file_forget_method(struct file *file, enum file_method method);
/* FILE_ZERO_PIECE_BYTES of zeroes, page aligned. */
extern uint8_t file_zeroes[];

/* ---- extents.c ---- */
int file_mapping_init(struct bdev_channel *ch);
void file_mapping_fini(struct file_channel *fc);
/* EXTENTS. */
void file_start_extents(struct file_io *fio);
void file_abort_extents(struct file_io *fio);
/* Ends all that wait for a map. */
void file_cancel_extents(struct file_channel *fc);
/* A write (not empty) is about to begin, before anything of it is submitted; it is over. */
void file_write_begins(struct file_channel *fc, const struct bdev_io *io);
void file_write_ended(struct file_channel *fc, const struct bdev_io *io);
/* What is known of the file may have changed otherwise. */
void file_forget_maps(struct file_channel *fc, const struct file *file);
/* A READ (not empty) that a map says is of zeroes: provides them. False: it has to be read. */
bool file_read_mapped_zeroes(struct file_channel *fc, struct bdev_io *io);
/* ---- inline.c ---- */
/* False: the request is one for the ring. Else its done() has run. */
bool file_submit_inline(struct bdev_channel *ch, struct bdev_io *io);

/* ---- open.c ---- */
/* On a worker: opens and probes, fills file->bdev but its name. 0, or -errno and a sentence. */
int file_open(struct file *file, const struct bdev_file_options *options, char why[FILE_WHY_BYTES]);
/* On a worker: closes what is open. */
void file_close(struct file *file);
/* On a worker: the size as it is now. 0 or -errno. */
int file_read_size(const struct file *file, uint64_t *size_bytes);

/* ---- resize.c ---- */
void file_resize(struct bdev *bdev, uint64_t size_bytes, void (*done)(void *arg, int error),
		 void *arg);
/* Takes over the size that the file or device has now. done() as for resize. */
void file_rescan(struct bdev *bdev, void (*done)(void *arg, int error), void *arg);
/* On a core: a channel being paused has become idle. */
void file_drained(struct file *file);

/* ---- file.c ---- */
/* Control thread: what used the file has ended; if it is to be destroyed and that was all, it is.
 */
void file_destroy_idle(struct file *file);

#endif
