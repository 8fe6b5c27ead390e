/* SPDX-License-Identifier: BSD-3-Clause */
/* status: one table of the codes that are told apart, and what is done with the types of all others. */
#include "bdev/nvme/status.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "bdev/nvme/spec.h"
#include "lib/base/compiler.h"

static const struct meaning {
	int code; /* type and code */
	int error;
	bool retry; /* where the device does not forbid it (DNR) */
	const char *text;
} meanings[] = {
	{NVME_SC_INVALID_OPCODE, -EOPNOTSUPP, false, "the command is not known"},
	{NVME_SC_INVALID_FIELD, -EIO, false, "a field of the command is not valid"},
	{NVME_SC_DATA_TRANSFER, -EIO, true, "error in moving the data"},
	{NVME_SC_POWER_LOSS, -EIO, true, "aborted by loss of power"},
	{NVME_SC_INTERNAL, -EIO, true, "internal error of the device"},
	{NVME_SC_ABORT_REQUESTED, -ECANCELED, false, "aborted on request"},
	{NVME_SC_ABORT_SQ_DELETED, -EIO, true, "aborted with its queue"},
	{NVME_SC_INVALID_NAMESPACE, -ENODEV, false, "there is no such namespace"},
	{NVME_SC_NAMESPACE_WRITE_PROTECTED, -EPERM, false, "the namespace is write protected"},
	{NVME_SC_INTERRUPTED, -EIO, true, "interrupted"},
	{NVME_SC_TRANSIENT, -EIO, true, "a passing error of the device"},
	{NVME_SC_LBA_OUT_OF_RANGE, -ENOSPC, false, "beyond the namespace's end"},
	{NVME_SC_CAPACITY_EXCEEDED, -ENOSPC, false, "the namespace's capacity is used up"},
	{NVME_SC_NAMESPACE_NOT_READY, -EIO, true, "the namespace is not ready"},
	{NVME_SC_RESERVATION_CONFLICT, -EPERM, false, "somebody else has the namespace reserved"},
	{NVME_SC_FORMAT_IN_PROGRESS, -EBUSY, true, "the namespace is being formatted"},
	{NVME_SC_READ_ONLY_RANGE, -EPERM, false, "the range is read-only"},
	{NVME_SC_WRITE_FAULT, -EIO, true, "write fault"},
	{NVME_SC_UNRECOVERED_READ, -EIO, true, "unrecovered read error"},
	{NVME_SC_ACCESS_DENIED, -EPERM, false, "access denied"},
	{NVME_SC_UNWRITTEN_BLOCK, -EIO, false, "deallocated or unwritten block"},
};

static const char *const type_texts[NVME_SCT_COUNT] = {
	[NVME_SCT_GENERIC] = "an error of the device",
	[NVME_SCT_COMMAND] = "the device refuses the command",
	[NVME_SCT_MEDIA] = "error of the medium, or of its data's integrity",
	[NVME_SCT_PATH] = "error on the way to the namespace",
	[NVME_SCT_VENDOR] = "an error of the vendor's own",
};

static const struct meaning *meaning_of(int status)
{
	int code = status & NVME_STATUS_CODE;
	for (size_t i = 0; i < COUNT_OF(meanings); i++)
		if (meanings[i].code == code)
			return &meanings[i];
	return NULL;
}

int nvme_status_errno(int status)
{
	const struct meaning *meaning;
	if (status <= 0)
		return status;
	if (!(status & NVME_STATUS_CODE))
		return 0;
	meaning = meaning_of(status);
	return meaning ? meaning->error : -EIO;
}

bool nvme_status_may_retry(int status)
{
	const struct meaning *meaning;
	if (status <= 0 || status & NVME_STATUS_DNR)
		return false;
	meaning = meaning_of(status);
	/* what is not told apart: errors on the way pass, others may too if the device does not
	 * say that they will not */
	return meaning ? meaning->retry : (status & NVME_STATUS_CODE) >> 8 == NVME_SCT_PATH;
}

const char *nvme_status_text(int status)
{
	const struct meaning *meaning;
	const char *text;
	if (status < 0)
		return strerrordesc_np(-status) ? strerrordesc_np(-status) : "unknown error";
	if (!(status & NVME_STATUS_CODE))
		return "success";
	meaning = meaning_of(status);
	if (meaning)
		return meaning->text;
	text = type_texts[(status & NVME_STATUS_CODE) >> 8];
	return text ? text : "an error of an unknown type";
}
