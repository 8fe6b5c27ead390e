/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_vfio: opening a device, step by step, with a sentence for each way in which that fails: what
 * is wrong is nearly always the machine's set-up, and who reads it can mend it.
 */
#include "bdev/nvme/pcie_vfio.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bdev/nvme/pcie_container.h"

enum { CLASS_NVME = 0x010802, SYSFS_PATH_BYTES = 128 };

bool pcie_address_parse(const char *text, char full[PCIE_ADDRESS_BYTES])
{
	unsigned domain = 0, bus, slot, function;
	int end = 0;
	/* sscanf would take blanks and signs as well */
	if (strlen(text) >= PCIE_ADDRESS_BYTES || text[strspn(text, "0123456789abcdefABCDEF:.")])
		return false;
	if (sscanf(text, "%4x:%2x:%2x.%1x%n", &domain, &bus, &slot, &function, &end) != 4 ||
	    text[end]) {
		domain = 0;
		end = 0;
		if (sscanf(text, "%2x:%2x.%1x%n", &bus, &slot, &function, &end) != 3 || text[end])
			return false;
	}
	if (slot > 0x1f || function > 7)
		return false;
	snprintf(full, PCIE_ADDRESS_BYTES, "%04x:%02x:%02x.%x", domain & 0xffff, bus & 0xff, slot,
		 function);
	return true;
}

/* ---- What sysfs knows ---- */

static void sysfs_path(char path[SYSFS_PATH_BYTES], const char *address, const char *name)
{
	snprintf(path, SYSFS_PATH_BYTES, "/sys/bus/pci/devices/%s/%s", address, name);
}

/* A number in a file of the device; -1: there is none. */
static long sysfs_number(const char *address, const char *name)
{
	char path[SYSFS_PATH_BYTES];
	long number = -1;
	sysfs_path(path, address, name);
	FILE *file = fopen(path, "re");
	if (!file)
		return -1;
	if (fscanf(file, "%li", &number) != 1)
		number = -1;
	fclose(file);
	return number;
}

/* The last part of what a link of the device points to; false: there is none. */
static bool sysfs_link(const char *address, const char *name, char target[SYSFS_PATH_BYTES])
{
	char path[SYSFS_PATH_BYTES], full[PATH_MAX];
	sysfs_path(path, address, name);
	ssize_t length = readlink(path, full, sizeof(full) - 1);
	if (length < 0)
		return false;
	full[length] = 0;
	const char *last = strrchr(full, '/');
	snprintf(target, SYSFS_PATH_BYTES, "%.100s", last ? last + 1 : full);
	return true;
}

/* The device is there, an NVMe controller, and vfio-pci's; its IOMMU group. */
static int check_device(const char *address, unsigned *group, char *why)
{
	char path[SYSFS_PATH_BYTES], name[SYSFS_PATH_BYTES], iommu_group[SYSFS_PATH_BYTES];
	sysfs_path(path, address, "");
	if (access(path, F_OK))
		return nvme_refuse(
			why, -ENODEV,
			"%s: there is no such PCI device: lspci -D lists them (NVMe controllers "
			"have class 0108)",
			address);
	long class = sysfs_number(address, "class");
	if (class != CLASS_NVME)
		return nvme_refuse(
			why, -EINVAL,
			"%s: the device is not an NVMe controller: its class is 0x%06lx, not "
			"0x%06x",
			address, class, CLASS_NVME);
	/* first: without it vfio-pci takes no device, and to bind one would be vain advice */
	if (!sysfs_link(address, "iommu_group", iommu_group))
		return nvme_refuse(
			why, -ENOENT,
			"%s: there is no IOMMU: switch on VT-d or AMD-Vi in the firmware's "
			"settings, and boot with intel_iommu=on; or leave the device with the "
			"kernel, and give nvme:/dev/ng0n1 or the like",
			address);
	if (!sysfs_link(address, "driver", name))
		return nvme_refuse(
			why, -ENODEV,
			"%s: the device has no driver, and needs vfio-pci: scripts/setup.sh "
			"bind %s",
			address, address);
	if (strcmp(name, "vfio-pci"))
		return nvme_refuse(
			why, -EBUSY,
			"%s: the device belongs to the driver %s, not to vfio-pci: unmount "
			"what lies "
			"on it, then scripts/setup.sh bind %s",
			address, name, address);
	*group = (unsigned)strtoul(iommu_group, NULL, 10);
	return 0;
}

/* ---- The device ---- */

static int map_registers(struct pcie_device *device, char *why)
{
	struct vfio_region_info info = {
		.argsz = sizeof(info),
		.index = VFIO_PCI_BAR0_REGION_INDEX,
	};
	if (ioctl(device->device_fd, VFIO_DEVICE_GET_REGION_INFO, &info))
		return nvme_refuse(why, -errno, "%s: BAR0 can not be found: %s", device->address,
				   strerror(errno));
	if (!(info.flags & VFIO_REGION_INFO_FLAG_MMAP) || info.size <= NVME_REG_DOORBELLS)
		return nvme_refuse(why, -ENOTSUP, "%s: BAR0 (%llu bytes) can not be mapped",
				   device->address, (unsigned long long)info.size);
	void *base = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, device->device_fd,
			  (off_t)info.offset);
	if (base == MAP_FAILED)
		return nvme_refuse(why, -errno, "%s: BAR0 can not be mapped: %s", device->address,
				   strerror(errno));
	device->registers = (struct pcie_registers){base, info.size};
	return 0;
}

/* Sets and clears bits of the command register. 0 or -errno. */
static int change_command(const struct pcie_device *device, uint16_t set, uint16_t clear)
{
	uint16_t command;
	off_t at = (off_t)device->config_offset + PCI_COMMAND;
	if (pread(device->device_fd, &command, sizeof(command), at) != sizeof(command))
		return errno ? -errno : -EIO;
	command = (uint16_t)((command & ~clear) | set);
	if (pwrite(device->device_fd, &command, sizeof(command), at) != sizeof(command))
		return errno ? -errno : -EIO;
	return 0;
}

static int enable_dma(struct pcie_device *device, char *why)
{
	struct vfio_region_info info = {
		.argsz = sizeof(info),
		.index = VFIO_PCI_CONFIG_REGION_INDEX,
	};
	int error = 0;
	if (ioctl(device->device_fd, VFIO_DEVICE_GET_REGION_INFO, &info))
		error = -errno;
	device->config_offset = info.offset;
	if (!error)
		error = change_command(
			device, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE,
			0);
	if (error)
		return nvme_refuse(why, error, "%s: the device can not be allowed DMA: %s",
				   device->address, strerror(-error));
	return 0;
}

/* Without it the kernel can not ask for the device; everything else works. */
static void watch_requests(struct pcie_device *device)
{
	union {
		struct vfio_irq_set set;
		/* the eventfd is its data */
		uint8_t room[sizeof(struct vfio_irq_set) + sizeof(int32_t)];
	} request = {.set = {
			     .argsz = sizeof(request),
			     .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
			     .index = VFIO_PCI_REQ_IRQ_INDEX,
			     .count = 1,
		     }};
	int32_t fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	device->request_fd = fd;
	if (fd < 0)
		return;
	memcpy(request.set.data, &fd, sizeof(fd));
	if (ioctl(device->device_fd, VFIO_DEVICE_SET_IRQS, &request)) {
		close(device->request_fd);
		device->request_fd = -1;
	}
}

static int open_device(struct pcie_device *device, char *why)
{
	device->device_fd = ioctl(device->group_fd, VFIO_GROUP_GET_DEVICE_FD, device->address);
	if (device->device_fd < 0)
		return nvme_refuse(why, -errno, "%s: VFIO does not give the device: %s",
				   device->address, strerror(errno));
	int error = map_registers(device, why);
	if (!error)
		error = enable_dma(device, why);
	if (!error)
		watch_requests(device);
	return error;
}

int pcie_device_open(struct pcie_device *device, const char *address, char why[NVME_WHY_BYTES])
{
	unsigned group;
	*device = (struct pcie_device){.group_fd = -1, .device_fd = -1, .request_fd = -1};
	if (!pcie_address_parse(address, device->address))
		return nvme_refuse(why, -EINVAL,
				   "'%s' is no PCI address: it looks like 0000:01:00.0 (lspci -D)",
				   address);
	int error = check_device(device->address, &group, why);
	if (error)
		return error;
	device->node = (int)sysfs_number(device->address, "numa_node");
	if (!region_node_exists(device->node))
		device->node = REGION_ANY_NODE;
	device->group_fd = pcie_group_get(group, device->address, why);
	if (device->group_fd < 0)
		return device->group_fd;
	error = open_device(device, why);
	if (error)
		pcie_device_close(device);
	return error;
}

void pcie_device_stop(const struct pcie_device *device)
{
	(void)change_command(device, 0, PCI_COMMAND_MASTER);
}

void pcie_device_close(struct pcie_device *device)
{
	if (device->registers.base)
		munmap((void *)device->registers.base, device->registers.bytes);
	if (device->request_fd >= 0)
		close(device->request_fd);
	if (device->device_fd >= 0)
		close(device->device_fd);
	pcie_group_put(device->group_fd);
	*device = (struct pcie_device){.group_fd = -1, .device_fd = -1, .request_fd = -1};
}
