/* SPDX-License-Identifier: BSD-3-Clause */
/* tls_rpc: methods about TLS credentials. Control thread. */
#ifndef POLLUX_APP_TLS_TLS_RPC_H
#define POLLUX_APP_TLS_TLS_RPC_H

#include "lib/rpc/rpc.h"

extern const struct rpc_table tls_rpc;

#endif
