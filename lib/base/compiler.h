/* SPDX-License-Identifier: BSD-3-Clause */
/* compiler: the few attributes and helpers every module uses. Pure. */
#ifndef POLLUX_LIB_BASE_COMPILER_H
#define POLLUX_LIB_BASE_COMPILER_H

#include <stddef.h>

#define likely(x)	 __builtin_expect(!!(x), 1)
#define unlikely(x)	 __builtin_expect(!!(x), 0)
#define never_inline	 __attribute__((noinline))
#define CACHE_LINE_BYTES 64
#define cache_aligned	 __attribute__((aligned(CACHE_LINE_BYTES)))
#define COUNT_OF(array)	 (sizeof(array) / sizeof((array)[0]))
#define MIN_OF(a, b)                                                                               \
	({                                                                                         \
		__typeof__(a) min_a_ = (a);                                                        \
		__typeof__(b) min_b_ = (b);                                                        \
		min_a_ < min_b_ ? min_a_ : min_b_;                                                 \
	})
#define MAX_OF(a, b)                                                                               \
	({                                                                                         \
		__typeof__(a) max_a_ = (a);                                                        \
		__typeof__(b) max_b_ = (b);                                                        \
		max_a_ > max_b_ ? max_a_ : max_b_;                                                 \
	})
/* The struct of type `type` whose member `member` stands at `pointer`. */
#ifndef container_of
#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))
#endif

#endif
