/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * calm: a well-behaved client beside hostile ones. It writes and reads back 4 KiB at a time, one
 * request after the other, and checks what it reads. For each line of its standard input, and at its
 * end, it prints how many requests it made since the line before and their median and 99th
 * percentile in microseconds; it ends with its standard input, and with 1 after any error.
 *
 * usage: calm ADDRESS EXPORT     ADDRESS: a unix socket's path, or a TCP port of 127.0.0.1
 */
#include <arpa/inet.h>
#include <endian.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
	BLOCK_BYTES = 4096,
	BLOCKS = 256,
	SAMPLES_MOST = 4 << 20,
	PACE_US = 200, /* between requests: it is a client, not a load */
};

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

static uint32_t *samples;
static unsigned sample_count;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static int connect_to(const char *address)
{
	struct sockaddr_un local = {.sun_family = AF_UNIX};
	struct sockaddr_in inet = {.sin_family = AF_INET};
	bool is_path = address[0] == '/';
	int fd = socket(is_path ? AF_UNIX : AF_INET, SOCK_STREAM, 0), one = 1;
	strncpy(local.sun_path, address, sizeof(local.sun_path) - 1);
	inet.sin_port = htons(atoi(address));
	inet.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || (is_path ? connect(fd, (struct sockaddr *)&local, sizeof(local))
			       : connect(fd, (struct sockaddr *)&inet, sizeof(inet))))
		die("calm: connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void send_all(int fd, const void *bytes, size_t count)
{
	if (send(fd, bytes, count, MSG_NOSIGNAL) != (ssize_t)count)
		die("calm: send");
}

static void receive_all(int fd, void *bytes, size_t count)
{
	if (recv(fd, bytes, count, MSG_WAITALL) != (ssize_t)count)
		die("calm: receive");
}

static void handshake(int fd, const char *export)
{
	uint8_t greeting[18], answer[10], option[20] = {0, 0, 0, 3};
	uint32_t number = htobe32(1), length = htobe32((uint32_t)strlen(export));
	receive_all(fd, greeting, sizeof(greeting));
	memcpy(option + 4, "IHAVEOPT", 8);
	memcpy(option + 12, &number, 4);
	memcpy(option + 16, &length, 4);
	send_all(fd, option, sizeof(option));
	send_all(fd, export, strlen(export));
	receive_all(fd, answer, sizeof(answer));
}

static void one(int fd, unsigned number, bool write)
{
	static uint8_t out[sizeof(struct request) + BLOCK_BYTES], in[BLOCK_BYTES];
	uint8_t fill = number / BLOCKS + 1;
	struct request request = {
		.magic = htobe32(0x25609513),
		.type = htobe16(write),
		.cookie = number,
		.offset = htobe64((uint64_t)(number % BLOCKS) * BLOCK_BYTES),
		.length = htobe32(BLOCK_BYTES),
	};
	struct reply reply;
	uint64_t began = now_ns();
	memcpy(out, &request, sizeof(request));
	memset(out + sizeof(request), fill, BLOCK_BYTES);
	send_all(fd, out, write ? sizeof(out) : sizeof(request));
	receive_all(fd, &reply, sizeof(reply));
	if (be32toh(reply.magic) != 0x67446698 || reply.error || reply.cookie != number) {
		fprintf(stderr, "calm: a bad reply, error %u\n", be32toh(reply.error));
		exit(1);
	}
	if (!write) {
		receive_all(fd, in, sizeof(in));
		if (memcmp(in, out + sizeof(request), sizeof(in))) {
			fprintf(stderr, "calm: not what was written\n");
			exit(1);
		}
	}
	if (sample_count < SAMPLES_MOST)
		samples[sample_count++] = (uint32_t)(now_ns() - began);
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static void report(void)
{
	qsort(samples, sample_count, sizeof(*samples), by_size);
	printf("%u %.1f %.1f\n", sample_count, samples[sample_count / 2] / 1000.0,
	       samples[(uint64_t)sample_count * 99 / 100] / 1000.0);
	fflush(stdout);
	sample_count = 0;
}

int main(int argc, char **argv)
{
	struct pollfd input = {STDIN_FILENO, POLLIN, 0};
	if (argc != 3) {
		fprintf(stderr, "usage: calm ADDRESS EXPORT\n");
		return 2;
	}
	samples = malloc(SAMPLES_MOST * sizeof(*samples));
	if (!samples)
		die("calm: memory");
	int fd = connect_to(argv[1]);
	handshake(fd, argv[2]);
	for (unsigned number = 0, going = 1; going; number++) {
		char line[256];
		if (number && poll(&input, 1, 0)) {
			going = read(STDIN_FILENO, line, sizeof(line)) > 0;
			if (sample_count)
				report();
		}
		one(fd, number, true);
		one(fd, number, false);
		usleep(PACE_US);
	}
	close(fd);
	return 0;
}
