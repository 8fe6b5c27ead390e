/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_controller: from a device that was found to queues that work, its namespaces, and the end.
 * On worker threads. Errors come with a sentence, because somebody has typed the address.
 */
#include "bdev/nvme/pcie_controller.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/nvme/namespace.h"
#include "lib/base/log.h"

enum { ACTIVE_LIST_ENTRIES = NVME_IDENTIFY_BYTES / 4 };

static const char *reason(int error)
{
	switch (error) {
	case -ENODEV:
		return "it is gone (its registers read as all ones)";
	case -EIO:
		return "it reports a fatal error or refuses a command";
	case -ETIMEDOUT:
		return "it does not answer in time";
	default:
		return strerror(-error);
	}
}

static int identify(struct pcie_controller *controller, enum nvme_cns cns, uint32_t nsid,
		    void *data)
{
	const struct nvme_sqe sqe = {.opcode = NVME_ADMIN_IDENTIFY, .nsid = nsid, .cdw10 = cns};
	int status = pcie_admin_locked(controller, &sqe, data, NVME_IDENTIFY_BYTES, NULL);
	return status > 0 ? -EIO : status;
}

/* ---- Starting ---- */

static int check_capabilities(struct pcie_controller *controller, char *why)
{
	const char *address = controller->base.address;
	uint64_t cap = controller->cap = pcie_read64(&controller->registers, NVME_REG_CAP);
	if (cap == UINT64_MAX)
		return nvme_refuse(why, -ENODEV,
				   "%s: the controller is gone: its registers read as all ones",
				   address);
	controller->stride = NVME_CAP_DSTRD(cap);
	if (!NVME_CAP_CSS_NVM(cap))
		return nvme_refuse(why, -ENOTSUP,
				   "%s: the controller does not know the NVM command set", address);
	if (NVME_CAP_MPSMIN(cap) > NVME_PAGE_BYTES)
		return nvme_refuse(why, -ENOTSUP,
				   "%s: the controller needs pages of %u bytes, not %d", address,
				   NVME_CAP_MPSMIN(cap), NVME_PAGE_BYTES);
	uint32_t bells = NVME_REG_DOORBELLS + pcie_doorbell_offset(1, false, controller->stride);
	if (bells > controller->registers.bytes)
		return nvme_refuse(why, -ENOTSUP,
				   "%s: BAR0 (%zu bytes) has no room for doorbells %u bytes apart",
				   address, controller->registers.bytes, controller->stride);
	if (NVME_CAP_MQES(cap) < 2)
		return nvme_refuse(why, -ENOTSUP, "%s: the controller's queues have one entry only",
				   address);
	return 0;
}

static void find_transfer_max(struct pcie_controller *controller)
{
	unsigned shift = controller->base.identify.mdts;
	uint64_t page = NVME_CAP_MPSMIN(controller->cap);
	uint64_t most = shift && shift < 32 ? page << shift : PCIE_TRANSFER_MAX_BYTES;
	controller->transfer_bytes_max = (uint32_t)MIN_OF(most, (uint64_t)PCIE_TRANSFER_MAX_BYTES);
}

static void choose_sgl(struct pcie_controller *controller)
{
	uint32_t kind = controller->base.identify.sgls & NVME_SGLS_MASK;
	controller->sgl = controller->options.sgl &&
			  (kind == NVME_SGLS_ANY || kind == NVME_SGLS_ALIGNED);
	controller->sgl_mask = kind == NVME_SGLS_ALIGNED ? 3 : 0;
}

static int alloc_queue(struct pcie_controller *controller, unsigned reactor, uint16_t id, char *why)
{
	uint16_t entries =
		(uint16_t)MIN_OF(NVME_CAP_MQES(controller->cap), (uint32_t)PCIE_QUEUE_ENTRIES);
	uint32_t bells =
		NVME_REG_DOORBELLS + pcie_doorbell_offset(id + 1, false, controller->stride);
	if (bells > controller->registers.bytes)
		return nvme_refuse(why, -ENOTSUP, "%s: BAR0 has no doorbells for queue %u",
				   controller->base.address, id);
	struct pcie_queue *queue =
		aligned_alloc(CACHE_LINE_BYTES, (sizeof(*queue) + CACHE_LINE_BYTES - 1) /
							CACHE_LINE_BYTES * CACHE_LINE_BYTES);
	if (!queue)
		return nvme_refuse(why, -ENOMEM, "no memory");
	memset(queue, 0, sizeof(*queue));
	queue->base.transport = controller->base.transport;
	queue->base.reactor = reactors[reactor];
	queue->registers = controller->registers;
	queue->dma = controller->dma;
	queue->alarm = pcie_controller_alarm;
	queue->controller = controller;
	queue->options = controller->options;
	queue->base.sgl = controller->sgl;
	queue->sgl_mask = controller->sgl_mask;
	int error =
		controller->backend->memory_get(controller, PCIE_QUEUE_BYTES, &queue->memory, why);
	if (!error && pcie_queue_init(queue, id, entries, controller->stride)) {
		controller->backend->memory_put(controller, &queue->memory);
		error = nvme_refuse(why, -ENOMEM, "no memory");
	}
	if (error) {
		free(queue);
		return error;
	}
	controller->queues[reactor] = queue;
	controller->queue_count++;
	return 0;
}

static int alloc_queues(struct pcie_controller *controller, char *why)
{
	int error = 0;
	uint16_t id = 0;
	for (unsigned i = 0; i < reactor_count && !error; i++) {
		if (reactors[i]->roles & REACTOR_STORAGE)
			error = alloc_queue(controller, i, ++id, why);
	}
	return error;
}

static void free_all(struct pcie_controller *controller)
{
	for (unsigned i = 0; i < reactor_count; i++) {
		struct pcie_queue *queue = controller->queues[i];
		if (!queue)
			continue;
		pcie_queue_fini(queue);
		controller->backend->memory_put(controller, &queue->memory);
		free(queue);
		controller->queues[i] = NULL;
	}
	controller->queue_count = 0;
	if (controller->memory.region.base)
		controller->backend->memory_put(controller, &controller->memory);
}

/* Everything that talks to the device. */
static int bring_up(struct pcie_controller *controller, char *why)
{
	const char *address = controller->base.address;
	int error = pcie_disable(controller);
	if (error)
		return nvme_refuse(why, error, "%s: the controller can not be reset: %s", address,
				   reason(error));
	error = pcie_enable(controller);
	if (error)
		return nvme_refuse(why, error, "%s: the controller does not become ready: %s",
				   address, reason(error));
	error = identify(controller, NVME_CNS_CONTROLLER, 0, &controller->base.identify);
	if (error)
		return nvme_refuse(why, error, "%s: IDENTIFY fails: %s", address, reason(error));
	find_transfer_max(controller);
	choose_sgl(controller);
	error = alloc_queues(controller, why);
	if (error)
		return error;
	error = pcie_make_queues(controller);
	if (error == -ENOSPC)
		return nvme_refuse(
			why, error,
			"%s: the controller has fewer I/O queues than there are cores with the "
			"storage role (%u): give it fewer of them (--cores)",
			address, controller->queue_count);
	if (error)
		return nvme_refuse(why, error, "%s: the I/O queues can not be created: %s", address,
				   reason(error));
	return 0;
}

int pcie_controller_start(struct pcie_controller *controller, char why[NVME_WHY_BYTES])
{
	int error = check_capabilities(controller, why);
	if (error)
		return error;
	error = controller->backend->memory_get(controller, sizeof(struct pcie_admin_memory),
						&controller->memory, why);
	if (error)
		return error;
	pthread_mutex_init(&controller->lock, NULL);
	pthread_mutex_lock(&controller->lock);
	error = bring_up(controller, why);
	pthread_mutex_unlock(&controller->lock);
	if (error) {
		pcie_controller_quiesce(controller);
		free_all(controller);
		pthread_mutex_destroy(&controller->lock);
	}
	return error;
}

/* ---- Namespaces ---- */

static int add_namespace(struct pcie_controller *controller, uint32_t nsid, char *why)
{
	struct nvme_identify_namespace description;
	struct nvme_namespace *ns;
	pthread_mutex_lock(&controller->lock);
	int error = identify(controller, NVME_CNS_NAMESPACE, nsid, &description);
	pthread_mutex_unlock(&controller->lock);
	if (error)
		return nvme_refuse(why, error, "%s: IDENTIFY of namespace %u fails: %s",
				   controller->base.address, nsid, reason(error));
	if (!description.size) /* not active */
		return 0;
	return nvme_namespace_add(&controller->base, nsid, &description,
				  controller->transfer_bytes_max, &ns, why);
}

/* The ids above `after`, ascending, ended by 0 where there are fewer than ACTIVE_LIST_ENTRIES. */
static int list_active(struct pcie_controller *controller, uint32_t after,
		       uint32_t list[ACTIVE_LIST_ENTRIES])
{
	pthread_mutex_lock(&controller->lock);
	int error = identify(controller, NVME_CNS_ACTIVE_NAMESPACES, after, list);
	bool unknown = error == -EIO && !controller->admin_lost;
	pthread_mutex_unlock(&controller->lock);
	if (!unknown)
		return error;
	/* NVMe 1.0 knows no such list: all ids count, those that are not in use have size 0 */
	uint32_t highest = controller->base.identify.nn;
	for (uint32_t i = 0; i < ACTIVE_LIST_ENTRIES; i++)
		list[i] = after + i < highest ? after + i + 1 : 0;
	return 0;
}

int pcie_controller_add_namespaces(struct pcie_controller *controller, char why[NVME_WHY_BYTES])
{
	uint32_t list[ACTIVE_LIST_ENTRIES], after = 0;
	unsigned count = 0, i;
	const char *address = controller->base.address;
	int first_error = 0;
	char sentence[NVME_WHY_BYTES];
	do {
		int error = list_active(controller, after, list);
		if (error)
			return nvme_refuse(why, error,
					   "%s: the list of its namespaces can not be read: %s",
					   address, reason(error));
		for (i = 0; i < ACTIVE_LIST_ENTRIES && list[i] > after; i++) {
			after = list[i];
			if (after == NVME_ALL_NAMESPACES || ++count > NVME_NAMESPACES_MAX)
				break;
			error = add_namespace(controller, after, sentence);
			if (!error)
				continue;
			log_warning("nvme", "%s", sentence);
			if (!first_error)
				memcpy(why, sentence, NVME_WHY_BYTES);
			first_error = first_error ? first_error : error;
			if (controller->admin_lost)
				return first_error;
		}
	} while (i == ACTIVE_LIST_ENTRIES); /* only one in order to its end has another one behind it */
	if (count > NVME_NAMESPACES_MAX)
		log_warning("nvme", "%s: it names more than %d namespaces: the others are not looked at",
			    address, NVME_NAMESPACES_MAX);
	if (!TAILQ_EMPTY(&controller->base.namespaces))
		return 0;
	if (first_error)
		return first_error;
	return nvme_refuse(why, -ENODEV,
			   "%s: the controller has no namespace: create one, e.g. with nvme-cli",
			   address);
}

/* ---- Later ---- */

int pcie_controller_admin(struct nvme_controller *base, const struct nvme_sqe *sqe, void *data,
			  uint32_t bytes, uint32_t *result)
{
	struct pcie_controller *controller = container_of(base, struct pcie_controller, base);
	pthread_mutex_lock(&controller->lock);
	int status = pcie_admin_locked(controller, sqe, data, bytes, result);
	pthread_mutex_unlock(&controller->lock);
	return status;
}

int pcie_controller_restart(struct pcie_controller *controller)
{
	pthread_mutex_lock(&controller->lock);
	int error = pcie_disable(controller);
	if (!error)
		error = pcie_enable(controller);
	if (!error)
		error = pcie_make_queues(controller);
	pthread_mutex_unlock(&controller->lock);
	return error;
}

void pcie_controller_quiesce(struct pcie_controller *controller)
{
	pthread_mutex_lock(&controller->lock);
	int error = pcie_shutdown(controller);
	if (error && error != -ENODEV)
		log_warning("nvme", "%s: the shutdown is not confirmed: %s",
			    controller->base.address, reason(error));
	(void)pcie_disable(controller);
	controller->backend->stop_dma(controller);
	controller->admin_lost = true;
	pthread_mutex_unlock(&controller->lock);
}

void pcie_controller_stop(struct pcie_controller *controller)
{
	pcie_controller_quiesce(controller);
	free_all(controller);
	pthread_mutex_destroy(&controller->lock);
}
