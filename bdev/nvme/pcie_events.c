/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_events: what a device tells by itself (Base 5.2): one Asynchronous Event Request is kept with it
 * where it tells of namespaces that have changed. There are no interrupts: whoever waits for an admin
 * command finds the answer among the completions, and the control thread looks for it now and then.
 * A worker reads the log page that the answer names, which lets the device tell the next event, and
 * asks anew.
 */
#include <errno.h>
#include <string.h>

#include "bdev/nvme/pcie_controller.h"
#include "lib/base/log.h"
#include "reactor/control.h"

/* Of the answer's result. */
#define EVENT_TYPE(result) ((result) & 7)
#define EVENT_INFO(result) ((result) >> 8 & 0xff)
#define EVENT_PAGE(result) ((result) >> 16 & 0xff)

enum {
	TYPE_ERROR = 0,
	TYPE_HEALTH = 1,
	TYPE_NOTICE = 2,
	INFO_NAMESPACES = 0, /* of a notice */
	OTHER_PAGE_BYTES = 512,
	ALL_CHANGED = -1, /* the first id of the list: there are more than it has room for */
};

/* ---- With the lock held ---- */

static void ask(struct pcie_controller *controller)
{
	const struct nvme_sqe sqe = {.opcode = NVME_ADMIN_ASYNC_EVENT, .cid = PCIE_EVENT_CID};
	controller->event.state = PCIE_EVENT_ASKED;
	pcie_ring_push(&controller->admin, &sqe);
	pcie_ring_submit(&controller->admin);
}

int pcie_events_begin(struct pcie_controller *controller)
{
	const struct nvme_sqe sqe = {
		.opcode = NVME_ADMIN_SET_FEATURES,
		.cdw10 = NVME_FEATURE_ASYNC_EVENTS,
		.cdw11 = NVME_EVENTS_NAMESPACES,
	};
	controller->event.state = PCIE_EVENT_OFF;
	if (!(controller->base.identify.oaes & NVME_EVENTS_NAMESPACES))
		return 0;
	int status = pcie_admin_locked(controller, &sqe, NULL, 0, NULL);
	if (!status)
		ask(controller);
	return status < 0 ? status : 0; /* one that refuses is served without */
}

bool pcie_event_take(struct pcie_controller *controller, const struct nvme_cqe *cqe)
{
	struct pcie_event *event = &controller->event;
	if (cqe->cid != PCIE_EVENT_CID || cqe->sqid || event->state != PCIE_EVENT_ASKED)
		return false;
	event->result = cqe->result;
	/* a device that answers with an error would do so again and again */
	event->state = nvme_status_plain(cqe->status >> 1) ? PCIE_EVENT_OFF : PCIE_EVENT_TOLD;
	return true;
}

/* ---- On a worker ---- */

static void read_page(void *arg)
{
	struct pcie_controller *controller = arg;
	struct pcie_event *event = &controller->event;
	pthread_mutex_lock(&controller->lock);
	event->status = 0;
	event->fresh = event->state == PCIE_EVENT_TOLD;
	event->told = event->result;
	if (event->fresh) { /* else there was a reset */
		uint32_t page = EVENT_PAGE(event->told);
		uint32_t bytes = page == NVME_LOG_CHANGED_NAMESPACES ? sizeof(event->page)
								      : OTHER_PAGE_BYTES;
		const struct nvme_sqe sqe = {
			.opcode = NVME_ADMIN_GET_LOG_PAGE,
			.nsid = NVME_ALL_NAMESPACES,
			.cdw10 = page | (bytes / 4 - 1) << 16,
		};
		memset(event->page, 0, sizeof(event->page));
		if (page)
			event->status = pcie_admin_locked(controller, &sqe, event->page, bytes, NULL);
		if (event->status >= 0)
			ask(controller);
	}
	pthread_mutex_unlock(&controller->lock);
}

/* ---- On the control thread ---- */

static void tell_namespaces(struct pcie_controller *controller)
{
	const struct pcie_event *event = &controller->event;
	unsigned count = 0;
	while (count < COUNT_OF(event->page) && event->page[count])
		count++;
	log_info("nvme", "%s: the device tells of changed namespaces", controller->base.address);
	if (event->status || (count && event->page[0] == (uint32_t)ALL_CHANGED))
		count = 0; /* all */
	else if (!count)
		return; /* somebody else has read the list */
	nvme_controller_changed(&controller->base, event->page, count);
}

static void tell(struct pcie_controller *controller)
{
	uint32_t result = controller->event.told;
	uint32_t type = EVENT_TYPE(result), info = EVENT_INFO(result);
	controller->event.count++;
	if (type == TYPE_NOTICE && info == INFO_NAMESPACES)
		tell_namespaces(controller);
	else
		log_warning("nvme", "%s: the device tells of %s (type %u, %u, log page 0x%02x)",
			    controller->base.address,
			    type == TYPE_ERROR    ? "an error"
			    : type == TYPE_HEALTH ? "its health"
						  : "something",
			    type, info, EVENT_PAGE(result));
}

static void page_read(void *arg)
{
	struct pcie_controller *controller = arg;
	int status = controller->event.status;
	controller->event.reading = false;
	if (status == -ENODEV)
		pcie_controller_remove(controller);
	else if (status < 0)
		(void)pcie_controller_reset(&controller->base, NULL, NULL); /* one may be under way */
	else if (controller->event.fresh)
		tell(controller);
	atomic_fetch_sub(&controller->pending, 1);
}

void pcie_controller_look(struct pcie_controller *controller)
{
	struct nvme_cqe cqe;
	if (controller->state != PCIE_LIVE || controller->event.reading ||
	    pthread_mutex_trylock(&controller->lock))
		return; /* who has the lock finds it */
	while (pcie_ring_take(&controller->admin, &cqe)) {
		pcie_ring_ack(&controller->admin);
		if (!pcie_event_take(controller, &cqe))
			controller->admin_strays++;
	}
	bool told = controller->event.state == PCIE_EVENT_TOLD;
	pthread_mutex_unlock(&controller->lock);
	if (!told)
		return;
	controller->event.reading = true;
	atomic_fetch_add(&controller->pending, 1);
	control_work(read_page, page_read, controller);
}
