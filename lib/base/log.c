/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log: formats a message into one buffer and writes it with one write(2), so that lines of
 * different threads do not mix.
 */
#include "lib/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

enum log_level log_level_now = LOG_NOTICE;

static const char *const level_names[] = {"ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"};

void log_set_level(enum log_level level)
{
	log_level_now = level;
}

int log_level_parse(const char *text, enum log_level *level)
{
	if (!strcasecmp(text, "DISABLED")) {
		*level = LOG_DISABLED;
		return 0;
	}
	for (int i = LOG_ERROR; i <= LOG_DEBUG; i++) {
		if (!strcasecmp(text, level_names[i])) {
			*level = i;
			return 0;
		}
	}
	return -EINVAL;
}

const char *log_level_name(enum log_level level)
{
	return level == LOG_DISABLED ? "DISABLED" : level_names[level];
}

void log_write(enum log_level level, const char *component, const char *format, ...)
{
	int saved = errno;
	char line[1024];
	struct timespec now;
	struct tm tm;
	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &tm);
	int n = snprintf(line, sizeof(line), "[%04d-%02d-%02d %02d:%02d:%02d.%06ld] %s: %s: ",
			 tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
			 tm.tm_sec, now.tv_nsec / 1000, log_level_name(level), component);
	va_list args;
	va_start(args, format);
	int m = vsnprintf(line + n, sizeof(line) - n - 1, format, args);
	va_end(args);
	n += m < (int)sizeof(line) - n - 1 ? m : (int)sizeof(line) - n - 2;
	line[n++] = '\n';
	ssize_t ignored = write(STDERR_FILENO, line, n);
	(void)ignored;
	errno = saved;
}
