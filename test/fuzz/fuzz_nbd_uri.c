/* SPDX-License-Identifier: BSD-3-Clause */
/* fuzz_nbd_uri: any text as an NBD URI. What is accepted has all its parts, what is not a reason.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/nbd/proto.h"
#include "lib/nbd/uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
	if (!good)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), error[100];
	struct nbd_uri uri;
	int rc;

	check(text != NULL);
	if (size)
		memcpy(text, data, size);
	text[size] = '\0';
	memset(error, 0, sizeof(error));
	rc = nbd_uri_parse(text, &uri, error, sizeof(error));
	/* the result does not live in the caller's text */
	memset(text, 'x', size);
	free(text);
	check(rc == 0 || (rc == -EINVAL && *error && strlen(error) < sizeof(error)));
	if (!rc) {
		check(!!uri.host + !!uri.socket + uri.vsock == 1 && uri.port && uri.export_name);
		check(strlen(uri.export_name) <= NBD_MAX_STRING_BYTES);
		check(!uri.host || *uri.host);
		check(!uri.socket || uri.socket_length);
		nbd_uri_free(&uri);
	}
	return 0;
}
