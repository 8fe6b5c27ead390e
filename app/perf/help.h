/* SPDX-License-Identifier: BSD-3-Clause */
/* help: what pollux-perf --help prints, and nothing else. */
#ifndef POLLUX_APP_PERF_HELP_H
#define POLLUX_APP_PERF_HELP_H

extern const char perf_help[];

#endif
