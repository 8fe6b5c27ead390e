/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * buffers: a core's I/O buffers, page-aligned powers of two from 4 KiB to 1 MiB, cut from one
 * region (a buddy allocator with quick lists). One owner core; no lock. A free buffer is poisoned
 * under ASan. Memory never grows: an empty pool answers NULL, and the caller waits for a release.
 */
#ifndef POLLUX_LIB_MEM_BUFFERS_H
#define POLLUX_LIB_MEM_BUFFERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/mem/region.h"

enum {
	BUFFER_MIN_BYTES = 4096,
	BUFFER_MAX_BYTES = 1 << 20,
	BUFFER_ORDERS = 9, /* 4 KiB << 0 … 4 KiB << 8 */
};

struct buffers {
	struct region region;
	uint8_t *orders; /* per 4 KiB page: order and state of the block that starts there */
	struct buffer_links *links; /* per 4 KiB page: neighbours in the free list */
	uint32_t heads[BUFFER_ORDERS];
	uint32_t quick[BUFFER_ORDERS]; /* freed blocks not yet merged, singly linked */
	uint16_t quick_counts[BUFFER_ORDERS];
	size_t free_bytes;
	size_t total_bytes;
};

/* bytes: rounded up to whole BUFFER_MAX_BYTES. Returns 0 or -errno. */
int buffers_init(struct buffers *buffers, size_t bytes, int node);
void buffers_fini(struct buffers *buffers);

/* At least `bytes` (1 … BUFFER_MAX_BYTES), page aligned, content undefined. NULL: none left. */
void *buffers_get(struct buffers *buffers, size_t bytes);
void buffers_put(struct buffers *buffers, void *buffer);

/* True for a pointer into this pool's region. */
static inline bool buffers_own(const struct buffers *buffers, const void *pointer)
{
	return (uintptr_t)pointer - (uintptr_t)buffers->region.base < buffers->total_bytes;
}

#endif
