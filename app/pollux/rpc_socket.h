/* SPDX-License-Identifier: BSD-3-Clause */
/* rpc_socket: the unix socket of the JSON-RPC server and its clients. Control thread. */
#ifndef POLLUX_APP_RPC_SOCKET_H
#define POLLUX_APP_RPC_SOCKET_H

#include <stddef.h>

#include "lib/rpc/rpc.h"

/*
 * Listens with mode 0600. path NULL: the default place; "none": no socket. Returns 0, or -errno
 * with a sentence in `why` (in use by another process, no permission, a directory of somebody
 * else's).
 */
int rpc_socket_open(struct rpc_server *server, const char *path, char *why, size_t why_bytes);
/* Ends all clients and removes the socket. */
void rpc_socket_close(void);
/* Where it is, or NULL. */
const char *rpc_socket_path(void);

#endif
