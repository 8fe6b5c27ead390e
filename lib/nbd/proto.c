/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * proto: the platform's errno to the numbers of the protocol. Pure; any thread.
 */
#include "lib/nbd/proto.h"

#include <errno.h>

uint32_t nbd_error_of(int status)
{
	switch (status < 0 ? -status : status) {
	case 0:
		return NBD_SUCCESS;
	case EPERM:
	case EACCES:
	case EROFS:
		return NBD_EPERM;
	case ENOMEM:
		return NBD_ENOMEM;
	case EINVAL:
		return NBD_EINVAL;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return NBD_ENOSPC;
	case EOVERFLOW:
		return NBD_EOVERFLOW;
	case ENOTSUP:
		return NBD_ENOTSUP;
	case ESHUTDOWN:
		return NBD_ESHUTDOWN;
	default:
		return NBD_EIO;
	}
}
