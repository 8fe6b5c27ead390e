/* SPDX-License-Identifier: BSD-3-Clause */
/* internal: what world.c and client.c share. */
#ifndef POLLUX_TEST_FUZZ_INTERNAL_H
#define POLLUX_TEST_FUZZ_INTERNAL_H

#include "app/pollux/nbd/access.h"
#include "bdev/bdev.h"
#include "test/fuzz/connection/world.h"

extern struct access *world_access[WORLD_TLS_RULES];

void must_be(bool good, const char *what);
#define must(condition) must_be(condition, #condition)

void clients_start(void);
/* Each one that reads takes some of what there is. False: nothing was there. */
bool clients_receive(void);

#endif
