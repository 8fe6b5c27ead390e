/* SPDX-License-Identifier: BSD-3-Clause */
/* transports: a path is a device file of the kernel's driver, all else a PCI address. */
#include "bdev/nvme/transports.h"

#include <stdio.h>

#include "bdev/nvme/pass.h"
#include "bdev/nvme/pcie.h"
#include "bdev/nvme/pcie_vfio.h"

const struct nvme_transport *nvme_transport_of(const char *address, char why[NVME_WHY_BYTES])
{
	unsigned domain, bus, slot, function;
	int end = 0;
	if (address[0] == '/')
		return &nvme_pass_transport;
	if (sscanf(address, "%4x:%2x:%2x.%1x%n", &domain, &bus, &slot, &function, &end) == 4 &&
	    !address[end])
		return &nvme_pcie_transport;
	snprintf(why, NVME_WHY_BYTES,
		 "'%s' is neither a PCI address (0000:01:00.0) nor a path (/dev/ng0n1)", address);
	return NULL;
}

const char *nvme_address_full(const char *address, char full[NVME_ADDRESS_BYTES])
{
	_Static_assert(PCIE_ADDRESS_BYTES <= (int)NVME_ADDRESS_BYTES, "a PCI address fits");
	return address[0] != '/' && pcie_address_parse(address, full) ? full : address;
}
