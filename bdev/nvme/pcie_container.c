/* SPDX-License-Identifier: BSD-3-Clause */
/* pcie_container: one container for all devices, under one lock. Nothing here is on a request's
 * path. */
#include "bdev/nvme/pcie_container.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/base/log.h"

enum {
	GROUPS_MAX = 64,
	SPANS_MAX = 32,
	TAKEN_MAX = 4096, /* mappings: a region a core, and one a queue */
	INFO_MAX_BYTES = 4096,
};

static struct {
	pthread_mutex_t lock;
	int fd;
	struct {
		unsigned number, users;
		int fd;
	} groups[GROUPS_MAX];
	unsigned group_count;
	struct pcie_iova_span usable[SPANS_MAX];
	unsigned usable_count;
	struct pcie_iova_span taken[TAKEN_MAX]; /* sorted */
	unsigned taken_count;
	struct pcie_dma buffers;
	bool told_of_pages;
} container = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

const struct pcie_dma *pcie_dma_buffers(void)
{
	return &container.buffers;
}

/* ---- Addresses ---- */

uint64_t pcie_iova_find(const struct pcie_iova_span *usable, unsigned usable_count,
			const struct pcie_iova_span *taken, unsigned taken_count, uint64_t bytes)
{
	const uint64_t unit = REGION_HUGE_BYTES;
	for (unsigned i = 0; i < usable_count; i++) {
		uint64_t at = MAX_OF(usable[i].first, unit);
		at = (at + unit - 1) / unit * unit;
		for (unsigned j = 0; j < taken_count; j++) {
			if (taken[j].last < at || taken[j].first > at + bytes - 1)
				continue;
			at = (taken[j].last + unit) / unit * unit;
		}
		if (at >= usable[i].first && at <= usable[i].last &&
		    bytes - 1 <= usable[i].last - at)
			return at;
	}
	return 0;
}

static void take_span(uint64_t iova, uint64_t bytes)
{
	unsigned at = container.taken_count++;
	for (; at > 0 && container.taken[at - 1].first > iova; at--)
		container.taken[at] = container.taken[at - 1];
	container.taken[at] = (struct pcie_iova_span){iova, iova + bytes - 1};
}

static void free_span(uint64_t iova)
{
	unsigned at = 0;
	while (at < container.taken_count && container.taken[at].first != iova)
		at++;
	if (at == container.taken_count)
		return;
	container.taken_count--;
	for (; at < container.taken_count; at++)
		container.taken[at] = container.taken[at + 1];
}

static void take_ranges(const uint8_t *capability, size_t bytes)
{
	struct vfio_iommu_type1_info_cap_iova_range head;
	struct vfio_iova_range range;
	memcpy(&head, capability, MIN_OF(bytes, sizeof(head)));
	container.usable_count = 0;
	for (size_t at = sizeof(head); head.nr_iovas && at + sizeof(range) <= bytes;
	     head.nr_iovas--) {
		memcpy(&range, capability + at, sizeof(range));
		at += sizeof(range);
		if (container.usable_count < SPANS_MAX)
			container.usable[container.usable_count++] =
				(struct pcie_iova_span){range.start, range.end};
	}
}

/* Which addresses the IOMMU takes; a kernel that does not tell has all but the interrupts' window.
 */
static void find_usable(void)
{
	_Alignas(uint64_t) uint8_t bytes[INFO_MAX_BYTES] = {0};
	struct vfio_iommu_type1_info *info = (struct vfio_iommu_type1_info *)bytes;
	struct vfio_info_cap_header header;
	info->argsz = sizeof(bytes);
	container.usable[0] = (struct pcie_iova_span){1ull << 32, (1ull << 39) - 1};
	container.usable_count = 1;
	if (ioctl(container.fd, VFIO_IOMMU_GET_INFO, info) || !(info->flags & VFIO_IOMMU_INFO_CAPS))
		return;
	for (uint32_t at = info->cap_offset; at && at < sizeof(bytes) - sizeof(header);
	     at = header.next) {
		memcpy(&header, bytes + at, sizeof(header)); /* capabilities are not aligned */
		if (header.id == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE)
			take_ranges(bytes + at, sizeof(bytes) - at);
	}
}

/* ---- Mapping, with the lock held ---- */

static int refuse_map(char *why, int error, uint64_t bytes)
{
	struct rlimit limit;
	if (error == -ENOMEM && !getrlimit(RLIMIT_MEMLOCK, &limit) &&
	    limit.rlim_cur != RLIM_INFINITY)
		return nvme_refuse(why, error,
				   "the %" PRIu64
				   " KiB that a device must reach are more than may be locked "
				   "(RLIMIT_MEMLOCK, %" PRIu64
				   " KiB): ulimit -l unlimited, LimitMEMLOCK=infinity "
				   "in a systemd unit, or less --memory",
				   bytes >> 10, (uint64_t)limit.rlim_cur >> 10);
	return nvme_refuse(why, error,
			   "%" PRIu64 " KiB of memory can not be mapped for the device: %s",
			   bytes >> 10, strerror(-error));
}

static int map(void *memory, uint64_t bytes, uint64_t *iova, char *why)
{
	if (container.taken_count == TAKEN_MAX)
		return nvme_refuse(why, -ENOSPC, "too many devices: %d pieces of memory are mapped",
				   TAKEN_MAX);
	*iova = pcie_iova_find(container.usable, container.usable_count, container.taken,
			       container.taken_count, bytes);
	if (!*iova)
		return nvme_refuse(why, -ENOSPC,
				   "the IOMMU has no address left for %" PRIu64 " KiB",
				   bytes >> 10);
	struct vfio_iommu_type1_dma_map request = {
		.argsz = sizeof(request),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)memory,
		.iova = *iova,
		.size = bytes,
	};
	if (ioctl(container.fd, VFIO_IOMMU_MAP_DMA, &request))
		return refuse_map(why, -errno, bytes);
	take_span(*iova, bytes);
	return 0;
}

static void unmap(uint64_t iova, uint64_t bytes)
{
	struct vfio_iommu_type1_dma_unmap request = {
		.argsz = sizeof(request),
		.iova = iova,
		.size = bytes,
	};
	if (ioctl(container.fd, VFIO_IOMMU_UNMAP_DMA, &request))
		log_error("nvme", "memory can not be taken from the device: %s", strerror(errno));
	free_span(iova);
}

static int map_buffers(char *why)
{
	container.buffers.count = 0;
	for (unsigned i = 0; i < reactor_count; i++) {
		const struct buffers *buffers = &reactors[i]->buffers;
		struct pcie_dma_range *range = &container.buffers.ranges[container.buffers.count];
		if (!buffers->total_bytes)
			continue;
		int error = map(buffers->region.base, buffers->total_bytes, &range->iova, why);
		if (error)
			return error;
		range->base = (uintptr_t)buffers->region.base;
		range->bytes = buffers->total_bytes;
		container.buffers.count++;
	}
	return 0;
}

/* ---- The container ---- */

static int refuse_open(char *why, int error, const char *path, const char *address)
{
	if (error == -ENOENT && !strcmp(path, "/dev/vfio/vfio"))
		return nvme_refuse(why, error, "%s: there is no %s: modprobe vfio-pci", address,
				   path);
	if (error == -ENOENT)
		return nvme_refuse(
			why, error,
			"%s: there is no %s: the device has no IOMMU (VT-d or AMD-Vi in the "
			"firmware's settings, intel_iommu=on on the kernel's command line)",
			address, path);
	if (error == -EACCES || error == -EPERM)
		return nvme_refuse(
			why, -EACCES,
			"%s: no permission to open %s: let its owner be the user that runs "
			"pollux (chown), or run it as root",
			address, path);
	if (error == -EBUSY)
		return nvme_refuse(why, error, "%s: another process has %s open", address, path);
	return nvme_refuse(why, error, "%s: %s can not be opened: %s", address, path,
			   strerror(-error));
}

static int open_container(const char *address, char *why)
{
	static const char path[] = "/dev/vfio/vfio";
	container.fd = open(path, O_RDWR | O_CLOEXEC);
	if (container.fd < 0)
		return refuse_open(why, -errno, path, address);
	if (ioctl(container.fd, VFIO_GET_API_VERSION) == VFIO_API_VERSION &&
	    ioctl(container.fd, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) > 0)
		return 0;
	close(container.fd);
	container.fd = -1;
	return nvme_refuse(why, -ENOTSUP,
			   "%s: the kernel's VFIO has no type 1 IOMMU: modprobe "
			   "vfio_iommu_type1",
			   address);
}

static void close_container(void)
{
	close(container.fd);
	container.fd = -1;
	container.taken_count = container.buffers.count = 0;
}

/* The first group decides how addresses are translated, and brings the I/O buffers' mappings. */
static int fill_container(const char *address, char *why)
{
	if (ioctl(container.fd, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		return nvme_refuse(why, -errno, "%s: the IOMMU can not be set up: %s", address,
				   strerror(errno));
	find_usable();
	return map_buffers(why);
}

/* ---- Groups ---- */

static int check_viable(int fd, unsigned number, const char *address, char *why)
{
	struct vfio_group_status status = {.argsz = sizeof(status)};
	if (ioctl(fd, VFIO_GROUP_GET_STATUS, &status))
		return nvme_refuse(why, -errno,
				   "%s: the state of IOMMU group %u can not be read: %s", address,
				   number, strerror(errno));
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		return nvme_refuse(
			why, -EBUSY,
			"%s: another device of its IOMMU group %u has a driver of the kernel "
			"(/sys/kernel/iommu_groups/%u/devices): all of them go to vfio-pci, "
			"or none",
			address, number, number);
	return 0;
}

static int open_group(unsigned number, const char *address, char *why)
{
	char path[32];
	snprintf(path, sizeof(path), "/dev/vfio/%u", number);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return refuse_open(why, -errno, path, address);
	int error = check_viable(fd, number, address, why);
	if (!error && container.fd < 0)
		error = open_container(address, why);
	if (!error && ioctl(fd, VFIO_GROUP_SET_CONTAINER, &container.fd))
		error = nvme_refuse(
			why, -errno,
			"%s: IOMMU group %u can not share addresses with the devices that are "
			"attached: %s",
			address, number, strerror(errno));
	if (!error && !container.group_count) {
		error = fill_container(address, why);
		if (error)
			ioctl(fd, VFIO_GROUP_UNSET_CONTAINER);
	}
	if (!error)
		return fd;
	close(fd);
	if (!container.group_count && container.fd >= 0)
		close_container();
	return error;
}

int pcie_group_get(unsigned number, const char *address, char why[NVME_WHY_BYTES])
{
	int fd = -1;
	pthread_mutex_lock(&container.lock);
	for (unsigned i = 0; i < container.group_count && fd < 0; i++) {
		if (container.groups[i].number != number)
			continue;
		container.groups[i].users++;
		fd = container.groups[i].fd;
	}
	if (fd < 0 && container.group_count == GROUPS_MAX) {
		fd = nvme_refuse(why, -ENOSPC, "%s: %d IOMMU groups are in use already", address,
				 GROUPS_MAX);
	} else if (fd < 0) {
		fd = open_group(number, address, why);
		if (fd >= 0) {
			container.groups[container.group_count].number = number;
			container.groups[container.group_count].users = 1;
			container.groups[container.group_count++].fd = fd;
		}
	}
	pthread_mutex_unlock(&container.lock);
	return fd;
}

void pcie_group_put(int fd)
{
	pthread_mutex_lock(&container.lock);
	unsigned i = 0;
	while (container.groups[i].fd != fd)
		i++;
	if (--container.groups[i].users == 0) {
		container.groups[i] = container.groups[--container.group_count];
		ioctl(fd, VFIO_GROUP_UNSET_CONTAINER);
		close(fd);
		if (!container.group_count)
			close_container();
	}
	pthread_mutex_unlock(&container.lock);
}

/* ---- Memory of the driver's own ---- */

int pcie_memory_get(struct pcie_memory *memory, size_t bytes, int node, char why[NVME_WHY_BYTES])
{
	bytes = (bytes + REGION_PAGE_BYTES - 1) / REGION_PAGE_BYTES * REGION_PAGE_BYTES;
	int error = region_map(&memory->region, bytes, node, true);
	if (error)
		return nvme_refuse(why, error, "no memory for the device's queues: %s",
				   strerror(-error));
	pthread_mutex_lock(&container.lock);
	if (!memory->region.hugetlb && !container.told_of_pages) {
		container.told_of_pages = true;
		log_notice("nvme",
			   "no huge pages are free: queues lie in ordinary pages, which works, "
			   "but costs the IOMMU more (scripts/setup.sh reserves some)");
	}
	error = map(memory->region.base, bytes, &memory->iova, why);
	pthread_mutex_unlock(&container.lock);
	if (error)
		region_unmap(&memory->region);
	return error;
}

void pcie_memory_put(struct pcie_memory *memory)
{
	size_t bytes = (memory->region.bytes + REGION_PAGE_BYTES - 1) / REGION_PAGE_BYTES *
		       REGION_PAGE_BYTES;
	pthread_mutex_lock(&container.lock);
	unmap(memory->iova, bytes);
	pthread_mutex_unlock(&container.lock);
	region_unmap(&memory->region);
}
