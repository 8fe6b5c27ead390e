/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * region: big anonymous memory, on huge pages where there are any, on a NUMA node where one is
 * asked for. Any thread; may block for long (page clearing): not on a reactor's request path.
 * Source: mmap(2) MAP_HUGETLB, madvise(2), mbind(2) through libnuma.
 */
#ifndef POLLUX_LIB_MEM_REGION_H
#define POLLUX_LIB_MEM_REGION_H

#include <stdbool.h>
#include <stddef.h>

enum {
	REGION_ANY_NODE = -1,
	REGION_PAGE_BYTES = 4096,
	REGION_HUGE_BYTES = 2 << 20,
	REGION_ZEROS_BYTES = 1 << 20
};

struct region {
	void *base;    /* aligned to REGION_HUGE_BYTES */
	size_t bytes;  /* what may be used */
	size_t mapped; /* from `base` on, with address space kept for region_grow() */
	bool hugetlb;  /* explicit huge pages, all of them reserved: giving one back helps nobody */
	int node;      /* REGION_ANY_NODE, or where the pages go by preference */
};

/*
 * Maps zeroed memory that is taken page by page on first touch. hugetlb: try reserved huge pages
 * first (only if enough are free), else transparent ones. Returns 0 or -errno (-ENOMEM, -EINVAL for
 * a node that does not exist or for 0 bytes).
 */
int region_map(struct region *region, size_t bytes, int node, bool hugetlb);
/* The same, with address space for region_grow() behind it: up to `most` bytes in all. */
int region_map_growable(struct region *region, size_t bytes, size_t most, int node, bool hugetlb);
/*
 * Makes more of a region usable, in place; what is there stays as it is and may be in use
 * meanwhile. -EFBIG: no address space is left behind it. -ENOMEM.
 */
int region_grow(struct region *region, size_t bytes);
void region_unmap(struct region *region);

/* Zeros that nobody can write to: REGION_ZEROS_BYTES of them, in one page of memory. NULL: none
 * left. */
const void *region_zeros(void);

/* True for REGION_ANY_NODE and for a node that this machine has. */
bool region_node_exists(int node);
/* The node of a CPU, 0 where the machine has no NUMA. */
int region_node_of_cpu(int cpu);
int region_node_count(void);

#endif
