/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * core: what a net reactor keeps for NBD - its connections, receive buffers, request slots and send
 * batches. Owned by that reactor; every function runs on it unless it says otherwise.
 */
#ifndef POLLUX_APP_NBD_CORE_H
#define POLLUX_APP_NBD_CORE_H

#include "app/pollux/nbd/rx.h"
#include "app/pollux/nbd/secure.h"
#include "app/pollux/target/export.h"
#include "app/pollux/target/request.h"
#include "lib/nbd/server.h"
#include "reactor/reactor.h"

enum {
	CORE_RESERVE_BYTES = 64 << 10,
};

enum receive_way {
	RECEIVE_AUTO,	/* multishot where the kernel has it, and the connection's requests suit */
	RECEIVE_SINGLE, /* an operation for each receive */
};

/* Parameters of the NBD front end; constant after start. */
struct nbd_settings {
	uint32_t handshake_timeout_ms;
	uint32_t stall_timeout_ms; /* of a client that holds buffers others wait for */
	uint32_t max_connections;  /* of the process */
	uint32_t max_requests;	   /* in flight, of a connection */
	enum receive_way receive;
	uint64_t zero_copy_bytes; /* batches of so many are sent without copying; 0: none */
	struct nbd_server_config protocol;
};

extern struct nbd_settings nbd_settings;

struct connection;
struct tx_batch;

struct nbd_core {
	struct reactor *reactor;
	struct request_pool requests;
	/* receive */
	struct rx_pool rx;
	/* transmit */
	struct tx_batch *free_batches;
	unsigned free_batch_count;
	struct secure_core secure;
	/* connections */
	TAILQ_HEAD(connection_list, connection) connections;
	unsigned connection_count;
	struct connection_list blocked; /* wait for a slot or a buffer */
	struct deferred resume;
	struct timer watch; /* stalled clients, request time-outs */
	_Atomic bool started;
	int error;	      /* of the start */
	void *reserve;	      /* an I/O buffer for what must not wait; NULL while it is out */
	size_t filling_bytes; /* I/O buffers that wait for their payload from the network */
	size_t kept_bytes;    /* received, and kept back by connections that can not take them */
	bool kept_too_much;   /* nothing is to be received that was not asked for */
};

extern struct nbd_core *nbd_cores[REACTOR_MAX];
extern _Atomic uint32_t nbd_connection_count;

/* Control thread: makes a core's state on every net reactor. 0 or -errno. */
int nbd_cores_start(void);
/* Control thread, after the reactors have stopped. */
void nbd_cores_free(void);

static inline struct nbd_core *nbd_core_here(void)
{
	return nbd_cores[reactor_self->index];
}

/* A slot or a buffer has come free: whoever waits is tried again at the end of the pass. */
static inline void nbd_core_freed(struct nbd_core *core)
{
	if (unlikely(!core->reserve))
		core->reserve = buffers_get(&core->reactor->buffers, CORE_RESERVE_BYTES);
	if (unlikely(!TAILQ_EMPTY(&core->blocked)))
		reactor_defer(core->reactor, &core->resume);
}

#endif
