/* SPDX-License-Identifier: BSD-3-Clause */
/* support: real reactors for a test program. */
#include "support.h"

#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ThreadSanitizer: DPDK reads the tail's position plainly there, to keep the senders within bounds.
 */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:__rte_ring_rts_head_wait\n";
}

uint64_t monotonic_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ull + now.tv_nsec / 1000;
}

void sleep_us(uint64_t us)
{
	struct timespec time = {us / 1000000, us % 1000000 * 1000};
	while (nanosleep(&time, &time) && errno == EINTR)
		;
}

void support_config(struct reactor_config *config, unsigned count, unsigned idle_poll_us)
{
	struct reactor_config all;
	char why[256];
	memset(config, 0, sizeof(*config));
	check(!reactor_default_cores(&all, why, sizeof(why)));
	for (unsigned i = 0; i < count; i++)
		config->cores[i] = all.cores[i % all.core_count];
	config->core_count = count;
	config->idle_poll_us = idle_poll_us;
	config->buffer_bytes = BUFFER_MAX_BYTES;
}

void support_start(unsigned count, unsigned idle_poll_us)
{
	static struct reactor_config config;
	char why[1024];
	support_config(&config, count, idle_poll_us);
	check(!control_init());
	if (reactors_start(&config, why, sizeof(why))) {
		fprintf(stderr, "%s\n", why);
		abort();
	}
}

void support_stop(void)
{
	reactors_stop();
	control_fini();
}

struct visit {
	void (*fn)(void *arg);
	void *arg;
	sem_t done;
};

static void visit_run(void *arg)
{
	struct visit *visit = arg;
	visit->fn(visit->arg);
	sem_post(&visit->done);
}

void on_reactor(unsigned index, void (*fn)(void *arg), void *arg)
{
	struct visit visit = {fn, arg};
	struct timespec until;
	sem_init(&visit.done, 0, 0);
	reactor_send(reactors[index], visit_run, &visit);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += SUPPORT_PATIENCE_S;
	int error;
	while ((error = sem_timedwait(&visit.done, &until)) && errno == EINTR)
		;
	check(!error);
	sem_destroy(&visit.done);
}

void wait_for(const _Atomic bool *flag)
{
	uint64_t until = monotonic_us() + SUPPORT_PATIENCE_S * 1000000ull;
	while (!atomic_load(flag)) {
		check(monotonic_us() < until);
		sleep_us(100);
	}
}

void wait_for_count(const _Atomic uint64_t *count, uint64_t least)
{
	uint64_t seen = 0, until = 0;
	while (atomic_load(count) < least) {
		if (atomic_load(count) != seen || !until) {
			seen = atomic_load(count);
			until = monotonic_us() + SUPPORT_PATIENCE_S * 1000000ull;
		}
		check(monotonic_us() < until);
		sleep_us(100);
	}
}

struct until {
	struct control_timer timer;
	const bool *flag;
	uint64_t end;
};

static void look(struct control_timer *timer)
{
	struct until *until = container_of(timer, struct until, timer);
	check(monotonic_us() < until->end);
	if (*until->flag)
		control_stop();
	else
		control_arm_timer(timer, 200);
}

void control_until(const bool *flag)
{
	struct until until = {.timer.fire = look,
			      .flag = flag,
			      .end = monotonic_us() + SUPPORT_PATIENCE_S * 1000000ull};
	control_arm_timer(&until.timer, 0);
	control_run();
}
