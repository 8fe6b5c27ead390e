/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_reset: what happens when a controller does not do what it should. Led by the control thread;
 * each step is a round over the cores or work on a worker:
 *
 *   a command is too old    by action_on_timeout: a line in the log; or the reset at once; or an
 *                           Abort, by a worker: if that does not end it in time, its core asks for
 *   a reset                 pause all queues - restart the controller - resume them, which does
 *                           again what was in flight
 *   removal                 pause all queues - no DMA any more - end all commands with -ENODEV -
 * tell the common half, which removes the bdevs
 *
 * A reset that fails ends as a removal. Buffers are given back to requests only when the device can
 * not write to them any more: behind a reset, or with bus mastering off.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bdev/nvme/pcie_controller.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "reactor/control.h"

enum { WAIT_STEP_US = 1000 };

/* From a core to the control thread. */
struct pcie_alarm_call {
	struct pcie_controller *controller;
	enum pcie_alarm alarm;
	uint16_t sqid, cid;
	int status; /* of the Abort */
	STAILQ_ENTRY(pcie_alarm_call) link;
};

static void begin_reset(struct pcie_controller *controller);

void pcie_reset_init(struct pcie_controller *controller)
{
	controller->state = PCIE_LIVE;
	STAILQ_INIT(&controller->aborts);
}

static void hold(struct pcie_controller *controller)
{
	atomic_fetch_add(&controller->pending, 1);
}

/* The controller may be freed by who waits, as soon as this is done. */
static void let_go(struct pcie_controller *controller)
{
	atomic_fetch_sub(&controller->pending, 1);
}

void pcie_controller_wait(struct pcie_controller *controller)
{
	while (atomic_load(&controller->pending))
		usleep(WAIT_STEP_US);
}

/* ---- On the cores ---- */

static struct pcie_queue *queue_here(void *arg)
{
	struct pcie_controller *controller = arg;
	return controller->queues[reactor_self->index];
}

static void pause_here(void *arg)
{
	if (queue_here(arg))
		pcie_queue_pause(queue_here(arg));
}

static void resume_here(void *arg)
{
	if (queue_here(arg))
		pcie_queue_resume(queue_here(arg));
}

static void fail_here(void *arg)
{
	if (queue_here(arg))
		pcie_queue_fail(queue_here(arg));
}

/* ---- Removal ---- */

static void failed(void *arg)
{
	struct pcie_controller *controller = arg;
	nvme_controller_gone(&controller->base);
	let_go(controller);
}

static void quiesced(void *arg)
{
	control_for_each_reactor(REACTOR_STORAGE, fail_here, failed, arg);
}

static void quiesce_work(void *arg)
{
	pcie_controller_quiesce(arg);
}

static void paused_to_remove(void *arg)
{
	control_work(quiesce_work, quiesced, arg);
}

static void drop_aborts(struct pcie_controller *controller);

void pcie_controller_remove(struct pcie_controller *controller)
{
	if (controller->state == PCIE_GONE)
		return;
	if (controller->state == PCIE_RESETTING) {
		controller->remove_wanted = true;
		return;
	}
	controller->state = PCIE_GONE;
	hold(controller);
	drop_aborts(controller);
	log_error("nvme", "%s: the device is gone or about to be: its namespaces are removed",
		  controller->base.address);
	control_for_each_reactor(REACTOR_STORAGE, pause_here, paused_to_remove, controller);
}

/* ---- Reset ---- */

static void tell_reset(struct pcie_controller *controller)
{
	void (*done)(void *arg, int error) = controller->reset_done;
	controller->reset_done = NULL;
	if (done)
		done(controller->reset_arg, controller->reset_error);
}

static void resumed(void *arg)
{
	struct pcie_controller *controller = arg;
	controller->state = PCIE_LIVE;
	log_notice("nvme", "%s: the controller works again", controller->base.address);
	tell_reset(controller);
	if (controller->remove_wanted)
		pcie_controller_remove(controller);
	else /* what it had to tell is lost */
		nvme_controller_changed(&controller->base, NULL, 0);
	let_go(controller);
}

static void restart_work(void *arg)
{
	struct pcie_controller *controller = arg;
	controller->reset_error = pcie_controller_restart(controller);
}

static void restarted(void *arg)
{
	struct pcie_controller *controller = arg;
	if (!controller->reset_error) {
		control_for_each_reactor(REACTOR_STORAGE, resume_here, resumed, controller);
		return;
	}
	log_error("nvme", "%s: the controller can not be reset (%s): its namespaces are removed",
		  controller->base.address, strerror(-controller->reset_error));
	controller->state = PCIE_GONE;
	tell_reset(controller);
	control_work(quiesce_work, quiesced, controller);
}

static void paused_to_reset(void *arg)
{
	control_work(restart_work, restarted, arg);
}

static void begin_reset(struct pcie_controller *controller)
{
	controller->state = PCIE_RESETTING;
	controller->resets++;
	hold(controller);
	drop_aborts(controller);
	log_warning("nvme", "%s: the controller is reset", controller->base.address);
	control_for_each_reactor(REACTOR_STORAGE, pause_here, paused_to_reset, controller);
}

int pcie_controller_reset(struct nvme_controller *base, void (*done)(void *arg, int error),
			  void *arg)
{
	struct pcie_controller *controller = container_of(base, struct pcie_controller, base);
	if (controller->state != PCIE_LIVE)
		return controller->state == PCIE_GONE ? -ENODEV : -EBUSY;
	controller->reset_done = done;
	controller->reset_arg = arg;
	begin_reset(controller);
	return 0;
}

/* ---- Aborts, one at a time ---- */

static void abort_next(struct pcie_controller *controller);

static void free_call(struct pcie_alarm_call *call)
{
	let_go(call->controller);
	free(call);
}

/* But the one that a worker has. */
static void drop_aborts(struct pcie_controller *controller)
{
	struct pcie_alarm_call *call, *busy = NULL;
	while ((call = STAILQ_FIRST(&controller->aborts))) {
		STAILQ_REMOVE_HEAD(&controller->aborts, link);
		if (controller->aborting && !busy)
			busy = call;
		else
			free_call(call);
	}
	if (busy)
		STAILQ_INSERT_HEAD(&controller->aborts, busy, link);
}

static void abort_work(void *arg)
{
	struct pcie_alarm_call *call = arg;
	const struct nvme_sqe sqe = {
		.opcode = NVME_ADMIN_ABORT,
		.cdw10 = (uint32_t)call->cid << 16 | call->sqid,
	};
	call->status = pcie_controller_admin(&call->controller->base, &sqe, NULL, 0, NULL);
}

static void abort_done(void *arg)
{
	struct pcie_alarm_call *call = arg;
	struct pcie_controller *controller = call->controller;
	STAILQ_REMOVE_HEAD(&controller->aborts, link);
	controller->aborting = false;
	if (call->status == -ENODEV)
		pcie_controller_remove(controller);
	else if (call->status < 0 && controller->state == PCIE_LIVE)
		begin_reset(controller);
	else
		abort_next(controller);
	free_call(call);
}

static void abort_next(struct pcie_controller *controller)
{
	struct pcie_alarm_call *call = STAILQ_FIRST(&controller->aborts);
	if (!call || controller->aborting)
		return;
	controller->aborting = true;
	control_work(abort_work, abort_done, call);
}

/* ---- Alarms ---- */

static void tell_late(const struct pcie_alarm_call *call, const char *then)
{
	struct pcie_controller *controller = call->controller;
	unsigned left_out;
	bool may = log_limit_take(&controller->late, clock_ticks_to_us(clock_ticks()) / 1000000,
				  &left_out);
	if (left_out)
		log_warning("nvme", "%s: %u more commands have taken too long",
			    controller->base.address, left_out);
	if (may)
		log_warning("nvme", "%s: command %u of queue %u takes too long%s",
			    controller->base.address, call->cid, call->sqid, then);
}

static void take_alarm(void *arg)
{
	struct pcie_alarm_call *call = arg;
	struct pcie_controller *controller = call->controller;
	if (controller->state == PCIE_LIVE) {
		switch (call->alarm) {
		case PCIE_ALARM_GONE:
			pcie_controller_remove(controller);
			break;
		case PCIE_ALARM_FATAL:
			begin_reset(controller);
			break;
		case PCIE_ALARM_TIMEOUT:
			tell_late(call, ": Abort");
			STAILQ_INSERT_TAIL(&controller->aborts, call, link);
			abort_next(controller);
			return;
		case PCIE_ALARM_LATE:
			tell_late(call, "");
			break;
		}
	}
	free_call(call);
}

void pcie_controller_alarm(struct pcie_queue *queue, enum pcie_alarm alarm, uint16_t cid)
{
	struct pcie_alarm_call *call = calloc(1, sizeof(*call));
	if (!call) /* the watch comes again; a command that was to be aborted ends in a reset */
		return;
	call->controller = queue->controller;
	call->alarm = alarm;
	call->sqid = queue->ring.id;
	call->cid = cid;
	hold(call->controller);
	control_send(take_alarm, call);
}
