/* SPDX-License-Identifier: BSD-3-Clause */
/* size: byte counts as people write them: 512, 4K, 1M, 2G, 1T (powers of 1024). Pure. */
#ifndef POLLUX_LIB_BASE_SIZE_H
#define POLLUX_LIB_BASE_SIZE_H

#include <stddef.h>
#include <stdint.h>

/* Parses the whole text. Returns 0, -EINVAL (not a size), -ERANGE (does not fit 63 bits). */
int size_parse(const char *text, uint64_t *bytes);

/* "4K", "1536", "1G": the shortest exact form. Returns `text`. */
char *size_format(uint64_t bytes, char *text, size_t text_bytes);

#endif
