/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme: opening a namespace by its address. Those who ask for one controller at the same time share
 * its attachment. Where the kernel passes no commands to a namespace of its own, the block device
 * beside it is served, by the file bdev.
 */
#include "bdev/nvme/nvme.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bdev/file/file.h"
#include "bdev/nvme/controller.h"
#include "bdev/nvme/transports.h"
#include "lib/base/log.h"
#include "reactor/control.h"

struct opening {
	char *address;
	uint32_t nsid;
	void (*opened)(void *arg, struct bdev *bdev, int error, const char *why);
	void *arg;
	/* of a block device that is opened in its place */
	char disk[NVME_ADDRESS_BYTES];
	char why[NVME_WHY_BYTES]; /* what is wrong with the namespace */
	TAILQ_ENTRY(opening) link;
};

/* They wait for an attachment that the first of the same address has begun. */
static TAILQ_HEAD(opening_list, opening) openings = TAILQ_HEAD_INITIALIZER(openings);

static void end(struct opening *opening, struct bdev *bdev, int error, const char *why)
{
	opening->opened(opening->arg, bdev, error, why);
	free(opening->address);
	free(opening);
}

static void choose(struct opening *opening, const struct nvme_controller *controller)
{
	struct nvme_namespace *ns = TAILQ_FIRST(&controller->namespaces);
	char why[NVME_WHY_BYTES];
	if (opening->nsid) {
		ns = nvme_controller_namespace(controller, opening->nsid);
		snprintf(why, sizeof(why), "%s has no namespace %u", controller->address,
			 opening->nsid);
	} else if (ns && TAILQ_NEXT(ns, link)) {
		snprintf(why, sizeof(why),
			 "%s has several namespaces: say which one, with /n%u behind the address",
			 controller->address, ns->nsid);
		ns = NULL;
	} else if (!ns) {
		snprintf(why, sizeof(why), "%s has no namespace at the moment",
			 controller->address);
	}
	if (ns)
		end(opening, &ns->bdev, 0, NULL);
	else
		end(opening, NULL, -ENODEV, why);
}

/* ---- The block device in its place ---- */

static void disk_opened(void *arg, struct bdev *bdev, int error, const char *why)
{
	struct opening *opening = arg;
	char both[2 * NVME_WHY_BYTES];
	if (error) {
		snprintf(both, sizeof(both), "%s; nor through the block layer: %s", opening->why,
			 why);
		end(opening, NULL, error, both);
		return;
	}
	log_notice("nvme", "%s; %s is served through the block layer, with O_DIRECT, %s",
		   opening->why, opening->disk,
		   bdev_file_is_polled(bdev) ? "polled" : "by interrupts");
	end(opening, bdev, 0, NULL);
}

/* Whether another way may work where passthrough does not. A format that is not served (-ENOTSUP) is none. */
static bool is_refused(int error)
{
	return error == -ENOSYS || error == -ENOENT || error == -EACCES || error == -EPERM;
}

/* The block device beside a path: "/dev/nvme0n1" of "/dev/ng0n1", and of itself. */
static bool find_disk(const char *path, char disk[NVME_ADDRESS_BYTES])
{
	const char *last = strrchr(path, '/');
	int folder;
	if (!last)
		return false;
	folder = (int)(last + 1 - path);
	if (!strncmp(last + 1, "ng", 2))
		snprintf(disk, NVME_ADDRESS_BYTES, "%.*snvme%s", folder, path, last + 3);
	else if (!strncmp(last + 1, "nvme", 4))
		snprintf(disk, NVME_ADDRESS_BYTES, "%s", path);
	else
		return false;
	return !access(disk, F_OK);
}

/* What could not be attached. */
static void go_another_way(struct opening *opening, int error, const char *why)
{
	const struct bdev_file_options options = {
		.path = opening->disk,
		.direct = BDEV_FILE_DIRECT_ON,
	};
	if (opening->address[0] != '/' || !is_refused(error) ||
	    !find_disk(opening->address, opening->disk)) {
		end(opening, NULL, error, why);
		return;
	}
	snprintf(opening->why, sizeof(opening->why), "%s", why);
	bdev_file_create(&options, disk_opened, opening);
}

/* ---- Attaching ---- */

static void attached(void *arg, struct nvme_controller *controller, int error, const char *why)
{
	struct opening *first = arg, *opening, *next;
	struct opening_list same = TAILQ_HEAD_INITIALIZER(same);
	for (opening = TAILQ_FIRST(&openings); opening; opening = next) {
		next = TAILQ_NEXT(opening, link);
		if (strcmp(opening->address, first->address))
			continue;
		TAILQ_REMOVE(&openings, opening, link);
		TAILQ_INSERT_TAIL(&same, opening, link);
	}
	while ((opening = TAILQ_FIRST(&same))) {
		TAILQ_REMOVE(&same, opening, link);
		if (error)
			go_another_way(opening, error, why);
		else
			choose(opening, controller);
	}
}

static bool is_under_way(const struct opening *mine)
{
	const struct opening *opening;
	TAILQ_FOREACH (opening, &openings, link)
		if (opening != mine && !strcmp(opening->address, mine->address))
			return true;
	return false;
}

static void begin(void *arg)
{
	struct opening *opening = arg;
	const struct nvme_controller *controller = nvme_controller_at(opening->address);
	struct nvme_attach_options options = {.address = opening->address};
	if (controller && !controller->leaving) {
		choose(opening, controller);
		return;
	}
	TAILQ_INSERT_TAIL(&openings, opening, link);
	if (!is_under_way(opening))
		nvme_attach(&options, attached, opening);
}

void bdev_nvme_open(const struct bdev_nvme_options *options,
		    void (*opened)(void *arg, struct bdev *bdev, int error, const char *why),
		    void *arg)
{
	char full[NVME_ADDRESS_BYTES];
	struct opening *opening = calloc(1, sizeof(*opening));
	if (opening)
		opening->address = strdup(nvme_address_full(options->address, full));
	if (!opening || !opening->address) {
		free(opening);
		opened(arg, NULL, -ENOMEM, "no memory");
		return;
	}
	opening->nsid = options->nsid;
	opening->opened = opened;
	opening->arg = arg;
	control_send(begin, opening);
}
