/* SPDX-License-Identifier: BSD-3-Clause */
/* why: the sentence that goes with an error, for who asked to read. Pure; any thread. */
#ifndef POLLUX_LIB_BASE_WHY_H
#define POLLUX_LIB_BASE_WHY_H

#include <stddef.h>

/*
 * Writes the sentence to `why`, cut to its size (at least 1), and returns `error` (-errno), so that
 * a function can refuse in one statement: return why_refuse(why, why_bytes, -EINVAL, "...");
 */
int why_refuse(char *why, size_t why_bytes, int error, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

#endif
