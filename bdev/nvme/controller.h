/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * controller: what is attached: controllers, each with its namespaces, which are bdevs. A controller
 * lives as long as one of its bdevs does. Control thread; opening and closing run on a worker.
 */
#ifndef POLLUX_BDEV_NVME_CONTROLLER_H
#define POLLUX_BDEV_NVME_CONTROLLER_H

#include "bdev/nvme/transport.h"

struct nvme_attach_options {
	const char *name;    /* of the controller; its bdevs are NAMEn1, NAMEn2, … NULL: NvmeN */
	const char *address; /* "0000:01:00.0", or a path: /dev/ng0n1 */
};

/*
 * Opens what stands at the address and registers its namespaces; the options are copied.
 * attached(arg, controller, 0, NULL) or attached(arg, NULL, -errno, sentence) runs once, later.
 * -EEXIST: the name, or the address, is taken.
 */
void nvme_attach(const struct nvme_attach_options *options,
		 void (*attached)(void *arg, struct nvme_controller *controller, int error,
				  const char *why),
		 void *arg);

/*
 * Removes its bdevs, whoever uses them, and lets go of the device. detached(arg, 0) when all is done,
 * or detached(arg, -EBUSY): that is under way already.
 * NULL, where it is not: nobody wants to know.
 */
void nvme_detach(struct nvme_controller *controller, void (*detached)(void *arg, int error),
		 void *arg);

struct nvme_controller *nvme_controller_find(const char *name);
struct nvme_controller *nvme_controller_at(const char *address);
/* In order of attaching. */
struct nvme_controller *nvme_controller_first(void);
struct nvme_controller *nvme_controller_next(const struct nvme_controller *controller);

struct nvme_namespace *nvme_controller_namespace(const struct nvme_controller *controller,
						 uint32_t nsid);

/*
 * One admin command on a worker, with a buffer of `bytes` that the device fills; done(arg, status,
 * data) on the control thread: status as in status.h, the data lives until it returns. The controller
 * is not let go of meanwhile.
 */
void nvme_controller_ask(struct nvme_controller *controller, const struct nvme_sqe *sqe,
			 uint32_t bytes, void (*done)(void *arg, int status, const void *data),
			 void *arg);

/*
 * From the bdev's destroy(): the last one takes the controller along, unless a rescan finds that a
 * namespace is back.
 */
void nvme_controller_leave(struct nvme_namespace *ns);
/* From rescan.c: none is under way any more. The controller may be gone after this. */
void nvme_controller_looked(struct nvme_controller *controller);

#endif
