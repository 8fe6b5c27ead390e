/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * session: what a client sends in one NBD session, made from a seed: valid from the greeting to
 * DISC, in any of the three modes, with options and commands of all kinds; and ways to spoil it.
 */
#ifndef POLLUX_TEST_HOSTILE_SESSION_H
#define POLLUX_TEST_HOSTILE_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SESSION_FIELDS_MOST = 512 };

struct session {
	uint8_t *bytes;
	size_t count, room;
	/* where a length or a number stands, for tampering: its width in bytes is in the low bits
	 */
	struct {
		size_t at;
		unsigned width;
	} fields[SESSION_FIELDS_MOST];
	unsigned field_count;
	unsigned requests; /* that are answered, each by 16 bytes or more */
	bool heavy;	   /* large READs and WRITEs */
	unsigned mode;	   /* 0 simple, 1 structured, 2 extended */
};

uint32_t random_below(uint64_t *state, uint32_t limit);

/* tls: begins behind STARTTLS. size_bytes: of the export. */
void session_make(struct session *session, uint64_t *random, const char *export,
		  uint64_t size_bytes, bool tls, bool heavy);
/* One to four changes anywhere. */
void session_mutate(struct session *session, uint64_t *random);
/* One change of some bytes in place of a whole session's. */
void mutate_bytes(uint8_t *bytes, size_t count, uint64_t *random);
void session_free(struct session *session);

#endif
