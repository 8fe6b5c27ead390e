/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * spec: what the command line says is to be served: [NAME=]SPEC, with
 * SPEC: malloc:SIZE | null:SIZE | file:PATH[?direct=on|off|auto&read-only=on|off] | PATH |
 * nvme:PCI-ADDRESS[/nN] | nvme:/dev/ngXnY. Pure.
 */
#ifndef POLLUX_APP_SPEC_H
#define POLLUX_APP_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bdev/file/file.h"

enum spec_kind { SPEC_MALLOC, SPEC_NULL, SPEC_FILE, SPEC_NVME };

struct spec {
	const char *text; /* as given */
	char *name;	  /* of the export; "" is the default one */
	enum spec_kind kind;
	uint64_t size_bytes; /* malloc, null */
	char *path;	     /* file; nvme: the address */
	uint32_t nsid;	     /* nvme; 0: the only one */
	enum bdev_file_direct direct;
	bool read_only;
};

/* Returns 0, or -EINVAL with a sentence in `why`. spec_free() in either case. */
int spec_parse(const char *text, struct spec *spec, char *why, size_t why_bytes);
void spec_free(struct spec *spec);

#endif
