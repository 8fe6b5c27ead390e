/* SPDX-License-Identifier: BSD-3-Clause */
/* device: the controller's side of NVMe over PCIe, as far as the driver's tests need it. */
#include "test/unit/nvme_pcie/device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 4096, INVALID_FIELD = 2, INVALID_QUEUE = 0x101, INVALID_DELETION = 0x10c, TICK_MS = 1 };

static struct device *the_device; /* of the backend's functions */

/* ---- Memory ---- */

void *device_at(const struct device *device, uint64_t iova, size_t bytes)
{
	uintptr_t address = (uintptr_t)(iova - DEVICE_IOVA_OFFSET);
	assert_false(device->dma_stopped);
	for (unsigned i = 0; i < device->mapping_count; i++) {
		const struct device_mapping *mapping = &device->mappings[i];
		if (address >= mapping->base && address - mapping->base < mapping->bytes &&
		    bytes <= mapping->bytes - (address - mapping->base))
			return (void *)address;
	}
	fail_msg("DMA of %zu bytes at %#llx, which is not mapped", bytes, (unsigned long long)iova);
	return NULL;
}

static void add_mapping(struct device *device, void *base, size_t bytes)
{
	assert_true(device->mapping_count < DEVICE_MAPPINGS);
	device->mappings[device->mapping_count++] = (struct device_mapping){(uintptr_t)base, bytes};
}

static int memory_get(struct pcie_controller *controller, size_t bytes, struct pcie_memory *memory,
		      char why[NVME_WHY_BYTES])
{
	assert_int_equal(region_map(&memory->region, bytes, REGION_ANY_NODE, false), 0);
	memory->iova = (uintptr_t)memory->region.base + DEVICE_IOVA_OFFSET;
	add_mapping(the_device, memory->region.base, bytes);
	return 0;
}

static void memory_put(struct pcie_controller *controller, struct pcie_memory *memory)
{
	struct device *device = the_device;
	unsigned i = 0;
	while (i < device->mapping_count &&
	       device->mappings[i].base != (uintptr_t)memory->region.base)
		i++;
	assert_true(i < device->mapping_count);
	device->mappings[i] = device->mappings[--device->mapping_count];
	region_unmap(&memory->region);
}

static uint64_t now_ms(struct pcie_controller *controller)
{
	return the_device->now_ms;
}

static void pause_a_moment(struct pcie_controller *controller)
{
	the_device->now_ms += TICK_MS;
	device_step(the_device);
}

static void stop_dma(struct pcie_controller *controller)
{
	the_device->dma_stopped = true;
}

static const struct pcie_backend backend = {
	.memory_get = memory_get,
	.memory_put = memory_put,
	.now_ms = now_ms,
	.pause = pause_a_moment,
	.stop_dma = stop_dma,
};

/* ---- Registers ---- */

uint32_t device_read(const struct device *device, uint32_t offset)
{
	return *(const volatile uint32_t *)(device->bar + offset);
}

static void set(struct device *device, uint32_t offset, uint32_t value)
{
	*(volatile uint32_t *)(device->bar + offset) = value;
}

void device_fatal(struct device *device)
{
	set(device, NVME_REG_CSTS, device_read(device, NVME_REG_CSTS) | NVME_CSTS_CFS);
}

static void change_csts(struct device *device, uint32_t set_bits, uint32_t clear_bits)
{
	set(device, NVME_REG_CSTS, (device_read(device, NVME_REG_CSTS) & ~clear_bits) | set_bits);
}

void device_vanish(struct device *device)
{
	memset(device->bar, 0xff, sizeof(device->bar));
	device->was_gone = true;
}

static uint32_t doorbell(const struct device *device, uint16_t id, bool completion)
{
	uint32_t offset = (2u * id + completion) * (4u << device->dstrd);
	if (device->shadow && id)
		return *(volatile uint32_t *)device_at(device, device->shadow + offset, 4);
	return device_read(device, NVME_REG_DOORBELLS + offset);
}

/* ---- Completions ---- */

void device_post(struct device *device, uint16_t qid, uint16_t cid, uint16_t sqid, uint16_t status,
		 uint32_t result)
{
	struct device_queue *queue = &device->queues[qid];
	uint32_t used = (queue->cq_tail + queue->cq_entries - doorbell(device, qid, true)) %
			queue->cq_entries;
	assert_true(used + 1 < queue->cq_entries); /* the driver lets it overflow */
	struct nvme_cqe *cqe =
		device_at(device, queue->cq + queue->cq_tail * sizeof(*cqe), sizeof(*cqe));
	*cqe = (struct nvme_cqe){
		.result = result,
		.sq_head = (uint16_t)queue->sq_head,
		.sqid = sqid,
		.cid = cid,
		.status = (uint16_t)(status << 1 | queue->phase),
	};
	if (++queue->cq_tail == queue->cq_entries) {
		queue->cq_tail = 0;
		queue->phase ^= 1;
	}
}

/* ---- Admin commands ---- */

static uint16_t describe(const struct device *device, const struct nvme_sqe *sqe, void *page)
{
	if (sqe->cdw10 == NVME_CNS_CONTROLLER) {
		struct nvme_identify_controller *data = page;
		memcpy(data->model, "a device of the tests                   ",
		       sizeof(data->model));
		data->mdts = device->mdts;
		data->nn = device->namespaces;
		data->sgls = device->sgls;
		data->rtd3e = device->rtd3e;
		data->oacs = device->shadows ? NVME_OACS_DOORBELL_BUFFER : 0;
		data->oaes = device->events_offered ? NVME_EVENTS_NAMESPACES : 0;
		return 0;
	}
	if (sqe->cdw10 == NVME_CNS_ACTIVE_NAMESPACES) {
		uint32_t *list = page;
		if (device->no_list)
			return INVALID_FIELD;
		for (unsigned i = 0; i < 1024 && sqe->nsid + i < device->namespaces; i++)
			list[i] = sqe->nsid + i + 1;
		return 0;
	}
	struct nvme_identify_namespace *data = page;
	if (sqe->nsid % 2 || !device->no_list) /* every other one is not active */
		data->size = 1000 + sqe->nsid;
	data->lba_formats[0].data_shift = 9;
	return 0;
}

static uint16_t identify(struct device *device, const struct nvme_sqe *sqe)
{
	void *page = device_at(device, sqe->prp1, PAGE);
	memset(page, 0, PAGE);
	uint16_t status = describe(device, sqe, page);
	if (device->spoil)
		device->spoil(device, sqe, page);
	return status;
}

static uint16_t create_queue(struct device *device, const struct nvme_sqe *sqe)
{
	uint16_t id = sqe->cdw10 & 0xffff;
	uint32_t entries = (sqe->cdw10 >> 16) + 1;
	assert_in_range(id, 1, DEVICE_QUEUES - 1);
	assert_true(entries <= device->mqes + 1);
	assert_int_equal(sqe->prp1 % PAGE, 0);
	assert_int_equal(sqe->cdw11 & 1, 1); /* contiguous */
	struct device_queue *queue = &device->queues[id];
	if (sqe->opcode == NVME_ADMIN_CREATE_CQ) {
		assert_int_equal(sqe->cdw11 & 2, 0); /* no interrupts */
		device_at(device, sqe->prp1, entries * sizeof(struct nvme_cqe));
		*queue = (struct device_queue){.cq = sqe->prp1, .cq_entries = entries, .phase = 1};
	} else {
		assert_int_equal(sqe->cdw11 >> 16, id);
		assert_true(queue->cq); /* it comes first */
		device_at(device, sqe->prp1, entries * sizeof(struct nvme_sqe));
		queue->sq = sqe->prp1;
		queue->sq_entries = entries;
	}
	/* doorbells of a queue that is created are 0 */
	set(device, NVME_REG_DOORBELLS + (2u * id) * (4u << device->dstrd), 0);
	set(device, NVME_REG_DOORBELLS + (2u * id + 1) * (4u << device->dstrd), 0);
	return 0;
}

/* The submission queue first; what was in it is dropped. */
static uint16_t delete_queue(struct device *device, const struct nvme_sqe *sqe)
{
	uint16_t id = sqe->cdw10 & 0xffff;
	assert_in_range(id, 1, DEVICE_QUEUES - 1);
	struct device_queue *queue = &device->queues[id];
	if (sqe->opcode == NVME_ADMIN_DELETE_CQ) {
		if (!queue->cq || queue->sq)
			return queue->sq ? INVALID_DELETION : INVALID_QUEUE;
		queue->cq = 0;
		return 0;
	}
	if (!queue->sq)
		return INVALID_QUEUE;
	queue->sq = 0;
	unsigned kept = 0;
	for (unsigned i = 0; i < device->pending_count; i++) {
		if (device->pending[i].sqid != id)
			device->pending[kept++] = device->pending[i];
	}
	device->pending_count = kept;
	return 0;
}

static uint16_t set_features(struct device *device, const struct nvme_sqe *sqe, uint32_t *result)
{
	if (sqe->cdw10 == NVME_FEATURE_ASYNC_EVENTS) {
		assert_true(device->events_offered);
		device->event_config = sqe->cdw11;
		return 0;
	}
	assert_int_equal(sqe->cdw10, NVME_FEATURE_QUEUES);
	*result = (device->queues_max - 1) << 16 | (device->queues_max - 1);
	return 0;
}

static uint16_t get_log_page(struct device *device, const struct nvme_sqe *sqe)
{
	size_t bytes = ((sqe->cdw10 >> 16) + 1u) * 4;
	uint8_t *page = device_at(device, sqe->prp1, bytes);
	memset(page, 0, bytes);
	if ((sqe->cdw10 & 0xff) != NVME_LOG_CHANGED_NAMESPACES)
		return 0;
	assert_int_equal(bytes, sizeof(device->changed));
	memcpy(page, device->changed, bytes);
	memset(device->changed, 0, sizeof(device->changed));
	return 0;
}

static uint16_t do_admin(struct device *device, const struct nvme_sqe *sqe, uint32_t *result)
{
	*result = 0;
	if (device->admin_status[sqe->opcode] & NVME_STATUS_CODE)
		return device->admin_status[sqe->opcode];
	switch (sqe->opcode) {
	case NVME_ADMIN_IDENTIFY:
		return identify(device, sqe);
	case NVME_ADMIN_SET_FEATURES:
		return set_features(device, sqe, result);
	case NVME_ADMIN_GET_LOG_PAGE:
		return get_log_page(device, sqe);
	case NVME_ADMIN_CREATE_CQ:
	case NVME_ADMIN_CREATE_SQ:
		return create_queue(device, sqe);
	case NVME_ADMIN_DELETE_CQ:
	case NVME_ADMIN_DELETE_SQ:
		return delete_queue(device, sqe);
	case NVME_ADMIN_DOORBELL_BUFFER:
		device->shadow = sqe->prp1;
		device->events = sqe->prp2;
		return 0;
	case NVME_ADMIN_ABORT:
		device->last_abort = *sqe;
		*result = 1; /* not aborted */
		return 0;
	default:
		return 1;
	}
}

static void step_admin(struct device *device)
{
	struct device_queue *queue = &device->queues[0];
	uint32_t tail = device_read(device, NVME_REG_DOORBELLS), result;
	while (!device->silent && queue->sq_head != tail) {
		struct nvme_sqe sqe = *(struct nvme_sqe *)device_at(
			device, queue->sq + queue->sq_head * sizeof(sqe), sizeof(sqe));
		queue->sq_head = (queue->sq_head + 1) % queue->sq_entries;
		if (device->admin_count < DEVICE_LOG_ENTRIES)
			device->admin_log[device->admin_count] = sqe.opcode;
		device->admin_count++;
		if (sqe.opcode == NVME_ADMIN_ASYNC_EVENT) {
			assert_false(device->event_asked);
			assert_int_equal(sqe.cid, PCIE_EVENT_CID);
			device->event_asked = true;
			device->event_requests++;
			continue;
		}
		assert_int_not_equal(sqe.cid, PCIE_EVENT_CID);
		if (device->meddle)
			device->meddle(device, &sqe);
		if (device->was_gone || device_read(device, NVME_REG_CSTS) & NVME_CSTS_CFS)
			return;
		uint16_t status = do_admin(device, &sqe, &result);
		if (!status)
			status = device->admin_status[sqe.opcode];
		if (device->stray_first)
			device_post(device, 0, sqe.cid + 1000, 0, 0, 0);
		device_post(device, 0, sqe.cid, 0, status, result);
	}
}

void device_tell(struct device *device, uint32_t result)
{
	assert_true(device->event_asked);
	device->event_asked = false;
	device_post(device, 0, PCIE_EVENT_CID, 0, 0, result);
}

/* ---- Enabling ---- */

static void enable(struct device *device)
{
	uint32_t aqa = device_read(device, NVME_REG_AQA);
	struct device_queue *admin = &device->queues[0];
	memset(device->queues, 0, sizeof(device->queues));
	memset(device->bar + NVME_REG_DOORBELLS, 0, sizeof(device->bar) - NVME_REG_DOORBELLS);
	device->shadow = device->events = 0;
	device->pending_count = 0;
	device->event_asked = false;
	device->event_config = 0;
	memcpy(&admin->sq, device->bar + NVME_REG_ASQ, 8);
	memcpy(&admin->cq, device->bar + NVME_REG_ACQ, 8);
	admin->sq_entries = (aqa & 0xfff) + 1;
	admin->cq_entries = (aqa >> 16 & 0xfff) + 1;
	admin->phase = 1;
	device_at(device, admin->sq, admin->sq_entries * sizeof(struct nvme_sqe));
	device_at(device, admin->cq, admin->cq_entries * sizeof(struct nvme_cqe));
}

static void step_state(struct device *device)
{
	uint32_t cc = device_read(device, NVME_REG_CC), csts = device_read(device, NVME_REG_CSTS);
	bool en = cc & NVME_CC_EN;
	if (en != device->enabled) {
		device->enabled = en;
		device->change_ms = device->now_ms;
		device->enables += en;
		device->disables += !en;
		if (en) {
			assert_int_equal(cc & ~NVME_CC_EN, NVME_CC_IOSQES_64 | NVME_CC_IOCQES_16);
			enable(device);
		}
	}
	if (device->now_ms - device->change_ms >= device->ready_ms) {
		if (en && device->fatal_on_enable)
			change_csts(device, NVME_CSTS_CFS, 0);
		else if (en && !device->never_ready)
			change_csts(device, NVME_CSTS_RDY, 0);
		else if (!en && csts && !device->never_disabled)
			change_csts(device, 0, UINT32_MAX);
	}
	if ((cc & NVME_CC_SHN_MASK) == NVME_CC_SHN_NORMAL && !device->no_shutdown) {
		change_csts(device, NVME_CSTS_SHST_DONE, 0);
		device->shut_down = true;
	}
}

void device_step(struct device *device)
{
	if (device->was_gone)
		return;
	step_state(device);
	if (device->enabled && device_read(device, NVME_REG_CSTS) & NVME_CSTS_RDY)
		step_admin(device);
}

/* ---- I/O ---- */

unsigned device_fetch(struct device *device)
{
	for (uint16_t id = 1; id < DEVICE_QUEUES && !device->was_gone; id++) {
		struct device_queue *queue = &device->queues[id];
		if (!queue->sq)
			continue;
		queue->sq_tail = doorbell(device, id, false);
		assert_true(queue->sq_tail < queue->sq_entries);
		while (queue->sq_head != queue->sq_tail) {
			struct device_command *command = &device->pending[device->pending_count];
			assert_true(device->pending_count < DEVICE_PENDING);
			device->pending_count++;
			command->sqid = id;
			command->sqe = *(struct nvme_sqe *)device_at(
				device, queue->sq + queue->sq_head * sizeof(command->sqe),
				sizeof(command->sqe));
			queue->sq_head = (queue->sq_head + 1) % queue->sq_entries;
		}
	}
	return device->pending_count;
}

static void move_segment(const struct device *device, const struct nvme_sgl *segment,
			 uint8_t *buffer, bool to_memory)
{
	assert_int_equal(segment->type, NVME_SGL_DATA);
	assert_true(segment->bytes > 0);
	if (device->sgls == NVME_SGLS_ALIGNED)
		assert_int_equal((segment->address | segment->bytes) & 3, 0);
	void *memory = device_at(device, segment->address, segment->bytes);
	if (to_memory)
		memcpy(memory, buffer, segment->bytes);
	else
		memcpy(buffer, memory, segment->bytes);
}

static void move_sgl(struct device *device, const struct nvme_sgl *sgl, uint8_t *buffer,
		     size_t bytes, bool to_memory)
{
	const struct nvme_sgl *list = sgl;
	size_t done = 0;
	unsigned count = 1;
	assert_true(device->sgls);
	if (sgl->type != NVME_SGL_DATA) {
		assert_int_equal(sgl->type, NVME_SGL_LAST_SEGMENT);
		assert_int_equal(sgl->bytes % sizeof(*list), 0);
		assert_int_equal(sgl->address & 15, 0);
		count = sgl->bytes / sizeof(*list);
		assert_true(count > 1);
		list = device_at(device, sgl->address, sgl->bytes);
	}
	for (unsigned i = 0; i < count; i++) {
		assert_true(list[i].bytes <= bytes - done);
		move_segment(device, &list[i], buffer + done, to_memory);
		done += list[i].bytes;
	}
	assert_int_equal(done, bytes);
	device->sgl_count++;
	device->sgl_segments = count;
}

void device_move(struct device *device, const struct nvme_sqe *sqe, uint8_t *buffer,
		 size_t bytes, bool to_memory)
{
	uint64_t at = sqe->prp1, list = 0;
	if (sqe->flags == NVME_SQE_SGL) {
		move_sgl(device, &sqe->sgl, buffer, bytes, to_memory);
		return;
	}
	assert_int_equal(sqe->flags & 0xc0, 0);
	assert_int_equal(at & 3, 0);
	size_t first = MIN_OF(bytes, PAGE - at % PAGE);
	if (bytes - first > PAGE)
		list = sqe->prp2;
	else if (bytes > first)
		assert_int_equal(sqe->prp2 % PAGE, 0);
	for (size_t done = 0, part = first; done < bytes; done += part) {
		if (done && list) {
			assert_int_equal(list & 7, 0);
			/* the last entry of a page would point to the next list */
			assert_true(list % PAGE != PAGE - 8 || bytes - done <= PAGE);
			at = *(uint64_t *)device_at(device, list, 8);
			list += 8;
			assert_int_equal(at % PAGE, 0);
		} else if (done) {
			at = sqe->prp2;
		}
		part = done ? MIN_OF(bytes - done, (size_t)PAGE) : first;
		void *memory = device_at(device, at, part);
		if (to_memory)
			memcpy(memory, buffer + done, part);
		else
			memcpy(buffer + done, memory, part);
	}
}

void device_end(struct device *device, unsigned index, uint16_t status)
{
	struct device_command command = device->pending[index];
	const struct nvme_sqe *sqe = &command.sqe;
	assert_true(index < device->pending_count);
	device->pending_count--;
	memmove(&device->pending[index], &device->pending[index + 1],
		(device->pending_count - index) * sizeof(command));
	if (!(status & NVME_STATUS_CODE) && (sqe->opcode == NVME_READ || sqe->opcode == NVME_WRITE)) {
		size_t at = (size_t)sqe->cdw10 * DEVICE_BLOCK_BYTES;
		size_t bytes = ((sqe->cdw12 & 0xffff) + 1u) * DEVICE_BLOCK_BYTES;
		assert_true(at + bytes <= DEVICE_DISK_BYTES);
		device_move(device, sqe, device->disk + at, bytes, sqe->opcode == NVME_READ);
	}
	device_post(device, command.sqid, sqe->cid, command.sqid, status, 0);
}

void device_end_all(struct device *device)
{
	while (device->pending_count)
		device_end(device, 0, 0);
}

/* ---- Beginning and end ---- */

static void set_cap(struct device *device)
{
	uint64_t cap = device->mqes | (uint64_t)device->timeout << 24 |
		       (uint64_t)device->dstrd << 32 | 1ull << 37;
	set(device, NVME_REG_CAP, (uint32_t)cap);
	set(device, NVME_REG_CAP + 4, (uint32_t)(cap >> 32));
}

struct device *device_new(unsigned cores)
{
	struct device *device = aligned_alloc(_Alignof(struct device), sizeof(*device));
	assert_non_null(device);
	memset(device, 0, sizeof(*device));
	fake_start(cores);
	device->options = nvme_options_default;
	device->mqes = 2047;
	device->timeout = 10;
	device->ready_ms = 3;
	device->namespaces = 1;
	device->queues_max = 64;
	device->disk = calloc(1, DEVICE_DISK_BYTES);
	assert_non_null(device->disk);
	for (unsigned i = 0; i < cores; i++) {
		const struct region *region = &reactors[i]->buffers.region;
		add_mapping(device, region->base, reactors[i]->buffers.total_bytes);
		device->dma.ranges[device->dma.count++] = (struct pcie_dma_range){
			(uintptr_t)region->base, reactors[i]->buffers.total_bytes,
			(uintptr_t)region->base + DEVICE_IOVA_OFFSET};
	}
	the_device = device;
	return device;
}

void device_free(struct device *device)
{
	assert_int_equal(device->mapping_count, device->dma.count);
	fake_stop();
	free(device->disk);
	free(device);
	the_device = NULL;
}

void device_controller(struct device *device, struct pcie_controller *controller)
{
	memset(controller, 0, sizeof(*controller));
	set_cap(device);
	controller->backend = &backend;
	controller->options = device->options;
	controller->registers = (struct pcie_registers){device->bar, sizeof(device->bar)};
	controller->dma = &device->dma;
	strcpy(controller->base.address, "0000:01:00.0");
	TAILQ_INIT(&controller->base.namespaces);
	pcie_reset_init(controller);
}
