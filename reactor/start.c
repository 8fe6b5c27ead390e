/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * start: brings up EAL, one reactor on each configured core, and takes them down again. Called from
 * the main thread, which is EAL's main lcore and becomes the control thread.
 *
 * EAL gives the lcore threads, their pinning and the rings. Its own memory stays small and ordinary
 * (--no-huge --no-shconf): I/O buffers and disks come from lib/mem, which takes huge pages itself
 * where there are any, so that an ordinary user needs no set-up at all.
 */
#include <errno.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_cycles.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/base/why.h"
#include "reactor/control.h"
#include "reactor/internal.h"

enum { EAL_ARGS_MAX = 64, LCORES_TEXT_BYTES = 4096 };

/* "0@3,1@4,2@(3,4)": lcore i on core i's CPU, the control thread's lcore floating over all. */
static void format_lcores(const struct reactor_config *config, char *text, size_t bytes)
{
	size_t n = 0;
	for (unsigned i = 0; i < config->core_count; i++)
		n += snprintf(text + n, bytes - n, "%u@%d,", i, config->cores[i].cpu);
	n += snprintf(text + n, bytes - n, "%u@(", config->core_count);
	for (unsigned i = 0; i < config->core_count; i++)
		n += snprintf(text + n, bytes - n, "%s%d", i ? "," : "", config->cores[i].cpu);
	snprintf(text + n, bytes - n, ")");
}

static int start_eal(const struct reactor_config *config, char *why, size_t why_bytes)
{
	static char lcores[LCORES_TEXT_BYTES], main_lcore[16], extra[1024];
	static char *argv[EAL_ARGS_MAX];
	int argc = 0;
	format_lcores(config, lcores, sizeof(lcores));
	snprintf(main_lcore, sizeof(main_lcore), "%u", config->core_count);
	const char *const fixed[] = {
		"pollux", "--no-huge",	  "--no-shconf", "--no-pci", "--no-telemetry",
		"-m",	  "16",		  "--log-level", "*:error",  "--lcores",
		lcores,	  "--main-lcore", main_lcore,
	};
	for (unsigned i = 0; i < COUNT_OF(fixed); i++)
		argv[argc++] = (char *)fixed[i];
	if (config->eal_args) {
		snprintf(extra, sizeof(extra), "%s", config->eal_args);
		char *save = NULL;
		for (char *word = strtok_r(extra, " ", &save); word && argc < EAL_ARGS_MAX - 1;
		     word = strtok_r(NULL, " ", &save))
			argv[argc++] = word;
	}
	if (rte_eal_init(argc, argv) < 0)
		return why_refuse(why, why_bytes, -EINVAL,
				  "DPDK's EAL did not start: %s (its arguments: --lcores %s%s%s)",
				  rte_strerror(rte_errno), lcores, config->eal_args ? " " : "",
				  config->eal_args ? config->eal_args : "");
	/* EAL makes its run-time directory whatever it is told; without --no-shconf there is
	 * something in it, and it stays */
	(void)rmdir(rte_eal_get_runtime_dir());
	clock_init(rte_get_tsc_hz());
	return 0;
}

static int make_reactor(const struct reactor_config *config, unsigned index)
{
	struct reactor *reactor;
	/* in pages of its own on the core's node: the thread that runs it touches them first */
	if (posix_memalign((void **)&reactor, REGION_PAGE_BYTES, sizeof(*reactor)))
		return -ENOMEM;
	memset(reactor, 0, sizeof(*reactor));
	reactors[index] = reactor;
	reactor->index = index;
	reactor->lcore = index;
	reactor->cpu = config->cores[index].cpu;
	reactor->roles = config->cores[index].roles;
	reactor->node = region_node_of_cpu(reactor->cpu);
	reactor->deferred_last = &reactor->deferred_first;
	TAILQ_INIT(&reactor->pollers);
	TAILQ_INIT(&reactor->timers);
	reactor->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (reactor->wake_fd < 0)
		return -errno;
	int error = messages_init(reactor);
	if (!error)
		error = hop_init(reactor, config->core_count);
	if (!error)
		error = buffers_init(&reactor->buffers, config->buffer_bytes, reactor->node);
	return error;
}

static void free_reactors(void)
{
	for (unsigned i = 0; i < REACTOR_MAX && reactors[i]; i++) {
		struct reactor *reactor = reactors[i];
		hop_fini(reactor, reactor_count);
		buffers_fini(&reactor->buffers);
		messages_fini(reactor);
		if (reactor->wake_fd > 0)
			close(reactor->wake_fd);
		free(reactor);
		reactors[i] = NULL;
	}
}

static void stop(void *arg)
{
	reactor_self->stopping = true;
}

void reactors_stop(void)
{
	for (unsigned i = 0; i < reactor_count; i++)
		reactor_send(reactors[i], stop, NULL);
	rte_eal_mp_wait_lcore();
	/* it orders what they have done before what is done now, in C11's terms too */
	for (unsigned i = 0; i < reactor_count; i++)
		atomic_load(&reactors[i]->started);
	free_reactors();
	reactor_count = 0;
	rte_eal_cleanup();
}

int reactors_start(const struct reactor_config *config, char *why, size_t why_bytes)
{
	int error = uring_probe(&reactor_caps, why, why_bytes);
	if (error)
		return error;
	error = start_eal(config, why, why_bytes);
	if (error)
		return error;
	reactor_never_sleeps = config->poll;
	reactor_idle_poll_ticks = clock_us_to_ticks(config->idle_poll_us);
	reactor_busy_poll_us = config->busy_poll_us;
	reactor_count = config->core_count;
	for (unsigned i = 0; i < reactor_count; i++) {
		error = make_reactor(config, i);
		if (error) {
			snprintf(why, why_bytes, "no memory for the reactor on CPU %d: %s",
				 config->cores[i].cpu, strerror(-error));
			free_reactors();
			return error;
		}
	}
	for (unsigned i = 0; i < reactor_count; i++)
		rte_eal_remote_launch(reactor_loop, reactors[i], i);
	for (unsigned i = 0; i < reactor_count; i++) {
		while (!(error = atomic_load(&reactors[i]->started)))
			usleep(50);
		if (error < 0) {
			snprintf(why, why_bytes, "the reactor on CPU %d has no io_uring: %s",
				 reactors[i]->cpu, strerror(-error));
			reactors_stop();
			return error;
		}
	}
	return 0;
}
