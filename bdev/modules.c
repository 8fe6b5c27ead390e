/* SPDX-License-Identifier: BSD-3-Clause */
/* modules: every bdev type's methods, in one list. */
#include "bdev/modules.h"

#include <stddef.h>

const struct rpc_table *const bdev_rpc_tables[] = {
	&bdev_general_rpc, &bdev_malloc_rpc, &bdev_null_rpc, &bdev_file_rpc,
	&bdev_delay_rpc,   &bdev_error_rpc,  &bdev_nvme_rpc,  NULL,
};
