/* SPDX-License-Identifier: BSD-3-Clause */
/* export_rpc: export_create, export_delete, export_get_exports, export_get_iostat. Control thread.
 */
#ifndef POLLUX_APP_TARGET_EXPORT_RPC_H
#define POLLUX_APP_TARGET_EXPORT_RPC_H

#include "lib/net/network.h"
#include "lib/rpc/rpc.h"

extern const struct rpc_table export_rpc;

/* An allow-list as an array of texts. New reference. */
json_t *export_rpc_networks(const struct network_list *list);

#endif
