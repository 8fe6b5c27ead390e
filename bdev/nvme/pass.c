/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pass: opening a namespace of the kernel's driver: which device a path means, that nobody else
 * uses it, what it is, and that commands reach it. On a worker, which may wait. Admin commands are
 * ioctls.
 */
#include "bdev/nvme/pass.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/nvme_ioctl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "bdev/nvme/namespace.h"
#include "bdev/nvme/options.h"
#include "bdev/nvme/pass_internal.h"
#include "bdev/nvme/status.h"
#include "lib/base/log.h"

__attribute__((format(printf, 3, 4))) static int refuse(char *why, int error, const char *format,
							...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(why, NVME_WHY_BYTES, format, args);
	va_end(args);
	return error;
}

/* ---- Which device ---- */

/* The kernel's name of a device file: "ng0n1", "nvme0n1". */
static int kernel_name(const struct stat *st, char *name, size_t name_bytes)
{
	char link[64], target[PATH_MAX];
	snprintf(link, sizeof(link), "/sys/dev/%s/%u:%u", S_ISBLK(st->st_mode) ? "block" : "char",
		 major(st->st_rdev), minor(st->st_rdev));
	ssize_t count = readlink(link, target, sizeof(target) - 1);
	if (count < 0)
		return -errno;
	target[count] = 0;
	const char *last = strrchr(target, '/');
	snprintf(name, name_bytes, "%.60s", last ? last + 1 : target);
	return 0;
}

static int refuse_open(const char *path, int error, char *why)
{
	if (error == -ENOENT)
		return refuse(why, error,
			      "there is no %s: the kernel's driver must have the device (modprobe "
			      "nvme; scripts/setup.sh reset gives one back to it)",
			      path);
	if (error == -EACCES || error == -EPERM)
		return refuse(
			why, error,
			"no permission to open %s: run pollux as root, or let the device file "
			"belong to its user",
			path);
	return refuse(why, error, "%s can not be opened: %s", path, strerror(-error));
}

static int refuse_kind(const char *path, char *why)
{
	return refuse(why, -ENOTTY,
		      "%s is no NVMe namespace: /dev/ng0n1 is the first one's of the first "
		      "controller",
		      path);
}

/* The character device that a path means, and the disk beside it. */
static int open_device(struct pass *pass, const char *path, char *why)
{
	struct stat st;
	char name[64], generic[80];
	if (stat(path, &st))
		return refuse_open(path, -errno, why);
	if ((!S_ISCHR(st.st_mode) && !S_ISBLK(st.st_mode)) || kernel_name(&st, name, sizeof(name)))
		return refuse_kind(path, why);
	bool block = S_ISBLK(st.st_mode);
	const char *prefix = block ? "nvme" : "ng";
	if (strncmp(name, prefix, strlen(prefix)))
		return refuse_kind(path, why);
	const char *numbers = name + strlen(prefix);
	snprintf(pass->disk, sizeof(pass->disk), "nvme%.50s", numbers);
	snprintf(generic, sizeof(generic), "/dev/ng%.60s", numbers);
	pass->fd = open(block ? generic : path, O_RDWR | O_CLOEXEC);
	if (pass->fd >= 0)
		return 0;
	int error = -errno;
	if (block && error == -ENOENT)
		return refuse(why, error,
			      "%s has no character device %s to pass commands through (partitions "
			      "have none): file:%s serves it through the block layer",
			      path, generic, path);
	return refuse_open(block ? generic : path, error, why);
}

/*
 * The character device may be opened by anybody at any time; so the disk is held, as a mount holds
 * it.
 */
static int claim(struct pass *pass, const char *path, char *why)
{
	char disk[80];
	struct stat st;
	snprintf(disk, sizeof(disk), "/dev/%s", pass->disk);
	pass->claim_fd = open(disk, O_RDONLY | O_EXCL | O_CLOEXEC);
	if (pass->claim_fd >= 0)
		return 0;
	if (errno == EBUSY)
		return refuse(why, -EBUSY,
			      "%s: %s is mounted or in use by another program (lsblk, fuser -v)",
			      path, disk);
	/* a path of several, or a container without the node */
	if (errno == ENOENT || errno == ENXIO)
		return 0;
	return stat(disk, &st) ? 0 : refuse_open(disk, -errno, why);
}

/* ---- Admin commands ---- */

static int admin_command(const struct pass *pass, const struct nvme_sqe *sqe, void *data,
			 uint32_t bytes, uint32_t *result)
{
	struct nvme_admin_cmd command = {
		.opcode = sqe->opcode,
		.nsid = sqe->nsid,
		.addr = (uintptr_t)data,
		.data_len = bytes,
		.cdw10 = sqe->cdw10,
		.cdw11 = sqe->cdw11,
		.cdw12 = sqe->cdw12,
		.cdw13 = sqe->cdw13,
		.cdw14 = sqe->cdw14,
		.cdw15 = sqe->cdw15,
		.timeout_ms = pass->timeout_admin_ms,
	};
	int status = ioctl(pass->fd, NVME_IOCTL_ADMIN_CMD, &command);
	if (result)
		*result = command.result;
	return status < 0 ? -errno : nvme_status_plain(status);
}

static int pass_admin(struct nvme_controller *controller, const struct nvme_sqe *sqe, void *data,
		      uint32_t bytes, uint32_t *result)
{
	return admin_command(pass_of(controller), sqe, data, bytes, result);
}

static int identify(const struct pass *pass, uint32_t cns, uint32_t nsid, void *data)
{
	const struct nvme_sqe sqe = {
		.opcode = NVME_ADMIN_IDENTIFY,
		.nsid = nsid,
		.cdw10 = cns,
	};
	return admin_command(pass, &sqe, data, NVME_IDENTIFY_BYTES, NULL);
}

/* ---- Attaching ---- */

static int refuse_identify(const char *path, int status, char *why)
{
	int error = nvme_status_errno(status);
	if (error == -EACCES || error == -EPERM)
		return refuse(
			why, error,
			"%s: the kernel lets only root (CAP_SYS_ADMIN) ask what the device is",
			path);
	return refuse(why, error, "%s: IDENTIFY fails: %s", path, nvme_status_text(status));
}

static int refuse_command(const char *path, int error, char *why)
{
	if (error == -EACCES || error == -EPERM)
		return refuse(why, error,
			      "%s: the kernel lets only root (CAP_SYS_ADMIN) pass commands", path);
	if (error == -EOPNOTSUPP || error == -ENOSYS || error == -EINVAL)
		return refuse(why, -ENOSYS,
			      "%s: this kernel passes no NVMe commands through io_uring", path);
	return refuse(why, error, "%s: a read by passthrough fails: %s", path, strerror(-error));
}

/* The kernel may know what to do with it; but that is another way to the data, to be chosen. */
static int refuse_format(const struct pass *pass, int error, char *why)
{
	size_t used = strlen(why);
	snprintf(why + used, NVME_WHY_BYTES - used,
		 "; or leave it to the kernel's block layer: file:/dev/%s", pass->disk);
	return error;
}

static int describe(struct pass *pass, const char *path, char *why)
{
	_Alignas(NVME_PAGE_BYTES) struct nvme_identify_namespace identity;
	int nsid = ioctl(pass->fd, NVME_IOCTL_ID);
	if (nsid <= 0)
		return refuse_kind(path, why);
	int status = identify(pass, NVME_CNS_CONTROLLER, 0, &pass->base.identify);
	if (!status)
		status = identify(pass, NVME_CNS_NAMESPACE, (uint32_t)nsid, &identity);
	if (status)
		return refuse_identify(path, status, why);
	/* refuses what can not be served, before a command is tried with it */
	struct nvme_namespace *ns;
	int error = nvme_namespace_add(&pass->base, (uint32_t)nsid, &identity, 0, &ns, why);
	if (error == -ENOTSUP)
		return refuse_format(pass, error, why);
	if (error)
		return error;
	error = pass_probe(pass, (uint32_t)nsid, 1u << ns->block_shift);
	if (error)
		return refuse_command(path, error, why);
	uint32_t most = pass->transfer_bytes_max & ~((1u << ns->block_shift) - 1);
	ns->transfer_bytes_max =
		MIN_OF(ns->transfer_bytes_max, MAX_OF(most, 1u << ns->block_shift));
	const char *model = pass->base.identify.model;
	int model_bytes = nvme_text_bytes(model, sizeof(pass->base.identify.model));
	log_notice("nvme", "%s: namespace %d of %.*s, %u KiB a command, %s%s", path, nsid,
		   model_bytes, model, ns->transfer_bytes_max >> 10,
		   pass->polled ? "polled" : "by interrupts (poll_queues of module nvme is 0)",
		   pass->fixed ? ", registered buffers" : "");
	if (pass->polled && !reactor_caps.uring_cmd_polled)
		log_warning("nvme",
			    "%s: this kernel may crash when polled commands fail, or are in flight when "
			    "pollux is killed: boot with nvme.poll_queues=0 (doc/nvme.md)",
			    path);
	return 0;
}

static void close_device(struct pass *pass)
{
	if (pass->claim_fd >= 0)
		close(pass->claim_fd);
	if (pass->fd >= 0)
		close(pass->fd);
	free(pass);
}

static uint32_t whole_ms(uint64_t us)
{
	return (uint32_t)MIN_OF((us + 999) / 1000, (uint64_t)UINT32_MAX);
}

static void set_timeouts(struct pass *pass)
{
	struct nvme_options options = nvme_options_get();
	if (options.timeout_is_set)
		pass->timeout_ms = whole_ms(options.timeout_us);
	if (options.timeout_admin_is_set)
		pass->timeout_admin_ms = whole_ms(options.timeout_admin_us);
}

static int pass_attach(const char *path, struct nvme_controller **controller,
		       char why[NVME_WHY_BYTES])
{
	struct pass *pass = calloc(1, sizeof(*pass));
	if (!pass)
		return refuse(why, -ENOMEM, "no memory");
	pass->fd = pass->claim_fd = -1;
	pass->base.transport = &nvme_pass_transport;
	set_timeouts(pass);
	TAILQ_INIT(&pass->base.namespaces);
	snprintf(pass->base.address, sizeof(pass->base.address), "%s", path);
	int error = open_device(pass, path, why);
	if (!error)
		error = claim(pass, path, why);
	if (!error)
		error = describe(pass, path, why);
	if (!error) {
		*controller = &pass->base;
		return 0;
	}
	struct nvme_namespace *ns = TAILQ_FIRST(&pass->base.namespaces);
	if (ns) {
		nvme_namespace_unlink(ns);
		nvme_namespace_free(ns);
	}
	close_device(pass);
	return error;
}

static void pass_detach(struct nvme_controller *controller)
{
	close_device(pass_of(controller));
}

static void dump(const struct nvme_controller *controller, json_t *object)
{
	const struct pass *pass = container_of(controller, const struct pass, base);
	json_object_set_new(object, "polled", json_boolean(pass->polled));
	json_object_set_new(object, "registered_buffers", json_boolean(pass->fixed));
}

const struct nvme_transport nvme_pass_transport = {
	.name = "passthrough",
	.queue_get = pass_queue_get,
	.queue_put = pass_queue_put,
	.issue = pass_queue_issue,
	.abort = pass_queue_abort,
	.attach = pass_attach,
	.detach = pass_detach,
	.admin = pass_admin,
	.dump = dump,
};
