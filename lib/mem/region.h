/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * region: big anonymous memory, on huge pages where there are any, on a NUMA node where one is asked
 * for. Any thread; may block for long (page clearing): not on a reactor's request path.
 * Source: mmap(2) MAP_HUGETLB, madvise(2), mbind(2) through libnuma.
 */
#ifndef POLLUX_LIB_MEM_REGION_H
#define POLLUX_LIB_MEM_REGION_H

#include <stdbool.h>
#include <stddef.h>

enum { REGION_ANY_NODE = -1, REGION_PAGE_BYTES = 4096, REGION_HUGE_BYTES = 2 << 20 };

struct region {
	void *base;    /* aligned to REGION_HUGE_BYTES */
	size_t bytes;  /* what may be used */
	size_t mapped; /* what was mapped, from `base` on */
	bool hugetlb;  /* explicit huge pages: given back only in units of REGION_HUGE_BYTES */
	int node;      /* REGION_ANY_NODE, or where the pages go */
};

/*
 * Maps zeroed memory that is taken page by page on first touch. hugetlb: try reserved huge pages
 * first (only if enough are free), else transparent ones. Returns 0 or -errno (-ENOMEM, -EINVAL for a
 * node that does not exist).
 */
int region_map(struct region *region, size_t bytes, int node, bool hugetlb);
void region_unmap(struct region *region);

/* The node of a CPU, 0 where the machine has no NUMA. */
int region_node_of_cpu(int cpu);
int region_node_count(void);

#endif
