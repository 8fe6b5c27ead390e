/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz_nbd_client: any bytes as a server's handshake. The first byte is the client's configuration,
 * the second how the rest is cut. The cut must make no difference, and what the client believes in
 * the end must make sense.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/compiler.h"
#include "lib/nbd/client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OUT_BYTES = 4096 };

struct side {
	struct nbd_client client;
	enum nbd_client_result result;
	size_t taken, length;
	uint8_t out[OUT_BYTES];
};

static void check(bool good)
{
	if (!good)
		abort();
}

/* A client asks for each thing once: what it sends is bounded. */
static void send(void *arg, const void *bytes, size_t count)
{
	struct side *side = arg;

	check(side->length + count <= OUT_BYTES);
	if (count)
		memcpy(side->out + side->length, bytes, count);
	side->length += count;
}

static void feed(struct side *side, const struct nbd_client_config *config, const uint8_t *data,
		 size_t size, size_t step)
{
	const struct nbd_client *client = &side->client;
	size_t taken;

	side->taken = side->length = 0;
	side->result = NBD_CLIENT_MORE;
	check(nbd_client_init(&side->client, config, send, side) == 0);
	while (side->result == NBD_CLIENT_MORE && side->taken < size) {
		size_t part = MIN_OF(step, size - side->taken);

		side->result = nbd_client_feed(&side->client, data + side->taken, part, &taken);
		check(taken <= part && (side->result != NBD_CLIENT_MORE || taken == part));
		side->taken += taken;
		if (side->result == NBD_CLIENT_STARTTLS) {
			check(!client->tls && config->tls != NBD_CLIENT_TLS_OFF);
			nbd_client_tls_done(&side->client);
			side->result = NBD_CLIENT_MORE;
		}
	}
	if (side->result == NBD_CLIENT_FAILED) {
		check(client->error < 0 && client->reason[0]);
		check(strlen(client->reason) < sizeof(client->reason));
	}
	if (side->result == NBD_CLIENT_TRANSMIT) {
		check(client->mode <= config->mode);
		check(client->tls || config->tls != NBD_CLIENT_TLS_REQUIRE);
		check(client->min_block && client->max_payload >= client->min_block);
		check(client->context_count <= NBD_MAX_CONTEXTS);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const contexts[] = {"base:allocation", "x:a"};
	static struct side whole, pieces;
	struct nbd_client_config config;

	if (size < 2)
		return 0;
	config = (struct nbd_client_config){
		.export_name = "a",
		.mode = (data[0] & 3) % 3,
		.tls = (data[0] >> 2 & 3) % 3,
		.contexts = contexts,
		.context_count = (data[0] >> 4 & 3) % 3,
	};
	feed(&whole, &config, data + 2, size - 2, size);
	feed(&pieces, &config, data + 2, size - 2, 1 + data[1]);
	check(whole.result == pieces.result && whole.taken == pieces.taken);
	check(whole.length == pieces.length && !memcmp(whole.out, pieces.out, whole.length));
	check(!memcmp(&whole.client.size, &pieces.client.size,
		      offsetof(struct nbd_client, header) - offsetof(struct nbd_client, size)));
	return 0;
}
