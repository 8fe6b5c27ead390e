/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log: one line a message on standard error, with level and component.
 * May be called from any thread, but never on the request path (STYLE: no log line there).
 */
#ifndef POLLUX_LIB_BASE_LOG_H
#define POLLUX_LIB_BASE_LOG_H

#include <stdbool.h>

/* The levels and their names are SPDK's (log_set_level). */
enum log_level {
	LOG_DISABLED = -1,
	LOG_ERROR,
	LOG_WARNING,
	LOG_NOTICE,
	LOG_INFO,
	LOG_DEBUG,
};

extern enum log_level log_level_now;

void log_set_level(enum log_level level);

/* "ERROR", "warning", …; returns 0 or -EINVAL. */
int log_level_parse(const char *text, enum log_level *level);
const char *log_level_name(enum log_level level);

void log_write(enum log_level level, const char *component, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#define log_at(level, component, ...)                                                              \
	do {                                                                                       \
		if ((level) <= log_level_now)                                                      \
			log_write(level, component, __VA_ARGS__);                                  \
	} while (0)

#define log_error(component, ...)   log_at(LOG_ERROR, component, __VA_ARGS__)
#define log_warning(component, ...) log_at(LOG_WARNING, component, __VA_ARGS__)
#define log_notice(component, ...)  log_at(LOG_NOTICE, component, __VA_ARGS__)
#define log_info(component, ...)    log_at(LOG_INFO, component, __VA_ARGS__)
#define log_debug(component, ...)   log_at(LOG_DEBUG, component, __VA_ARGS__)

#endif
