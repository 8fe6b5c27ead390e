/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * export: the table of exports. The control thread publishes a new immutable table at every change
 * and frees the old one when every reactor has passed through its loop since.
 */
#include "app/pollux/target/export.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/log.h"
#include "lib/base/why.h"
#include "reactor/control.h"

enum { FLUSH_LATE_US = 5000000 };

void (*export_end_here)(struct export *export);

static TAILQ_HEAD(, export) exports = TAILQ_HEAD_INITIALIZER(exports);
static struct export_table *_Atomic published;

/* ---- The table that reactors see ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp((*(struct export *const *)a)->name, (*(struct export *const *)b)->name);
}

static void nothing(void *arg)
{
}

static void publish(void)
{
	unsigned count = 0;
	struct export *export;
	TAILQ_FOREACH (export, &exports, link) {
		count += export->state == EXPORT_READY;
	}
	struct export_table *table = malloc(sizeof(*table) + count * sizeof(table->exports[0]));
	if (!table) {
		log_error("export", "no memory for the table of exports");
		abort();
	}
	table->count = 0;
	TAILQ_FOREACH (export, &exports, link) {
		if (export->state == EXPORT_READY)
			table->exports[table->count++] = export;
	}
	qsort(table->exports, count, sizeof(table->exports[0]), by_name);
	struct export_table *old = atomic_exchange(&published, table);
	if (old)
		control_for_each_reactor(0, nothing, free, old);
}

const struct export_table *export_table(void)
{
	static const struct export_table empty;
	const struct export_table *table = atomic_load_explicit(&published, memory_order_acquire);
	return table ? table : &empty;
}

struct export *export_table_find(const char *name, size_t length)
{
	const struct export_table *table = export_table();
	unsigned low = 0, high = table->count;
	while (low < high) {
		unsigned middle = (low + high) / 2;
		struct export *export = table->exports[middle];
		int order = strncmp(export->name, name, length);
		if (!order && export->name[length])
			order = 1;
		if (!order)
			return export;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

bool export_admit(struct export *export)
{
	uint32_t most = export->max_connections, before = atomic_load(&export->connections);
	do {
		if (most && before >= most) {
			atomic_fetch_add(&export->refused, 1);
			return false;
		}
	} while (!atomic_compare_exchange_weak(&export->connections, &before, before + 1));
	return true;
}

struct reactor *export_place(const struct export *export, struct reactor *home)
{
	static _Atomic unsigned next;
	if (home->roles & REACTOR_STORAGE)
		return home;
	unsigned start = atomic_fetch_add(&next, 1);
	for (unsigned i = 0; i < reactor_count; i++) {
		struct reactor *reactor = reactors[(start + i) % reactor_count];
		if (reactor->roles & REACTOR_STORAGE)
			return reactor;
	}
	return home;
}

/* ---- The control thread's list ---- */

struct export *export_find(const char *name)
{
	struct export *export;
	TAILQ_FOREACH (export, &exports, link) {
		if (!strcmp(export->name, name))
			return export;
	}
	return NULL;
}

struct export *export_first(void)
{
	return TAILQ_FIRST(&exports);
}

struct export *export_next(const struct export *export)
{
	return TAILQ_NEXT(export, link);
}

unsigned export_count(void)
{
	unsigned count = 0;
	struct export *export;
	TAILQ_FOREACH (export, &exports, link) {
		count++;
	}
	return count;
}

static void export_free(struct export *export)
{
	free(export->name);
	free(export->description);
	free(export->holder);
	free(export->allow);
	free(export->stats);
	free(export);
}

static void finish(struct export *export, struct export *result, int error)
{
	void (*done)(void *, struct export *, int) = export->done;
	void *arg = export->done_arg;
	export->done = NULL;
	if (done)
		done(arg, result, error);
}

/* ---- Closing ---- */

static void channels_closed(void *arg, int error)
{
	struct export *export = arg;
	TAILQ_REMOVE(&exports, export, link);
	log_info("export", "'%s' is closed", export->name);
	bdev_release(&export->claim);
	finish(export, NULL, 0);
	export_free(export);
}

/* What was written becomes durable before the bdev is let go of. */
struct last_flush {
	struct bdev_io io;
	struct export *export;
	struct reactor *reactor;
	struct control_timer late;
	bool done; /* on the reactor */
};

static void flushed(void *arg)
{
	struct last_flush *flush = arg;
	struct export *export = flush->export;
	if (flush->io.status < 0)
		log_error("export", "'%s': the last flush has failed: %s", export->name,
			  strerror(-flush->io.status));
	control_disarm_timer(&flush->late);
	/* behind an abort that may be on its way */
	reactor_send(flush->reactor, free, flush);
	bdev_close_channels(export->bdev, channels_closed, export);
}

static void flush_done(struct bdev_io *io)
{
	struct last_flush *flush = container_of(io, struct last_flush, io);
	flush->done = true;
	control_send(flushed, flush);
}

static void abort_flush_here(void *arg)
{
	struct last_flush *flush = arg;
	if (!flush->done)
		bdev_abort(bdev_channel_here(flush->export->bdev), &flush->io);
}

static void flush_late(struct control_timer *timer)
{
	struct last_flush *flush = container_of(timer, struct last_flush, late);
	log_error("export", "'%s': the last flush is not answered", flush->export->name);
	reactor_send(flush->reactor, abort_flush_here, flush);
	control_arm_timer(timer, FLUSH_LATE_US);
}

static void flush_here(void *arg)
{
	struct last_flush *flush = arg;
	bdev_submit(bdev_channel_here(flush->export->bdev), &flush->io);
}

static void flush_and_close(struct export *export)
{
	struct last_flush *flush = NULL;
	if (!export->read_only && (export->bdev->caps & BDEV_CAP_FLUSH))
		flush = calloc(1, sizeof(*flush));
	if (!flush) {
		bdev_close_channels(export->bdev, channels_closed, export);
		return;
	}
	flush->export = export;
	flush->io.op = BDEV_FLUSH;
	flush->io.done = flush_done;
	for (unsigned i = 0; i < reactor_count; i++) {
		if (reactors[i]->roles & REACTOR_STORAGE) {
			flush->reactor = reactors[i];
			flush->late.fire = flush_late;
			control_arm_timer(&flush->late, FLUSH_LATE_US);
			reactor_send(reactors[i], flush_here, flush);
			return;
		}
	}
}

/* Control thread: a connection has gone, or the export was taken out of the table. */
static void close_if_unused(void *arg)
{
	struct export *export = arg;
	if (export->state != EXPORT_CLOSING || !export->told || export->closing_channels ||
	    atomic_load(&export->connections))
		return;
	export->closing_channels = true;
	control_disarm_timer(&export->drain);
	flush_and_close(export);
}

static void put_last(void *arg)
{
	struct export *export = arg;
	atomic_fetch_sub(&export->connections, 1);
	close_if_unused(export);
}

void export_put(struct export *export)
{
	uint32_t holders = atomic_load(&export->connections);
	while (holders > 1) {
		if (atomic_compare_exchange_weak(&export->connections, &holders, holders - 1))
			return;
	}
	/* perhaps the last: the control thread drops it, so that the export is there until then */
	control_send(put_last, export);
}

static void end_on_core(void *arg)
{
	if (export_end_here)
		export_end_here(arg);
}

static void all_told(void *arg)
{
	((struct export *)arg)->told = true;
	close_if_unused(arg);
}

static void start_ending(void *arg)
{
	control_for_each_reactor(REACTOR_NET, end_on_core, all_told, arg);
}

static void tell_again(struct export *export)
{
	atomic_fetch_add(&export->connections, 1); /* until the round is over */
	control_for_each_reactor(REACTOR_NET, end_on_core, put_last, export);
}

/* Draining takes too long. The call that began it is answered when all is freed. */
static void kick_now(struct export *export)
{
	export->kick = true;
	tell_again(export);
}

static void start_closing(struct export *export, bool kick)
{
	export->state = EXPORT_CLOSING;
	export->kick = kick;
	publish();
	/* After this round no core takes the export any more: what holds it now is all there is. */
	control_for_each_reactor(0, nothing, start_ending, export);
}

static void drained_too_long(struct control_timer *timer)
{
	struct export *export = container_of(timer, struct export, drain);
	log_notice("export", "'%s': connections that are not drained are ended", export->name);
	kick_now(export);
}

int export_delete(struct export *export, bool kick, uint32_t drain_ms,
		  void (*done)(void *arg, struct export *export, int error), void *arg)
{
	if (export->state == EXPORT_CLOSING && kick && !export->kick) {
		if (!export->closing_channels)
			kick_now(export);
		if (done)
			done(arg, NULL, 0);
		return 0;
	}
	if (export->state != EXPORT_READY)
		return -EBUSY;
	export->done = done;
	export->done_arg = arg;
	start_closing(export, kick);
	if (!kick) {
		export->drain.fire = drained_too_long;
		control_arm_timer(&export->drain, drain_ms * 1000ull);
	}
	return 0;
}

/* The bdev goes, and has not ended what is in flight. */
static void answer_now(struct control_timer *timer)
{
	struct export *export = container_of(timer, struct export, drain);
	if (export->answer_rounds++ == EXPORT_ANSWER_ROUNDS) {
		drained_too_long(timer);
		return;
	}
	export->answer = true;
	tell_again(export);
	control_arm_timer(timer, EXPORT_ANSWER_MS * 1000ull);
}

static void bdev_event(struct bdev_claim *claim, enum bdev_event event)
{
	struct export *export = container_of(claim, struct export, claim);
	if (event != BDEV_EVENT_REMOVE)
		return;
	export->doomed = true;
	if (export->state == EXPORT_READY)
		start_closing(export, false);
	if (export->state != EXPORT_CLOSING || export->kick || export->closing_channels)
		return;
	export->drain.fire = answer_now;
	control_arm_timer(&export->drain, EXPORT_DOOMED_MS * 1000ull);
}

/* ---- Opening ---- */

static void channels_open(void *arg, int error)
{
	struct export *export = arg;
	if (error) {
		log_error("export", "'%s': %s can not be opened: %s", export->name,
			  export->bdev->name, strerror(-error));
		TAILQ_REMOVE(&exports, export, link);
		bdev_release(&export->claim);
		finish(export, NULL, error);
		export_free(export);
		return;
	}
	export->state = EXPORT_READY;
	publish();
	log_info("export", "'%s' serves %s", export->name, export->bdev->name);
	finish(export, export, 0);
	if (export->doomed)
		start_closing(export, true);
}

static struct export *make(const struct export_options *options)
{
	struct export *export = calloc(1, sizeof(*export));
	if (!export)
		return NULL;
	export->name = strdup(options->name);
	export->description = options->description ? strdup(options->description) : NULL;
	if (asprintf(&export->holder, "export '%s'", options->name) < 0)
		export->holder = NULL;
	if (posix_memalign((void **)&export->stats, CACHE_LINE_BYTES,
			   reactor_count * sizeof(*export->stats)))
		export->stats = NULL;
	if (!export->name || !export->holder || !export->stats ||
	    (options->description && !export->description)) {
		export_free(export);
		return NULL;
	}
	memset(export->stats, 0, reactor_count * sizeof(*export->stats));
	export->read_only = options->read_only;
	export->tls_required = options->tls_required;
	export->io_timeout_ms = options->io_timeout_ms;
	export->max_connections = options->max_connections;
	return export;
}

static int explain_claim(struct bdev *bdev, int error, char *why, size_t why_bytes)
{
	if (error == -EBUSY)
		snprintf(why, why_bytes, "bdev '%s' is in use by %s", bdev->name,
			 bdev_holder(bdev));
	else if (error == -EPERM)
		snprintf(why, why_bytes, "bdev '%s' is read-only: so must be the export",
			 bdev->name);
	else
		snprintf(why, why_bytes, "bdev '%s' is being removed", bdev->name);
	return error;
}

/* Names are UTF-8 (proto.md, "String values"); what is not could not be told over JSON-RPC. */
static bool is_text(const char *text)
{
	json_t *string = json_string(text);
	json_decref(string);
	return string != NULL;
}

static int explain_allow(const struct export_options *options, int error, unsigned wrong, char *why,
			 size_t why_bytes)
{
	if (error == -ENOMEM)
		return why_refuse(why, why_bytes, error, "no memory for an export");
	return why_refuse(why, why_bytes, -EDOM,
			  "'%.64s' is no network: ADDRESS/BITS, or an address",
			  options->allow[wrong]);
}

int export_create(const struct export_options *options,
		  void (*done)(void *arg, struct export *export, int error), void *arg, char *why,
		  size_t why_bytes)
{
	if (strlen(options->name) > EXPORT_NAME_MAX_BYTES)
		return why_refuse(why, why_bytes, -EINVAL, "the name is longer than %d bytes",
				  EXPORT_NAME_MAX_BYTES);
	if (!is_text(options->name) || (options->description && !is_text(options->description)))
		return why_refuse(why, why_bytes, -EINVAL, "name and description are UTF-8");
	if (export_find(options->name))
		return why_refuse(why, why_bytes, -EEXIST, "an export named '%s' exists",
				  options->name);
	struct bdev *bdev = bdev_find(options->bdev_name);
	if (!bdev)
		return why_refuse(why, why_bytes, -ENODEV, "there is no bdev named '%s'",
				  options->bdev_name);
	struct export *export = make(options);
	if (!export)
		return why_refuse(why, why_bytes, -ENOMEM, "no memory for an export");
	unsigned wrong = 0;
	int error =
		network_list_parse(options->allow, options->allow_count, &export->allow, &wrong);
	if (error) {
		export_free(export);
		return explain_allow(options, error, wrong, why, why_bytes);
	}
	if (!(bdev->caps & BDEV_CAP_WRITE))
		export->read_only = true;
	export->bdev = bdev;
	export->preferred_bytes = MAX_OF(4096u, bdev->physical_block_size);
	export->claim.holder = export->holder;
	export->claim.write = !export->read_only;
	export->claim.event = bdev_event;
	error = bdev_claim(bdev, &export->claim);
	if (error) {
		export_free(export);
		return explain_claim(bdev, error, why, why_bytes);
	}
	export->done = done;
	export->done_arg = arg;
	export->state = EXPORT_OPENING;
	TAILQ_INSERT_TAIL(&exports, export, link);
	bdev_open_channels(bdev, channels_open, export);
	return 0;
}
