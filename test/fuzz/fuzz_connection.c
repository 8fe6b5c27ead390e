/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz_connection: whole connections, from accept to their end, over the target's own code but for
 * io_uring and the reactor's loop (connection/kernel.h, test/unit/fake). The first two bytes choose
 * what is met: byte 0 - bits 0-1 the listener's rule for TLS, bit 2 the client speaks TLS, bit 3
 * two cores, bit 4 pipes in place of a socket, bit 5 few buffers, bit 6 few slots, bit 7 the client
 * does not read; byte 1 - how far the client has got before the rest: enum prelude in bits 0-2, the
 * export in bits 3-4, bit 5 the slow disk holds what it gets.
 *
 * The rest are steps: bytes to send, in pieces, and events; see step(). Whatever they are, when the
 * clients have gone nothing may be left: connections, slots, buffers, loans, descriptors, timers.
 */
#include <errno.h>
#include <string.h>

#include "fake/reactor.h"
#include "lib/nbd/proto.h"
#include "lib/nbd/server.h"
#include "test/fuzz/connection/kernel.h"
#include "test/fuzz/connection/slow.h"
#include "test/fuzz/connection/world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum prelude {
	PRELUDE_NONE, /* the rest begins behind accept */
	PRELUDE_HELLO,
	PRELUDE_SIMPLE,
	PRELUDE_STRUCTURED,
	PRELUDE_EXTENDED,
	PRELUDE_STATUS, /* extended, with contexts */
	PRELUDE_STATUS_STRUCTURED,
	PRELUDE_OPTIONS, /* of all kinds, then simple */
};

enum {
	RAW_MOST_BYTES = 0xc0,
	PAYLOAD_MOST_BYTES = 4 << 20,
	/* of one input: else a few of them take all the fuzzer's time */
	TRAFFIC_MOST_BYTES = 12 << 20,
	TICK_US = 100000,
	ENDING_US = 2000000,
	ENDING_STEPS = 15,
};

struct input {
	const uint8_t *at, *end;
};

static struct client *now_talking;
static uint64_t traffic; /* bytes asked for so far */
static bool corked;
static uint8_t payload[64 << 10];

static uint32_t take(struct input *input, unsigned bytes)
{
	uint32_t value = 0;
	while (bytes--)
		value = value << 8 | (input->at < input->end ? *input->at++ : 0);
	return value;
}

/* ---- What a client sends ---- */

static void send_option(uint32_t number, const void *data, uint32_t length)
{
	struct nbd_option_header header = {
		.magic = be64_of(NBD_MAGIC_OPTION),
		.option = be32_of(number),
		.length = be32_of(length),
	};
	client_send(now_talking, (const uint8_t *)&header, sizeof(header));
	client_send(now_talking, data, length);
}

static void send_payload(uint64_t count)
{
	traffic += count;
	while (count && !now_talking->half_closed) {
		size_t n = MIN_OF(count, sizeof(payload));
		client_send(now_talking, payload, n);
		count -= n;
	}
}

/* A request in the client's mode: type, flags, and a range in 4 bytes and two shifts. */
static void send_request(struct input *input, bool with_payload)
{
	static uint64_t cookie;
	uint16_t type = take(input, 1), flags = take(input, 1);
	uint64_t offset = take(input, 2), length = take(input, 2);
	uint8_t shifts = take(input, 1);
	offset <<= shifts & 15;
	length <<= shifts >> 4;
	uint64_t bytes = MIN_OF(length, (uint64_t)PAYLOAD_MOST_BYTES);
	traffic += type == NBD_CMD_READ ? bytes : 0;
	if (traffic > TRAFFIC_MOST_BYTES)
		return;
	if (now_talking->mode == NBD_MODE_EXTENDED) {
		if (with_payload)
			flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
		struct nbd_extended_request request = {be32_of(NBD_MAGIC_EXTENDED_REQUEST),
						       be16_of(flags),
						       be16_of(type),
						       be64_of(cookie++),
						       be64_of(offset),
						       be64_of(length)};
		client_send(now_talking, (const uint8_t *)&request, sizeof(request));
	} else {
		struct nbd_request request = {
			be32_of(NBD_MAGIC_REQUEST), be16_of(flags),  be16_of(type),
			be64_of(cookie++),	    be64_of(offset), be32_of(length)};
		client_send(now_talking, (const uint8_t *)&request, sizeof(request));
	}
	if (with_payload)
		send_payload(bytes);
}

static void send_contexts(const char *name)
{
	static const char *const queries[] = {"base:allocation", "test:written"};
	uint8_t data[128];
	size_t at = 0, bytes = strlen(name);
	be32 number = be32_of(bytes);
	memcpy(data, &number, sizeof(number));
	memcpy(data + 4, name, bytes);
	at = 4 + bytes;
	number = be32_of(COUNT_OF(queries));
	memcpy(data + at, &number, sizeof(number));
	at += 4;
	for (unsigned i = 0; i < COUNT_OF(queries); i++) {
		bytes = strlen(queries[i]);
		number = be32_of(bytes);
		memcpy(data + at, &number, sizeof(number));
		memcpy(data + at + 4, queries[i], bytes);
		at += 4 + bytes;
	}
	send_option(NBD_OPT_SET_META_CONTEXT, data, at);
}

static void begin(enum prelude prelude, const char *name, bool tls)
{
	static const uint8_t flags[] = {0, 0, 0, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES};
	static const enum nbd_mode modes[] = {
		[PRELUDE_STRUCTURED] = NBD_MODE_STRUCTURED,
		[PRELUDE_EXTENDED] = NBD_MODE_EXTENDED,
		[PRELUDE_STATUS] = NBD_MODE_EXTENDED,
		[PRELUDE_STATUS_STRUCTURED] = NBD_MODE_STRUCTURED,
		[PRELUDE_OPTIONS] = NBD_MODE_SIMPLE,
	};
	uint8_t go[16] = {0, 0, 0, strlen(name)};
	if (tls)
		client_start_tls(now_talking);
	else if (prelude != PRELUDE_NONE)
		client_send(now_talking, flags, sizeof(flags));
	if (prelude <= PRELUDE_HELLO)
		return;
	now_talking->mode = modes[prelude];
	if (prelude == PRELUDE_OPTIONS) {
		send_option(NBD_OPT_LIST, NULL, 0);
		send_option(77, payload, 300);
		send_option(NBD_OPT_LIST_META_CONTEXT, "\0\0\0\0\0\0\0", 8);
	}
	if (now_talking->mode != NBD_MODE_SIMPLE)
		send_option(now_talking->mode == NBD_MODE_EXTENDED ? NBD_OPT_EXTENDED_HEADERS
								   : NBD_OPT_STRUCTURED_REPLY,
			    NULL, 0);
	if (prelude == PRELUDE_STATUS || prelude == PRELUDE_STATUS_STRUCTURED)
		send_contexts(name);
	memcpy(go + 4, name, strlen(name));
	send_option(NBD_OPT_GO, go, 6 + strlen(name));
}

/* ---- Steps ---- */

enum step {
	STEP_REQUEST = RAW_MOST_BYTES,
	STEP_REQUEST_AND_PAYLOAD,
	STEP_PAYLOAD,
	STEP_OPTION,
	STEP_PASS,
	STEP_TIME,
	STEP_RECEIVE,
	STEP_READS,
	STEP_FINISH_SLOW,
	STEP_FAIL_SLOW,
	STEP_HOLD_SLOW,
	STEP_HALF_CLOSE,
	STEP_CLOSE,
	STEP_END_ALL,
	STEP_SCARCE,
	STEP_GIVE_BACK,
	STEP_FAULT,
	STEP_CLIENT,
	STEP_CLEAR,
	STEP_TLS,
	STEP_SHORT,
	STEP_CORK, /* what follows comes in together */
};

static void change_client(struct input *input, uint8_t rule, bool apart, bool pipes)
{
	uint8_t which = take(input, 1);
	now_talking = &world_clients[which % WORLD_CLIENTS];
	if (now_talking->is_open)
		return;
	client_open(now_talking, apart, rule, pipes);
	begin(which >> 3 & 7, which & 4 ? "s" : "", which & 64);
	now_talking->reads = !(which & 128);
}

static void talk_tls(uint8_t how)
{
	if (how & 1)
		client_update_keys(now_talking);
	else
		client_close_tls(now_talking);
}

/* Steps that the client takes. False: it is another kind of step. */
static bool client_step(struct input *input, uint8_t kind)
{
	switch (kind) {
	case STEP_REQUEST:
	case STEP_REQUEST_AND_PAYLOAD:
		send_request(input, kind == STEP_REQUEST_AND_PAYLOAD);
		return true;
	case STEP_PAYLOAD:
		send_payload(take(input, 2) << 4);
		return true;
	case STEP_OPTION: {
		uint8_t number = take(input, 1), claimed = take(input, 1);
		size_t here = MIN_OF((size_t)claimed, (size_t)(input->end - input->at));
		send_option(number, input->at, here);
		input->at += here;
		return true;
	}
	case STEP_RECEIVE:
		client_receive(now_talking, (size_t)take(input, 1) << 8);
		return true;
	case STEP_READS:
		now_talking->reads ^= true;
		return true;
	case STEP_HALF_CLOSE:
		client_half_close(now_talking);
		return true;
	case STEP_CLOSE:
		client_close(now_talking);
		return true;
	case STEP_CLEAR:
		now_talking->clear ^= true;
		return true;
	case STEP_TLS:
		talk_tls(take(input, 1));
		return true;
	default:
		return false;
	}
}

/* What happens around the client. */
static void world_step(struct input *input, uint8_t kind, bool apart)
{
	static const int faults[] = {EAGAIN, EINTR, ECONNRESET, EPIPE, ENOBUFS, EIO, ENOMEM};
	uint8_t value = 0;
	switch (kind) {
	case STEP_PASS:
		fake_pass();
		break;
	case STEP_TIME:
		world_advance_us(((uint64_t)take(input, 1) + 1) * TICK_US);
		break;
	case STEP_FINISH_SLOW:
		slow_finish(take(input, 1) % 8);
		break;
	case STEP_FAIL_SLOW:
		slow.failures = take(input, 1) % 4;
		break;
	case STEP_HOLD_SLOW:
		slow.hold ^= true;
		slow.newest_first = take(input, 1) & 1;
		break;
	case STEP_END_ALL:
		world_end_connections(take(input, 1) & 1);
		break;
	case STEP_SCARCE:
		value = take(input, 1);
		world_make_scarce(apart, value & 1, (value & 7) == 6);
		break;
	case STEP_GIVE_BACK:
		world_give_back();
		break;
	case STEP_FAULT:
		kernel_fail_next(faults[take(input, 1) % COUNT_OF(faults)]);
		break;
	case STEP_SHORT:
		kernel_send_short(take(input, 1) & 1);
		break;
	default:
		world_settle();
	}
}

static void step(struct input *input, uint8_t config)
{
	uint8_t kind = take(input, 1);
	bool apart = config & 8;
	if (kind == STEP_CLIENT) {
		change_client(input, (config & 3) % WORLD_TLS_RULES, apart, config & 16);
	} else if (kind < RAW_MOST_BYTES) {
		size_t bytes = MIN_OF((size_t)kind + 1, (size_t)(input->end - input->at));
		if (now_talking->is_open)
			client_send(now_talking, input->at, bytes);
		input->at += bytes;
	} else if (kind == STEP_CORK) {
		corked ^= true;
	} else if (kind <= STEP_SHORT) {
		if (!now_talking->is_open || !client_step(input, kind))
			world_step(input, kind, apart);
	} else {
		world_settle();
	}
	if (!corked)
		fake_pass();
}

/* Everybody goes; time passes until the target is done with them. */
static void end(void)
{
	slow.hold = false;
	kernel_fail_next(0);
	world_give_back();
	for (unsigned i = 0; i < WORLD_CLIENTS; i++)
		client_close(&world_clients[i]);
	world_settle();
	for (unsigned i = 0; i < ENDING_STEPS && !world_is_at_rest(); i++)
		world_advance_us(ENDING_US);
	kernel_send_short(false);
	slow = (struct slow_control){0};
	world_check();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = {"", "s", "r", "n"};
	static bool started;
	if (!started) {
		world_start();
		for (size_t i = 0; i < sizeof(payload); i++)
			payload[i] = i * 31 ^ i >> 8;
		started = true;
	}
	if (size < 2)
		return 0;
	struct input input = {data + 2, data + size};
	traffic = 0;
	corked = false;
	now_talking = &world_clients[0];
	world_begin();
	client_open(now_talking, data[0] >> 3 & 1, (data[0] & 3) % WORLD_TLS_RULES, data[0] & 16);
	begin(data[1] & 7, names[data[1] >> 3 & 3], data[0] & 4);
	world_settle();
	now_talking->reads = !(data[0] & 128);
	slow.hold = data[1] & 32;
	world_make_scarce(data[0] >> 3 & 1, data[0] & 32, data[0] & 64);
	while (input.at < input.end)
		step(&input, data[0]);
	end();
	return 0;
}
