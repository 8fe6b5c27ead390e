/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load: sends many requests over a unix socket, for tests that count what the target does
 * meanwhile. It keeps a window of requests in flight on each connection, one thread a connection,
 * and checks that every reply is a good one. Not a benchmark.
 *
 * usage: load SOCKET EXPORT CONNECTIONS DEPTH REQUESTS BYTES r|w     REQUESTS: of each connection
 */
#include <endian.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define REQUEST_MAGIC 0x25609513u
#define REPLY_MAGIC   0x67446698u

enum { OPT_EXPORT_NAME = 1, CMD_READ = 0, CMD_WRITE = 1, CMD_DISC = 2, MAX_BATCH = 64 };

struct __attribute__((packed)) request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t length;
};

struct __attribute__((packed)) reply {
	uint32_t magic, error;
	uint64_t cookie;
};

static const char *path, *export;
static unsigned depth, bytes;
static uint64_t requests;
static int writes;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void send_all(int fd, const void *data, size_t count)
{
	for (const char *at = data; count;) {
		ssize_t sent = send(fd, at, count, MSG_NOSIGNAL);
		if (sent <= 0)
			die("load: send");
		at += sent;
		count -= (size_t)sent;
	}
}

static void receive_all(int fd, void *data, size_t count)
{
	if (count && recv(fd, data, count, MSG_WAITALL) != (ssize_t)count)
		die("load: receive");
}

/* Connects and enters transmission by EXPORT_NAME. Returns the export's size in bytes. */
static uint64_t handshake(int fd)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	unsigned char greeting[18], answer[10];
	uint32_t flags = htobe32(3);
	uint64_t magic = htobe64(0x49484156454f5054ull), size;
	uint32_t option = htobe32(OPT_EXPORT_NAME), length = htobe32((uint32_t)strlen(export));

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		die("load: connect");
	receive_all(fd, greeting, sizeof(greeting));
	send_all(fd, &flags, sizeof(flags));
	send_all(fd, &magic, sizeof(magic));
	send_all(fd, &option, sizeof(option));
	send_all(fd, &length, sizeof(length));
	send_all(fd, export, strlen(export));
	receive_all(fd, answer, sizeof(answer));
	memcpy(&size, answer, sizeof(size));
	return be64toh(size);
}

/* Appends one request for a random block to `at`; returns its end. */
static char *put_request(char *at, uint64_t cookie, uint64_t blocks, unsigned *seed)
{
	uint64_t block = (((uint64_t)rand_r(seed) << 31) | (uint64_t)rand_r(seed)) % blocks;
	struct request request = {
		.magic = htobe32(REQUEST_MAGIC),
		.type = htobe16(writes ? CMD_WRITE : CMD_READ),
		.cookie = cookie,
		.offset = htobe64(block * bytes),
		.length = htobe32(bytes),
	};
	memcpy(at, &request, sizeof(request));
	at += sizeof(request);
	if (writes) {
		memset(at, (int)cookie, bytes);
		at += bytes;
	}
	return at;
}

static void get_reply(int fd, char *data)
{
	struct reply reply;
	receive_all(fd, &reply, sizeof(reply));
	if (be32toh(reply.magic) != REPLY_MAGIC || reply.error) {
		fprintf(stderr, "load: bad reply, magic %x error %u\n", be32toh(reply.magic),
			be32toh(reply.error));
		exit(1);
	}
	if (!writes)
		receive_all(fd, data, bytes);
}

static void *connection(void *arg)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	unsigned seed = (unsigned)(uintptr_t)arg;
	size_t room = (sizeof(struct request) + bytes) * MAX_BATCH;
	char *out = malloc(room), *in = malloc(bytes);
	uint64_t sent = 0, done = 0, blocks;
	struct request disc = {.magic = htobe32(REQUEST_MAGIC), .type = htobe16(CMD_DISC)};

	if (fd < 0 || !out || !in)
		die("load");
	blocks = handshake(fd) / bytes;
	while (done < requests) {
		char *end = out;
		unsigned batch = 0;
		while (sent < requests && sent - done < depth && batch < MAX_BATCH) {
			end = put_request(end, sent++, blocks, &seed);
			batch++;
		}
		send_all(fd, out, (size_t)(end - out));
		/* half a window of replies, so that requests go out in bursts */
		for (uint64_t left = sent - done > depth / 2 ? sent - done - depth / 2 : 1; left;
		     left--) {
			get_reply(fd, in);
			done++;
		}
	}
	send_all(fd, &disc, sizeof(disc));
	close(fd);
	free(out);
	free(in);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[256];
	if (argc != 8) {
		fprintf(stderr, "usage: load SOCKET EXPORT CONNECTIONS DEPTH REQUESTS BYTES r|w\n");
		return 2;
	}
	path = argv[1];
	export = argv[2];
	unsigned connections = (unsigned)atoi(argv[3]);
	depth = (unsigned)atoi(argv[4]);
	requests = strtoull(argv[5], NULL, 10);
	bytes = (unsigned)atoi(argv[6]);
	writes = argv[7][0] == 'w';
	if (!connections || connections > 256 || !depth || !bytes)
		return 2;
	for (unsigned i = 0; i < connections; i++)
		if (pthread_create(&threads[i], NULL, connection, (void *)(uintptr_t)(i + 1)))
			die("load: thread");
	for (unsigned i = 0; i < connections; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
