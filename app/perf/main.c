/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * main: pollux-perf, the load generator. Opens the connections, shares them out among workers,
 * looks on while they work, and reports.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "app/perf/connection.h"
#include "app/perf/report.h"
#include "lib/base/compiler.h"

enum { EXIT_WRONG = 1, PAYLOAD_ALIGNMENT = 4096 };

/* All that a run has; freed at the end. */
struct perf {
	struct perf_options options;
	struct target *targets;
	struct connection **connections;
	unsigned connection_count; /* made so far */
	struct worker *workers;
	unsigned worker_count;
	struct results *results;
	uint64_t *payload;
	struct run run;
};

static struct run *interrupted_run;
static volatile sig_atomic_t interrupts;

/* The first one ends the load, the second one the process. */
static void interrupt(int number)
{
	interrupts++;
	int expected = RUN_GO;
	atomic_compare_exchange_strong(&interrupted_run->order, &expected, RUN_END);
}

static int complain(const char *text)
{
	fprintf(stderr, "pollux-perf: %s\n", text);
	return EXIT_WRONG;
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* ---- Setting up ---- */

/* What writes carry where nobody verifies it: the same for all, so that it stays in the cache. */
static int make_payload(struct perf *perf)
{
	size_t bytes = (perf->options.block_bytes + PAYLOAD_ALIGNMENT - 1) & -PAYLOAD_ALIGNMENT;
	struct pattern pattern;
	perf->payload = aligned_alloc(PAYLOAD_ALIGNMENT, bytes);
	if (!perf->payload)
		return complain("no memory");
	pattern_init(&pattern, perf->options.seed, 1, 0, true);
	for (size_t i = 0; i < bytes / 8; i++)
		perf->payload[i] = pattern_bits(&pattern);
	return 0;
}

static int open_connection(struct perf *perf, struct target *target, unsigned number)
{
	const struct perf_options *options = &perf->options;
	struct nbd_client *client = malloc(sizeof(*client));
	struct connection *connection;
	struct line line;
	char why[PERF_WHY_BYTES];
	if (!client)
		return complain("no memory");
	int rc = dial(target, options->mode, options->timeout_ns, &line, client, why, sizeof(why));
	if (!rc) {
		rc = target_take(target, options, number, client, why, sizeof(why));
		if (!rc && options->verify && !number)
			rc = target_meet(perf->targets, target - perf->targets, line.fd, why,
					 sizeof(why));
		if (rc)
			line_close(&line);
	}
	free(client);
	if (rc)
		return complain(why);
	if (connection_create(&connection, target, number, options, &line))
		return complain("no memory for so many connections, requests and blocks of --bs");
	connection->payload = (const uint8_t *)perf->payload;
	perf->connections[perf->connection_count++] = connection;
	return 0;
}

static int open_all(struct perf *perf)
{
	const struct perf_options *options = &perf->options;
	char why[PERF_WHY_BYTES];
	perf->targets = calloc(options->uri_count, sizeof(*perf->targets));
	perf->connections = calloc((size_t)options->uri_count * options->connections,
				   sizeof(struct connection *));
	if (!perf->targets || !perf->connections)
		return complain("no memory");
	for (unsigned i = 0; i < options->uri_count; i++) {
		if (target_init(&perf->targets[i], options, i, why, sizeof(why)))
			return complain(why);
		for (unsigned k = 0; k < options->connections; k++) {
			int rc = open_connection(perf, &perf->targets[i], k);
			if (rc)
				return rc;
		}
	}
	return 0;
}

/* Connections in turn, as evenly as can be: the workers' parts lie one behind the other. */
static int make_workers(struct perf *perf)
{
	unsigned wanted = MAX_OF(perf->options.cpu_count, 1u), first = 0;
	perf->worker_count = MIN_OF(wanted, perf->connection_count);
	perf->workers = calloc(perf->worker_count, sizeof(*perf->workers));
	perf->results =
		results_create(&perf->options, perf->targets, perf->workers, perf->worker_count);
	if (!perf->workers || !perf->results)
		return complain("no memory");
	for (unsigned i = 0; i < perf->worker_count; i++) {
		unsigned count = perf->connection_count / perf->worker_count +
				 (i < perf->connection_count % perf->worker_count);
		perf->workers[i] = (struct worker){
			.run = &perf->run,
			.cpu = perf->options.cpu_count ? (int)perf->options.cpus[i] : -1,
			.connections = perf->connections + first,
			.connection_count = count,
			.number = i,
			.first = first,
		};
		first += count;
	}
	return 0;
}

/* Thousands of connections are more than the usual soft limit allows. */
static void raise_limits(void)
{
	struct rlimit limit;
	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int set_up(struct perf *perf)
{
	char why[PERF_WHY_BYTES];
	raise_limits();
	signal(SIGPIPE, SIG_IGN);
	if (uring_probe(&perf->run.caps, why, sizeof(why)))
		return complain(why);
	if (getrandom(&perf->options.nonce, sizeof(perf->options.nonce), 0) < 0 ||
	    (!perf->options.seed_given &&
	     getrandom(&perf->options.seed, sizeof(perf->options.seed), 0) < 0))
		return complain("no random numbers");
	perf->options.seed &= PERF_SEED_MAX;
	int rc = make_payload(perf);
	if (!rc)
		rc = open_all(perf);
	return rc ? rc : make_workers(perf);
}

static void tear_down(struct perf *perf)
{
	for (unsigned i = 0; i < perf->connection_count; i++)
		connection_destroy(perf->connections[i]);
	for (unsigned i = 0; perf->targets && i < perf->options.uri_count; i++)
		target_fini(&perf->targets[i]);
	results_destroy(perf->results);
	free(perf->connections);
	free(perf->targets);
	free(perf->workers);
	free(perf->payload);
	perf_options_free(&perf->options);
}

/* ---- Running ---- */

static void show_progress(const struct perf *perf, const struct sample *sample, bool checks)
{
	double seconds = sample->seconds > 0 ? sample->seconds : 1;
	uint64_t requests = sample->reads + sample->writes;
	fprintf(stderr, "\r%s%7.1f s  %10.0f IOPS  %9.1f MB/s  p99 %9.1f us  errors %llu\033[K",
		checks		 ? "check "
		: sample->at < 0 ? "warm-up "
				 : "",
		sample->at, (double)requests / seconds,
		results_mb(perf->results, requests, seconds), (double)sample->p99_ns / 1e3,
		(unsigned long long)perf->results->errors_before);
	fflush(stderr);
}

/* Looks on until the workers have ended. */
static void watch(struct perf *perf)
{
	struct run *run = &perf->run;
	bool show = !perf->options.quiet && isatty(STDERR_FILENO);
	uint64_t next_ns = run->start_ns + SAMPLE_NS;
	struct sample sample;
	pthread_mutex_lock(&run->lock);
	while (run->running) {
		struct timespec until = {next_ns / 1000000000, next_ns % 1000000000};
		if (pthread_cond_timedwait(&run->ended, &run->lock, &until) != ETIMEDOUT)
			continue;
		pthread_mutex_unlock(&run->lock);
		bool checks = perf->results->load_over;
		results_sample(perf->results, now_ns(), &sample);
		if (show)
			show_progress(perf, &sample, checks);
		next_ns += SAMPLE_NS;
		pthread_mutex_lock(&run->lock);
	}
	pthread_mutex_unlock(&run->lock);
	results_sample(perf->results, now_ns(), &sample);
	if (show)
		fputs("\r\033[K", stderr);
}

static void catch_signals(struct run *run)
{
	/* once: another one ends the process */
	struct sigaction action = {.sa_handler = interrupt, .sa_flags = SA_RESETHAND};
	interrupted_run = run;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

/* What --verify-state keeps; `open`: the run begins, and if it is killed nothing is known. */
static int save_state(const struct perf *perf, bool open)
{
	const struct perf_options *options = &perf->options;
	char why[PERF_WHY_BYTES];
	if (!options->verify_state || options->read_percent == 100 ||
	    !verify_save(&perf->targets[0].verify, options->verify_state, open, why, sizeof(why)))
		return 0;
	return complain(why);
}

static int start(struct perf *perf)
{
	struct run *run = &perf->run;
	pthread_condattr_t clock;
	run->options = &perf->options;
	run->connection_count = perf->connection_count;
	run->running = perf->worker_count;
	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_cond_init(&run->ended, &clock);
	pthread_condattr_destroy(&clock);
	pthread_mutex_init(&run->lock, NULL);
	pthread_barrier_init(&run->barrier, NULL, perf->worker_count + 1);
	for (unsigned i = 0; i < perf->worker_count; i++) {
		/* those that run already wait for all: there is no way on but out */
		if (worker_start(&perf->workers[i])) {
			complain("a thread can not be started");
			save_state(perf, false); /* nothing was written */
			_exit(EXIT_WRONG);
		}
	}
	pthread_barrier_wait(&run->barrier);
	for (unsigned i = 0; i < perf->worker_count; i++)
		if (perf->workers[i].failed)
			return EXIT_WRONG;
	return 0;
}

static void join(struct perf *perf)
{
	for (unsigned i = 0; i < perf->worker_count; i++)
		pthread_join(perf->workers[i].thread, NULL);
	pthread_cond_destroy(&perf->run.ended);
	pthread_mutex_destroy(&perf->run.lock);
	pthread_barrier_destroy(&perf->run.barrier);
}

/* ---- Reporting ---- */

/* Whether a file can be written to: better told before a run of hours than after. */
static int try_file(const char *path)
{
	int fd;
	if (!path)
		return 0;
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0) {
		fprintf(stderr, "pollux-perf: %s: %s\n", path, strerror(errno));
		return EXIT_WRONG;
	}
	close(fd);
	return 0;
}

static int write_file(const char *path, const struct results *results,
		      int (*report)(const struct results *results, FILE *out))
{
	FILE *file = fopen(path, "w");
	int rc = file ? report(results, file) : -errno;
	if (file && fclose(file) && !rc)
		rc = -errno;
	if (rc)
		fprintf(stderr, "pollux-perf: %s: %s\n", path, strerror(-rc));
	return rc;
}

static int report(struct perf *perf)
{
	const struct perf_options *options = &perf->options;
	const struct results *results = perf->results;
	int status = results_status(results), rc = 0;
	if (!options->json || options->json_file)
		report_text(results, stdout);
	else
		rc = report_json(results, stdout);
	if (options->json_file)
		rc |= write_file(options->json_file, results, report_json);
	if (options->html_file)
		rc |= write_file(options->html_file, results, report_html);
	if (save_state(perf, false))
		rc = EXIT_WRONG;
	if (results->first_error)
		complain(results->first_error);
	if (results->failure)
		complain(results->failure);
	if (fflush(stdout))
		rc = complain("standard output can not be written to");
	return status ? status : rc ? EXIT_WRONG : 0;
}

static int run(struct perf *perf)
{
	int rc = set_up(perf);
	if (!rc)
		rc = try_file(perf->options.json_file);
	if (!rc)
		rc = try_file(perf->options.html_file);
	if (!rc)
		rc = save_state(perf, true);
	if (rc)
		return rc;
	rc = start(perf);
	catch_signals(&perf->run);
	perf->run.start_ns = now_ns();
	results_start(perf->results, perf->run.start_ns);
	pthread_barrier_wait(&perf->run.barrier);
	watch(perf);
	join(perf);
	results_finish(perf->results);
	perf->results->interrupted = interrupts > 0;
	if (!rc)
		return report(perf);
	save_state(perf, false);
	complain(perf->results->failure);
	return rc;
}

int main(int argc, char **argv)
{
	struct perf *perf = calloc(1, sizeof(*perf));
	char why[PERF_WHY_BYTES];
	int status = EXIT_WRONG;
	if (!perf)
		return complain("no memory");
	switch (perf_options_parse(argc, argv, &perf->options, why, sizeof(why))) {
	case PERF_OPTIONS_RUN:
		status = run(perf);
		break;
	case PERF_OPTIONS_EXIT:
		status = fflush(stdout) ? EXIT_WRONG : 0;
		break;
	case PERF_OPTIONS_WRONG:
		complain(why);
		break;
	}
	tear_down(perf);
	free(perf);
	return status;
}
