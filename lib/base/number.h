/* SPDX-License-Identifier: BSD-3-Clause */
/* number: whole numbers as people write them in options, decimal and without a sign. Pure. */
#ifndef POLLUX_LIB_BASE_NUMBER_H
#define POLLUX_LIB_BASE_NUMBER_H

#include <stdint.h>

/* Parses the whole text. Returns 0, -EINVAL (no number), -ERANGE (not from `low` to `high`). */
int number_parse(const char *text, uint64_t low, uint64_t high, uint64_t *number);

/*
 * "3" or "0-3" at the beginning of `*text`, which it moves behind it. A number of more than 64 bits
 * counts as UINT64_MAX. Returns 0 or -EINVAL: no number, or a range that ends before it begins.
 */
int number_range_parse(const char **text, uint64_t *first, uint64_t *last);

#endif
