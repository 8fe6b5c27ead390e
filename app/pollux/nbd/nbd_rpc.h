/* SPDX-License-Identifier: BSD-3-Clause */
/* nbd_rpc: methods about listeners and connections. Control thread, unless told otherwise. */
#ifndef POLLUX_APP_NBD_NBD_RPC_H
#define POLLUX_APP_NBD_NBD_RPC_H

#include "app/pollux/target/export.h"
#include "lib/rpc/rpc.h"

extern const struct rpc_table nbd_rpc;

/* On a net core: ends its connections to the export (export_end_here). */
void nbd_end_export_here(struct export *export);

#endif
