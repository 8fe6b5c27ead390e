/* SPDX-License-Identifier: BSD-3-Clause */
/* transports: the ways there are to an NVMe namespace, in one list. */
#ifndef POLLUX_BDEV_NVME_TRANSPORTS_H
#define POLLUX_BDEV_NVME_TRANSPORTS_H

#include "bdev/nvme/transport.h"

/* By what an address looks like; NULL, with a sentence: like none. */
const struct nvme_transport *nvme_transport_of(const char *address, char why[NVME_WHY_BYTES]);

/*
 * One address for all spellings of it: of "0:01:00.0" it is 0000:01:00.0, written to `full`. What is
 * no PCI address is returned as it came.
 */
const char *nvme_address_full(const char *address, char full[NVME_ADDRESS_BYTES]);

#endif
