/* SPDX-License-Identifier: BSD-3-Clause */
/* modules: the explicit list of bdev types and of their RPC tables. Control thread. */
#ifndef POLLUX_BDEV_MODULES_H
#define POLLUX_BDEV_MODULES_H

#include "lib/rpc/rpc.h"

/* Each type's methods stand in bdev/<type>/<type>_rpc.c, the general ones in bdev/bdev_rpc.c. */
extern const struct rpc_table bdev_general_rpc;
extern const struct rpc_table bdev_malloc_rpc;
extern const struct rpc_table bdev_null_rpc;
extern const struct rpc_table bdev_file_rpc;
extern const struct rpc_table bdev_delay_rpc;
extern const struct rpc_table bdev_error_rpc;
extern const struct rpc_table bdev_nvme_rpc;

/* All of the above, ended by NULL: whoever makes the server copies them behind its own. */
extern const struct rpc_table *const bdev_rpc_tables[];

#endif
