/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * scan: finds where a JSON value ends in a stream that arrives in pieces of any size. It follows
 * the grammar with a bit a nesting level instead of recursion, looks at each byte once, keeps no
 * bytes, and stops at the first byte that no JSON value could have there: garbage is refused when
 * it comes, not when its missing bracket would. What it lets through is still for the JSON library
 * to judge (UTF-8, the inside of numbers). Pure; any thread. Source: RFC 8259.
 */
#ifndef POLLUX_LIB_RPC_SCAN_H
#define POLLUX_LIB_RPC_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	/*
	 * Strings, numbers, arrays, … of one request. The JSON library takes up to 300 bytes for
	 * one of three bytes, so the limit on a request's bytes alone would not bound its memory.
	 */
	RPC_MAX_VALUES = 128 << 10,
};

enum rpc_scan_result {
	RPC_SCAN_MORE,	   /* all bytes taken, the value goes on */
	RPC_SCAN_DONE,	   /* the value ends within these bytes */
	RPC_SCAN_GARBAGE,  /* a byte that cannot stand there */
	RPC_SCAN_TOO_DEEP, /* beyond RPC_MAX_DEPTH */
	RPC_SCAN_TOO_MANY, /* beyond RPC_MAX_VALUES */
	RPC_SCAN_TOO_LONG, /* beyond RPC_MAX_REQUEST_BYTES */
};

enum rpc_scan_state {
	RPC_SCAN_START,	      /* before the value: white space, '{' or '[' */
	RPC_SCAN_VALUE,	      /* a value must come */
	RPC_SCAN_FIRST_VALUE, /* after '[': a value or ']' */
	RPC_SCAN_KEY,	      /* after a comma in an object: a key must come */
	RPC_SCAN_FIRST_KEY,   /* after '{': a key or '}' */
	RPC_SCAN_COLON,	      /* after a key */
	RPC_SCAN_NEXT,	      /* after a value: a comma or the container's end */
	RPC_SCAN_STRING,      /* inside a string */
	RPC_SCAN_ESCAPE,      /* after a backslash */
	RPC_SCAN_HEX,	      /* inside the four digits of \u */
	RPC_SCAN_WORD,	      /* inside true, false, null */
	RPC_SCAN_NUMBER,
};

struct rpc_scan {
	enum rpc_scan_state state;
	bool key;	     /* the string under way is a key */
	unsigned depth;	     /* containers open */
	uint64_t objects;    /* bit n: the container at depth n+1 is an object, else an array */
	const char *word;    /* what is left of it; in RPC_SCAN_WORD */
	unsigned hex_digits; /* still to come; in RPC_SCAN_HEX */
	unsigned values;
	size_t bytes; /* of the value so far, white space before it not counted */
};

void rpc_scan_init(struct rpc_scan *scan);

/*
 * Looks at `count` more bytes. *used: how many belong to white space before the value and to the
 * value (for the refusals: up to the byte at fault). A scan that is done or refused wants
 * rpc_scan_init().
 */
enum rpc_scan_result rpc_scan_feed(struct rpc_scan *scan, const char *bytes, size_t count,
				   size_t *used);

#endif
