/* SPDX-License-Identifier: BSD-3-Clause */
/* why: an error and its sentence, told in one statement. */
#include "lib/base/why.h"

#include <stdarg.h>
#include <stdio.h>

int why_refuse(char *why, size_t why_bytes, int error, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(why, why_bytes, format, args);
	va_end(args);
	return error;
}
