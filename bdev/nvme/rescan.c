/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rescan: a list of namespace ids, asked about one after the other by nvme_controller_ask(), which
 * keeps the controller from going meanwhile. What comes while one is under way is served by another
 * one of all namespaces behind it. A namespace can not become a bdev while the one that it was before
 * still leaves: it is looked at again when that has left.
 */
#include "bdev/nvme/rescan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/nvme/controller.h"
#include "bdev/nvme/namespace.h"
#include "bdev/nvme/status.h"
#include "lib/base/log.h"

enum { LIST_ENTRIES = NVME_IDENTIFY_BYTES / sizeof(uint32_t) };

struct nvme_rescan_wait {
	void (*done)(void *arg, int error);
	void *arg;
	struct nvme_rescan_wait *next;
};

struct nvme_rescan {
	struct nvme_controller *controller;
	struct nvme_rescan_wait *waits;
	uint32_t *ids;
	uint32_t after; /* the last id of the list so far */
	unsigned count, at;
	int error; /* the first */
};

static void begin(struct nvme_controller *controller, const uint32_t *ids, unsigned count);

static bool is_there(const struct nvme_controller *controller)
{
	return !controller->gone && !controller->leaving &&
	       nvme_controller_find(controller->name) == controller;
}

static void answer(struct nvme_rescan_wait *wait, int error)
{
	struct nvme_rescan_wait *next;
	for (; wait; wait = next) {
		next = wait->next;
		wait->done(wait->arg, error);
		free(wait);
	}
}

static void end(struct nvme_rescan *rescan)
{
	struct nvme_controller *controller = rescan->controller;
	controller->rescan = NULL;
	answer(rescan->waits, rescan->error);
	free(rescan->ids);
	free(rescan);
	if (controller->rescan_again)
		begin(controller, NULL, 0);
	else
		nvme_controller_looked(controller);
}

static void note(struct nvme_rescan *rescan, int error)
{
	if (!rescan->error)
		rescan->error = error;
}

/* ---- One namespace ---- */

static void removed(void *arg, int error)
{
}

static void remove_bdev(struct nvme_namespace *ns, const char *why)
{
	if (ns->bdev.removing)
		return;
	log_error("nvme", "%s: %s: the bdev is removed", ns->bdev.name, why);
	bdev_remove(&ns->bdev, true, removed, NULL);
}

static void update(struct nvme_namespace *ns, const struct nvme_identify_namespace *identify)
{
	char why[NVME_WHY_BYTES];
	if (!ns->bdev.removing && !nvme_namespace_update(ns, identify, why))
		return;
	/* by a way to one namespace only, none can come */
	ns->look_again = ns->transport->lists_namespaces;
	if (!ns->bdev.removing)
		remove_bdev(ns, why);
}

static int add(struct nvme_controller *controller, uint32_t nsid,
	       const struct nvme_identify_namespace *identify)
{
	struct nvme_namespace *ns;
	char why[NVME_WHY_BYTES];
	int error = nvme_namespace_add(controller, nsid, identify, controller->transfer_bytes_max,
				       &ns, why);
	if (error) {
		log_warning("nvme", "%s: %s", controller->name, why);
		return error;
	}
	nvme_namespace_name(ns);
	error = bdev_register(&ns->bdev);
	if (error) {
		log_warning("nvme", "%s (UUID %s) can not be registered: %s", ns->bdev.name,
			    ns->bdev.uuid, strerror(-error));
		nvme_namespace_unlink(ns);
		nvme_namespace_free(ns);
		return error;
	}
	log_notice("nvme", "%s: a new namespace", ns->bdev.name);
	return 0;
}

/* The answer to IDENTIFY about one: all zeroes where there is no such namespace (any more). */
static void take(struct nvme_rescan *rescan, uint32_t nsid, int status,
		 const struct nvme_identify_namespace *identify)
{
	struct nvme_controller *controller = rescan->controller;
	struct nvme_namespace *ns = nvme_controller_namespace(controller, nsid);
	bool gone = status > 0 && (status & NVME_STATUS_CODE) == NVME_SC_INVALID_NAMESPACE;
	if (status && !gone) {
		note(rescan, nvme_status_errno(status));
		log_warning("nvme", "%s: IDENTIFY of namespace %u fails: %s", controller->name,
			    nsid, nvme_status_text(status));
		return;
	}
	gone = gone || !identify->size;
	if (ns && gone)
		remove_bdev(ns, "the namespace is gone");
	else if (ns)
		update(ns, identify);
	else if (!gone && controller->transport->lists_namespaces)
		note(rescan, add(controller, nsid, identify));
}

/* ---- One after the other ---- */

static void next(struct nvme_rescan *rescan);

static void identified(void *arg, int status, const void *data)
{
	struct nvme_rescan *rescan = arg;
	struct nvme_identify_namespace identify;
	if (data)
		memcpy(&identify, data, sizeof(identify));
	if (is_there(rescan->controller))
		take(rescan, rescan->ids[rescan->at], data ? status : -ENOMEM, &identify);
	rescan->at++;
	next(rescan);
}

static void next(struct nvme_rescan *rescan)
{
	if (!is_there(rescan->controller))
		note(rescan, -ENODEV);
	if (rescan->at == rescan->count || !is_there(rescan->controller)) {
		end(rescan);
		return;
	}
	const struct nvme_sqe sqe = {
		.opcode = NVME_ADMIN_IDENTIFY,
		.nsid = rescan->ids[rescan->at],
		.cdw10 = NVME_CNS_NAMESPACE,
	};
	nvme_controller_ask(rescan->controller, &sqe, NVME_IDENTIFY_BYTES, identified, rescan);
}

/* ---- Which ---- */

static void append(struct nvme_rescan *rescan, uint32_t nsid)
{
	if (nsid == NVME_ALL_NAMESPACES || rescan->count == NVME_NAMESPACES_MAX)
		return;
	for (unsigned i = 0; i < rescan->count; i++) {
		if (rescan->ids[i] == nsid)
			return;
	}
	uint32_t *ids = realloc(rescan->ids, (rescan->count + 1) * sizeof(*ids));
	if (!ids) {
		note(rescan, -ENOMEM);
		return;
	}
	rescan->ids = ids;
	ids[rescan->count++] = nsid;
}

static void list(struct nvme_rescan *rescan);

static void listed(void *arg, int status, const void *data)
{
	struct nvme_rescan *rescan = arg;
	uint32_t ids[LIST_ENTRIES] = {0};
	/* a device that knows no such list (NVMe 1.0): those that are attached will do */
	if (!status && data)
		memcpy(ids, data, sizeof(ids));
	unsigned i = 0;
	for (; i < LIST_ENTRIES && ids[i] > rescan->after; i++) {
		rescan->after = ids[i];
		append(rescan, ids[i]);
	}
	/* only a list that was in order to its end has another one behind it */
	if (i == LIST_ENTRIES && rescan->count < NVME_NAMESPACES_MAX && is_there(rescan->controller))
		list(rescan);
	else
		next(rescan);
}

static void list(struct nvme_rescan *rescan)
{
	const struct nvme_sqe sqe = {
		.opcode = NVME_ADMIN_IDENTIFY,
		.nsid = rescan->after,
		.cdw10 = NVME_CNS_ACTIVE_NAMESPACES,
	};
	nvme_controller_ask(rescan->controller, &sqe, NVME_IDENTIFY_BYTES, listed, rescan);
}

/* count 0: all, and those who wait are told of this one. */
static void begin(struct nvme_controller *controller, const uint32_t *ids, unsigned count)
{
	const struct nvme_namespace *ns;
	struct nvme_rescan *rescan = calloc(1, sizeof(*rescan));
	if (!rescan) {
		log_error("nvme", "%s: no memory to look at its namespaces", controller->name);
		answer(controller->rescan_waits, -ENOMEM);
		controller->rescan_waits = NULL;
		nvme_controller_looked(controller);
		return;
	}
	rescan->controller = controller;
	controller->rescan = rescan;
	for (unsigned i = 0; i < count; i++)
		append(rescan, ids[i]);
	if (count) {
		next(rescan);
		return;
	}
	controller->rescan_again = false;
	rescan->waits = controller->rescan_waits;
	controller->rescan_waits = NULL;
	TAILQ_FOREACH (ns, &controller->namespaces, link)
		append(rescan, ns->nsid);
	if (controller->transport->lists_namespaces && is_there(controller))
		list(rescan);
	else
		next(rescan);
}

void nvme_controller_changed(struct nvme_controller *controller, const uint32_t *ids,
			     unsigned count)
{
	if (!is_there(controller))
		return;
	if (controller->rescan)
		controller->rescan_again = true;
	else
		begin(controller, ids, count);
}

void nvme_rescan(struct nvme_controller *controller, void (*done)(void *arg, int error), void *arg)
{
	struct nvme_rescan_wait *wait = malloc(sizeof(*wait));
	if (!wait || !is_there(controller)) {
		done(arg, wait ? -ENODEV : -ENOMEM);
		free(wait);
		return;
	}
	*wait = (struct nvme_rescan_wait){done, arg, controller->rescan_waits};
	controller->rescan_waits = wait;
	nvme_controller_changed(controller, NULL, 0);
}
