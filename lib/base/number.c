/* SPDX-License-Identifier: BSD-3-Clause */
/* number: decimal digits and nothing else: strtoull alone takes signs, blanks and other bases. */
#include "lib/base/number.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

static bool take(const char **text, uint64_t *number)
{
	char *end;
	if (!isdigit((unsigned char)**text))
		return false;
	*number = strtoull(*text, &end, 10);
	*text = end;
	return true;
}

int number_parse(const char *text, uint64_t low, uint64_t high, uint64_t *number)
{
	uint64_t value;
	errno = 0;
	if (!take(&text, &value) || *text)
		return -EINVAL;
	if (errno || value < low || value > high)
		return -ERANGE;
	*number = value;
	return 0;
}

int number_range_parse(const char **text, uint64_t *first, uint64_t *last)
{
	if (!take(text, first))
		return -EINVAL;
	*last = *first;
	if (**text != '-')
		return 0;
	(*text)++;
	return take(text, last) && *last >= *first ? 0 : -EINVAL;
}
