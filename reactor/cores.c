/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cores: which CPUs become reactors, and with what roles. Parses --cores against the affinity mask.
 * Main thread, before EAL starts.
 */
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/number.h"
#include "lib/base/why.h"
#include "reactor/reactor.h"

enum {
	EAL_CPU_LIMIT = 128, /* RTE_MAX_LCORE of Debian's DPDK: CPUs beyond it are unknown to EAL */
	LIST_BYTES = 4096,   /* room for all of them, each with a role */
};

static int add(struct reactor_config *config, const cpu_set_t *mask, uint64_t cpu, unsigned roles,
	       char *why, size_t why_bytes)
{
	if (cpu >= EAL_CPU_LIMIT)
		return why_refuse(why, why_bytes, -EINVAL,
				  "CPU %" PRIu64 " is beyond what DPDK's EAL knows (0-%d)", cpu,
				  EAL_CPU_LIMIT - 1);
	if (!CPU_ISSET(cpu, mask))
		return why_refuse(why, why_bytes, -EINVAL,
				  "CPU %" PRIu64
				  " is not there, or not in this process's affinity mask",
				  cpu);
	for (unsigned i = 0; i < config->core_count; i++) {
		if ((uint64_t)config->cores[i].cpu == cpu)
			return why_refuse(why, why_bytes, -EINVAL, "CPU %" PRIu64 " is named twice",
					  cpu);
	}
	if (config->core_count == REACTOR_MAX)
		return why_refuse(why, why_bytes, -EINVAL, "more than %d cores", REACTOR_MAX);
	config->cores[config->core_count++] = (struct reactor_core){cpu, roles};
	return 0;
}

static unsigned parse_role(const char *text)
{
	if (!strcmp(text, "net"))
		return REACTOR_NET;
	if (!strcmp(text, "storage"))
		return REACTOR_STORAGE;
	if (!strcmp(text, "both"))
		return REACTOR_NET | REACTOR_STORAGE;
	return 0;
}

/* One item: "3", "0-3", with ":role" behind it. */
static int parse_item(char *item, struct reactor_config *config, const cpu_set_t *mask, char *why,
		      size_t why_bytes)
{
	unsigned roles = REACTOR_NET | REACTOR_STORAGE;
	char *colon = strchr(item, ':');
	if (colon) {
		*colon = 0;
		roles = parse_role(colon + 1);
		if (!roles)
			return why_refuse(why, why_bytes, -EINVAL,
					  "'%s' is no role: net, storage or both", colon + 1);
	}
	const char *rest = item;
	uint64_t first, last;
	if (number_range_parse(&rest, &first, &last) || *rest)
		return why_refuse(why, why_bytes, -EINVAL, "'%s' is no CPU number or range", item);
	for (uint64_t cpu = first; cpu <= last; cpu++) {
		int error = add(config, mask, cpu, roles, why, why_bytes);
		if (error)
			return error;
	}
	return 0;
}

static int check_roles(const struct reactor_config *config, char *why, size_t why_bytes)
{
	unsigned all = 0;
	for (unsigned i = 0; i < config->core_count; i++)
		all |= config->cores[i].roles;
	if (!(all & REACTOR_NET))
		return why_refuse(why, why_bytes, -EINVAL, "no core has the net role");
	if (!(all & REACTOR_STORAGE))
		return why_refuse(why, why_bytes, -EINVAL, "no core has the storage role");
	return 0;
}

int reactor_parse_cores(const char *list, struct reactor_config *config, char *why,
			size_t why_bytes)
{
	cpu_set_t mask;
	char copy[LIST_BYTES];
	if (strlen(list) >= sizeof(copy))
		return why_refuse(why, why_bytes, -EINVAL, "the list of cores is too long");
	strcpy(copy, list);
	if (sched_getaffinity(0, sizeof(mask), &mask))
		return why_refuse(why, why_bytes, -EINVAL, "the affinity mask can not be read: %s",
				  strerror(errno));
	config->core_count = 0;
	char *rest = copy, *item;
	while ((item = strsep(&rest, ","))) {
		int error = parse_item(item, config, &mask, why, why_bytes);
		if (error)
			return error;
	}
	return check_roles(config, why, why_bytes);
}

int reactor_default_cores(struct reactor_config *config, char *why, size_t why_bytes)
{
	cpu_set_t mask;
	if (sched_getaffinity(0, sizeof(mask), &mask))
		return why_refuse(why, why_bytes, -EINVAL, "the affinity mask can not be read: %s",
				  strerror(errno));
	config->core_count = 0;
	for (int cpu = 0; cpu < EAL_CPU_LIMIT && config->core_count < REACTOR_MAX; cpu++) {
		if (CPU_ISSET(cpu, &mask))
			add(config, &mask, cpu, REACTOR_NET | REACTOR_STORAGE, why, why_bytes);
	}
	if (!config->core_count)
		return why_refuse(
			why, why_bytes, -EINVAL,
			"no CPU of the affinity mask is among the %d that DPDK's EAL knows",
			EAL_CPU_LIMIT);
	return 0;
}
