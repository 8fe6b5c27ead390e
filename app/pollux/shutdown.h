/* SPDX-License-Identifier: BSD-3-Clause */
/* shutdown: the orderly end. Control thread. */
#ifndef POLLUX_APP_SHUTDOWN_H
#define POLLUX_APP_SHUTDOWN_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Stops accepting, lets what is in flight end, flushes, closes everything, then stops the control
 * loop. Clients that do not take their replies are cut off after kick_after_ms. Once; later calls
 * do nothing.
 */
void shutdown_begin(uint32_t kick_after_ms);
/* It has been called: nothing new is to be begun. */
bool shutdown_has_begun(void);

#endif
