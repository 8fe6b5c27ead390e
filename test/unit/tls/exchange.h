/* SPDX-License-Identifier: BSD-3-Clause */
/* exchange: random data through a pair, in pieces and buffers of random sizes. One thread. */
#ifndef POLLUX_TEST_TLS_EXCHANGE_H
#define POLLUX_TEST_TLS_EXCHANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "test/unit/tls/pair.h"

/* The same numbers in every run. */
uint32_t random_below(uint32_t limit);
void fill_random(uint8_t *bytes, size_t count);
/* Both ways at once, `total` bytes each, buffers and cuts of any size, or all tiny. */
void exchange(struct pair *pair, size_t total, bool tiny);

#endif
