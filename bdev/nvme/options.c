/* SPDX-License-Identifier: BSD-3-Clause */
/* options: one copy under a lock; a controller takes its own when it is attached. */
#include "bdev/nvme/options.h"

#include <pthread.h>

#define DEFAULTS                                                                                   \
	{                                                                                          \
		.timeout_us = NVME_TIMEOUT_US, .timeout_admin_us = NVME_TIMEOUT_ADMIN_US,          \
		.action_on_timeout = NVME_TIMEOUT_ABORT, .sgl = true,                              \
	}

const struct nvme_options nvme_options_default = DEFAULTS;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvme_options now = DEFAULTS;

struct nvme_options nvme_options_get(void)
{
	pthread_mutex_lock(&lock);
	struct nvme_options copy = now;
	pthread_mutex_unlock(&lock);
	return copy;
}

void nvme_options_set(const struct nvme_options *options)
{
	pthread_mutex_lock(&lock);
	now = *options;
	pthread_mutex_unlock(&lock);
}
