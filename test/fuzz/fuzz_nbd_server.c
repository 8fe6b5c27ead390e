/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz_nbd_server: any bytes as a client's handshake. The first byte is the server's configuration,
 * the second how the rest is cut. Beyond not crashing and not leaking it checks that the cut makes
 * no difference, that every reply is one that a client can read, and that what was begun is
 * allowed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/compiler.h"
#include "lib/nbd/server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OUT_BYTES = 4 << 20 };

struct side {
	struct nbd_handshake hs;
	enum nbd_handshake_result result;
	size_t taken, length;
	uint8_t *out;
};

static const struct nbd_export_info exports[] = {
	{.name = "a",
	 .description = "first",
	 .size = 1 << 20,
	 .flags = 0x1ff,
	 .min_block = 1,
	 .preferred_block = 4096,
	 .max_payload = 32 << 20},
	{.name = "b",
	 .size = 4096,
	 .min_block = 512,
	 .preferred_block = 512,
	 .max_payload = 4096,
	 .needs_block_size = true},
	{.name = "c",
	 .size = 4096,
	 .min_block = 1,
	 .preferred_block = 512,
	 .max_payload = 32 << 20,
	 .needs_tls = true},
};

static void check(bool good)
{
	if (!good)
		abort();
}

static int find(void *arg, const char *name, size_t length, bool opening,
		struct nbd_export_info *info)
{
	for (size_t i = 0; i < COUNT_OF(exports); i++) {
		if (length == 1 && *name == *exports[i].name) {
			*info = exports[i];
			info->export = (void *)&exports[i];
			return 0;
		}
	}
	return length == 1 && *name == 'd' ? -EACCES : -ENOENT;
}

static int list(void *arg, unsigned index, struct nbd_export_info *info)
{
	if (index >= COUNT_OF(exports))
		return -ENOENT;
	*info = exports[index];
	return 0;
}

static const char *context(void *arg, const struct nbd_export_info *info, unsigned index)
{
	static const char *const names[] = {"base:allocation", "x:a", "x:b"};

	return index < COUNT_OF(names) ? names[index] : NULL;
}

static void send(void *arg, const void *bytes, size_t count)
{
	struct side *side = arg;

	if (count)
		memcpy(side->out + side->length, bytes, count);
	side->length += count;
}

/* Enough options to fill the output are not what is looked for here. */
static bool is_full(const struct side *side)
{
	return side->length > OUT_BYTES - (64 << 10);
}

static void feed(struct side *side, const struct nbd_server_config *config, const uint8_t *data,
		 size_t size, size_t step)
{
	static const struct nbd_server_ops ops = {find, list, context, send};
	size_t taken;

	side->taken = side->length = 0;
	side->result = NBD_HANDSHAKE_MORE;
	nbd_handshake_init(&side->hs, config, &ops, side);
	while (side->result == NBD_HANDSHAKE_MORE && side->taken < size && !is_full(side)) {
		size_t part = MIN_OF(step, size - side->taken);

		side->result = nbd_handshake_feed(&side->hs, data + side->taken, part, &taken);
		check(taken <= part && (side->result != NBD_HANDSHAKE_MORE || taken == part));
		side->taken += taken;
		if (side->result == NBD_HANDSHAKE_STARTTLS) {
			check(!side->hs.tls && (config->tls_offered || config->tls_required));
			nbd_handshake_tls_done(&side->hs);
			side->result = NBD_HANDSHAKE_MORE;
		}
	}
	if (side->result == NBD_HANDSHAKE_TRANSMIT) {
		check(side->hs.selected.export != NULL);
		check(side->hs.tls ||
		      !(config->tls_required || side->hs.selected.export == &exports[2]));
		check(side->hs.context_count <= NBD_MAX_CONTEXTS);
		check(!side->hs.context_count || side->hs.mode != NBD_MODE_SIMPLE);
	}
	nbd_handshake_fini(&side->hs);
}

/* Whether a client can read what was sent: a greeting, replies, and EXPORT_NAME's answer. */
static void check_output(const struct side *side)
{
	struct nbd_option_reply_header header;
	size_t at = sizeof(struct nbd_greeting);

	while (side->length - at >= sizeof(header)) {
		memcpy(&header, side->out + at, sizeof(header));
		if (be64_get(header.magic) != NBD_MAGIC_OPTION_REPLY)
			break;
		at += sizeof(header);
		check(be32_get(header.length) <= side->length - at);
		at += be32_get(header.length);
	}
	check(at == side->length || (side->result == NBD_HANDSHAKE_TRANSMIT &&
				     (side->length - at == 10 || side->length - at == 134)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct side whole, pieces;
	struct nbd_server_config config;

	if (size < 2)
		return 0;
	if (!whole.out) {
		whole.out = malloc(OUT_BYTES);
		pieces.out = malloc(OUT_BYTES);
		check(whole.out && pieces.out);
	}
	config = (struct nbd_server_config){
		.no_zeroes = data[0] & 1,
		.structured = data[0] & 2,
		.extended = data[0] & 4,
		.tls_offered = data[0] & 8,
		.tls_required = data[0] & 16,
	};
	feed(&whole, &config, data + 2, size - 2, size);
	check_output(&whole);
	feed(&pieces, &config, data + 2, size - 2, 1 + data[1]);
	if (is_full(&whole) || is_full(&pieces))
		return 0;
	check(whole.result == pieces.result && whole.taken == pieces.taken);
	check(whole.length == pieces.length && !memcmp(whole.out, pieces.out, whole.length));
	return 0;
}
