/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * be: big-endian integers as types of their own, so that a wire field cannot be used unconverted.
 * No alignment is assumed. Pure; any thread.
 */
#ifndef POLLUX_LIB_BASE_BE_H
#define POLLUX_LIB_BASE_BE_H

#include <endian.h>
#include <stdint.h>

typedef struct __attribute__((packed)) {
	uint16_t raw;
} be16;
typedef struct __attribute__((packed)) {
	uint32_t raw;
} be32;
typedef struct __attribute__((packed)) {
	uint64_t raw;
} be64;

static inline uint16_t be16_get(be16 value)
{
	return be16toh(value.raw);
}

static inline uint32_t be32_get(be32 value)
{
	return be32toh(value.raw);
}

static inline uint64_t be64_get(be64 value)
{
	return be64toh(value.raw);
}

static inline be16 be16_of(uint16_t value)
{
	return (be16){htobe16(value)};
}

static inline be32 be32_of(uint32_t value)
{
	return (be32){htobe32(value)};
}

static inline be64 be64_of(uint64_t value)
{
	return (be64){htobe64(value)};
}

#endif
