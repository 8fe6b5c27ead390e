/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme: opening a namespace by its address. Those who ask for one controller at the same time share
 * its attachment.
 */
#include "bdev/nvme/nvme.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/nvme/controller.h"
#include "reactor/control.h"

struct opening {
	char *address;
	uint32_t nsid;
	void (*opened)(void *arg, struct bdev *bdev, int error, const char *why);
	void *arg;
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
	}
	if (ns)
		end(opening, &ns->bdev, 0, NULL);
	else
		end(opening, NULL, -ENODEV, why);
}

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
			end(opening, NULL, error, why);
		else
			choose(opening, controller);
	}
}

static bool is_under_way(const struct opening *mine)
{
	const struct opening *opening;
	TAILQ_FOREACH(opening, &openings, link)
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
	struct opening *opening = calloc(1, sizeof(*opening));
	if (opening)
		opening->address = strdup(options->address);
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
