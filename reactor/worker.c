/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * worker: a few threads for what may block for long. They take jobs in order; a job that never ends
 * costs its thread, no more. They are not joined at the end: one may hang in the kernel.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/log.h"
#include "reactor/control.h"
#include "reactor/internal.h"

enum { WORKERS = 8 };

struct job {
	void (*work)(void *arg);
	void (*done)(void *arg);
	void *arg;
	STAILQ_ENTRY(job) link;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t arrived = PTHREAD_COND_INITIALIZER;
static STAILQ_HEAD(, job) jobs = STAILQ_HEAD_INITIALIZER(jobs);
static unsigned threads, idle, queued; /* queued: jobs that no thread has taken */
static bool stopping;

static void *run(void *unused)
{
	pthread_mutex_lock(&lock);
	while (!stopping) {
		struct job *job = STAILQ_FIRST(&jobs);
		if (!job) {
			idle++;
			pthread_cond_wait(&arrived, &lock);
			idle--;
			continue;
		}
		STAILQ_REMOVE_HEAD(&jobs, link);
		queued--;
		pthread_mutex_unlock(&lock);
		job->work(job->arg);
		control_send(job->done, job->arg);
		free(job);
		pthread_mutex_lock(&lock);
	}
	threads--;
	pthread_mutex_unlock(&lock);
	return NULL;
}

int workers_start(void)
{
	pthread_mutex_lock(&lock);
	stopping = false;
	pthread_mutex_unlock(&lock);
	return 0;
}

void workers_stop(void)
{
	pthread_mutex_lock(&lock);
	stopping = true;
	pthread_cond_broadcast(&arrived);
	pthread_mutex_unlock(&lock);
}

/* With the lock held: threads are made as they are needed; signals stay with the main thread. */
static void start_one(void)
{
	pthread_t thread;
	pthread_attr_t attributes;
	sigset_t all, before;
	sigfillset(&all);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	int error = pthread_create(&thread, &attributes, run, NULL);
	if (!error)
		threads++;
	else if (!threads)
		log_error("control", "no worker thread can be made: %s", strerror(error));
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
}

void control_work(void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
	struct job *job = calloc(1, sizeof(*job));
	if (!job) {
		log_error("control", "no memory for a job");
		abort();
	}
	job->work = work;
	job->done = done;
	job->arg = arg;
	pthread_mutex_lock(&lock);
	STAILQ_INSERT_TAIL(&jobs, job, link);
	queued++;
	/* one that was woken for an earlier job counts as idle until it runs */
	if (idle < queued && threads < WORKERS)
		start_one();
	pthread_cond_signal(&arrived);
	pthread_mutex_unlock(&lock);
}
