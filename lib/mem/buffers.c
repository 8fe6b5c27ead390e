/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * buffers: a core's I/O buffers. Called by the owner core only; takes no lock, and its metadata
 * lies outside the buffers, so that a buffer nobody has used yet costs no memory.
 *
 * A block that comes back goes on the quick list of its size, as it is, and the next request of
 * that size takes it: the usual case is a push and a pop. Blocks are merged with their buddies only
 * when a size has run out and the other way would be to split a block of BUFFER_MAX_BYTES, which is
 * likely to be memory never touched. Fresh memory is taken from the lowest address on.
 */
#include "lib/mem/buffers.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "lib/base/compiler.h"

#if defined(__SANITIZE_ADDRESS__)
#define HAVE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAVE_ASAN 1
#endif
#endif
#ifdef HAVE_ASAN
#include <sanitizer/asan_interface.h>
#define poison(pointer, bytes)	 __asan_poison_memory_region(pointer, bytes)
#define unpoison(pointer, bytes) __asan_unpoison_memory_region(pointer, bytes)
#else
#define poison(pointer, bytes)	 ((void)(pointer), (void)(bytes))
#define unpoison(pointer, bytes) ((void)(pointer), (void)(bytes))
#endif

enum {
	PAGE_SHIFT = 12,
	MAX_ORDER = BUFFER_ORDERS - 1,
	/* a block's byte in `orders`: its order and one of the states; 0 inside a block */
	STATE_USED = 0x10,
	STATE_FREE = 0x20,  /* on its order's buddy list */
	STATE_QUICK = 0x40, /* on its order's quick list */
	ORDER_MASK = 0x0f,
	QUICK_MOST = 4096, /* blocks of one order that may wait unmerged */
};

#define NO_PAGE UINT32_MAX

struct buffer_links {
	uint32_t next, prev; /* prev: buddy lists only */
};

static size_t order_bytes(unsigned order)
{
	return (size_t)BUFFER_MIN_BYTES << order;
}

static unsigned order_of(size_t bytes)
{
	return 32 - PAGE_SHIFT -
	       (unsigned)__builtin_clz((uint32_t)(bytes - 1) | (BUFFER_MIN_BYTES - 1));
}

static void *page_address(const struct buffers *buffers, uint32_t page)
{
	return (char *)buffers->region.base + ((size_t)page << PAGE_SHIFT);
}

static void list_push(struct buffers *buffers, uint32_t page, unsigned order)
{
	uint32_t head = buffers->heads[order];
	buffers->links[page] = (struct buffer_links){.next = head, .prev = NO_PAGE};
	if (head != NO_PAGE)
		buffers->links[head].prev = page;
	buffers->heads[order] = page;
	buffers->orders[page] = (uint8_t)(STATE_FREE | order);
}

static void list_remove(struct buffers *buffers, uint32_t page, unsigned order)
{
	const struct buffer_links *links = &buffers->links[page];
	if (links->prev != NO_PAGE)
		buffers->links[links->prev].next = links->next;
	else
		buffers->heads[order] = links->next;
	if (links->next != NO_PAGE)
		buffers->links[links->next].prev = links->prev;
	buffers->orders[page] = 0;
}

/* Gives a block to the buddy lists, merged as far as its buddies are free. */
static void merge(struct buffers *buffers, uint32_t page, unsigned order)
{
	buffers->orders[page] = 0;
	while (order < MAX_ORDER) {
		uint32_t buddy = page ^ (1u << order);
		if (buffers->orders[buddy] != (STATE_FREE | order))
			break;
		list_remove(buffers, buddy, order);
		page &= ~(1u << order);
		order++;
	}
	list_push(buffers, page, order);
}

static void merge_quick_lists(struct buffers *buffers)
{
	for (unsigned order = 0; order < BUFFER_ORDERS; order++) {
		uint32_t page = buffers->quick[order];
		buffers->quick[order] = NO_PAGE;
		buffers->quick_counts[order] = 0;
		while (page != NO_PAGE) {
			uint32_t next = buffers->links[page].next;
			merge(buffers, page, order);
			page = next;
		}
	}
}

static bool have_quick(const struct buffers *buffers)
{
	unsigned count = 0;
	for (unsigned order = 0; order < BUFFER_ORDERS; order++)
		count += buffers->quick_counts[order];
	return count > 0;
}

static unsigned smallest_free(const struct buffers *buffers, unsigned order)
{
	while (order < BUFFER_ORDERS && buffers->heads[order] == NO_PAGE)
		order++;
	return order;
}

/* Takes a block of `order` from the buddy lists, splitting a larger one; its upper halves stay
 * free. */
static never_inline void *split(struct buffers *buffers, unsigned order)
{
	unsigned from = smallest_free(buffers, order);
	if (from >= MAX_ORDER && have_quick(buffers)) {
		merge_quick_lists(buffers);
		from = smallest_free(buffers, order);
	}
	if (from > MAX_ORDER)
		return NULL;
	uint32_t page = buffers->heads[from];
	list_remove(buffers, page, from);
	while (from > order) {
		from--;
		list_push(buffers, page + (1u << from), from);
	}
	buffers->orders[page] = (uint8_t)(STATE_USED | order);
	buffers->free_bytes -= order_bytes(order);
	return page_address(buffers, page);
}

void *buffers_get(struct buffers *buffers, size_t bytes)
{
	assert(bytes > 0 && bytes <= BUFFER_MAX_BYTES);
	unsigned order = order_of(bytes);
	uint32_t page = buffers->quick[order];
	void *buffer;
	if (likely(page != NO_PAGE)) {
		buffers->quick[order] = buffers->links[page].next;
		buffers->quick_counts[order]--;
		buffers->orders[page] = (uint8_t)(STATE_USED | order);
		buffers->free_bytes -= order_bytes(order);
		buffer = page_address(buffers, page);
	} else {
		buffer = split(buffers, order);
		if (!buffer)
			return NULL;
	}
	unpoison(buffer, order_bytes(order));
	return buffer;
}

void buffers_put(struct buffers *buffers, void *buffer)
{
	size_t at = (size_t)((char *)buffer - (char *)buffers->region.base);
	uint32_t page = (uint32_t)(at >> PAGE_SHIFT);
	assert(buffers_own(buffers, buffer) && at % BUFFER_MIN_BYTES == 0);
	/* a second put, or a pointer into the middle of a buffer */
	assert((buffers->orders[page] & STATE_USED) != 0);
	unsigned order = buffers->orders[page] & ORDER_MASK;
	poison(buffer, order_bytes(order));
	buffers->free_bytes += order_bytes(order);
	if (unlikely(buffers->quick_counts[order] >= QUICK_MOST)) {
		merge(buffers, page, order);
		return;
	}
	buffers->orders[page] = (uint8_t)(STATE_QUICK | order);
	buffers->links[page].next = buffers->quick[order];
	buffers->quick[order] = page;
	buffers->quick_counts[order]++;
}

int buffers_init(struct buffers *buffers, size_t bytes, int node)
{
	const size_t most = (size_t)NO_PAGE << PAGE_SHIFT;
	*buffers = (struct buffers){0};
	if (bytes == 0 || bytes > most - BUFFER_MAX_BYTES)
		return -EINVAL;
	bytes = (bytes + BUFFER_MAX_BYTES - 1) & ~((size_t)BUFFER_MAX_BYTES - 1);
	int error = region_map(&buffers->region, bytes, node, true);
	if (error)
		return error;
	size_t pages = bytes >> PAGE_SHIFT;
	buffers->orders = calloc(pages, sizeof(*buffers->orders));
	buffers->links = calloc(pages, sizeof(*buffers->links));
	if (!buffers->orders || !buffers->links) {
		buffers_fini(buffers);
		return -ENOMEM;
	}
	buffers->total_bytes = bytes;
	buffers->free_bytes = bytes;
	for (unsigned order = 0; order < BUFFER_ORDERS; order++)
		buffers->heads[order] = buffers->quick[order] = NO_PAGE;
	for (size_t page = pages; page > 0; page -= 1u << MAX_ORDER) /* the lowest comes first */
		list_push(buffers, (uint32_t)page - (1u << MAX_ORDER), MAX_ORDER);
	poison(buffers->region.base, bytes);
	return 0;
}

void buffers_fini(struct buffers *buffers)
{
	if (buffers->total_bytes)
		unpoison(buffers->region.base, buffers->total_bytes);
	region_unmap(&buffers->region);
	free(buffers->orders);
	free(buffers->links);
	*buffers = (struct buffers){0};
}
