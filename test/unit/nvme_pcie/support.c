/* SPDX-License-Identifier: BSD-3-Clause */
/* support: a controller, its commands, and the common half's ear. */
#include "test/unit/nvme_pcie/support.h"

#include <string.h>

#include "lib/base/log.h"

struct seen seen;

void nvme_controller_gone(struct nvme_controller *controller)
{
	controller->gone = true;
	seen.gone++;
}

void nvme_controller_changed(struct nvme_controller *controller, const uint32_t *nsids,
			     unsigned count)
{
	seen.changed++;
	seen.changed_count = count;
	seen.changed_first = count ? nsids[0] : 0;
	seen.changed_last = count ? nsids[count - 1] : 0;
}

int nvme_namespace_add(struct nvme_controller *controller, uint32_t nsid,
		       const struct nvme_identify_namespace *identify, uint32_t transfer_bytes_max,
		       struct nvme_namespace **ns, char why[NVME_WHY_BYTES])
{
	static struct nvme_namespace some; /* so that the list is not empty */
	strcpy(why, "a sentence");
	if (seen.add_error)
		return seen.add_error;
	assert_true(seen.namespaces < NAMESPACES_SEEN_MAX);
	seen.nsids[seen.namespaces++] = nsid;
	seen.size = identify->size;
	seen.transfer_bytes_max = transfer_bytes_max;
	if (TAILQ_EMPTY(&controller->namespaces))
		TAILQ_INSERT_TAIL(&controller->namespaces, &some, link);
	return 0;
}

void world_start_on(struct world *world, struct device *device)
{
	char why[NVME_WHY_BYTES] = "";
	memset(&seen, 0, sizeof(seen));
	log_set_level(LOG_DISABLED);
	world->device = device;
	device_controller(device, &world->controller);
	if (pcie_controller_start(&world->controller, why))
		fail_msg("%s", why);
	world->queue = world->controller.queues[0];
	pcie_queue_open(world->queue);
}

void world_start(struct world *world)
{
	world_start_on(world, device_new(1));
}

void world_stop(struct world *world)
{
	fake_settle();
	assert_int_equal(world->queue->flying, 0);
	assert_int_equal(world->queue->page_free, world->queue->page_count);
	pcie_queue_close(&world->queue->base);
	pcie_controller_wait(&world->controller);
	pcie_controller_stop(&world->controller);
	device_free(world->device);
}

static void ended(struct nvme_command *command, int status, uint32_t result)
{
	struct request *request = (struct request *)command->owner;
	struct nvme_queue *queue = command->queue;
	request->done++;
	request->status = status;
	if (request->again) {
		request->again = false;
		request->done = 0;
		int error = pcie_queue_issue(queue, command);
		if (!error)
			return;
		request->done = 1;
		request->status = error;
	}
	command->next_free = queue->free;
	queue->free = command;
}

int request_issue(struct world *world, struct request *request, enum nvme_opcode opcode,
		  uint64_t block, const struct iovec *iov, unsigned iovcnt)
{
	struct nvme_queue *base = &world->queue->base;
	struct nvme_command *command = base->free;
	assert_non_null(command);
	base->free = command->next_free;
	*request = (struct request){.command = command, .again = request->again};
	command->owner = (struct nvme_io *)request;
	command->done = ended;
	command->bytes = 0;
	command->iovcnt = (uint16_t)iovcnt;
	for (unsigned i = 0; i < iovcnt; i++) {
		command->iov[i] = iov[i];
		command->bytes += (uint32_t)iov[i].iov_len;
	}
	command->sqe = (struct nvme_sqe){
		.opcode = (uint8_t)opcode,
		.nsid = 1,
		.cdw10 = (uint32_t)block,
		.cdw12 = command->bytes ? command->bytes / DEVICE_BLOCK_BYTES - 1 : 0,
		.prp1 = 0xdead0000dead0000,
		.prp2 = 0xdead0000dead0000,
	};
	int error = pcie_queue_issue(base, command);
	if (error) {
		command->next_free = base->free;
		base->free = command;
	}
	return error;
}

int request_rw(struct world *world, struct request *request, enum nvme_opcode opcode,
	       uint64_t block, void *buffer, uint32_t bytes)
{
	const struct iovec iov = {buffer, bytes};
	return request_issue(world, request, opcode, block, &iov, bytes ? 1 : 0);
}

void world_settle(struct world *world)
{
	do {
		world->device->now_ms++;
		device_step(world->device);
	} while (fake_pass());
}
