/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * controller: attaching, detaching, and the list of what is attached. An attachment or departure
 * that is under way is in `moves`: meanwhile nobody else may have the address.
 */
#include "bdev/nvme/controller.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/nvme/namespace.h"
#include "bdev/nvme/transports.h"
#include "lib/base/log.h"
#include "reactor/control.h"

struct move {
	char address[NVME_ADDRESS_BYTES];
	TAILQ_ENTRY(move) link;
};

struct attachment {
	struct move move;
	char name[NVME_CONTROLLER_NAME_BYTES]; /* empty: one is made */
	const struct nvme_transport *transport;
	struct nvme_controller *controller;
	int error;
	char why[NVME_WHY_BYTES];
	void (*attached)(void *arg, struct nvme_controller *controller, int error, const char *why);
	void *arg;
};

struct nvme_departure {
	struct move move;
	struct nvme_controller *controller;
	const struct nvme_transport *transport;
	struct nvme_namespace
		*last; /* its bdev ends with the controller; NULL: none was registered */
	void (*detached)(void *arg, int error);
	void *arg;
};

static TAILQ_HEAD(, nvme_controller) controllers = TAILQ_HEAD_INITIALIZER(controllers);
static TAILQ_HEAD(, move) moves = TAILQ_HEAD_INITIALIZER(moves);

/* ---- The list ---- */

struct nvme_controller *nvme_controller_first(void)
{
	return TAILQ_FIRST(&controllers);
}

struct nvme_controller *nvme_controller_next(const struct nvme_controller *controller)
{
	return TAILQ_NEXT(controller, link);
}

struct nvme_controller *nvme_controller_find(const char *name)
{
	struct nvme_controller *controller;
	TAILQ_FOREACH (controller, &controllers, link)
		if (!strcmp(controller->name, name))
			return controller;
	return NULL;
}

struct nvme_controller *nvme_controller_at(const char *address)
{
	struct nvme_controller *controller;
	TAILQ_FOREACH (controller, &controllers, link)
		if (!strcmp(controller->address, address))
			return controller;
	return NULL;
}

struct nvme_namespace *nvme_controller_namespace(const struct nvme_controller *controller,
						 uint32_t nsid)
{
	struct nvme_namespace *ns;
	TAILQ_FOREACH (ns, &controller->namespaces, link)
		if (ns->nsid == nsid)
			return ns;
	return NULL;
}

static bool is_moving(const char *address)
{
	const struct move *move;
	TAILQ_FOREACH (move, &moves, link)
		if (!strcmp(move->address, address))
			return true;
	return false;
}

static void begin_move(struct move *move, const char *address)
{
	snprintf(move->address, sizeof(move->address), "%s", address);
	TAILQ_INSERT_TAIL(&moves, move, link);
}

/* ---- Departure ---- */

static void depart_work(void *arg)
{
	struct nvme_departure *departure = arg;
	departure->transport->detach(departure->controller);
}

static void departed(void *arg)
{
	struct nvme_departure *departure = arg;
	TAILQ_REMOVE(&moves, &departure->move, link);
	if (departure->last) {
		bdev_destroyed(&departure->last->bdev);
		nvme_namespace_free(departure->last);
	}
	if (departure->detached)
		departure->detached(departure->arg, 0);
	free(departure);
}

static void begin_departure(struct nvme_departure *departure)
{
	departure->controller->departure = NULL;
	control_work(depart_work, departed, departure);
}

/* Its last namespace has been unlinked. Without memory it stays open: nothing else is left to do.
 */
static void depart(struct nvme_controller *controller, struct nvme_namespace *last)
{
	struct nvme_departure *departure = calloc(1, sizeof(*departure));
	if (!departure) {
		log_error("nvme", "%s: no memory to let go of it", controller->address);
		return;
	}
	departure->controller = controller;
	departure->transport = controller->transport;
	departure->last = last;
	departure->detached = controller->detached;
	departure->arg = controller->detached_arg;
	begin_move(&departure->move, controller->address);
	if (nvme_controller_find(controller->name) == controller)
		TAILQ_REMOVE(&controllers, controller, link);
	if (controller->asks)
		controller->departure = departure;
	else
		begin_departure(departure);
}

static void free_last(struct nvme_namespace *ns)
{
	bdev_destroyed(&ns->bdev);
	nvme_namespace_free(ns);
}

void nvme_controller_looked(struct nvme_controller *controller)
{
	struct nvme_namespace *last = controller->last;
	if (!last)
		return;
	controller->last = NULL;
	if (TAILQ_EMPTY(&controller->namespaces))
		depart(controller, last);
	else
		free_last(last);
}

void nvme_controller_leave(struct nvme_namespace *ns)
{
	struct nvme_controller *controller = ns->controller;
	const uint32_t nsid = ns->nsid;
	bool stays = !controller->leaving && !controller->gone;
	/* what is being looked at already may be this one, and if it is the last: it must not be missed */
	bool look = stays && (ns->look_again || controller->rescan);
	nvme_namespace_unlink(ns);
	if (!TAILQ_EMPTY(&controller->namespaces) || controller->last) {
		free_last(ns);
	} else if (look) {
		controller->last = ns;
	} else {
		depart(controller, ns);
		return;
	}
	if (look)
		nvme_controller_changed(controller, &nsid, 1);
}

static void removed(void *arg, int error)
{
}

void nvme_detach(struct nvme_controller *controller, void (*detached)(void *arg, int error),
		 void *arg)
{
	struct nvme_namespace *ns, *next;
	if (controller->leaving) {
		detached(arg, -EBUSY);
		return;
	}
	controller->leaving = true;
	controller->detached = detached;
	controller->detached_arg = arg;
	/* the last one may take the controller along at once */
	for (ns = TAILQ_FIRST(&controller->namespaces); ns; ns = next) {
		next = TAILQ_NEXT(ns, link);
		/* one that is being removed already comes by itself */
		bdev_remove(&ns->bdev, true, removed, NULL);
	}
}

void nvme_controller_gone(struct nvme_controller *controller)
{
	controller->gone = true;
	if (controller->leaving)
		return;
	log_error("nvme", "%s (%s) is gone: its bdevs are removed", controller->name,
		  controller->address);
	nvme_detach(controller, NULL, NULL);
}

/* ---- Attachment ---- */

static int check_name(const char *name, char why[NVME_WHY_BYTES])
{
	char first[NVME_CONTROLLER_NAME_BYTES + 16];
	if (strlen(name) >= NVME_CONTROLLER_NAME_BYTES)
		return nvme_refuse(why, -EINVAL, "the name of a controller has at most %d bytes",
				   NVME_CONTROLLER_NAME_BYTES - 1);
	if (nvme_controller_find(name))
		return nvme_refuse(why, -EEXIST, "a controller named %s is attached already", name);
	snprintf(first, sizeof(first), "%sn1", name);
	if (bdev_check_name(first) == -EINVAL)
		return nvme_refuse(why, -EINVAL, "'%s' is no name of a controller", name);
	return 0;
}

static int check(struct attachment *attachment, const struct nvme_attach_options *options)
{
	const struct nvme_controller *other = nvme_controller_at(options->address);
	char *why = attachment->why;
	int error = options->name ? check_name(options->name, why) : 0;
	if (error)
		return error;
	if (other)
		return nvme_refuse(why, -EEXIST, "%s is attached already, as %s", options->address,
				   other->name);
	if (strlen(options->address) >= NVME_ADDRESS_BYTES)
		return nvme_refuse(why, -EINVAL, "the address is too long");
	if (is_moving(options->address))
		return nvme_refuse(why, -EBUSY, "%s is being attached or detached",
				   options->address);
	attachment->transport = nvme_transport_of(options->address, why);
	return attachment->transport ? 0 : -EINVAL;
}

static void make_name(char name[NVME_CONTROLLER_NAME_BYTES])
{
	unsigned number = 0;
	do
		snprintf(name, NVME_CONTROLLER_NAME_BYTES, "Nvme%u", number++);
	while (nvme_controller_find(name));
}

static void finish(void *arg)
{
	struct attachment *attachment = arg;
	if (attachment->error)
		attachment->attached(attachment->arg, NULL, attachment->error, attachment->why);
	else
		attachment->attached(attachment->arg, attachment->controller, 0, NULL);
	free(attachment);
}

/* After a failure: what is registered, and the device. */
static void abandon(struct nvme_controller *controller, struct nvme_namespace *unregistered)
{
	struct nvme_namespace *next;
	for (; unregistered; unregistered = next) {
		next = TAILQ_NEXT(unregistered, link);
		nvme_namespace_unlink(unregistered);
		nvme_namespace_free(unregistered);
	}
	if (TAILQ_EMPTY(&controller->namespaces))
		depart(controller, NULL);
	else
		nvme_detach(controller, NULL, NULL);
}

static void opened(void *arg)
{
	struct attachment *attachment = arg;
	struct nvme_controller *controller = attachment->controller;
	struct nvme_namespace *ns;
	TAILQ_REMOVE(&moves, &attachment->move, link);
	if (!attachment->error && attachment->name[0])
		attachment->error = check_name(attachment->name, attachment->why);
	else if (!attachment->error)
		make_name(attachment->name);
	if (attachment->error) {
		if (controller)
			abandon(controller, TAILQ_FIRST(&controller->namespaces));
		finish(attachment);
		return;
	}
	snprintf(controller->name, sizeof(controller->name), "%s", attachment->name);
	snprintf(controller->address, sizeof(controller->address), "%s", attachment->move.address);
	TAILQ_INSERT_TAIL(&controllers, controller, link);
	TAILQ_FOREACH (ns, &controller->namespaces, link) {
		struct bdev *bdev = &ns->bdev;
		nvme_namespace_name(ns);
		int error = bdev_register(bdev);
		if (!error)
			continue;
		attachment->error = error;
		snprintf(attachment->why, sizeof(attachment->why),
			 error == -EEXIST ? "a bdev named %s, or with its UUID %s, exists already"
					  : "%s (UUID %s) can not be registered",
			 bdev->name, bdev->uuid);
		abandon(controller, ns);
		break;
	}
	finish(attachment);
}

static void open_work(void *arg)
{
	struct attachment *attachment = arg;
	attachment->error = attachment->transport->attach(attachment->move.address,
							  &attachment->controller, attachment->why);
	if (attachment->error)
		attachment->controller = NULL;
	else if (TAILQ_EMPTY(&attachment->controller->namespaces)) {
		snprintf(attachment->why, sizeof(attachment->why), "%s has no namespace",
			 attachment->move.address);
		attachment->error = -ENODEV;
	}
}

void nvme_attach(const struct nvme_attach_options *options,
		 void (*attached)(void *arg, struct nvme_controller *controller, int error,
				  const char *why),
		 void *arg)
{
	char full[NVME_ADDRESS_BYTES];
	struct nvme_attach_options one = *options;
	struct attachment *attachment = calloc(1, sizeof(*attachment));
	one.address = nvme_address_full(options->address, full);
	if (!attachment) {
		attached(arg, NULL, -ENOMEM, "no memory");
		return;
	}
	attachment->attached = attached;
	attachment->arg = arg;
	attachment->error = check(attachment, &one);
	if (attachment->error) {
		control_send(finish, attachment);
		return;
	}
	if (one.name)
		snprintf(attachment->name, sizeof(attachment->name), "%s", one.name);
	begin_move(&attachment->move, one.address);
	control_work(open_work, opened, attachment);
}

/* ---- Admin commands ---- */

struct ask {
	struct nvme_controller *controller;
	struct nvme_sqe sqe;
	void *data;
	uint32_t bytes;
	int status;
	void (*done)(void *arg, int status, const void *data);
	void *arg;
};

static void ask_work(void *arg)
{
	struct ask *ask = arg;
	uint32_t result;
	ask->status = ask->controller->transport->admin(ask->controller, &ask->sqe, ask->data,
							ask->bytes, &result);
}

static void asked(void *arg)
{
	struct ask *ask = arg;
	struct nvme_controller *controller = ask->controller;
	ask->done(ask->arg, ask->status, ask->data);
	if (!--controller->asks && controller->departure)
		begin_departure(controller->departure);
	free(ask->data);
	free(ask);
}

void nvme_controller_ask(struct nvme_controller *controller, const struct nvme_sqe *sqe,
			 uint32_t bytes, void (*done)(void *arg, int status, const void *data),
			 void *arg)
{
	struct ask *ask = calloc(1, sizeof(*ask));
	/* pages of its own: the device may write to them */
	void *data = ask ? aligned_alloc(NVME_PAGE_BYTES, NVME_PAGE_BYTES) : NULL;
	if (!data || bytes > NVME_PAGE_BYTES) {
		done(arg, data ? -EINVAL : -ENOMEM, NULL);
		free(data);
		free(ask);
		return;
	}
	memset(data, 0, NVME_PAGE_BYTES);
	*ask = (struct ask){controller, *sqe, data, bytes, 0, done, arg};
	controller->asks++;
	control_work(ask_work, asked, ask);
}
