/* SPDX-License-Identifier: BSD-3-Clause */
/* size: parsing and printing of byte counts with binary suffixes. Pure. */
#include "lib/base/size.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char suffixes[] = "KMGT";

int size_parse(const char *text, uint64_t *bytes)
{
	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	char *end;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (errno || value > (unsigned long long)INT64_MAX)
		return -ERANGE;
	if (*end) {
		const char *at = strchr(suffixes, toupper((unsigned char)*end));
		if (!at || end[1])
			return -EINVAL;
		unsigned shift = 10 * (unsigned)(at - suffixes + 1);
		if (value > (uint64_t)INT64_MAX >> shift)
			return -ERANGE;
		value <<= shift;
	}
	*bytes = value;
	return 0;
}

char *size_format(uint64_t bytes, char *text, size_t text_bytes)
{
	int unit = -1;
	while (bytes && bytes % 1024 == 0 && unit < 3) {
		bytes /= 1024;
		unit++;
	}
	if (unit < 0)
		snprintf(text, text_bytes, "%" PRIu64, bytes);
	else
		snprintf(text, text_bytes, "%" PRIu64 "%c", bytes, suffixes[unit]);
	return text;
}
