/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * worker: the thread of a worker - its ring, its passes, and the phases of a run. See worker.h for
 * what is whose.
 */
#include "app/perf/worker.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "app/perf/connection.h"

enum {
	REAP_MAX = 4096,
	COMPLETIONS_EACH = 4, /* of one connection, that can wait at a time */
	SECOND_NS = 1000000000,
	FAREWELL_NS = SECOND_NS,
	ABORT_NS = SECOND_NS / 2,
	/* Sleeping takes that long to end: with --rate the last part of a wait is polled. */
	WAKE_NS = 100000,
};

static uint64_t clock_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

void worker_fail(struct worker *worker, const char *format, ...)
{
	va_list args;
	if (!worker->failed) {
		va_start(args, format);
		vsnprintf(worker->failure, sizeof(worker->failure), format, args);
		va_end(args);
	}
	worker->failed = true;
	atomic_store(&worker->run->order, RUN_ABORT);
}

/* ---- Open loop ---- */

/* The next connection that can take a request, in turn; NULL: there is none. */
static struct connection *next_in_turn(struct worker *worker)
{
	for (unsigned i = 0; i < worker->connection_count; i++) {
		struct connection *connection = worker->connections[worker->turn];
		if (++worker->turn == worker->connection_count)
			worker->turn = 0;
		if (connection->free_count && connection->quota && !connection->broken)
			return connection;
	}
	return NULL;
}

/* Until when requests are due by now: none at the end of time, or later. */
static uint64_t due_until(const struct worker *worker)
{
	return MIN_OF(worker->now_ns, worker->end_ns - 1);
}

/* Begins what is due. What finds no free slot stays due: its latency counts from then. */
static void begin_due(struct worker *worker)
{
	unsigned slots = worker->connection_count * worker->run->options->depth, begun = 0;
	uint64_t until_ns = due_until(worker);
	while (worker->in_flight < slots && schedule_due(&worker->schedule) <= until_ns) {
		struct connection *connection = next_in_turn(worker);
		if (!connection)
			break;
		uint64_t due_ns = schedule_due(&worker->schedule);
		if (unlikely(due_ns < worker->load_ns && worker->phase == WORKER_LOAD))
			connection_begin_late(connection, due_ns);
		else
			connection_begin(connection, due_ns);
		schedule_advance(&worker->schedule);
		begun++;
	}
	for (unsigned i = 0; begun && i < worker->connection_count; i++)
		connection_flush(worker->connections[i]);
}

/* ---- Phases ---- */

static uint64_t cpu_us(struct timeval time)
{
	return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_usec;
}

/* What the load costs: taken away at its begin, added at its end. */
static void count_cpu(struct worker *worker, int sign)
{
	struct rusage usage;
	getrusage(RUSAGE_THREAD, &usage);
	worker->user_us += sign * cpu_us(usage.ru_utime);
	worker->system_us += sign * cpu_us(usage.ru_stime);
}

/* Each connection's part of --requests. */
static void share_requests(struct worker *worker)
{
	uint64_t requests = worker->run->options->requests;
	unsigned all = worker->run->connection_count;
	for (unsigned i = 0; i < worker->connection_count && requests; i++) {
		struct connection *connection = worker->connections[i];
		connection->quota = requests / all + (worker->first + i < requests % all ? 1 : 0);
		worker->with_quota -= !connection->quota;
	}
}

/* From here on requests count, and what begins is taken from --requests. */
static void begin_load(struct worker *worker)
{
	const struct perf_options *options = worker->run->options;
	worker->stats = &worker->load;
	worker->first_ns = worker->now_ns;
	/* by the clock where requests are due by it; else the time is this thread's own */
	uint64_t from_ns = options->rate ? worker->load_ns : worker->now_ns;
	worker->end_ns = options->time_ns ? from_ns + options->time_ns : UINT64_MAX;
	for (unsigned i = 0; i < worker->connection_count; i++)
		connection_end_warmup(worker->connections[i]);
	share_requests(worker);
	count_cpu(worker, -1);
}

static void enter(struct worker *worker, enum worker_phase phase)
{
	worker->phase = phase;
	switch (phase) {
	case WORKER_LOAD:
		begin_load(worker);
		break;
	case WORKER_DRAIN:
		worker->issuing = false;
		worker->deadline_ns = UINT64_MAX; /* replies that do not come have a time-out */
		break;
	case WORKER_CHECK:
		worker->stats = &worker->check;
		worker->checked = true;
		break;
	case WORKER_CLOSE:
		worker->deadline_ns = worker->now_ns + FAREWELL_NS;
		for (unsigned i = 0; i < worker->connection_count; i++)
			connection_goodbye(worker->connections[i]);
		break;
	default:
		break;
	}
}

/* What became due in the load and was never begun, as far as --requests asks for it. */
static uint64_t count_unsent(const struct worker *worker)
{
	uint64_t unsent = schedule_backlog(&worker->schedule, due_until(worker)), quota = 0;
	if (worker->load_ns > worker->schedule.base_ns)
		unsent -= schedule_backlog(&worker->schedule, worker->load_ns - 1);
	if (!worker->run->options->requests)
		return unsent;
	for (unsigned i = 0; i < worker->connection_count; i++)
		quota += worker->connections[i]->quota;
	return MIN_OF(unsent, quota);
}

static void end_load(struct worker *worker)
{
	if (worker->run->options->rate && worker->phase == WORKER_LOAD) {
		/* what became due since the last pass */
		if (atomic_load(&worker->run->order) != RUN_ABORT)
			begin_due(worker);
		worker->unsent = count_unsent(worker);
	}
	enter(worker, WORKER_DRAIN);
}

/* All replies are in. */
static void drained(struct worker *worker)
{
	const struct perf_options *options = worker->run->options;
	bool wrote = options->verify && options->read_percent < 100;
	/* who sees it sees all that was counted */
	__atomic_store_n(&worker->last_ns, worker->now_ns, __ATOMIC_RELEASE);
	if (worker->first_ns)
		count_cpu(worker, 1);
	if ((wrote || options->discard) && atomic_load(&worker->run->order) == RUN_GO) {
		enter(worker, WORKER_CHECK);
		for (unsigned i = 0; i < worker->connection_count; i++)
			connection_fill(worker->connections[i]);
	} else {
		enter(worker, WORKER_CLOSE);
	}
}

static bool any_live(const struct worker *worker)
{
	for (unsigned i = 0; i < worker->connection_count; i++)
		if (connection_is_live(worker->connections[i]))
			return true;
	return false;
}

static void hang_up(struct worker *worker)
{
	for (unsigned i = 0; i < worker->connection_count; i++)
		shutdown(worker->connections[i]->line.fd, SHUT_RDWR);
	worker->deadline_ns = UINT64_MAX;
}

/* Somebody has failed: replies are waited for a little, so that what is counted is right. */
static void hurry(struct worker *worker)
{
	if (worker->deadline_ns == UINT64_MAX)
		worker->deadline_ns = worker->now_ns + ABORT_NS;
	if (worker->now_ns < worker->deadline_ns)
		return;
	worker->in_flight = 0;
	drained(worker);
}

/* What is due in this pass of the phase that it is in. */
static void advance(struct worker *worker)
{
	int order = atomic_load_explicit(&worker->run->order, memory_order_relaxed);
	if (worker->phase == WORKER_WARMUP && worker->now_ns >= worker->load_ns)
		enter(worker, WORKER_LOAD);
	if (worker->phase <= WORKER_LOAD &&
	    (order != RUN_GO || worker->now_ns >= worker->end_ns || !worker->with_quota))
		end_load(worker);
	if (worker->phase == WORKER_DRAIN) {
		if (!worker->in_flight)
			drained(worker);
		else if (order == RUN_ABORT)
			hurry(worker);
	}
	if (worker->phase == WORKER_CHECK && (!worker->in_flight || order != RUN_GO))
		enter(worker, WORKER_CLOSE);
	if (worker->phase == WORKER_CLOSE) {
		if (!any_live(worker))
			enter(worker, WORKER_OVER);
		else if (worker->now_ns >= worker->deadline_ns)
			hang_up(worker);
	}
}

/* ---- Passes ---- */

static void tick_done(struct uring_op *op, int result, uint32_t flags)
{
	struct worker *worker = container_of(op, struct worker, tick);
	worker->tick_armed = false;
	for (unsigned i = 0; i < worker->connection_count; i++)
		connection_tick(worker->connections[i]);
}

/* Keeps a timeout under way, so that a worker that waits wakes up to look around. */
static void arm_tick(struct worker *worker)
{
	struct io_uring_sqe *sqe = uring_get_sqe(&worker->uring);
	worker->tick_time = (struct __kernel_timespec){.tv_nsec = WORKER_TICK_MS * 1000000};
	io_uring_prep_timeout(sqe, &worker->tick_time, 0, 0);
	uring_set_op(sqe, &worker->tick);
	worker->tick_armed = true;
}

static bool polls(const struct worker *worker)
{
	const struct perf_options *options = worker->run->options;
	return options->poll || (options->idle_poll_us && worker->now_ns - worker->work_ns <
								  options->idle_poll_us * 1000ull);
}

/* Hands over what was queued; waits for completions where there is nothing else to do. */
static void hand_over(struct worker *worker)
{
	uint64_t due_ns;
	if (io_uring_cq_ready(&worker->uring.ring) || polls(worker)) {
		uring_submit(&worker->uring);
	} else if (!worker->issuing || !worker->run->options->rate) {
		uring_wait(&worker->uring, UINT64_MAX);
	} else {
		due_ns = schedule_due(&worker->schedule);
		/* all slots taken: the next reply is what there is to wait for */
		if (due_ns <= worker->now_ns)
			uring_wait(&worker->uring, UINT64_MAX);
		else if (due_ns > worker->now_ns + 2 * WAKE_NS)
			uring_wait(&worker->uring, due_ns - worker->now_ns - WAKE_NS);
		else
			uring_submit(&worker->uring);
	}
}

static void pass(struct worker *worker)
{
	if (!worker->tick_armed)
		arm_tick(worker);
	hand_over(worker);
	worker->now_ns = clock_ns();
	if (uring_reap(&worker->uring, REAP_MAX))
		worker->work_ns = worker->now_ns;
	advance(worker);
	if (worker->issuing && worker->run->options->rate)
		begin_due(worker);
}

/* ---- The thread ---- */

static int set_up(struct worker *worker)
{
	unsigned completions = COMPLETIONS_EACH * worker->connection_count + 64;
	bool tls = false;
	if (worker->cpu >= 0) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET(worker->cpu, &set);
		int rc = pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
		if (rc) {
			worker_fail(worker, "CPU %d can not be used: %s", worker->cpu,
				    strerror(rc));
			return -rc;
		}
	}
	for (unsigned i = 0; i < worker->connection_count; i++)
		tls |= worker->connections[i]->line.tls != NULL;
	worker->plain = tls ? malloc(WORKER_PLAIN_BYTES) : NULL;
	if (tls && !worker->plain) {
		worker_fail(worker, "no memory");
		return -ENOMEM;
	}
	int rc = uring_init(&worker->uring, &worker->run->caps, WORKER_ENTRIES,
			    MAX_OF(completions, 2u * WORKER_ENTRIES));
	if (rc)
		worker_fail(worker, "io_uring can not be set up: %s", strerror(-rc));
	return rc;
}

static void begin(struct worker *worker)
{
	const struct run *run = worker->run;
	worker->now_ns = clock_ns();
	worker->load_ns = run->start_ns + run->options->warmup_ns;
	worker->end_ns = UINT64_MAX;
	worker->deadline_ns = UINT64_MAX;
	worker->stats = &worker->warmup;
	worker->phase = WORKER_WARMUP;
	worker->issuing = true;
	worker->with_quota = worker->connection_count;
	if (run->options->rate)
		schedule_init(&worker->schedule, run->start_ns, run->options->rate, worker->number,
			      worker->connection_count, run->connection_count);
	for (unsigned i = 0; i < worker->connection_count; i++)
		worker->connections[i]->worker = worker;
	advance(worker);
	for (unsigned i = 0; i < worker->connection_count; i++) {
		struct connection *connection = worker->connections[i];
		connection_start(connection);
		connection_fill(connection);
	}
}

static void *thread(void *arg)
{
	struct worker *worker = arg;
	struct run *run = worker->run;
	int rc = set_up(worker);
	pthread_barrier_wait(&run->barrier);
	pthread_barrier_wait(&run->barrier);
	if (!rc) {
		begin(worker);
		while (worker->phase != WORKER_OVER)
			pass(worker);
		worker->enters = worker->uring.enters;
		uring_fini(&worker->uring);
	}
	free(worker->plain);
	pthread_mutex_lock(&run->lock);
	run->running--;
	pthread_cond_signal(&run->ended);
	pthread_mutex_unlock(&run->lock);
	return NULL;
}

int worker_start(struct worker *worker)
{
	worker->tick.done = tick_done;
	histogram_init(&worker->warmup.reads);
	histogram_init(&worker->warmup.writes);
	histogram_init(&worker->warmup.flushes);
	histogram_init(&worker->load.reads);
	histogram_init(&worker->load.writes);
	histogram_init(&worker->load.flushes);
	histogram_init(&worker->check.reads);
	histogram_init(&worker->check.writes);
	histogram_init(&worker->check.flushes);
	return -pthread_create(&worker->thread, NULL, thread, worker);
}
