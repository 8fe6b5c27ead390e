/* SPDX-License-Identifier: BSD-3-Clause */
/* scan: the states of a JSON value under way, one byte at a time; strings in runs. Pure. */
#include "lib/rpc/scan.h"

#include <string.h>

#include "lib/base/compiler.h"
#include "lib/rpc/rpc.h"

_Static_assert(RPC_MAX_DEPTH <= 64, "rpc_scan.objects has a bit a level");

void rpc_scan_init(struct rpc_scan *scan)
{
	*scan = (struct rpc_scan){.state = RPC_SCAN_START};
}

static bool is_space(char byte)
{
	return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

static bool is_hex(char byte)
{
	return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f') ||
	       (byte >= 'A' && byte <= 'F');
}

static bool is_number(char byte)
{
	return (byte >= '0' && byte <= '9') || byte == '.' || byte == 'e' || byte == 'E' ||
	       byte == '+' || byte == '-';
}

static enum rpc_scan_result open_container(struct rpc_scan *scan, bool object)
{
	if (scan->depth == RPC_MAX_DEPTH)
		return RPC_SCAN_TOO_DEEP;
	uint64_t bit = 1ull << scan->depth++;
	scan->objects = object ? scan->objects | bit : scan->objects & ~bit;
	scan->state = object ? RPC_SCAN_FIRST_KEY : RPC_SCAN_FIRST_VALUE;
	return RPC_SCAN_MORE;
}

static enum rpc_scan_result close_container(struct rpc_scan *scan)
{
	scan->state = RPC_SCAN_NEXT;
	return --scan->depth ? RPC_SCAN_MORE : RPC_SCAN_DONE;
}

static bool in_object(const struct rpc_scan *scan)
{
	return scan->objects >> (scan->depth - 1) & 1;
}

static enum rpc_scan_result begin_word(struct rpc_scan *scan, const char *rest)
{
	scan->state = RPC_SCAN_WORD;
	scan->word = rest;
	return RPC_SCAN_MORE;
}

static enum rpc_scan_result begin_string(struct rpc_scan *scan, bool key)
{
	scan->state = RPC_SCAN_STRING;
	scan->key = key;
	return RPC_SCAN_MORE;
}

static enum rpc_scan_result begin_value(struct rpc_scan *scan, char byte)
{
	if (++scan->values > RPC_MAX_VALUES)
		return RPC_SCAN_TOO_MANY;
	switch (byte) {
	case '{':
		return open_container(scan, true);
	case '[':
		return open_container(scan, false);
	case '"':
		return begin_string(scan, false);
	case 't':
		return begin_word(scan, "rue");
	case 'f':
		return begin_word(scan, "alse");
	case 'n':
		return begin_word(scan, "ull");
	default:
		if (byte != '-' && (byte < '0' || byte > '9'))
			return RPC_SCAN_GARBAGE;
		scan->state = RPC_SCAN_NUMBER;
		return RPC_SCAN_MORE;
	}
}

/* After a value inside a container. */
static enum rpc_scan_result next_or_close(struct rpc_scan *scan, char byte)
{
	bool object = in_object(scan);
	if (byte == ',') {
		scan->state = object ? RPC_SCAN_KEY : RPC_SCAN_VALUE;
		return RPC_SCAN_MORE;
	}
	return byte == (object ? '}' : ']') ? close_container(scan) : RPC_SCAN_GARBAGE;
}

static enum rpc_scan_result string_byte(struct rpc_scan *scan, char byte)
{
	switch (scan->state) {
	case RPC_SCAN_ESCAPE:
		if (!byte || !strchr("\"\\/bfnrtu", byte))
			return RPC_SCAN_GARBAGE;
		scan->state = byte == 'u' ? RPC_SCAN_HEX : RPC_SCAN_STRING;
		scan->hex_digits = 4;
		return RPC_SCAN_MORE;
	case RPC_SCAN_HEX:
		if (!is_hex(byte))
			return RPC_SCAN_GARBAGE;
		if (--scan->hex_digits == 0)
			scan->state = RPC_SCAN_STRING;
		return RPC_SCAN_MORE;
	default:
		if (byte == '"')
			scan->state = scan->key ? RPC_SCAN_COLON : RPC_SCAN_NEXT;
		else if (byte == '\\')
			scan->state = RPC_SCAN_ESCAPE;
		else if ((unsigned char)byte < 0x20)
			return RPC_SCAN_GARBAGE;
		return RPC_SCAN_MORE;
	}
}

/* A byte between the tokens, or the first of one; white space is skipped here. */
static enum rpc_scan_result token_byte(struct rpc_scan *scan, char byte)
{
	if (is_space(byte))
		return RPC_SCAN_MORE;
	switch (scan->state) {
	case RPC_SCAN_START:
		/* a bare number at the top would have no end in a stream without delimiters */
		return byte == '{' || byte == '[' ? begin_value(scan, byte) : RPC_SCAN_GARBAGE;
	case RPC_SCAN_FIRST_VALUE:
		return byte == ']' ? close_container(scan) : begin_value(scan, byte);
	case RPC_SCAN_VALUE:
		return begin_value(scan, byte);
	case RPC_SCAN_FIRST_KEY:
		if (byte == '}')
			return close_container(scan);
		return byte == '"' ? begin_string(scan, true) : RPC_SCAN_GARBAGE;
	case RPC_SCAN_KEY:
		return byte == '"' ? begin_string(scan, true) : RPC_SCAN_GARBAGE;
	case RPC_SCAN_COLON:
		scan->state = RPC_SCAN_VALUE;
		return byte == ':' ? RPC_SCAN_MORE : RPC_SCAN_GARBAGE;
	default:
		return next_or_close(scan, byte);
	}
}

static enum rpc_scan_result scan_byte(struct rpc_scan *scan, char byte)
{
	switch (scan->state) {
	case RPC_SCAN_STRING:
	case RPC_SCAN_ESCAPE:
	case RPC_SCAN_HEX:
		return string_byte(scan, byte);
	case RPC_SCAN_WORD:
		if (byte != *scan->word)
			return RPC_SCAN_GARBAGE;
		if (!*++scan->word)
			scan->state = RPC_SCAN_NEXT;
		return RPC_SCAN_MORE;
	case RPC_SCAN_NUMBER:
		if (is_number(byte))
			return RPC_SCAN_MORE;
		/* this byte ends the number, and is looked at as what comes after it */
		scan->state = RPC_SCAN_NEXT;
		return token_byte(scan, byte);
	default:
		return token_byte(scan, byte);
	}
}

/* How many of the bytes are plain ones inside a string: the bulk of a large request. */
static size_t plain_run(const char *bytes, size_t count)
{
	size_t i = 0;
	while (i < count && bytes[i] != '"' && bytes[i] != '\\' && (unsigned char)bytes[i] >= 0x20)
		i++;
	return i;
}

enum rpc_scan_result rpc_scan_feed(struct rpc_scan *scan, const char *bytes, size_t count,
				   size_t *used)
{
	size_t i = 0;
	while (i < count) {
		if (scan->state == RPC_SCAN_STRING) {
			size_t room = RPC_MAX_REQUEST_BYTES - scan->bytes;
			size_t run = plain_run(bytes + i, MIN_OF(count - i, room));
			scan->bytes += run;
			i += run;
			if (i == count)
				break;
		}
		enum rpc_scan_result result = scan_byte(scan, bytes[i]);
		if (unlikely(result > RPC_SCAN_DONE)) {
			*used = i;
			return result;
		}
		i++;
		if (scan->state == RPC_SCAN_START)
			continue;
		if (unlikely(++scan->bytes > RPC_MAX_REQUEST_BYTES)) {
			*used = i;
			return RPC_SCAN_TOO_LONG;
		}
		if (result == RPC_SCAN_DONE) {
			*used = i;
			return RPC_SCAN_DONE;
		}
	}
	*used = count;
	return RPC_SCAN_MORE;
}
