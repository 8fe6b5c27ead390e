/* SPDX-License-Identifier: BSD-3-Clause */
/* transports: the ways there are to an NVMe namespace, in one list. */
#ifndef POLLUX_BDEV_NVME_TRANSPORTS_H
#define POLLUX_BDEV_NVME_TRANSPORTS_H

#include "bdev/nvme/transport.h"

/* By what an address looks like; NULL, with a sentence: like none. */
const struct nvme_transport *nvme_transport_of(const char *address, char why[NVME_WHY_BYTES]);

#endif
