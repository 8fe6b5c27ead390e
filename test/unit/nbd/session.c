/* SPDX-License-Identifier: BSD-3-Clause */
/* session: the fake exports, and the ways to feed a handshake. */
#include "session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static const struct nbd_export_info fake_exports[] = {
	{.name = "disk",
	 .description = "the first disk",
	 .size = 1 << 20,
	 .flags = NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA,
	 .min_block = 1,
	 .preferred_block = 4096,
	 .max_payload = 64 << 20},
	{.name = "plain",
	 .size = 3,
	 .min_block = 1,
	 .preferred_block = 4096,
	 .max_payload = 32 << 20},
	{.name = "strict",
	 .size = 8192,
	 .flags = NBD_FLAG_READ_ONLY,
	 .min_block = 512,
	 .preferred_block = 4096,
	 .max_payload = 1 << 20,
	 .needs_block_size = true},
	{.name = "secret",
	 .description = "only inside TLS",
	 .size = 4096,
	 .min_block = 1,
	 .preferred_block = 4096,
	 .max_payload = 64 << 20,
	 .needs_tls = true},
};

static char context_names[SESSION_CONTEXTS][32];

/* As the document wants it, base:allocation; and others of another namespace. */
static const char *context_name(unsigned index)
{
	if (index == 0)
		return "base:allocation";
	snprintf(context_names[index], sizeof(context_names[index]), "x-test:%u", index);
	return context_names[index];
}

static int fake_find(void *arg, const char *name, size_t length, bool opening,
		     struct nbd_export_info *info)
{
	struct session *session = arg;

	if (opening && session->open_error)
		return session->open_error;
	if (length == 6 && !memcmp(name, "broken", 6))
		return session->find_error;
	if (!length) /* the default export */
		name = "disk", length = 4;
	for (unsigned i = 0; i < session->export_count; i++) {
		const struct nbd_export_info *export = &session->exports[i];

		if (strlen(export->name) == length && !memcmp(export->name, name, length)) {
			*info = *export;
			info->export = (void *)export;
			session->opened += opening;
			return 0;
		}
	}
	return -ENOENT;
}

static int fake_list(void *arg, unsigned index, struct nbd_export_info *info)
{
	struct session *session = arg;

	if (session->list_error)
		return session->list_error;
	if (index >= session->export_count)
		return -ENOENT;
	*info = session->exports[index];
	return 0;
}

static const char *fake_context(void *arg, const struct nbd_export_info *info, unsigned index)
{
	struct session *session = arg;

	assert_non_null(info->name);
	if (index >= session->context_count)
		return NULL;
	if (session->hs.context_export && session->change_contexts)
		return "x-other:thing";
	if (session->hs.context_export && session->shuffle_contexts)
		index = session->context_count - 1 - index;
	return context_name(index);
}

static void fake_send(void *arg, const void *bytes, size_t count)
{
	struct session *session = arg;

	assert_true(session->out_length + count <= SESSION_BYTES);
	memcpy(session->out + session->out_length, bytes, count);
	session->out_length += count;
}

static const struct nbd_server_ops fake_ops = {fake_find, fake_list, fake_context, fake_send};
static const struct nbd_server_ops bare_ops = {fake_find, fake_list, NULL, fake_send};

void session_init(struct session *session)
{
	memset(session, 0, sizeof(*session));
	session->config = (struct nbd_server_config){
		.no_zeroes = true,
		.structured = true,
		.extended = true,
	};
	session->exports = fake_exports;
	session->export_count = COUNT_OF(fake_exports);
	session->context_count = 3;
	session->find_error = -ENOENT;
}

void session_bytes(struct session *session, const void *bytes, size_t count)
{
	assert_true(session->in_length + count <= SESSION_BYTES);
	if (count)
		memcpy(session->in + session->in_length, bytes, count);
	session->in_length += count;
}

void session_u16(struct session *session, uint16_t value)
{
	be16 wire = be16_of(value);

	session_bytes(session, &wire, sizeof(wire));
}

void session_u32(struct session *session, uint32_t value)
{
	be32 wire = be32_of(value);

	session_bytes(session, &wire, sizeof(wire));
}

void session_flags(struct session *session, uint32_t flags)
{
	session_u32(session, flags);
}

void session_head(struct session *session, uint32_t option, uint32_t length)
{
	session_bytes(session, "IHAVEOPT", 8);
	session_u32(session, option);
	session_u32(session, length);
}

void session_option(struct session *session, uint32_t option, const void *data, uint32_t length)
{
	session_head(session, option, length);
	session_bytes(session, data, length);
}

static void session_string(struct session *session, const char *string)
{
	session_u32(session, strlen(string));
	session_bytes(session, string, strlen(string));
}

void session_ask(struct session *session, uint32_t option, const char *name, unsigned count, ...)
{
	va_list infos;

	session_head(session, option, 4 + strlen(name) + 2 + 2 * count);
	session_string(session, name);
	session_u16(session, count);
	va_start(infos, count);
	for (unsigned i = 0; i < count; i++)
		session_u16(session, va_arg(infos, unsigned));
	va_end(infos);
}

void session_query(struct session *session, uint32_t option, const char *name, unsigned count, ...)
{
	uint32_t length = 4 + strlen(name) + 4;
	va_list queries;

	va_start(queries, count);
	for (unsigned i = 0; i < count; i++)
		length += 4 + strlen(va_arg(queries, const char *));
	va_end(queries);
	session_head(session, option, length);
	session_string(session, name);
	session_u32(session, count);
	va_start(queries, count);
	for (unsigned i = 0; i < count; i++)
		session_string(session, va_arg(queries, const char *));
	va_end(queries);
}

static void begin(struct session *session)
{
	nbd_handshake_fini(&session->hs);
	session->out_length = session->out_read = 0;
	session->upgrades = session->opened = 0;
	nbd_handshake_init(&session->hs, &session->config,
			   session->no_context_op ? &bare_ops : &fake_ops, session);
	session->hs.shutting_down = session->shutting_down;
	session->result = NBD_HANDSHAKE_MORE;
}

/* Feeds in[0, first) in one go or in steps, then the rest. */
static void feed(struct session *session, size_t first, size_t step)
{
	size_t at = 0, end = first, taken;

	begin(session);
	while (session->result == NBD_HANDSHAKE_MORE && at < session->in_length) {
		size_t part = MIN_OF(step, end - at);
		/* a block of just this size, so that the sanitizer sees reads beyond it */
		uint8_t *copy = malloc(part);

		memcpy(copy, session->in + at, part);
		session->result = nbd_handshake_feed(&session->hs, copy, part, &taken);
		free(copy);
		assert_true(taken <= part);
		if (session->result == NBD_HANDSHAKE_MORE)
			assert_int_equal(taken, part);
		at += taken;
		if (at == end)
			end = session->in_length;
		if (session->result == NBD_HANDSHAKE_STARTTLS && session->upgrades < 2) {
			/* until TLS is up, nothing is taken and the answer stays the same */
			assert_int_equal(
				nbd_handshake_feed(&session->hs, (const uint8_t *)"x", 1, &taken),
				NBD_HANDSHAKE_STARTTLS);
			assert_int_equal(taken, 0);
			session->upgrades++;
			nbd_handshake_tls_done(&session->hs);
			session->result = NBD_HANDSHAKE_MORE;
		}
	}
	session->taken = at;
	if (session->result == NBD_HANDSHAKE_MORE)
		return;
	assert_int_equal(session->hs.state, NBD_HS_DONE);
	/* what is over stays over */
	assert_int_equal(nbd_handshake_feed(&session->hs, (const uint8_t *)"x", 1, &taken),
			 session->result);
	assert_int_equal(taken, 0);
	if (session->result == NBD_HANDSHAKE_CLOSE)
		assert_true(session->hs.reason[0]);
}

/* All that a run left behind that a client or the connection could see. */
struct outcome {
	enum nbd_handshake_result result;
	size_t taken, out_length;
	unsigned upgrades, opened, contexts;
	enum nbd_mode mode;
	bool tls, no_zeroes, asked;
	uint16_t flags;
	uint64_t size;
	uint8_t out[SESSION_BYTES];
};

static void note(const struct session *session, struct outcome *outcome)
{
	memset(outcome, 0, offsetof(struct outcome, out));
	outcome->result = session->result;
	outcome->taken = session->taken;
	outcome->out_length = session->out_length;
	outcome->upgrades = session->upgrades;
	outcome->opened = session->opened;
	outcome->contexts = session->hs.context_count;
	outcome->mode = session->hs.mode;
	outcome->tls = session->hs.tls;
	outcome->no_zeroes = session->hs.no_zeroes;
	outcome->asked = session->hs.asked_block_size;
	outcome->flags = session->hs.selected.flags;
	outcome->size = session->hs.selected.size;
	memcpy(outcome->out, session->out, session->out_length);
}

static struct outcome first, other;

static void check_same(const struct session *session)
{
	note(session, &other);
	assert_memory_equal(&first, &other, offsetof(struct outcome, out));
	assert_memory_equal(first.out, other.out, first.out_length);
}

enum nbd_handshake_result session_run(struct session *session)
{
	size_t stride = session->in_length > 400 ? session->in_length / 97 : 1;

	feed(session, session->in_length, session->in_length);
	note(session, &first);
	feed(session, session->in_length, 1);
	check_same(session);
	for (size_t cut = 1; cut < session->in_length; cut += stride) {
		feed(session, cut, session->in_length);
		check_same(session);
	}
	return session->result;
}

enum nbd_handshake_result session_feed_once(struct session *session)
{
	begin(session);
	session->result =
		nbd_handshake_feed(&session->hs, session->in, session->in_length, &session->taken);
	return session->result;
}

void session_fini(struct session *session)
{
	nbd_handshake_fini(&session->hs);
	nbd_handshake_fini(&session->hs);
}

uint64_t read_be(const uint8_t *bytes, unsigned count)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < count; i++)
		value = value << 8 | bytes[i];
	return value;
}

static const uint8_t *read_out(struct session *session, size_t count)
{
	const uint8_t *at = session->out + session->out_read;

	assert_true(session->out_length - session->out_read >= count);
	session->out_read += count;
	return at;
}

void expect_greeting(struct session *session, uint16_t flags)
{
	const uint8_t *at = read_out(session, 18);

	assert_memory_equal(at, "NBDMAGICIHAVEOPT", 16);
	assert_int_equal(read_be(at + 16, 2), flags);
}

struct reply expect_reply(struct session *session, uint32_t option, uint32_t type)
{
	const uint8_t *head = read_out(session, 20);
	struct reply reply;

	assert_int_equal(read_be(head, 8), 0x0003e889045565a9ull);
	assert_int_equal(read_be(head + 8, 4), option);
	assert_int_equal(read_be(head + 12, 4), type);
	reply.length = read_be(head + 16, 4);
	reply.data = read_out(session, reply.length);
	return reply;
}

void expect_ack(struct session *session, uint32_t option)
{
	assert_int_equal(expect_reply(session, option, 1).length, 0);
}

void expect_error(struct session *session, uint32_t option, uint32_t type)
{
	struct reply reply = expect_reply(session, option, type);

	assert_in_range(reply.length, 5, 4096);
	for (uint32_t i = 0; i < reply.length; i++)
		assert_in_range(reply.data[i], 0x20, 0x7e);
}

static struct reply expect_info(struct session *session, uint32_t option, uint16_t info)
{
	struct reply reply = expect_reply(session, option, 3);

	assert_true(reply.length >= 2);
	assert_int_equal(read_be(reply.data, 2), info);
	return reply;
}

void expect_export(struct session *session, uint32_t option, uint64_t size, uint16_t flags)
{
	struct reply reply = expect_info(session, option, 0);

	assert_int_equal(reply.length, 12);
	assert_int_equal(read_be(reply.data + 2, 8), size);
	assert_int_equal(read_be(reply.data + 10, 2), flags);
}

void expect_block_size(struct session *session, uint32_t option, uint32_t min, uint32_t preferred,
		       uint32_t max)
{
	struct reply reply = expect_info(session, option, 3);

	assert_int_equal(reply.length, 14);
	assert_int_equal(read_be(reply.data + 2, 4), min);
	assert_int_equal(read_be(reply.data + 6, 4), preferred);
	assert_int_equal(read_be(reply.data + 10, 4), max);
}

void expect_info_string(struct session *session, uint32_t option, uint16_t info, const char *string)
{
	struct reply reply = expect_info(session, option, info);

	assert_int_equal(reply.length, 2 + strlen(string));
	assert_memory_equal(reply.data + 2, string, strlen(string));
}

void expect_listed(struct session *session, const char *name, const char *description)
{
	struct reply reply = expect_reply(session, NBD_OPT_LIST, 2);

	assert_int_equal(reply.length, 4 + strlen(name) + strlen(description));
	assert_int_equal(read_be(reply.data, 4), strlen(name));
	assert_memory_equal(reply.data + 4, name, strlen(name));
	assert_memory_equal(reply.data + 4 + strlen(name), description, strlen(description));
}

void expect_context(struct session *session, uint32_t option, uint32_t id, const char *name)
{
	struct reply reply = expect_reply(session, option, 4);

	assert_int_equal(reply.length, 4 + strlen(name));
	assert_int_equal(read_be(reply.data, 4), id);
	assert_memory_equal(reply.data + 4, name, strlen(name));
}

void expect_nothing(struct session *session)
{
	assert_int_equal(session->out_read, session->out_length);
}
