/* SPDX-License-Identifier: BSD-3-Clause */
/* namespace: the bdev type, and the geometry. */
#include "bdev/nvme/namespace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/create.h"
#include "bdev/nvme/controller.h"
#include "bdev/nvme/io.h"
#include "lib/base/log.h"

enum {
	FORMAT_LOW_MASK = 0xf, /* FLBAS: bits 3:0, and 6:5 above them */
	FORMAT_HIGH_SHIFT = 1,
	FORMAT_HIGH_MASK = 0x30,
	BLOCK_SHIFT_MIN = 9,
	BLOCK_SHIFT_MAX = 16,
	PROTECTION_TYPE_MASK = 0x7,
	DEALLOCATE_READS_MASK = 0x7,
	DEALLOCATE_READS_ZEROES = 1,
	DEALLOCATE_DEAC = 1 << 3,
	VOLATILE_CACHE = 1,
	/* Where the device has no limit: what one request can bring. */
	TRANSFER_MAX_BYTES = BDEV_IO_MAX_BYTES,
};

/* One without metadata, of the same blocks if there is such a one. -1: there is none. */
static int find_plain_format(const struct nvme_identify_namespace *identify, uint8_t data_shift)
{
	int found = -1;
	for (int i = 0; i <= identify->formats && i < (int)COUNT_OF(identify->lba_formats); i++) {
		const struct nvme_lba_format *format = &identify->lba_formats[i];
		if (format->metadata_bytes || format->data_shift < BLOCK_SHIFT_MIN ||
		    format->data_shift > BLOCK_SHIFT_MAX)
			continue;
		if (format->data_shift == data_shift)
			return i;
		if (found < 0)
			found = i;
	}
	return found;
}

/* The format by its number and shape, and what may be done about it. */
static int refuse_metadata(uint32_t nsid, const struct nvme_identify_namespace *identify,
			   unsigned index, char why[NVME_WHY_BYTES])
{
	const struct nvme_lba_format *format = &identify->lba_formats[index];
	unsigned type = identify->protection & PROTECTION_TYPE_MASK;
	int plain = find_plain_format(identify, format->data_shift);
	char protection[64] = "", remedy[128];
	if (type)
		snprintf(protection, sizeof(protection), " and protection information of type %u",
			 type);
	if (plain < 0)
		snprintf(remedy, sizeof(remedy), "the device has no format without");
	else
		snprintf(remedy, sizeof(remedy),
			 "reformat it, which erases it (nvme format --lbaf=%d%s)", plain,
			 type ? " --pi=0" : "");
	return nvme_refuse(why, -ENOTSUP,
			   "namespace %u has LBA format %u, blocks of %llu bytes with %u bytes of "
			   "metadata%s, which is not served: %s",
			   nsid, index, 1ull << (format->data_shift & 63), format->metadata_bytes,
			   protection, remedy);
}

static int check_format(uint32_t nsid, const struct nvme_identify_namespace *identify,
			struct nvme_lba_format *format, char why[NVME_WHY_BYTES])
{
	unsigned index = (identify->format & FORMAT_LOW_MASK) |
			 (identify->format >> FORMAT_HIGH_SHIFT & FORMAT_HIGH_MASK);
	*format = identify->lba_formats[index];
	if (format->metadata_bytes || identify->protection & PROTECTION_TYPE_MASK)
		return refuse_metadata(nsid, identify, index, why);
	if (format->data_shift < BLOCK_SHIFT_MIN || format->data_shift > BLOCK_SHIFT_MAX)
		return nvme_refuse(why, -ENOTSUP,
				   "namespace %u has blocks of 2^%u bytes; 512 bytes to 64 KiB are "
				   "served",
				   nsid, format->data_shift);
	return 0;
}

static int check_size(uint32_t nsid, const struct nvme_identify_namespace *identify,
		      unsigned block_shift, char why[NVME_WHY_BYTES])
{
	if (!identify->size || identify->size > (uint64_t)INT64_MAX >> block_shift)
		return nvme_refuse(why, -EINVAL, "namespace %u has %" PRIu64 " blocks of %u bytes",
				   nsid, identify->size, 1u << block_shift);
	return 0;
}

/* What is truly done (io.c). */
static uint32_t capabilities(const struct nvme_identify_controller *controller)
{
	uint32_t caps = BDEV_CAP_WRITE | BDEV_CAP_FLUSH | BDEV_CAP_FUA | BDEV_CAP_WRITE_ZEROES;
	if (controller->oncs & NVME_ONCS_DSM)
		caps |= BDEV_CAP_TRIM;
	if (controller->oncs & NVME_ONCS_WRITE_ZEROES)
		caps |= BDEV_CAP_FAST_ZERO;
	return caps;
}

/* A UUID made of the namespace's globally unique identifier, where it has one; else it stays. */
static void name_uuid(char *to, const uint8_t nguid[16])
{
	static const uint8_t none[16];
	if (!memcmp(nguid, none, sizeof(none)))
		return;
	for (unsigned i = 0; i < 16; i++)
		to += sprintf(to, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x",
			      nguid[i]);
}

int nvme_namespace_describe(struct nvme_namespace *ns,
			    const struct nvme_identify_controller *controller,
			    const struct nvme_identify_namespace *identify,
			    uint32_t transfer_bytes_max, char why[NVME_WHY_BYTES])
{
	struct nvme_lba_format format;
	struct bdev *bdev = &ns->bdev;
	int error = check_format(ns->nsid, identify, &format, why);
	if (error)
		return error;
	error = check_size(ns->nsid, identify, format.data_shift, why);
	if (error)
		return error;
	uint32_t block = 1u << format.data_shift;
	uint32_t most = transfer_bytes_max
				? MIN_OF(transfer_bytes_max, (uint32_t)TRANSFER_MAX_BYTES)
				: (uint32_t)TRANSFER_MAX_BYTES;
	if (most < block)
		return nvme_refuse(
			why, -EINVAL,
			"namespace %u takes commands of %u bytes at most, blocks are of %u",
			ns->nsid, transfer_bytes_max, block);
	unsigned deallocated = identify->deallocate & DEALLOCATE_READS_MASK;
	ns->block_shift = format.data_shift;
	ns->transfer_bytes_max = most & ~(block - 1);
	ns->write_cache = controller->vwc & VOLATILE_CACHE;
	ns->deac = deallocated == DEALLOCATE_READS_ZEROES && identify->deallocate & DEALLOCATE_DEAC;
	atomic_store(&bdev->size_bytes, identify->size << format.data_shift);
	bdev->type = &bdev_nvme_type;
	bdev->block_size = block;
	bdev->align_bytes = block;
	bdev->mem_align_bytes = NVME_PAGE_BYTES;
	bdev->caps = capabilities(controller);
	bdev->io_ctx_bytes = sizeof(struct nvme_io);
	bdev->numa_id = REGION_ANY_NODE;
	name_uuid(bdev->uuid, identify->nguid);
	return 0;
}

int nvme_namespace_add(struct nvme_controller *controller, uint32_t nsid,
		       const struct nvme_identify_namespace *identify, uint32_t transfer_bytes_max,
		       struct nvme_namespace **made, char why[NVME_WHY_BYTES])
{
	struct nvme_namespace *ns = calloc(1, sizeof(*ns));
	size_t bytes = REACTOR_MAX * sizeof(*ns->errors);
	if (ns)
		ns->errors = aligned_alloc(_Alignof(struct nvme_error_counters), bytes);
	if (!ns || !ns->errors) {
		free(ns);
		return nvme_refuse(why, -ENOMEM, "no memory");
	}
	memset(ns->errors, 0, bytes);
	ns->transport = controller->transport;
	ns->controller = controller;
	ns->nsid = nsid;
	controller->transfer_bytes_max = transfer_bytes_max;
	int error = nvme_namespace_describe(ns, &controller->identify, identify, transfer_bytes_max,
					    why);
	if (error) {
		free(ns->errors);
		free(ns);
		return error;
	}
	TAILQ_INSERT_TAIL(&controller->namespaces, ns, link);
	if (made)
		*made = ns;
	return 0;
}

int nvme_namespace_update(struct nvme_namespace *ns, const struct nvme_identify_namespace *identify,
			  char why[NVME_WHY_BYTES])
{
	struct nvme_lba_format format;
	struct bdev *bdev = &ns->bdev;
	uint64_t before = atomic_load(&bdev->size_bytes);
	char uuid[sizeof(bdev->uuid)];
	int error = check_format(ns->nsid, identify, &format, why);
	if (!error)
		error = check_size(ns->nsid, identify, format.data_shift, why);
	if (error)
		return error;
	if (format.data_shift != ns->block_shift)
		return nvme_refuse(why, -EINVAL,
				   "namespace %u has blocks of %u bytes now, before it was %u",
				   ns->nsid, 1u << format.data_shift, 1u << ns->block_shift);
	memcpy(uuid, bdev->uuid, sizeof(uuid));
	name_uuid(uuid, identify->nguid);
	if (strcmp(uuid, bdev->uuid))
		return nvme_refuse(why, -EINVAL, "namespace %u is another one now (UUID %s)",
				   ns->nsid, uuid);
	uint64_t size = identify->size << ns->block_shift;
	if (size == before)
		return 0;
	log_notice("nvme", "%s: the size is %" PRIu64 " bytes now, before it was %" PRIu64,
		   bdev->name, size, before);
	atomic_store(&bdev->size_bytes, size);
	bdev_resized(bdev);
	return 0;
}

void nvme_namespace_name(struct nvme_namespace *ns)
{
	snprintf(ns->bdev.name, sizeof(ns->bdev.name), "%sn%u", ns->controller->name, ns->nsid);
}

void nvme_namespace_unlink(struct nvme_namespace *ns)
{
	TAILQ_REMOVE(&ns->controller->namespaces, ns, link);
	ns->controller = NULL;
}

void nvme_namespace_free(struct nvme_namespace *ns)
{
	free(ns->errors);
	free(ns);
}

/* ---- What the RPC tells ---- */

json_t *nvme_text(const char *text, int room)
{
	json_t *told = json_stringn(text, nvme_text_bytes(text, room));
	return told ? told : json_string("");
}

static void dump_controller(const struct nvme_controller *controller, json_t *info)
{
	const struct nvme_identify_controller *identify = &controller->identify;
	json_object_set_new(info, "controller", json_string(controller->name));
	json_object_set_new(info, "traddr", json_string(controller->address));
	json_object_set_new(info, "model_number",
			    nvme_text(identify->model, sizeof(identify->model)));
	json_object_set_new(info, "serial_number",
			    nvme_text(identify->serial, sizeof(identify->serial)));
	json_object_set_new(info, "firmware_revision",
			    nvme_text(identify->firmware, sizeof(identify->firmware)));
}

static void dump_info(const struct bdev *bdev, json_t *object)
{
	const struct nvme_namespace *ns = nvme_namespace_of(bdev);
	json_t *info = json_object();
	if (ns->controller)
		dump_controller(ns->controller, info);
	json_object_set_new(info, "transport", json_string(ns->transport->name));
	json_object_set_new(info, "nsid", json_integer(ns->nsid));
	json_object_set_new(info, "max_transfer_bytes", json_integer(ns->transfer_bytes_max));
	json_object_set_new(info, "volatile_write_cache", json_boolean(ns->write_cache));
	json_object_set_new(object, "nvme", info);
}

static void dump_stat(const struct bdev *bdev, json_t *object)
{
	static const char *const names[NVME_SCT_COUNT] = {
		[NVME_SCT_GENERIC] = "generic", [NVME_SCT_COMMAND] = "command_specific",
		[NVME_SCT_MEDIA] = "media",	[NVME_SCT_PATH] = "path",
		[NVME_SCT_VENDOR] = "vendor",
	};
	const struct nvme_namespace *ns = nvme_namespace_of(bdev);
	uint64_t by_type[NVME_SCT_COUNT] = {0}, no_status = 0, retries = 0, other = 0;
	json_t *errors = json_object();
	for (unsigned i = 0; i < reactor_count; i++) {
		for (unsigned k = 0; k < NVME_SCT_COUNT; k++)
			by_type[k] += counter_read(&ns->errors[i].by_type[k]);
		no_status += counter_read(&ns->errors[i].no_status);
		retries += counter_read(&ns->errors[i].retries);
	}
	for (unsigned k = 0; k < NVME_SCT_COUNT; k++) {
		if (names[k])
			json_object_set_new(errors, names[k], json_integer(by_type[k]));
		else
			other += by_type[k];
	}
	json_object_set_new(errors, "other", json_integer(other));
	json_object_set_new(errors, "no_status", json_integer(no_status));
	json_object_set_new(errors, "retries", json_integer(retries));
	json_object_set_new(object, "nvme_error", errors);
}

static void destroy(struct bdev *bdev)
{
	nvme_controller_leave(nvme_namespace_of(bdev));
}

const struct bdev_type bdev_nvme_type = {
	.name = "nvme",
	.product_name = "NVMe disk",
	.channel_ctx_bytes = sizeof(struct nvme_channel),
	.channel_open = nvme_channel_open,
	.channel_close = nvme_channel_close,
	.submit = nvme_submit,
	.abort = nvme_abort,
	.destroy = destroy,
	.dump_info = dump_info,
	.dump_stat = dump_stat,
};
