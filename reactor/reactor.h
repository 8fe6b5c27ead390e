/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * reactor: one pinned EAL lcore thread a core that polls everything it owns - its io_uring, its
 * control ring, the I/O rings of its peers, pollers, timers - and never blocks, but for sleeping in
 * io_uring when nothing is to be done (adaptive idle policy).
 *
 * A pass: control ring, I/O rings, io_uring completions, pollers, due timers, then the deferred
 * calls of the pass (one sendmsg a connection), then one submit for all SQEs of the pass.
 *
 * Unless a function says "any thread", it is called on the reactor it acts on.
 */
#ifndef POLLUX_REACTOR_REACTOR_H
#define POLLUX_REACTOR_REACTOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "lib/base/compiler.h"
#include "lib/mem/buffers.h"
#include "lib/uring/uring.h"

enum reactor_role { REACTOR_NET = 1, REACTOR_STORAGE = 2 };

enum {
	REACTOR_MAX = 127, /* EAL's lcores (128) less the control thread */
	REACTOR_CONTROL_MESSAGES = 4096,
	REACTOR_HOP_ENTRIES = 1024, /* of one I/O ring */
	REACTOR_HOP_BURST = 32,
	REACTOR_DEVICE_PATIENCE = 10,
	URING_SQ_ENTRIES = 1024,
	URING_CQ_ENTRIES = 32768, /* more than can be in flight: the CQ must not overflow */
};

struct reactor;

/*
 * poll() returns how much it did (0: idle). may_sleep() (NULL: always) says whether the core may
 * sleep now; it is asked only after idle passes. The poller belongs to its registrant.
 */
struct poller {
	unsigned (*poll)(struct poller *poller);
	bool (*may_sleep)(struct poller *poller);
	TAILQ_ENTRY(poller) link;
};

/* One shot; fire() may arm it again. Owned by the registrant; `armed` is the reactor's. */
struct timer {
	void (*fire)(struct timer *timer);
	uint64_t due; /* ticks */
	bool armed;
	TAILQ_ENTRY(timer) link;
};

/* A call at the end of this pass, once however often it was asked for; `queued` is the reactor's.
 */
struct deferred {
	void (*run)(struct deferred *deferred);
	struct deferred *next;
	bool queued;
};

/* A message on an I/O ring: embedded in what travels; belongs to the receiver until sent back. */
struct hop {
	void (*arrive)(struct hop *hop); /* runs on the destination */
	struct hop *next;
	uint64_t sent_at; /* ticks: of the first of a burst, else 0 */
};

/* Kept by the owner with counter_add(), read by any thread with counter_read()
 * (lib/base/counter.h). */
struct reactor_stats {
	uint64_t loops, busy_ticks, idle_ticks, sleeps, messages;
};

/* The per-destination half of an I/O ring: the sender's. */
struct hop_lane {
	struct rte_ring *ring;
	struct deferred flush;
	unsigned destination;
	unsigned staged_count;
	struct hop *staged[REACTOR_HOP_BURST];
	struct hop *left_first, **left_last; /* the ring had no room for them */
	/* counters, as in struct reactor_stats; stalls: passes in which the ring was full */
	uint64_t sent, stalls, bursts;
	uint64_t stalled_at; /* ticks: the pass of the last stall */
	/* the receiver's counters, of the first of each burst: from the ring's one end to the other */
	cache_aligned uint64_t arrivals;
	uint64_t latency_ticks, latency_max_ticks;
};

struct reactor {
	/* written by the owner only */
	struct uring uring;
	uint64_t now; /* ticks at the beginning of this pass, counter_set(): the hot path's clock */
	struct deferred *deferred_first, **deferred_last;
	struct buffers buffers; /* this core's I/O buffers */
	TAILQ_HEAD(, poller) pollers;
	struct poller *next_poller; /* of the pass: stays right when pollers are removed */
	TAILQ_HEAD(timer_list, timer) timers; /* by due time */
	struct hop_lane *lanes;		      /* [reactor_count], to each peer */
	struct reactor_stats stats;
	struct uring_op wake_op;
	uint64_t wake_value;
	uint64_t last_work; /* ticks */
	unsigned devices_busy; /* see reactor_device_busy() */
	bool stopping;
	/* control messages taken from the ring while this core waited to send */
	struct control_message *held;
	unsigned held_count, held_room;
	struct deferred held_run;
	/* constant after start */
	unsigned index; /* 0 … reactor_count-1 */
	int cpu;
	int node;
	unsigned roles; /* enum reactor_role */
	unsigned lcore;
	int wake_fd;
	int tid; /* of the thread */
	unsigned busy_poll_us; /* 0 where the kernel can not */
	/* shared */
	cache_aligned _Atomic uint32_t sleeping;
	struct rte_ring *control;	     /* MPSC */
	_Atomic int started;		     /* 0 not yet, 1 runs, 2 has ended, -errno */
	cache_aligned _Atomic uint32_t load; /* connections placed here */
};

extern unsigned reactor_count;
extern struct reactor *reactors[REACTOR_MAX];
extern struct uring_caps reactor_caps;
extern __thread struct reactor *reactor_self; /* NULL on any other thread */

struct reactor_core {
	int cpu;
	unsigned roles;
};

struct reactor_config {
	struct reactor_core cores[REACTOR_MAX];
	unsigned core_count;
	bool poll;	       /* never sleep */
	unsigned idle_poll_us; /* polls this long after the last work, then sleeps */
	unsigned busy_poll_us; /* before it sleeps the kernel polls its sockets' cards so long */
	uint64_t buffer_bytes; /* I/O buffers of one reactor */
	const char *eal_args;  /* extra arguments for rte_eal_init(), or NULL */
};

/*
 * Parses "0", "0-3,6", "0:net,1:storage". Returns 0, or -EINVAL with a sentence in `why`: not a
 * list, a CPU that is not there or not in the affinity mask, one named twice, beyond EAL's limit,
 * no core with the net or the storage role.
 */
int reactor_parse_cores(const char *list, struct reactor_config *config, char *why,
			size_t why_bytes);
/* One core a CPU of the affinity mask, both roles. */
int reactor_default_cores(struct reactor_config *config, char *why, size_t why_bytes);

/*
 * From the main thread, once: starts EAL and a reactor a core; returns when all of them run. 0 or
 * -errno with a sentence in `why`.
 */
int reactors_start(const struct reactor_config *config, char *why, size_t why_bytes);

/* From the main thread: ends the loops and waits for them. What they own must have been closed. */
void reactors_stop(void);

/*
 * Any thread: fn(arg) runs on the reactor, soon. Messages of one sender arrive in order. Waits
 * where the ring is full; never for itself, nor for a reactor that waits for this one: a reactor
 * that must wait takes what has come to it aside, and runs it later, in order.
 */
void reactor_send(struct reactor *reactor, void (*fn)(void *arg), void *arg);

/* From one reactor to another, in bursts, at the latest at the end of the pass; in order for each
 * pair. */
void reactor_hop(unsigned destination, struct hop *hop);

/* Hops that wait on the I/O ring from one reactor to another. Any thread. */
unsigned reactor_ring_depth(unsigned from, unsigned to);

/*
 * On the core: a local device has requests of this core, or has none left. As long as one has, the core
 * polls REACTOR_DEVICE_PATIENCE times as long before it sleeps: the device tells in some tens or
 * hundreds of microseconds, and waking up would cost as much again.
 */
static inline void reactor_device_busy(struct reactor *reactor)
{
	reactor->devices_busy++;
}

static inline void reactor_device_idle(struct reactor *reactor)
{
	reactor->devices_busy--;
}

/* A poller may add and remove pollers, itself too. */
void reactor_add_poller(struct poller *poller);
void reactor_remove_poller(struct poller *poller);

/* Arms, or arms anew. Resolution: a pass. */
void reactor_arm_timer(struct timer *timer, uint64_t after_us);
void reactor_disarm_timer(struct timer *timer);

static inline void reactor_defer(struct reactor *reactor, struct deferred *deferred)
{
	if (deferred->queued)
		return;
	deferred->queued = true;
	deferred->next = NULL;
	*reactor->deferred_last = deferred;
	reactor->deferred_last = &deferred->next;
}

/* Debug builds: this is the core that owns it. */
#ifndef NDEBUG
#define reactor_assert_owner(reactor)                                                              \
	do {                                                                                       \
		if (reactor_self != (reactor))                                                     \
			__builtin_trap();                                                          \
	} while (0)
#else
#define reactor_assert_owner(reactor) ((void)0)
#endif

#endif
