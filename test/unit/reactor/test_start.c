/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * start: reactors come up and go down again, each time in a process of its own (EAL starts once in
 * one): with one and two cores, as an ordinary user, never sleeping, and where something is wrong.
 */
#include <errno.h>
#include <grp.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/counter.h"
#include "support.h"

enum { CHILD_SKIPS = 77, NOBODY = 65534 };

/* Runs it in a child, which ends by check() where something does not hold. */
static void in_child(void (*run)(void))
{
	int status;
	fflush(NULL);
	pid_t child = fork();
	assert_true(child >= 0);
	if (!child) {
		alarm(2 * SUPPORT_PATIENCE_S);
		run();
		exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIPS)
		skip();
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("the child ended with status %#x", status);
}

static void skip_child(const char *reason)
{
	printf("%s\n", reason);
	fflush(stdout);
	_exit(CHILD_SKIPS);
}

static struct reactor_config config;
static char why[1024];
static _Atomic uint64_t visits;

static void visit(void *arg)
{
	cpu_set_t mask;
	uintptr_t index = (uintptr_t)arg;
	check(reactor_self == reactors[index]);
	check(!sched_getaffinity(0, sizeof(mask), &mask));
	check(CPU_COUNT(&mask) == 1 && CPU_ISSET(reactor_self->cpu, &mask));
	check(reactor_self->tid == gettid());
	void *buffer = buffers_get(&reactor_self->buffers, 4096);
	check(buffer);
	buffers_put(&reactor_self->buffers, buffer);
	atomic_fetch_add(&visits, 1);
}

static void check_running(unsigned count)
{
	check(reactor_count == count);
	for (uintptr_t i = 0; i < count; i++) {
		check(reactors[i]->index == i);
		check(reactors[i]->cpu == config.cores[i].cpu);
		check(reactors[i]->roles == config.cores[i].roles);
		check(reactors[i]->buffers.total_bytes >= config.buffer_bytes);
		check(atomic_load(&reactors[i]->started) == 1);
		on_reactor(i, visit, (void *)i);
	}
	check(atomic_load(&visits) == count);
	check(reactor_self == NULL);
}

static void check_stopped(void)
{
	reactors_stop();
	check(reactor_count == 0);
	check(reactors[0] == NULL);
	control_fini();
}

static void start(unsigned count)
{
	support_config(&config, count, 50);
	check(!control_init());
	if (reactors_start(&config, why, sizeof(why))) {
		fprintf(stderr, "%s\n", why);
		abort();
	}
}

static void need_cores(unsigned count)
{
	cpu_set_t mask;
	check(!sched_getaffinity(0, sizeof(mask), &mask));
	if (CPU_COUNT(&mask) < (int)count)
		skip_child("there are too few CPUs for it");
}

static void run_one_core(void)
{
	start(1);
	check_running(1);
	check_stopped();
}

static void run_two_cores(void)
{
	need_cores(2);
	support_config(&config, 2, 50);
	config.cores[0].roles = REACTOR_NET;
	config.cores[1].roles = REACTOR_STORAGE;
	check(!control_init());
	check(!reactors_start(&config, why, sizeof(why)));
	check_running(2);
	check(reactors[0]->tid != reactors[1]->tid);
	check_stopped();
}

static void become_nobody(void)
{
	struct rlimit lock = {8 << 20, 8 << 20}; /* what an ordinary user may lock */
	if (geteuid() != 0)
		return;
	check(!setrlimit(RLIMIT_MEMLOCK, &lock));
	check(!setgroups(0, NULL) && !setgid(NOBODY) && !setuid(NOBODY));
	check(geteuid() == NOBODY);
}

static void run_one_core_as_nobody(void)
{
	become_nobody();
	run_one_core();
}

static void run_two_cores_as_nobody(void)
{
	become_nobody();
	run_two_cores();
}

static void run_never_sleeping(void)
{
	support_config(&config, 1, 0);
	config.poll = true;
	check(!control_init());
	check(!reactors_start(&config, why, sizeof(why)));
	check_running(1);
	uint64_t loops = counter_read(&reactors[0]->stats.loops);
	sleep_us(100000);
	check(counter_read(&reactors[0]->stats.sleeps) == 0);
	check(!atomic_load(&reactors[0]->sleeping));
	check(counter_read(&reactors[0]->stats.loops) - loops > 1000);
	check_stopped();
}

static void nothing(void *arg)
{
}

/* It polls for `least_us` after the work, and then sleeps; the sleep is not for nothing. */
static void check_sleeps_after(void (*work)(void *arg), uint64_t least_us)
{
	uint64_t begin = monotonic_us();
	on_reactor(0, work, NULL);
	while (!atomic_load(&reactors[0]->sleeping)) {
		check(monotonic_us() < begin + SUPPORT_PATIENCE_S * 1000000ull);
		sleep_us(500);
	}
	check(monotonic_us() - begin >= least_us * 9 / 10);
	sleep_us(20000);
	check(atomic_load(&reactors[0]->sleeping));
}

static void run_idle_poll(void)
{
	enum { IDLE_POLL_US = 200000 };
	support_config(&config, 1, IDLE_POLL_US);
	check(!control_init());
	check(!reactors_start(&config, why, sizeof(why)));
	check_sleeps_after(nothing, IDLE_POLL_US);
	check_stopped();
}

static void device_busy(void *arg)
{
	reactor_device_busy(reactor_self);
}

static void device_idle(void *arg)
{
	reactor_device_idle(reactor_self);
}

static void run_device_busy(void)
{
	enum { IDLE_POLL_US = 20000 };
	support_config(&config, 1, IDLE_POLL_US);
	check(!control_init());
	check(!reactors_start(&config, why, sizeof(why)));
	check_sleeps_after(device_busy, IDLE_POLL_US * REACTOR_DEVICE_PATIENCE);
	check_sleeps_after(device_busy, IDLE_POLL_US * REACTOR_DEVICE_PATIENCE);
	check_sleeps_after(device_idle, IDLE_POLL_US * REACTOR_DEVICE_PATIENCE);
	check_sleeps_after(device_idle, IDLE_POLL_US);
	check(reactors[0]->devices_busy == 0);
	check_stopped();
}

/* Stopping does not wait for the idle policy, nor for a timer. */
static void far_off(struct timer *timer)
{
	abort();
}

static void arm_far_off(void *arg)
{
	static struct timer timer = {.fire = far_off};
	reactor_arm_timer(&timer, 3600ull * 1000000);
}

static void run_stop_asleep(void)
{
	start(1);
	on_reactor(0, arm_far_off, NULL);
	sleep_us(50000);
	uint64_t begin = monotonic_us();
	check_stopped();
	check(monotonic_us() - begin < 10000000);
}

static void run_bad_eal_argument(void)
{
	support_config(&config, 1, 50);
	config.eal_args = "--no-such-option";
	check(freopen("/dev/null", "w", stdout)); /* where EAL tells its options */
	int error = reactors_start(&config, why, sizeof(why));
	check(error == -EINVAL);
	check(strstr(why, "--no-such-option") && strstr(why, "EAL"));
}

static void run_extra_eal_arguments(void)
{
	support_config(&config, 1, 50);
	config.eal_args = "  --no-hpet   --log-level=*:critical ";
	check(!control_init());
	check(!reactors_start(&config, why, sizeof(why)));
	check_running(1);
	check_stopped();
}

static void run_no_memory(void)
{
	support_config(&config, 1, 50);
	config.buffer_bytes = 1ull << 60;
	int error = reactors_start(&config, why, sizeof(why));
	check(error < 0);
	check(strstr(why, "no memory"));
	check(reactors[0] == NULL);
}

#define child_test(name)                                                                           \
	static void test_##name(void **state)                                                      \
	{                                                                                          \
		in_child(run_##name);                                                              \
	}
child_test(one_core)
child_test(two_cores)
child_test(one_core_as_nobody)
child_test(two_cores_as_nobody)
child_test(never_sleeping)
child_test(idle_poll)
child_test(device_busy)
child_test(stop_asleep)
child_test(bad_eal_argument)
child_test(extra_eal_arguments)
child_test(no_memory)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_core),
		cmocka_unit_test(test_two_cores),
		cmocka_unit_test(test_one_core_as_nobody),
		cmocka_unit_test(test_two_cores_as_nobody),
		cmocka_unit_test(test_never_sleeping),
		cmocka_unit_test(test_idle_poll),
		cmocka_unit_test(test_device_busy),
		cmocka_unit_test(test_stop_asleep),
		cmocka_unit_test(test_bad_eal_argument),
		cmocka_unit_test(test_extra_eal_arguments),
		cmocka_unit_test(test_no_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
