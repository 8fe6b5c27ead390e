/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * world: a whole target for the connection's fuzzer - two net cores on one thread, exports over
 * malloc, null and a slow disk - and its clients, in the clear or in TLS. Core 0 has both roles;
 * core 1's requests cross the I/O rings to it.
 */
#ifndef POLLUX_TEST_FUZZ_WORLD_H
#define POLLUX_TEST_FUZZ_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	WORLD_CORES = 2,
	WORLD_CLIENTS = 3,
	WORLD_DISK_BYTES = 3 << 20,
};

/* What a client finds: the listener's rule. */
enum world_tls { WORLD_TLS_OFF, WORLD_TLS_ON, WORLD_TLS_REQUIRED, WORLD_TLS_RULES };

struct client {
	bool is_open;
	bool reads;	  /* takes what comes, in each step */
	bool clear;	  /* sends as it is, TLS or not */
	bool half_closed; /* sends nothing more */
	unsigned mode;	  /* enum nbd_mode, as its prelude has agreed on */
	int rx_fd, tx_fd; /* one twice, or two pipes */
	struct tls_session *tls;
};

extern struct client world_clients[WORLD_CLIENTS];

/* Once. */
void world_start(void);
/* Before the first client of an input. */
void world_begin(void);
/* Aborts where anything is not as it was before; then what was written is forgotten. */
void world_check(void);

/* No connection is left, and no timer is armed. */
bool world_is_at_rest(void);
/* Passes until nothing moves, and clients have taken what there is. */
void world_settle(void);
void world_advance_us(uint64_t us);
/* All I/O buffers (request slots) but some are taken from a core, or given back. */
void world_make_scarce(unsigned core, bool buffers, bool slots);
void world_give_back(void);
/* What an operator does: ends all connections, or lets them finish. */
void world_end_connections(bool kill);

void client_open(struct client *client, unsigned core, enum world_tls rule, bool pipes);
void client_close(struct client *client);
void client_half_close(struct client *client);
/* As much as the server takes. */
void client_send(struct client *client, const uint8_t *bytes, size_t count);
/* Takes up to so many bytes off the wire. */
void client_receive(struct client *client, size_t most);
/* STARTTLS and the handshake of TLS, as far as the server goes along. */
void client_start_tls(struct client *client);
/* Says that it ends TLS, or makes new keys. */
void client_close_tls(struct client *client);
void client_update_keys(struct client *client);

#endif
