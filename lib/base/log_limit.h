/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log_limit: so many lines a second of one kind, the rest is counted. For what others can cause
 * without end: clients that fail at TLS, a device that fails. Owned by one thread; pure, the clock is
 * the caller's.
 */
#ifndef POLLUX_LIB_BASE_LOG_LIMIT_H
#define POLLUX_LIB_BASE_LOG_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

enum { LOG_LIMIT_LINES_A_SECOND = 10 };

/* Zeroed: nothing was logged. */
struct log_limit {
	uint64_t second;
	unsigned lines;	   /* that were asked for in it */
	unsigned left_out; /* of those */
};

/*
 * True: the line may be logged. *left_out: how many were not, in the last second in which any was
 * asked for; to be told of before the line. `second` is any clock's that does not go back.
 */
static inline bool log_limit_take(struct log_limit *limit, uint64_t second, unsigned *left_out)
{
	*left_out = 0;
	if (second != limit->second) {
		*left_out = limit->left_out;
		*limit = (struct log_limit){.second = second};
	}
	if (limit->lines < LOG_LIMIT_LINES_A_SECOND) {
		limit->lines++;
		return true;
	}
	limit->left_out++;
	return false;
}

#endif
