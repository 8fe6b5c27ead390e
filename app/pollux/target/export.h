/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * export: a bdev under a name that clients ask for. Created, deleted and published by the control
 * thread; reactors see an immutable table of those that are ready. Knows no protocol.
 */
#ifndef POLLUX_APP_TARGET_EXPORT_H
#define POLLUX_APP_TARGET_EXPORT_H

#include "bdev/bdev.h"
#include "lib/net/network.h"
#include "reactor/control.h"

enum {
	EXPORT_NAME_MAX_BYTES = 4096,
	EXPORT_DESCRIPTION_MAX_BYTES = 4096,
	EXPORT_NETWORKS_MAX = 1024,
	EXPORT_DRAIN_MS = 10000, /* of export_delete, unless told otherwise */
	/* the bdev goes: for so long it may end what is in flight; then that is answered in its place,
	 * in rounds, because requests may wait behind others; then connections are kicked */
	EXPORT_DOOMED_MS = 1000,
	EXPORT_ANSWER_MS = 250,
	EXPORT_ANSWER_ROUNDS = 4,
};

/* What a front end does with requests on an export, kept by the net core. */
struct export_op_stats {
	uint64_t ops, bytes, errors;
	uint64_t latency_ticks, latency_max_ticks;
};

struct export_stats {
	cache_aligned struct export_op_stats op[BDEV_OPS];
	uint64_t inflight;
};

enum export_state {
	EXPORT_OPENING, /* from export_create(); leaves when the bdev's channels are open */
	EXPORT_READY,	/* in the table; leaves by export_delete(), or drained, by the bdev's removal */
	EXPORT_CLOSING, /* out of the table; its last connection going closes the channels */
};

struct export
{
	/* constant once published */
	char *name;	   /* "" is the default export */
	char *description; /* or NULL */
	struct bdev *bdev;
	bool read_only;
	bool tls_required;	/* in the clear it is not there */
	uint32_t io_timeout_ms; /* 0: none */
	uint32_t preferred_bytes;
	struct network_list *allow; /* peers that may know of it; NULL: all */
	uint32_t max_connections;   /* 0: no limit */
	/* shared */
	_Atomic uint32_t connections; /* that hold the export: taken and given back by net cores */
	_Atomic uint64_t refused;     /* connections above max_connections */
	struct export_stats *stats;   /* [reactor_count], each written by its core */
	/* the control thread's */
	enum export_state state;
	struct bdev_claim claim;
	char *holder; /* "export NAME" */
	/* read by net cores, perhaps in an earlier round */
	_Atomic bool kick;   /* its connections are ended at once */
	_Atomic bool answer; /* what the bdev does not end is answered with an error */
	bool told;	     /* every net core has ended its connections, or is about to */
	bool doomed;	     /* the bdev goes */
	bool closing_channels;
	struct control_timer drain; /* its next step: what is left is answered, or kicked */
	unsigned answer_rounds;
	void (*done)(void *arg, struct export *export, int error); /* of create or delete */
	void *done_arg;
	TAILQ_ENTRY(export) link;
};

struct export_options {
	const char *name;
	const char *bdev_name;
	const char *description; /* or NULL */
	bool read_only;
	bool tls_required;
	uint64_t io_timeout_ms;
	const char *const *allow; /* networks; none: everybody */
	unsigned allow_count;
	uint64_t max_connections; /* 0: no limit */
};

/* ---- Control thread ---- */

/*
 * Creates and, when the bdev's channels are open on every storage core, publishes it. Returns 0 -
 * then done(arg, export, 0) or done(arg, NULL, -errno) follows - or -errno with a sentence in
 * `why`: -EEXIST, -ENODEV (no such bdev), -EBUSY (held for writing by another), -EINVAL (name),
 * -EDOM (allow).
 */
int export_create(const struct export_options *options,
		  void (*done)(void *arg, struct export *export, int error), void *arg, char *why,
		  size_t why_bytes);

/*
 * Takes it out of the table, ends its connections (kick: at once; else after drain_ms, or when what
 * is in flight has been answered) and closes it. done(arg, NULL, 0) when all is freed. -EBUSY: it
 * is being opened or deleted already; but a second call with `kick` hurries a drain, and its own
 * done() runs at once.
 */
int export_delete(struct export *export, bool kick, uint32_t drain_ms,
		  void (*done)(void *arg, struct export *export, int error), void *arg);

struct export *export_find(const char *name);
struct export *export_first(void);
struct export *export_next(const struct export *export);
unsigned export_count(void);

/*
 * The front end's part in ending an export, set once at start: called on every net core, it ends
 * that core's connections to the export - export->answer: they also answer what is in flight;
 * export->kick: at once -; they give it back by export_put().
 */
extern void (*export_end_here)(struct export *export);

/* ---- Net cores ---- */

struct export_table {
	unsigned count;
	struct export *exports[]; /* sorted by name */
};

/* Valid until the caller returns to its reactor's loop. */
const struct export_table *export_table(void);
struct export *export_table_find(const char *name, size_t length);

/* A connection holds the export from here to export_put(); false: it has as many as it may. */
bool export_admit(struct export *export);
void export_put(struct export *export);

/* A storage core for a connection on `home`: home itself where it can, else one of the others in
 * turn. */
struct reactor *export_place(const struct export *export, struct reactor *home);

#endif
