/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * namespace: a namespace as a bdev: its geometry from what IDENTIFY tells, registering, growing and
 * shrinking, and the end. Control thread, where nothing else is said.
 */
#ifndef POLLUX_BDEV_NVME_NAMESPACE_H
#define POLLUX_BDEV_NVME_NAMESPACE_H

#include "bdev/nvme/transport.h"

/* Of one controller: a device that names ever more of them is not listened to for ever. */
enum { NVME_NAMESPACES_MAX = 4096 };

extern const struct bdev_type bdev_nvme_type;

static inline struct nvme_namespace *nvme_namespace_of(const struct bdev *bdev)
{
	return container_of(bdev, struct nvme_namespace, bdev);
}

/*
 * Any thread: fills the geometry and capabilities from IDENTIFY's answers. 0; -ENOTSUP (metadata,
 * protection information), -EINVAL (size 0, a block that is no power of two from 512 to 64 KiB, more
 * bytes than 63 bits), with a sentence. transfer_bytes_max 0: no limit.
 */
int nvme_namespace_describe(struct nvme_namespace *ns,
			    const struct nvme_identify_controller *controller,
			    const struct nvme_identify_namespace *identify,
			    uint32_t transfer_bytes_max, char why[NVME_WHY_BYTES]);

/*
 * What IDENTIFY tells now: a new size becomes the bdev's, and its holders are told. -ENOTSUP, -EINVAL
 * with a sentence: what the bdev can not take on while it lives - another format, another namespace.
 */
int nvme_namespace_update(struct nvme_namespace *ns, const struct nvme_identify_namespace *identify,
			  char why[NVME_WHY_BYTES]);

/* NAMEn1: by its controller's name. */
void nvme_namespace_name(struct nvme_namespace *ns);

/* Out of its controller, which may end after that. */
void nvme_namespace_unlink(struct nvme_namespace *ns);
/* Frees one that was unlinked, and whose bdev is not registered. */
void nvme_namespace_free(struct nvme_namespace *ns);

/* A text of IDENTIFY for the RPC, "" where it is no UTF-8. */
json_t *nvme_text(const char *text, int room);

#endif
