/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * arrival: naming, admitting and placing of what was accepted. Runs where a listener accepts, or on
 * the control thread; then on the connection's core.
 */
#include "app/pollux/nbd/arrival.h"

#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "app/pollux/nbd/connection.h"
#include "app/pollux/tls/named.h"
#include "lib/base/log.h"
#include "reactor/control.h"

struct arrival {
	struct nbd_core *core;
	struct connection_options options;
	char peer[128];
};

static void arrive(void *arg)
{
	struct arrival *arrival = arg;
	connection_open(arrival->core, &arrival->options);
	free(arrival);
}

static void name_peer(int fd, char *text, size_t bytes, struct network_address *address)
{
	union {
		struct sockaddr any;
		struct sockaddr_storage room;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_vm vm;
	} peer;
	socklen_t length = sizeof(peer);
	char host[INET6_ADDRSTRLEN];
	struct ucred user;
	memset(address, 0, sizeof(*address));
	snprintf(text, bytes, "unknown");
	if (getpeername(fd, &peer.any, &length))
		return;
	*address = network_address_of(&peer.any);
	switch (peer.any.sa_family) {
	case AF_INET:
		inet_ntop(AF_INET, &peer.in.sin_addr, host, sizeof(host));
		snprintf(text, bytes, "%s:%u", host, ntohs(peer.in.sin_port));
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, &peer.in6.sin6_addr, host, sizeof(host));
		snprintf(text, bytes, "[%s]:%u", host, ntohs(peer.in6.sin6_port));
		break;
	case AF_VSOCK:
		snprintf(text, bytes, "vsock %u:%u", peer.vm.svm_cid, peer.vm.svm_port);
		break;
	default:
		length = sizeof(user);
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &user, &length) == 0)
			snprintf(text, bytes, "unix pid %d uid %u", user.pid, user.uid);
	}
}

static struct nbd_core *emptiest(void)
{
	struct nbd_core *best = NULL;
	for (unsigned i = 0; i < reactor_count; i++) {
		struct nbd_core *core = nbd_cores[i];
		if (core && (!best ||
			     atomic_load(&core->reactor->load) < atomic_load(&best->reactor->load)))
			best = core;
	}
	return best;
}

static void warn_full(void *arg)
{
	log_warning("nbd", "%u connections are open: no more are taken (--max-connections)",
		    nbd_settings.max_connections);
}

/* Counts it among the process's connections. */
static bool count_in(void)
{
	static _Atomic bool warned;
	if (atomic_fetch_add(&nbd_connection_count, 1) < nbd_settings.max_connections) {
		atomic_store(&warned, false);
		return true;
	}
	atomic_fetch_sub(&nbd_connection_count, 1);
	if (!atomic_exchange(&warned, true))
		control_send(warn_full, NULL);
	return false;
}

bool arrival_place(struct access *access, int rx_fd, int tx_fd)
{
	struct arrival *arrival = NULL;
	struct network_address address;
	char peer[sizeof(arrival->peer)];
	name_peer(rx_fd, peer, sizeof(peer), &address);
	if (!access_enter(access, &address, peer))
		goto close;
	if (!count_in())
		goto leave;
	arrival = malloc(sizeof(*arrival));
	if (!arrival)
		goto uncount;
	memcpy(arrival->peer, peer, sizeof(peer));
	arrival->core = emptiest();
	arrival->options = (struct connection_options){
		.rx_fd = rx_fd,
		.tx_fd = tx_fd,
		.peer = arrival->peer,
		.address = address,
		.access = access,
		.offer = {.credentials = access->credentials
						 ? named_credentials_take(access->credentials)
						 : NULL,
			  .required = access->tls == LISTENER_TLS_REQUIRE},
	};
	atomic_fetch_add(&arrival->core->reactor->load, 1);
	reactor_send(arrival->core->reactor, arrive, arrival);
	return true;
uncount:
	atomic_fetch_sub(&nbd_connection_count, 1);
leave:
	access_leave(access);
close:
	close(rx_fd);
	if (tx_fd != rx_fd)
		close(tx_fd);
	return false;
}
