/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * region: maps and unmaps big anonymous memory. Any thread.
 *
 * Huge pages of the reserved pool are mapped without MAP_NORESERVE: the kernel then sets aside at
 * mmap() every page that the mapping may need, so that mmap() fails where a later fault would have
 * ended in SIGBUS. The node is a preference (MPOL_PREFERRED), because that reservation does not
 * know nodes: bound strictly, a fault could still find its node's pool empty. Plain memory is
 * mapped with MAP_NORESERVE: a sparse disk may be larger than the machine's memory.
 *
 * Address space is never replaced in place (MAP_FIXED): what is taken out of a reservation is
 * unmapped and mapped again with MAP_FIXED_NOREPLACE, so that a mapping which another thread put
 * there in between is never lost.
 */
#include "lib/mem/region.h"

#include <errno.h>
#include <numa.h>
#include <numaif.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif

enum {
	HUGE_FLAGS = MAP_HUGETLB | (21 << MAP_HUGE_SHIFT), /* pages of 1 << 21 bytes */
	NODE_MASK_BITS = 1024,
};

static size_t round_up(size_t bytes, size_t unit)
{
	return (bytes + unit - 1) & ~(unit - 1);
}

static bool has_numa(void)
{
	static _Atomic int available = -2; /* racing first callers all find the same */
	int known = atomic_load(&available);
	if (known == -2) {
		known = numa_available();
		atomic_store(&available, known);
	}
	return known >= 0;
}

bool region_node_exists(int node)
{
	if (node == REGION_ANY_NODE)
		return true;
	if (!has_numa())
		return node == 0;
	return node >= 0 && node <= numa_max_node() &&
	       numa_bitmask_isbitset(numa_all_nodes_ptr, (unsigned)node);
}

int region_node_of_cpu(int cpu)
{
	int node = has_numa() ? numa_node_of_cpu(cpu) : 0;
	return node < 0 ? 0 : node;
}

int region_node_count(void)
{
	int count = has_numa() ? numa_num_configured_nodes() : 1;
	return count < 1 ? 1 : count;
}

static unsigned long read_count(const char *folder, const char *name)
{
	char path[128];
	snprintf(path, sizeof(path), "%s/hugepages/hugepages-2048kB/%s", folder, name);
	FILE *file = fopen(path, "re");
	unsigned long count = 0;
	if (!file)
		return 0;
	if (fscanf(file, "%lu", &count) != 1)
		count = 0;
	fclose(file);
	return count;
}

/* Whether the pool, and the node's part of it, has that much that nobody else has reserved. */
static bool huge_pages_free(size_t bytes, int node)
{
	size_t needed = bytes / REGION_HUGE_BYTES;
	unsigned long unused = read_count("/sys/kernel/mm", "free_hugepages");
	unsigned long reserved = read_count("/sys/kernel/mm", "resv_hugepages");
	if (unused < reserved || unused - reserved < needed)
		return false;
	if (node == REGION_ANY_NODE || !has_numa())
		return true;
	char folder[64];
	snprintf(folder, sizeof(folder), "/sys/devices/system/node/node%d", node);
	return read_count(folder, "free_hugepages") >= needed;
}

/* Where the kernel forbids it (a container), memory comes from any node: still good memory. */
static void prefer_node(void *base, size_t bytes, int node)
{
	unsigned long mask[NODE_MASK_BITS / (8 * sizeof(unsigned long))] = {0};
	const unsigned bits = 8 * sizeof(unsigned long);
	if (node == REGION_ANY_NODE || !has_numa() || node >= NODE_MASK_BITS)
		return;
	mask[(unsigned)node / bits] = 1UL << ((unsigned)node % bits);
	(void)mbind(base, bytes, MPOL_PREFERRED, mask, NODE_MASK_BITS, 0);
}

static void *map_at(void *hint, size_t bytes, int protection, int flags)
{
	void *base = mmap(hint, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	if (base == MAP_FAILED)
		return NULL;
	if (hint && base != hint) { /* a kernel that does not know MAP_FIXED_NOREPLACE */
		munmap(base, bytes);
		errno = EEXIST;
		return NULL;
	}
	return base;
}

/* Address space that holds nothing, aligned to a huge page. */
static void *reserve(size_t bytes)
{
	size_t spare = REGION_HUGE_BYTES;
	if (bytes + spare < bytes) {
		errno = ENOMEM;
		return NULL;
	}
	char *base = map_at(NULL, bytes + spare, PROT_NONE, MAP_NORESERVE);
	if (!base)
		return NULL;
	size_t before = round_up((uintptr_t)base, REGION_HUGE_BYTES) - (uintptr_t)base;
	if (before)
		munmap(base, before);
	if (spare - before)
		munmap(base + before + bytes, spare - before);
	return base + before;
}

/* Turns reserved address space into reserved huge pages. On failure that space is gone. */
static int commit_huge(char *base, size_t bytes, int node)
{
	munmap(base, bytes);
	if (!map_at(base, bytes, PROT_READ | PROT_WRITE, HUGE_FLAGS | MAP_FIXED_NOREPLACE))
		return -errno;
	prefer_node(base, bytes, node);
	return 0;
}

static int commit_plain(char *base, size_t bytes, int node)
{
	if (mprotect(base, bytes, PROT_READ | PROT_WRITE))
		return -errno;
	(void)madvise(base, bytes, MADV_HUGEPAGE); /* a kernel without them serves small pages */
	prefer_node(base, bytes, node);
	return 0;
}

static int map_huge(struct region *region, size_t bytes, size_t most, int node)
{
	size_t committed = round_up(bytes, REGION_HUGE_BYTES);
	if (most < committed)
		most = committed;
	if (!huge_pages_free(committed, node))
		return -ENOMEM;
	char *base = reserve(most);
	if (!base)
		return -errno;
	int error = commit_huge(base, committed, node);
	if (error) {
		if (most > committed)
			munmap(base + committed, most - committed);
		return error;
	}
	*region = (struct region){base, bytes, most, true, node};
	return 0;
}

static int map_plain(struct region *region, size_t bytes, size_t most, int node)
{
	size_t committed = round_up(bytes, REGION_PAGE_BYTES);
	char *base = reserve(most);
	if (!base && most > committed) { /* RLIMIT_AS, or little address space: then not growable */
		most = committed;
		base = reserve(most);
	}
	if (!base)
		return -errno;
	int error = commit_plain(base, committed, node);
	if (error) {
		munmap(base, most);
		return error;
	}
	*region = (struct region){base, bytes, most, false, node};
	return 0;
}

int region_map_growable(struct region *region, size_t bytes, size_t most, int node, bool hugetlb)
{
	const size_t limit = SIZE_MAX / 4;
	*region = (struct region){.node = REGION_ANY_NODE};
	if (bytes == 0 || !region_node_exists(node))
		return -EINVAL;
	if (bytes > limit)
		return -ENOMEM;
	if (most < bytes || most > limit)
		most = bytes;
	most = round_up(most, REGION_HUGE_BYTES);
	if (hugetlb && map_huge(region, bytes, most, node) == 0)
		return 0;
	return map_plain(region, bytes, most, node);
}

int region_map(struct region *region, size_t bytes, int node, bool hugetlb)
{
	return region_map_growable(region, bytes, bytes, node, hugetlb);
}

/*
 * Huge pages behind huge pages where the pool still has them, else plain ones. Losing the address
 * space to another thread's mmap() ends the region there: it can never grow again.
 */
static int grow_huge(struct region *region, size_t from, size_t to)
{
	char *base = (char *)region->base + from;
	if (!huge_pages_free(to - from, region->node))
		return commit_plain(base, to - from, region->node);
	if (commit_huge(base, to - from, region->node) == 0)
		return 0;
	if (map_at(base, to - from, PROT_NONE, MAP_NORESERVE | MAP_FIXED_NOREPLACE))
		return commit_plain(base, to - from, region->node);
	if (region->mapped > to)
		munmap((char *)region->base + to, region->mapped - to);
	region->mapped = from;
	return -ENOMEM;
}

int region_grow(struct region *region, size_t bytes)
{
	size_t unit = region->hugetlb ? REGION_HUGE_BYTES : REGION_PAGE_BYTES;
	if (bytes > region->mapped)
		return -EFBIG;
	size_t from = round_up(region->bytes, unit);
	size_t to = round_up(bytes, unit);
	int error = 0;
	if (to > from)
		error = region->hugetlb ? grow_huge(region, from, to)
					: commit_plain((char *)region->base + from, to - from,
						       region->node);
	if (!error && bytes > region->bytes)
		region->bytes = bytes;
	return error;
}

void region_unmap(struct region *region)
{
	if (region->base)
		munmap(region->base, region->mapped);
	*region = (struct region){.node = REGION_ANY_NODE};
}

const void *region_zeros(void)
{
	static void
		*_Atomic zeros; /* two first callers at once: the later one's is unmapped again */
	void *mine, *found = atomic_load(&zeros);
	if (found)
		return found;
	mine = map_at(NULL, REGION_ZEROS_BYTES, PROT_READ, 0);
	if (!mine || atomic_compare_exchange_strong(&zeros, &found, mine))
		return mine;
	munmap(mine, REGION_ZEROS_BYTES);
	return found;
}
