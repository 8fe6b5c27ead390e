/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * open: opens a file or block device and finds out how it is best served: its size, whether
 * O_DIRECT works and with what alignment, what can be trimmed. Runs on a worker thread, since each
 * call may hang with the mount below; touches nothing but the `struct file` it was given, and
 * changes no byte of the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "bdev/file/map.h"

enum { BLOCK_MIN_BYTES = 512, BLOCK_MAX_BYTES = BDEV_MAX_ALIGN_BYTES };

/* One opening. */
struct opening {
	struct file *file;
	const struct bdev_file_options *options;
	struct stat st;
	char *why;
};

static int refuse(struct opening *o, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The path, then what is wrong. */
static int refuse(struct opening *o, int error, const char *format, ...)
{
	va_list arguments;
	int used = snprintf(o->why, FILE_WHY_BYTES, "%.300s: ", o->file->path);
	va_start(arguments, format);
	vsnprintf(o->why + used, FILE_WHY_BYTES - used, format, arguments);
	va_end(arguments);
	return error;
}

static int refuse_errno(struct opening *o, int error)
{
	bool write = !o->options->read_only;
	switch (error) {
	case -ENOENT:
		return refuse(o, error, "no such file");
	case -EACCES:
	case -EPERM:
		return refuse(o, error, "permission denied%s", write ? " (to read and write)" : "");
	case -EROFS:
		return refuse(o, error, "lies on a read-only file system: open it read-only");
	case -EBUSY:
		return refuse(o, error,
			      "the block device is in use (mounted, or claimed by another)");
	case -ETXTBSY:
		return refuse(o, error, "is in use: as a running program or as swap space");
	case -EMFILE:
	case -ENFILE:
		return refuse(o, error, "no file descriptor is left (ulimit -n)");
	default:
		return refuse(o, error, "can not be opened: %s", strerror(-error));
	}
}

/* Before open(): that of a FIFO would wait for a writer, that of a device node may do anything. */
static int check_kind(struct opening *o)
{
	if (stat(o->file->path, &o->st))
		return refuse_errno(o, -errno);
	switch (o->st.st_mode & S_IFMT) {
	case S_IFREG:
		return 0;
	case S_IFBLK:
		o->file->block_device = true;
		return 0;
	case S_IFDIR:
		return refuse(o, -EISDIR, "is a directory");
	case S_IFCHR:
		return refuse(o, -EINVAL, "is a character device, not a file or block device");
	case S_IFIFO:
		return refuse(o, -EINVAL, "is a named pipe, not a file or block device");
	case S_IFSOCK:
		return refuse(o, -EINVAL, "is a socket, not a file or block device");
	default:
		return refuse(o, -EINVAL, "is not a file or block device");
	}
}

/* A descriptor of its own on the same file. Returns it or -errno. */
static int open_same(struct opening *o, int flags)
{
	struct stat st;
	int fd = open(o->file->path, flags | O_CLOEXEC | (o->file->read_only ? O_RDONLY : O_RDWR));
	if (fd < 0)
		return -errno;
	int error = fstat(fd, &st) ? -errno : 0;
	bool same = !error && st.st_dev == o->st.st_dev && st.st_ino == o->st.st_ino &&
		    st.st_rdev == o->st.st_rdev &&
		    (st.st_mode & S_IFMT) == (o->st.st_mode & S_IFMT);
	if (same)
		return fd;
	close(fd);
	return error ? error : -ESTALE;
}

/*
 * Two targets that write the same image would destroy it: the file is locked as a whole, by an open
 * file description lock, which qemu's locks conflict with. File systems that know no locks do
 * without.
 */
static int lock_file(struct opening *o)
{
	struct flock lock = {
		.l_type = o->file->read_only ? F_RDLCK : F_WRLCK,
		.l_whence = SEEK_SET,
	};
	if (!fcntl(o->file->fd, F_OFD_SETLK, &lock) || (errno != EAGAIN && errno != EACCES))
		return 0;
	return refuse(o, -EBUSY, "in use by another process, or by another bdev (it is locked)");
}

static int open_main(struct opening *o)
{
	struct file *file = o->file;
	/* O_EXCL: a block device that is mounted, or that another claims, is refused */
	int fd = open_same(o, file->block_device && !file->read_only ? O_EXCL : 0);
	if (fd == -ESTALE)
		return refuse(o, fd, "was replaced by another file while it was being opened");
	if (fd < 0)
		return refuse_errno(o, fd);
	file->fd = fd;
	return file->block_device ? 0 : lock_file(o);
}

int file_read_size(const struct file *file, uint64_t *size_bytes)
{
	struct stat st;
	if (file->block_device)
		return ioctl(file->fd, BLKGETSIZE64, size_bytes) ? -errno : 0;
	if (fstat(file->fd, &st))
		return -errno;
	*size_bytes = st.st_size;
	return 0;
}

static int find_size(struct opening *o)
{
	uint64_t size = 0;
	int error = file_read_size(o->file, &size);
	if (error)
		return refuse(o, error, "its size can not be read: %s", strerror(-error));
	if (!size)
		return refuse(o, -EINVAL, "is empty: a bdev needs at least one byte");
	o->file->bdev.size_bytes = size;
	return 0;
}

static int find_file_system(struct opening *o)
{
	struct file *file = o->file;
	struct statfs fs;
	if (file->block_device || fstatfs(file->fd, &fs))
		return 0;
	switch ((uint32_t)fs.f_type) {
	case TMPFS_MAGIC:
	case RAMFS_MAGIC:
		file->memory = true;
		return 0;
	case HUGETLBFS_MAGIC:
		file->memory = true;
		return file->read_only ? 0
				       : refuse(o, -EOPNOTSUPP,
						"lies on hugetlbfs, which takes no writes: open it "
						"read-only");
	case AFS_SUPER_MAGIC:
	case CEPH_SUPER_MAGIC:
	case CIFS_SUPER_MAGIC:
	case CODA_SUPER_MAGIC:
	case FUSE_SUPER_MAGIC:
	case NFS_SUPER_MAGIC:
	case SMB_SUPER_MAGIC:
	case SMB2_SUPER_MAGIC:
	case V9FS_MAGIC:
		file->remote = true;
		return 0;
	default:
		return 0;
	}
}

static bool is_alignment(uint32_t bytes)
{
	return bytes && !(bytes & (bytes - 1)) && bytes <= BLOCK_MAX_BYTES;
}

/* Whether O_DIRECT reads work at this alignment; other errors than -EINVAL tell nothing about it.
 */
static bool direct_read_works(int fd, uint32_t align)
{
	void *buffer;
	if (posix_memalign(&buffer, MAX_OF(align, (uint32_t)FILE_PAGE_BYTES), align))
		return false;
	bool works = pread(fd, buffer, align, 0) >= 0 || errno != EINVAL;
	free(buffer);
	return works;
}

/* What the kernel says, else what works. Returns 0, or -EINVAL: no direct I/O here. */
static int find_alignment(struct opening *o, int fd, uint32_t *align, uint32_t *mem_align)
{
	static const uint32_t guesses[] = {BLOCK_MIN_BYTES, FILE_PAGE_BYTES};
	struct statx stx;
	int logical;
	if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) && stx.stx_mask & STATX_DIOALIGN) {
		if (!stx.stx_dio_offset_align)
			return -EINVAL;
		*align = stx.stx_dio_offset_align;
		*mem_align = stx.stx_dio_mem_align;
		if (is_alignment(*align) && is_alignment(*mem_align) &&
		    *mem_align <= FILE_PAGE_BYTES && direct_read_works(fd, *align))
			return 0;
	}
	if (o->file->block_device && !ioctl(fd, BLKSSZGET, &logical) && is_alignment(logical)) {
		*align = logical;
		*mem_align = MIN_OF(logical, FILE_PAGE_BYTES);
		return direct_read_works(fd, logical) ? 0 : -EINVAL;
	}
	for (unsigned i = 0; i < COUNT_OF(guesses); i++) {
		*align = *mem_align = guesses[i];
		if (direct_read_works(fd, guesses[i]))
			return 0;
	}
	return -EINVAL;
}

static int find_direct(struct opening *o)
{
	struct file *file = o->file;
	struct bdev *bdev = &file->bdev;
	bool must = o->options->direct == BDEV_FILE_DIRECT_ON;
	bdev->align_bytes = bdev->mem_align_bytes = 1;
	if (o->options->direct == BDEV_FILE_DIRECT_OFF)
		return 0;
	if (file->memory)
		return must ? refuse(o, -EINVAL,
				     "direct=on is impossible: the file lies in memory (tmpfs), "
				     "where there is no cache to go past")
			    : 0;
	int fd = open_same(o, O_DIRECT);
	if (fd == -EMFILE || fd == -ENFILE)
		return refuse_errno(o, fd);
	int error = fd < 0 ? fd : find_alignment(o, fd, &bdev->align_bytes, &bdev->mem_align_bytes);
	if (!error) {
		file->direct_fd = fd;
		return 0;
	}
	if (fd >= 0)
		close(fd);
	bdev->align_bytes = bdev->mem_align_bytes = 1;
	return must ? refuse(o, error,
			     "direct=on is impossible: its file system takes no O_DIRECT (%s)",
			     strerror(-error))
		    : 0;
}

static int find_geometry(struct opening *o)
{
	struct file *file = o->file;
	struct bdev *bdev = &file->bdev;
	uint32_t asked = o->options->block_size;
	uint32_t logical = MAX_OF(bdev->align_bytes, (uint32_t)BLOCK_MIN_BYTES);
	uint32_t physical = is_alignment(o->st.st_blksize) ? o->st.st_blksize : FILE_PAGE_BYTES;
	int bytes;
	unsigned short rotational = 0;
	if (file->block_device) {
		if (!ioctl(file->fd, BLKSSZGET, &bytes) && is_alignment(bytes))
			logical = MAX_OF(logical, (uint32_t)bytes);
		if (!ioctl(file->fd, BLKPBSZGET, &bytes) && is_alignment(bytes))
			physical = bytes;
		if (!ioctl(file->fd, BLKROTATIONAL, &rotational) && rotational)
			bdev->caps |= BDEV_CAP_ROTATIONAL;
		/* discard and zeroing take whole blocks, however data is written */
		bdev->align_bytes = logical;
	}
	file->whole_bytes = file->direct_fd >= 0 && !file->block_device ? physical : 1;
	if (asked && (!is_alignment(asked) || asked < BLOCK_MIN_BYTES))
		return refuse(o, -EINVAL, "block_size %u is no power of two from %u to %u", asked,
			      BLOCK_MIN_BYTES, BLOCK_MAX_BYTES);
	if (asked && asked < logical)
		return refuse(o, -EINVAL, "block_size %u is less than the %u bytes it needs", asked,
			      logical);
	bdev->block_size = asked ? asked : logical;
	bdev->physical_block_size = MAX_OF(physical, bdev->block_size);
	return 0;
}

/* A number in the block device's queue directory (a partition's stands in its disk's); -1: unknown.
 */
static int64_t queue_limit(const struct opening *o, const char *name)
{
	static const char *const places[] = {"queue", "../queue"};
	char path[128];
	long long value;
	for (unsigned i = 0; i < COUNT_OF(places); i++) {
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s", major(o->st.st_rdev),
			 minor(o->st.st_rdev), places[i], name);
		FILE *stream = fopen(path, "re");
		if (!stream)
			continue;
		int found = fscanf(stream, "%lld", &value);
		fclose(stream);
		if (found == 1)
			return value;
	}
	return -1;
}

/* One READ as the cores will do it: polled, of what the device is least likely to refuse. */
static bool polled_read_works(int fd, uint32_t align)
{
	struct io_uring ring;
	struct io_uring_cqe *cqe;
	void *buffer;
	if (io_uring_queue_init(1, &ring, IORING_SETUP_IOPOLL))
		return false;
	bool works = !posix_memalign(&buffer, MAX_OF(align, (uint32_t)FILE_PAGE_BYTES), align);
	if (works) {
		io_uring_prep_read(io_uring_get_sqe(&ring), fd, buffer, align, 0);
		works = io_uring_submit_and_wait(&ring, 1) >= 0 &&
			!io_uring_wait_cqe(&ring, &cqe) && cqe->res == (int)align;
		free(buffer);
	}
	io_uring_queue_exit(&ring);
	return works;
}

/*
 * How much can be polled for: what one command takes, wherever its pages lie. The kernel does not
 * wait for a free command there, so there must be many.
 */
static void find_polled(struct opening *o)
{
	struct file *file = o->file;
	int64_t kib = queue_limit(o, "max_sectors_kb");
	int64_t pages = queue_limit(o, "max_segments") - 1;
	int64_t bytes = MIN_OF(kib << 10, pages * FILE_PAGE_BYTES);
	if (!file->block_device || file->direct_fd < 0 || queue_limit(o, "io_poll") <= 0 ||
	    queue_limit(o, "chunk_sectors") > 0 ||
	    queue_limit(o, "nr_requests") < FILE_POLLED_INFLIGHT_MAX || bytes < FILE_PAGE_BYTES ||
	    !polled_read_works(file->direct_fd, file->bdev.align_bytes))
		return;
	file->polled_bytes_max = (uint32_t)MIN_OF(bytes, (int64_t)FILE_POLLED_MAX_BYTES);
}

/* Whether holes can be punched: asked for beyond the end, where there is nothing to lose. */
static bool can_punch(const struct file *file)
{
	uint64_t beyond =
		(file->bdev.size_bytes + 2 * BLOCK_MAX_BYTES) & -(uint64_t)BLOCK_MAX_BYTES;
	return !fallocate(file->fd, file_fallocate_mode(FILE_PUNCH), beyond, FILE_PAGE_BYTES) ||
	       !file_method_missing(FILE_PUNCH, -errno);
}

static void find_caps(struct opening *o)
{
	struct file *file = o->file;
	struct bdev *bdev = &file->bdev;
	bool buffered = file->direct_fd < 0;
	bdev->caps |= BDEV_CAP_EXTENTS;
	if (buffered && !file->memory)
		bdev->caps |= BDEV_CAP_CACHE;
	if (file->memory)
		bdev->caps |= BDEV_CAP_SYNC;
	if (file->read_only)
		return;
	bdev->caps |= BDEV_CAP_WRITE | BDEV_CAP_FLUSH | BDEV_CAP_FUA | BDEV_CAP_WRITE_ZEROES |
		      BDEV_CAP_FAST_ZERO;
	if (file->block_device) {
		if (queue_limit(o, "discard_max_bytes"))
			bdev->caps |= BDEV_CAP_TRIM;
		file->zero_range_slow = queue_limit(o, "write_zeroes_max_bytes") <= 0;
	} else if (can_punch(file)) {
		bdev->caps |= BDEV_CAP_TRIM;
	} else {
		file_forget_method(file, FILE_PUNCH);
	}
}

/* A descriptor for fdatasync a storage core: see struct file_core. */
static int open_sync_fds(struct opening *o)
{
	struct file *file = o->file;
	if (file->memory || file->read_only)
		return 0;
	for (unsigned i = 0; i < reactor_count; i++) {
		if (!(reactors[i]->roles & REACTOR_STORAGE))
			continue;
		int fd = open_same(o, 0);
		if (fd < 0)
			return refuse_errno(o, fd);
		file->cores[i].sync_fd = fd;
	}
	return 0;
}

int file_open(struct file *file, const struct bdev_file_options *options, char why[FILE_WHY_BYTES])
{
	static int (*const steps[])(struct opening *) = {
		check_kind,  open_main,	    find_size,	   find_file_system,
		find_direct, find_geometry, open_sync_fds,
	};
	struct opening o = {.file = file, .options = options, .why = why};
	struct bdev *bdev = &file->bdev;
	file->read_only = options->read_only;
	for (unsigned i = 0; i < COUNT_OF(steps); i++) {
		int error = steps[i](&o);
		if (error)
			return error;
	}
	find_caps(&o);
	find_polled(&o);
	bdev->type = &bdev_file_type;
	bdev->numa_id = REGION_ANY_NODE;
	bdev->io_ctx_bytes = sizeof(struct file_io);
	if (options->uuid)
		snprintf(bdev->uuid, sizeof(bdev->uuid), "%s", options->uuid);
	file->direct_end = file_direct_end(file, bdev->size_bytes);
	file->window_shift = file_window_shift(bdev->size_bytes);
	return 0;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void file_close(struct file *file)
{
	for (unsigned i = 0; i < reactor_count; i++)
		close_fd(&file->cores[i].sync_fd);
	close_fd(&file->direct_fd);
	if (file->fd >= 0) {
		/* a ring may keep the file a moment longer; who opens it next need not wait for
		 * that */
		struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
		fcntl(file->fd, F_OFD_SETLK, &lock);
	}
	close_fd(&file->fd);
}
