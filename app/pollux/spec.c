/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * spec: parsing of [NAME=]SPEC. A bare path is literal; in file: the options follow the first '?',
 * and %3F and %25 stand for '?' and '%'. Pure, but for a look at whether a bare path is there.
 */
#include "app/pollux/spec.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/size.h"
#include "lib/base/why.h"

static int parse_size(struct spec *spec, const char *size, char *why, size_t why_bytes)
{
	int error = size_parse(size, &spec->size_bytes);
	if (error == -ERANGE)
		return why_refuse(why, why_bytes, -EINVAL, "'%s': the size %s is too big",
				  spec->text, size);
	if (error)
		return why_refuse(why, why_bytes, -EINVAL,
				  "'%s': '%s' is no size: a number of bytes, or with K, M, G or T",
				  spec->text, size);
	if (!spec->size_bytes)
		return why_refuse(why, why_bytes, -EINVAL, "'%s': the size is 0", spec->text);
	return 0;
}

static int parse_switch(const struct spec *spec, const char *key, const char *value, bool *on,
			char *why, size_t why_bytes)
{
	*on = !strcmp(value, "on");
	if (!*on && strcmp(value, "off"))
		return why_refuse(why, why_bytes, -EINVAL, "'%s': %s is on%s or off, not '%s'",
				  spec->text, key, !strcmp(key, "direct") ? ", auto" : "", value);
	return 0;
}

static int parse_option(struct spec *spec, char *option, char *why, size_t why_bytes)
{
	char *value = strchr(option, '=');
	bool on;
	if (value)
		*value++ = 0;
	if (!value || !*option)
		return why_refuse(why, why_bytes, -EINVAL, "'%s': '%s' is no KEY=VALUE", spec->text,
				  option);
	if (!strcmp(option, "read-only"))
		return parse_switch(spec, option, value, &spec->read_only, why, why_bytes);
	if (strcmp(option, "direct"))
		return why_refuse(
			why, why_bytes, -EINVAL,
			"'%s': there is no option '%s': direct=on|off|auto, read-only=on|off",
			spec->text, option);
	if (!strcmp(value, "auto")) {
		spec->direct = BDEV_FILE_DIRECT_AUTO;
		return 0;
	}
	int error = parse_switch(spec, option, value, &on, why, why_bytes);
	spec->direct = on ? BDEV_FILE_DIRECT_ON : BDEV_FILE_DIRECT_OFF;
	return error;
}

static void unescape(char *text)
{
	char *to = text;
	for (; *text; text++) {
		if (!strncasecmp(text, "%3f", 3) || !strncmp(text, "%25", 3)) {
			*to++ = text[1] == '3' ? '?' : '%';
			text += 2;
		} else {
			*to++ = *text;
		}
	}
	*to = 0;
}

static int parse_file(struct spec *spec, const char *rest, char *why, size_t why_bytes)
{
	spec->kind = SPEC_FILE;
	spec->path = strdup(rest);
	char *options = strchr(spec->path, '?');
	if (options) {
		*options++ = 0;
		char *option;
		while ((option = strsep(&options, "&"))) {
			int error = parse_option(spec, option, why, why_bytes);
			if (error)
				return error;
		}
	}
	unescape(spec->path);
	if (!spec->path[0])
		return why_refuse(why, why_bytes, -EINVAL, "'%s': there is no path", spec->text);
	return 0;
}

/* ADDRESS, or ADDRESS/nN; a path is one namespace's, and taken as it is. */
static int parse_nvme(struct spec *spec, const char *rest, char *why, size_t why_bytes)
{
	spec->kind = SPEC_NVME;
	spec->path = strdup(rest);
	char *name = spec->path[0] == '/' ? NULL : strchr(spec->path, '/');
	int end = 0;
	if (name) {
		*name++ = 0;
		/* sscanf would take blanks and signs as well */
		if (!isdigit((unsigned char)(name[0] ? name[1] : 0)) ||
		    sscanf(name, "n%9" SCNu32 "%n", &spec->nsid, &end) != 1 || name[end] ||
		    !spec->nsid)
			return why_refuse(why, why_bytes, -EINVAL,
					  "'%s': '%s' is no namespace: n1, n2, ...", spec->text,
					  name);
	}
	if (!spec->path[0])
		return why_refuse(why, why_bytes, -EINVAL, "'%s': there is no address", spec->text);
	return 0;
}

int spec_parse(const char *text, struct spec *spec, char *why, size_t why_bytes)
{
	memset(spec, 0, sizeof(*spec));
	spec->text = text;
	/* NAME= counts only if the first '=' comes before any of these */
	size_t plain = strcspn(text, "=/:?");
	const char *rest = text;
	if (text[plain] == '=') {
		spec->name = strndup(text, plain);
		rest = text + plain + 1;
	} else {
		spec->name = strdup("");
	}
	if (!strncmp(rest, "malloc:", 7)) {
		spec->kind = SPEC_MALLOC;
		return parse_size(spec, rest + 7, why, why_bytes);
	}
	if (!strncmp(rest, "null:", 5)) {
		spec->kind = SPEC_NULL;
		return parse_size(spec, rest + 5, why, why_bytes);
	}
	if (!strncmp(rest, "file:", 5))
		return parse_file(spec, rest + 5, why, why_bytes);
	if (!strncmp(rest, "nvme:", 5))
		return parse_nvme(spec, rest + 5, why, why_bytes);
	if (!strchr(rest, '/') && access(rest, F_OK))
		return why_refuse(why, why_bytes, -EINVAL,
				  "'%s' is neither a file nor malloc:SIZE, null:SIZE, file:PATH or "
				  "nvme:ADDRESS",
				  text);
	spec->kind = SPEC_FILE;
	spec->path = strdup(rest);
	return 0;
}

void spec_free(struct spec *spec)
{
	free(spec->name);
	free(spec->path);
	spec->name = spec->path = NULL;
}
