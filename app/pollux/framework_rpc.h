/* SPDX-License-Identifier: BSD-3-Clause */
/* framework_rpc: methods about the process: version, reactors, rings, log, shutdown. Control
 * thread. */
#ifndef POLLUX_APP_FRAMEWORK_RPC_H
#define POLLUX_APP_FRAMEWORK_RPC_H

#include "lib/rpc/rpc.h"

extern const struct rpc_table framework_rpc;
extern uint32_t framework_shutdown_timeout_ms;

/* The command line is served, or (a negative errno) will not be: answers framework_wait_init. */
void framework_started(int error);

#endif
