/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * count: a preloaded library that counts what the request path must not do, or not often:
 * allocations, lock calls and copied bytes of the whole process. The sums lie in the file that
 * POLLUX_COUNT names, five 64-bit numbers in host order: allocations, frees, mutex locks, condition
 * and semaphore waits, bytes of memcpy() and memmove() (of those calls that the compiler has not
 * replaced: what it replaces is small). The test reads them before and after a run of requests.
 *
 * The real functions are called by their glibc names or found once by dlsym(); nothing here
 * allocates.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALLOCATIONS, FREES, LOCKS, WAITS, COPIED, COUNTERS };

static _Atomic uint64_t before_open[COUNTERS];
static _Atomic uint64_t *counters = before_open;

static int (*real_lock)(pthread_mutex_t *mutex);
static int (*real_wait)(pthread_cond_t *cond, pthread_mutex_t *mutex);
static int (*real_sem_wait)(sem_t *sem);

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);
extern void __libc_free(void *memory);

static void count(int what)
{
	atomic_fetch_add_explicit(&counters[what], 1, memory_order_relaxed);
}

void *memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
	void *at = to;
	atomic_fetch_add_explicit(&counters[COPIED], bytes, memory_order_relaxed);
	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(bytes) : : "memory");
	return to;
}

void *memmove(void *to, const void *from, size_t bytes)
{
	uint8_t *last = (uint8_t *)to + bytes - 1;
	const uint8_t *at = (const uint8_t *)from + bytes - 1;
	if ((uintptr_t)to - (uintptr_t)from >= bytes)
		return memcpy(to, from, bytes);
	atomic_fetch_add_explicit(&counters[COPIED], bytes, memory_order_relaxed);
	__asm__ volatile("std; rep movsb; cld" : "+D"(last), "+S"(at), "+c"(bytes) : : "memory");
	return to;
}

__attribute__((constructor)) static void count_open(void)
{
	const char *path = getenv("POLLUX_COUNT");
	real_lock = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_lock");
	real_wait =
		(int (*)(pthread_cond_t *, pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_cond_wait");
	real_sem_wait = (int (*)(sem_t *))dlsym(RTLD_NEXT, "sem_wait");
	if (!path)
		return;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	void *map = mmap(NULL, sizeof(before_open), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (map != MAP_FAILED)
		counters = map;
}

void *malloc(size_t bytes)
{
	count(ALLOCATIONS);
	return __libc_malloc(bytes);
}

void *calloc(size_t number, size_t bytes)
{
	count(ALLOCATIONS);
	return __libc_calloc(number, bytes);
}

void *realloc(void *old, size_t bytes)
{
	count(ALLOCATIONS);
	return __libc_realloc(old, bytes);
}

void *memalign(size_t alignment, size_t bytes)
{
	count(ALLOCATIONS);
	return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
	count(ALLOCATIONS);
	return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **memory, size_t alignment, size_t bytes)
{
	count(ALLOCATIONS);
	*memory = __libc_memalign(alignment, bytes);
	return *memory ? 0 : 12;
}

void free(void *memory)
{
	if (memory)
		count(FREES);
	__libc_free(memory);
}

int pthread_mutex_lock(pthread_mutex_t *mutex)
{
	count(LOCKS);
	return real_lock ? real_lock(mutex) : 0;
}

int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
	count(WAITS);
	return real_wait(cond, mutex);
}

int sem_wait(sem_t *sem)
{
	count(WAITS);
	return real_sem_wait(sem);
}
