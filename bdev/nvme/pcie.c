/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie: the transport: a controller (pcie_controller.h) on a device (pcie_vfio.h). attach() and
 * detach() run on workers, the queues' functions on their cores; the kernel's request to give the
 * device back is watched by the control thread.
 */
#include "bdev/nvme/pcie.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "bdev/nvme/namespace.h"
#include "bdev/nvme/pcie_controller.h"
#include "bdev/nvme/pcie_vfio.h"
#include "lib/base/log.h"
#include "reactor/control.h"

enum { PAUSE_NS = 100000 };

struct pcie {
	struct pcie_controller controller;
	struct pcie_device device;
	struct control_watch request; /* fd -1: not watched */
	struct control_timer look;    /* for what the device tells by itself */
};

static struct pcie *pcie_of(struct nvme_controller *base)
{
	return container_of(base, struct pcie, controller.base);
}

/* ---- What the controller needs of the machine ---- */

static int memory_get(struct pcie_controller *controller, size_t bytes, struct pcie_memory *memory,
		      char why[NVME_WHY_BYTES])
{
	struct pcie *pcie = container_of(controller, struct pcie, controller);
	return pcie_memory_get(memory, bytes, pcie->device.node, why);
}

static void memory_put(struct pcie_controller *controller, struct pcie_memory *memory)
{
	pcie_memory_put(memory);
}

static uint64_t now_ms(struct pcie_controller *controller)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void pause_a_moment(struct pcie_controller *controller)
{
	nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
}

static void stop_dma(struct pcie_controller *controller)
{
	pcie_device_stop(&container_of(controller, struct pcie, controller)->device);
}

static const struct pcie_backend backend = {
	.memory_get = memory_get,
	.memory_put = memory_put,
	.now_ms = now_ms,
	.pause = pause_a_moment,
	.stop_dma = stop_dma,
};

/* ---- The kernel wants the device back; the device tells something ---- */

static void requested(struct control_watch *watch, uint32_t events)
{
	struct pcie *pcie = container_of(watch, struct pcie, request);
	uint64_t count;
	ssize_t ignored = read(watch->fd, &count, sizeof(count));
	(void)ignored;
	pcie_controller_remove(&pcie->controller);
}

static void look(struct control_timer *timer)
{
	struct pcie *pcie = container_of(timer, struct pcie, look);
	pcie_controller_look(&pcie->controller);
	control_arm_timer(timer, PCIE_LOOK_US);
}

static void begin_watch(void *arg)
{
	struct pcie *pcie = arg;
	pcie->look.fire = look;
	if (pcie->controller.base.identify.oaes & NVME_EVENTS_NAMESPACES)
		control_arm_timer(&pcie->look, PCIE_LOOK_US);
	pcie->request.ready = requested;
	pcie->request.fd = pcie->device.request_fd;
	if (pcie->request.fd >= 0 && control_watch_add(&pcie->request, EPOLLIN))
		pcie->request.fd = -1;
	atomic_fetch_sub(&pcie->controller.pending, 1);
}

static void end_watch(void *arg)
{
	struct pcie *pcie = arg;
	control_disarm_timer(&pcie->look);
	if (pcie->request.fd >= 0)
		control_watch_remove(&pcie->request);
	atomic_fetch_sub(&pcie->controller.pending, 1);
}

/* ---- Attaching ---- */

static void tell(const struct pcie_controller *controller)
{
	const struct nvme_identify_controller *identify = &controller->base.identify;
	int length = nvme_text_bytes(identify->model, sizeof(identify->model));
	log_notice("nvme", "%s: %.*s, %u queue%s of %u commands, %u KiB a command%s%s",
		   controller->base.address, length, identify->model, controller->queue_count,
		   controller->queue_count == 1 ? "" : "s",
		   (unsigned)MIN_OF(NVME_CAP_MQES(controller->cap), (uint32_t)PCIE_QUEUE_ENTRIES) -
			   1,
		   controller->transfer_bytes_max >> 10,
		   controller->shadows ? ", shadow doorbells" : "",
		   controller->sgl ? ", SGLs" : "");
}

/* What was found before something failed. */
static void drop_namespaces(struct pcie_controller *controller)
{
	struct nvme_namespace *ns;
	while ((ns = TAILQ_FIRST(&controller->base.namespaces))) {
		nvme_namespace_unlink(ns);
		nvme_namespace_free(ns);
	}
}

static int start(struct pcie *pcie, char *why)
{
	struct pcie_controller *controller = &pcie->controller;
	controller->backend = &backend;
	controller->options = nvme_options_get();
	controller->registers = pcie->device.registers;
	controller->dma = pcie_dma_buffers();
	controller->base.transport = &nvme_pcie_transport;
	TAILQ_INIT(&controller->base.namespaces);
	pcie_reset_init(controller);
	snprintf(controller->base.address, sizeof(controller->base.address), "%s",
		 pcie->device.address);
	int error = pcie_controller_start(controller, why);
	if (error)
		return error;
	error = pcie_controller_add_namespaces(controller, why);
	if (error) {
		drop_namespaces(controller);
		pcie_controller_stop(controller);
	} else {
		tell(controller);
	}
	return error;
}

static int attach(const char *address, struct nvme_controller **controller,
		  char why[NVME_WHY_BYTES])
{
	struct pcie *pcie = calloc(1, sizeof(*pcie));
	if (!pcie) {
		snprintf(why, NVME_WHY_BYTES, "no memory");
		return -ENOMEM;
	}
	int error = pcie_device_open(&pcie->device, address, why);
	if (error) {
		free(pcie);
		return error;
	}
	error = start(pcie, why);
	if (error) {
		pcie_device_close(&pcie->device);
		free(pcie);
		return error;
	}
	pcie->request.fd = -1;
	atomic_fetch_add(&pcie->controller.pending, 1);
	control_send(begin_watch, pcie);
	*controller = &pcie->controller.base;
	return 0;
}

static void detach(struct nvme_controller *base)
{
	struct pcie *pcie = pcie_of(base);
	atomic_fetch_add(&pcie->controller.pending, 1);
	control_send(end_watch, pcie);
	pcie_controller_wait(&pcie->controller);
	pcie_controller_stop(&pcie->controller);
	pcie_device_close(&pcie->device);
	free(pcie);
}

/* ---- On the cores ---- */

static struct nvme_queue *queue_get(struct nvme_namespace *ns)
{
	struct pcie *pcie = pcie_of(ns->controller);
	struct pcie_queue *queue = pcie->controller.queues[reactor_self->index];
	if (!queue) {
		errno = ENODEV;
		return NULL;
	}
	pcie_queue_open(queue);
	return &queue->base;
}

/* ---- For bdev_nvme_get_controllers ---- */

static void dump(const struct nvme_controller *base, json_t *object)
{
	static const char *const states[] = {
		[PCIE_LIVE] = "live",
		[PCIE_RESETTING] = "resetting",
		[PCIE_GONE] = "gone",
	};
	const struct pcie_controller *controller =
		container_of(base, const struct pcie_controller, base);
	const struct pcie *pcie = container_of(controller, const struct pcie, controller);
	struct pcie_queue_stats sum = {0};
	for (unsigned i = 0; i < reactor_count; i++) {
		const struct pcie_queue *queue = controller->queues[i];
		if (!queue)
			continue;
		sum.strays += counter_read(&queue->stats.strays);
		sum.timeouts += counter_read(&queue->stats.timeouts);
		sum.retries += counter_read(&queue->stats.retries);
		sum.bounces += counter_read(&queue->stats.bounces);
	}
	json_t *info = json_pack(
		"{s:s, s:i, s:i, s:b, s:b, s:i, s:I, s:I, s:I, s:I, s:I, s:I}", "state",
		states[controller->state], "io_queues", (int)controller->queue_count, "queue_depth",
		(int)MIN_OF(NVME_CAP_MQES(controller->cap), (uint32_t)PCIE_QUEUE_ENTRIES) - 1,
		"shadow_doorbells", (int)controller->shadows, "sgl", (int)controller->sgl, "numa_id", pcie->device.node,
		"resets", (json_int_t)controller->resets, "timeouts", (json_int_t)sum.timeouts,
		"retries", (json_int_t)sum.retries, "bounced", (json_int_t)sum.bounces,
		"stray_completions", (json_int_t)sum.strays, "events",
		(json_int_t)controller->event.count);
	json_object_set_new(object, "pcie", info);
}

const struct nvme_transport nvme_pcie_transport = {
	.name = "PCIe",
	.lists_namespaces = true,
	.queue_get = queue_get,
	.queue_put = pcie_queue_close,
	.issue = pcie_queue_issue,
	.abort = pcie_queue_abort,
	.attach = attach,
	.detach = detach,
	.admin = pcie_controller_admin,
	.reset = pcie_controller_reset,
	.dump = dump,
};
