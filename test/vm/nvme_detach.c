/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_detach: sends Namespace Attachment (Base 5.20) through the kernel's driver: a namespace is taken
 * from a controller, or given to it; the controller may be another of the same subsystem.
 *
 * usage: nvme-detach DEVICE attach|detach NAMESPACE CONTROLLER
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/nvme_ioctl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum { NAMESPACE_ATTACHMENT = 0x15, SELECT_ATTACH = 0, SELECT_DETACH = 1 };

int main(int argc, char **argv)
{
	static _Alignas(4096) uint16_t controllers[2048]; /* how many, and their ids */
	struct nvme_admin_cmd command = {
		.opcode = NAMESPACE_ATTACHMENT,
		.addr = (uintptr_t)controllers,
		.data_len = sizeof(controllers),
	};
	if (argc != 5) {
		fprintf(stderr, "usage: nvme-detach DEVICE attach|detach NAMESPACE CONTROLLER\n");
		return 1;
	}
	command.cdw10 = strcmp(argv[2], "attach") ? SELECT_DETACH : SELECT_ATTACH;
	command.nsid = (uint32_t)strtoul(argv[3], NULL, 0);
	controllers[0] = htole16(1);
	controllers[1] = htole16((uint16_t)strtoul(argv[4], NULL, 0));
	int fd = open(argv[1], O_RDWR);
	int status = fd < 0 ? -1 : ioctl(fd, NVME_IOCTL_ADMIN_CMD, &command);
	if (!status)
		return 0;
	fprintf(stderr, "nvme-detach: %s: %s, NVMe status 0x%x\n", argv[1],
		status < 0 ? strerror(errno) : "refused", status < 0 ? 0 : (unsigned)status);
	return 1;
}
