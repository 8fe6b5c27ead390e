/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_bringup: the controller's states as the specification wants them driven (Base 3.5 and 3.6),
 * and admin commands, one at a time. On worker threads with the controller's lock held; waits by
 * backend->pause(), within the times that CAP.TO allows.
 */
#include <errno.h>
#include <string.h>

#include "bdev/nvme/pcie_controller.h"

static struct pcie_admin_memory *memory_of(const struct pcie_controller *controller)
{
	return controller->memory.region.base;
}

static uint64_t iova_of(const struct pcie_controller *controller, size_t offset)
{
	return controller->memory.iova + offset;
}

/* ---- CC and CSTS ---- */

/* CAP.TO of 0 would allow no time at all. */
static uint64_t ready_timeout_ms(const struct pcie_controller *controller)
{
	return MAX_OF(NVME_CAP_TO_MS(controller->cap), 500u);
}

/*
 * Until CSTS under the mask has the value. -ENODEV: the device is gone; -EIO: it reports a fatal
 * error, and there is no use in waiting (`fatal_ends`); -ETIMEDOUT.
 */
static int wait_status(struct pcie_controller *controller, uint32_t mask, uint32_t value,
		       bool fatal_ends, uint64_t timeout_ms)
{
	uint64_t begun = controller->backend->now_ms(controller);
	for (;;) {
		/* the clock first: a look that comes late still counts */
		bool late = controller->backend->now_ms(controller) - begun > timeout_ms;
		uint32_t csts = pcie_read(&controller->registers, NVME_REG_CSTS);
		if (pcie_is_gone(csts))
			return -ENODEV;
		if ((csts & mask) == value)
			return 0;
		if (fatal_ends && csts & NVME_CSTS_CFS)
			return -EIO;
		if (late)
			return -ETIMEDOUT;
		controller->backend->pause(controller);
	}
}

int pcie_disable(struct pcie_controller *controller)
{
	const struct pcie_registers *registers = &controller->registers;
	uint32_t csts = pcie_read(registers, NVME_REG_CSTS);
	if (pcie_is_gone(csts))
		return -ENODEV;
	uint32_t cc = pcie_read(registers, NVME_REG_CC);
	if (cc & NVME_CC_EN) {
		/* EN must not fall before RDY has risen: somebody before us may have died there */
		if (!(csts & (NVME_CSTS_RDY | NVME_CSTS_CFS)) &&
		    wait_status(controller, NVME_CSTS_RDY, NVME_CSTS_RDY, true,
				ready_timeout_ms(controller)) == -ENODEV)
			return -ENODEV;
		pcie_write(registers, NVME_REG_CC, cc & ~(uint32_t)(NVME_CC_EN | NVME_CC_SHN_MASK));
	}
	return wait_status(controller, NVME_CSTS_RDY, 0, false, ready_timeout_ms(controller));
}

static void reset_admin_ring(struct pcie_controller *controller)
{
	struct pcie_ring *ring = &controller->admin;
	struct pcie_admin_memory *memory = memory_of(controller);
	volatile uint8_t *bells = controller->registers.base + NVME_REG_DOORBELLS;
	*ring = (struct pcie_ring){
		.sq = memory->sq,
		.cq = memory->cq,
		.sq_iova = iova_of(controller, offsetof(struct pcie_admin_memory, sq)),
		.cq_iova = iova_of(controller, offsetof(struct pcie_admin_memory, cq)),
		.entries = PCIE_ADMIN_ENTRIES,
		.sq_bell.reg = (volatile uint32_t *)bells,
		.cq_bell.reg = (volatile uint32_t *)(bells + controller->stride),
	};
	pcie_ring_reset(ring);
	controller->admin_lost = false;
}

int pcie_enable(struct pcie_controller *controller)
{
	const struct pcie_registers *registers = &controller->registers;
	const uint32_t last = PCIE_ADMIN_ENTRIES - 1;
	reset_admin_ring(controller);
	pcie_write(registers, NVME_REG_INTMS, UINT32_MAX); /* this driver polls */
	pcie_write(registers, NVME_REG_AQA, last << 16 | last);
	pcie_write64(registers, NVME_REG_ASQ, controller->admin.sq_iova);
	pcie_write64(registers, NVME_REG_ACQ, controller->admin.cq_iova);
	/* the command set is NVM, the page 4 KiB, the arbitration round robin: all 0 */
	pcie_write(registers, NVME_REG_CC, NVME_CC_IOSQES_64 | NVME_CC_IOCQES_16 | NVME_CC_EN);
	return wait_status(controller, NVME_CSTS_RDY, NVME_CSTS_RDY, true,
			   ready_timeout_ms(controller));
}

static uint64_t shutdown_timeout_ms(const struct pcie_controller *controller)
{
	uint64_t told = (controller->base.identify.rtd3e + 999ull) / 1000;
	if (!told)
		return PCIE_SHUTDOWN_DEFAULT_MS;
	return MIN_OF(MAX_OF(told, (uint64_t)PCIE_SHUTDOWN_MIN_MS), (uint64_t)PCIE_SHUTDOWN_MAX_MS);
}

/* Base 3.6.1: the I/O queues go first. What does not work here ends with the controller. */
static void delete_queues(struct pcie_controller *controller)
{
	int status = 0;
	for (unsigned i = 0; i < reactor_count && status >= 0; i++) {
		const struct pcie_queue *queue = controller->queues[i];
		if (!queue || controller->admin_lost)
			continue;
		const struct nvme_sqe submission = {.opcode = NVME_ADMIN_DELETE_SQ,
						    .cdw10 = queue->ring.id};
		const struct nvme_sqe completion = {.opcode = NVME_ADMIN_DELETE_CQ,
						    .cdw10 = queue->ring.id};
		status = pcie_admin_locked(controller, &submission, NULL, 0, NULL);
		if (status >= 0)
			status = pcie_admin_locked(controller, &completion, NULL, 0, NULL);
	}
}

int pcie_shutdown(struct pcie_controller *controller)
{
	const struct pcie_registers *registers = &controller->registers;
	uint32_t csts = pcie_read(registers, NVME_REG_CSTS);
	if (pcie_is_gone(csts))
		return -ENODEV;
	uint32_t cc = pcie_read(registers, NVME_REG_CC);
	if (!(cc & NVME_CC_EN) || !(csts & NVME_CSTS_RDY) || cc & NVME_CC_SHN_MASK)
		return 0;
	if (csts & NVME_CSTS_CFS)
		return -EIO;
	delete_queues(controller);
	pcie_write(registers, NVME_REG_CC, cc | NVME_CC_SHN_NORMAL);
	return wait_status(controller, NVME_CSTS_SHST_MASK, NVME_CSTS_SHST_DONE, true,
			   shutdown_timeout_ms(controller));
}

/* ---- Admin commands ---- */

/* The completion of the command with this id; others are of commands that were given up. */
static bool take_completion(struct pcie_controller *controller, uint16_t cid, struct nvme_cqe *cqe)
{
	while (pcie_ring_take(&controller->admin, cqe)) {
		pcie_ring_ack(&controller->admin);
		if (cqe->cid == cid && !cqe->sqid)
			return true;
		if (!pcie_event_take(controller, cqe))
			controller->admin_strays++;
	}
	return false;
}

static int wait_completion(struct pcie_controller *controller, uint16_t cid, struct nvme_cqe *cqe)
{
	uint64_t begun = controller->backend->now_ms(controller);
	uint64_t limit = (controller->options.timeout_admin_us + 999) / 1000;
	for (;;) {
		bool late = controller->backend->now_ms(controller) - begun > limit;
		if (take_completion(controller, cid, cqe))
			return 0;
		uint32_t csts = pcie_read(&controller->registers, NVME_REG_CSTS);
		if (pcie_is_gone(csts))
			return -ENODEV;
		if (csts & NVME_CSTS_CFS)
			return -EIO;
		if (late)
			return -ETIMEDOUT;
		controller->backend->pause(controller);
	}
}

int pcie_admin_locked(struct pcie_controller *controller, const struct nvme_sqe *sqe, void *data,
		      uint32_t bytes, uint32_t *result)
{
	struct pcie_admin_memory *memory = memory_of(controller);
	struct nvme_sqe copy = *sqe;
	struct nvme_cqe cqe;
	if (bytes > PCIE_ADMIN_DATA_BYTES)
		return -EINVAL;
	if (controller->admin_lost)
		return -EIO;
	if (++controller->admin_cid == PCIE_EVENT_CID)
		controller->admin_cid = 0;
	copy.cid = controller->admin_cid;
	copy.flags = 0;
	if (bytes) {
		copy.prp1 = iova_of(controller, offsetof(struct pcie_admin_memory, data));
		copy.prp2 = 0;
		memcpy(memory->data, data, bytes);
	}
	pcie_ring_push(&controller->admin, &copy);
	pcie_ring_submit(&controller->admin);
	int error = wait_completion(controller, copy.cid, &cqe);
	if (error) {
		controller->admin_lost = true;
		return error;
	}
	if (bytes && (sqe->opcode & 3) == 2) /* from the device */
		memcpy(data, memory->data, bytes);
	if (result)
		*result = cqe.result;
	return nvme_status_plain(cqe.status >> 1);
}

/* ---- I/O queues ---- */

/* A controller that has it, but refuses it, is served without. */
static int make_shadows(struct pcie_controller *controller)
{
	struct pcie_admin_memory *memory = memory_of(controller);
	const struct nvme_sqe sqe = {
		.opcode = NVME_ADMIN_DOORBELL_BUFFER,
		.prp1 = iova_of(controller, offsetof(struct pcie_admin_memory, shadow)),
		.prp2 = iova_of(controller, offsetof(struct pcie_admin_memory, events)),
	};
	uint32_t end = pcie_doorbell_offset((uint16_t)(controller->queue_count + 1), false,
					    controller->stride);
	controller->shadows = false;
	if (!(controller->base.identify.oacs & NVME_OACS_DOORBELL_BUFFER) || end > NVME_PAGE_BYTES)
		return 0;
	memset(memory->shadow, 0, sizeof(memory->shadow));
	memset(memory->events, 0, sizeof(memory->events));
	*(uint32_t *)memory->shadow = controller->admin.tail;
	*(uint32_t *)(memory->shadow + controller->stride) = controller->admin.head;
	int status = pcie_admin_locked(controller, &sqe, NULL, 0, NULL);
	if (status < 0)
		return status;
	controller->shadows = status == 0;
	if (controller->shadows) { /* the admin queue's registers are written in any case */
		controller->admin.sq_bell.shadow = (volatile uint32_t *)memory->shadow;
		controller->admin.cq_bell.shadow =
			(volatile uint32_t *)(memory->shadow + controller->stride);
	}
	return 0;
}

static void set_shadow(const struct pcie_controller *controller, struct pcie_doorbell *bell,
		       uint32_t offset)
{
	struct pcie_admin_memory *memory = memory_of(controller);
	bell->shadow = bell->event = NULL;
	if (!controller->shadows)
		return;
	bell->shadow = (volatile uint32_t *)(memory->shadow + offset);
	bell->event = (volatile uint32_t *)(memory->events + offset);
}

/* CREATE I/O COMPLETION QUEUE, then its SUBMISSION QUEUE: contiguous memory, no interrupt. */
static int make_queue(struct pcie_controller *controller, struct pcie_queue *queue)
{
	struct pcie_ring *ring = &queue->ring;
	uint32_t identity = (ring->entries - 1u) << 16 | ring->id;
	const struct nvme_sqe completion = {
		.opcode = NVME_ADMIN_CREATE_CQ,
		.prp1 = ring->cq_iova,
		.cdw10 = identity,
		.cdw11 = 1,
	};
	const struct nvme_sqe submission = {
		.opcode = NVME_ADMIN_CREATE_SQ,
		.prp1 = ring->sq_iova,
		.cdw10 = identity,
		.cdw11 = (uint32_t)ring->id << 16 | 1,
	};
	pcie_ring_reset(ring);
	set_shadow(controller, &ring->sq_bell,
		   pcie_doorbell_offset(ring->id, false, controller->stride));
	set_shadow(controller, &ring->cq_bell,
		   pcie_doorbell_offset(ring->id, true, controller->stride));
	int status = pcie_admin_locked(controller, &completion, NULL, 0, NULL);
	if (!status)
		status = pcie_admin_locked(controller, &submission, NULL, 0, NULL);
	return status > 0 ? -EIO : status;
}

int pcie_make_queues(struct pcie_controller *controller)
{
	uint32_t granted, last = controller->queue_count - 1;
	const struct nvme_sqe sqe = {
		.opcode = NVME_ADMIN_SET_FEATURES,
		.cdw10 = NVME_FEATURE_QUEUES,
		.cdw11 = last << 16 | last,
	};
	int status = pcie_admin_locked(controller, &sqe, NULL, 0, &granted);
	if (status)
		return status > 0 ? -EIO : status;
	if ((granted & 0xffff) < last || granted >> 16 < last)
		return -ENOSPC;
	status = make_shadows(controller);
	for (unsigned i = 0; i < reactor_count && !status; i++) {
		if (controller->queues[i])
			status = make_queue(controller, controller->queues[i]);
	}
	return status ? status : pcie_events_begin(controller);
}
