/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * error: passes requests to its base, but those that a rule meets. Rules are set by the control
 * thread and counted down by all cores; submitting and completing are on the channel's core. A
 * request that a rule holds is in flight: it ends when it is resumed (and goes to the base), passes
 * its time-out, or when its channel is to be drained, so that it never keeps a bdev from being
 * deleted.
 *
 * Corrupting never touches the base's memory nor the client's: a WRITE goes down from a copy, and
 * of memory that the base lent, a changed copy is lent on.
 */
#include "bdev/error/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/layer.h"
#include "lib/base/why.h"
#include "reactor/control.h"

struct rule {
	_Atomic uint32_t left; /* written last: the other fields are meant for these */
	_Atomic uint8_t kind;
	_Atomic uint8_t corrupt_value;
	_Atomic uint64_t queue_depth;
	_Atomic uint64_t corrupt_offset;
};

struct error_disk {
	struct bdev_layer layer;
	struct rule rules[BDEV_OPS];
};

struct error_channel {
	TAILQ_HEAD(error_list, bdev_io) stuck;
	uint64_t below; /* requests at the base */
};

struct error_io {
	struct bdev_io_frame frame;
	void *copy; /* from the core's buffers, or NULL */
	struct iovec copy_iov;
	struct iovec *payload; /* the client's, while the copy is written */
	uint64_t corrupt_offset;
	uint16_t payload_count;
	uint8_t corrupt_value;
	bool corrupt;
	bool stuck;
};

static struct error_disk *disk_of(const struct bdev *bdev)
{
	return container_of(bdev, struct error_disk, layer.bdev);
}

static struct error_channel *channel_of(struct bdev_channel *ch)
{
	return (struct error_channel *)ch->ctx;
}

/* ---- Rules ---- */

void bdev_error_set_rule(struct bdev *bdev, enum bdev_op op, const struct bdev_error_rule *rule)
{
	struct rule *to = &disk_of(bdev)->rules[op];
	atomic_store(&to->left, 0);
	atomic_store(&to->kind, (uint8_t)rule->kind);
	atomic_store(&to->queue_depth, rule->queue_depth);
	atomic_store(&to->corrupt_offset, rule->corrupt_offset);
	atomic_store(&to->corrupt_value, rule->corrupt_value);
	atomic_store(&to->left, rule->count);
}

/* What is to happen to a request; counts it. Corruption needs a payload to corrupt. */
static enum bdev_error_kind meet(struct rule *rule, const struct error_channel *ec,
				 const struct bdev_io *io)
{
	uint32_t left = atomic_load(&rule->left);
	if (likely(!left) || ec->below < atomic_load(&rule->queue_depth))
		return BDEV_ERROR_NONE;
	enum bdev_error_kind kind = atomic_load(&rule->kind);
	if (kind == BDEV_ERROR_CORRUPT && ((io->op != BDEV_READ && io->op != BDEV_WRITE) ||
					   atomic_load(&rule->corrupt_offset) >= io->length))
		return BDEV_ERROR_NONE;
	while (left && !atomic_compare_exchange_weak(&rule->left, &left, left - 1))
		;
	return left ? kind : BDEV_ERROR_NONE;
}

/* ---- Corruption ---- */

static void free_copy(struct bdev_channel *ch, struct error_io *eio)
{
	buffers_put(&ch->reactor->buffers, eio->copy);
	eio->copy = NULL;
}

/* A copy of the payload, with the byte changed. 0 or -ENOMEM. */
static int copy_corrupted(struct bdev_channel *ch, struct bdev_io *io)
{
	struct error_io *eio = bdev_io_ctx(ch->bdev, io);
	uint8_t *to;
	if (io->length > BUFFER_MAX_BYTES)
		return -ENOMEM;
	eio->copy = buffers_get(&ch->reactor->buffers, io->length);
	if (!eio->copy)
		return -ENOMEM;
	to = eio->copy;
	for (unsigned i = 0; i < io->iovcnt; i++) {
		memcpy(to, io->iov[i].iov_base, io->iov[i].iov_len);
		to += io->iov[i].iov_len;
	}
	((uint8_t *)eio->copy)[eio->corrupt_offset] ^= eio->corrupt_value;
	eio->copy_iov = (struct iovec){eio->copy, io->length};
	return 0;
}

static void corrupt_in_place(struct bdev_io *io, uint64_t at, uint8_t value)
{
	for (unsigned i = 0; i < io->iovcnt; i++) {
		if (at < io->iov[i].iov_len) {
			((uint8_t *)io->iov[i].iov_base)[at] ^= value;
			return;
		}
		at -= io->iov[i].iov_len;
	}
}

static int corrupt_read(struct bdev_channel *ch, struct bdev_io *io)
{
	struct error_io *eio = bdev_io_ctx(ch->bdev, io);
	if (!bdev_io_is_lent(io)) {
		corrupt_in_place(io, eio->corrupt_offset, eio->corrupt_value);
		return 0;
	}
	int error = copy_corrupted(ch, io);
	bdev_layer_drop_loan(ch, io);
	if (error)
		return error;
	io->lent[0] = eio->copy_iov;
	io->iov = io->lent;
	io->iovcnt = 1;
	return 0;
}

/* ---- Requests ---- */

static void base_done(struct bdev_io *io)
{
	struct bdev_channel *ch = bdev_io_pop(io);
	struct error_io *eio = bdev_io_ctx(ch->bdev, io);
	int status = io->status;
	channel_of(ch)->below--;
	if (unlikely(eio->corrupt)) {
		if (io->op == BDEV_WRITE) {
			io->iov = eio->payload;
			io->iovcnt = eio->payload_count;
			free_copy(ch, eio);
		} else if (!status) {
			status = corrupt_read(ch, io);
		}
	}
	bdev_io_complete(io, status);
}

static void pass(struct bdev_channel *ch, struct bdev_io *io)
{
	channel_of(ch)->below++;
	bdev_io_push(ch, io, base_done);
}

static void pass_corrupted(struct bdev_channel *ch, struct bdev_io *io, const struct rule *rule)
{
	struct error_io *eio = bdev_io_ctx(ch->bdev, io);
	eio->corrupt = true;
	eio->corrupt_offset = atomic_load(&rule->corrupt_offset);
	eio->corrupt_value = atomic_load(&rule->corrupt_value);
	if (eio->corrupt_offset >= io->length) { /* the rule changed under us */
		eio->corrupt = false;
	} else if (io->op == BDEV_READ) {
		io->flags &= ~BDEV_SPARSE; /* there must be something to change */
	} else if (io->op == BDEV_WRITE) {
		int error = copy_corrupted(ch, io);
		if (error) {
			bdev_io_complete(io, error);
			return;
		}
		eio->payload = io->iov;
		eio->payload_count = io->iovcnt;
		io->iov = &eio->copy_iov;
		io->iovcnt = 1;
	}
	pass(ch, io);
}

static void submit_one(struct bdev_channel *ch, struct bdev_io *io)
{
	struct error_channel *ec = channel_of(ch);
	struct error_io *eio = bdev_io_ctx(ch->bdev, io);
	struct rule *rule = &disk_of(ch->bdev)->rules[io->op];
	eio->copy = NULL;
	eio->corrupt = false;
	eio->stuck = false;
	switch (meet(rule, ec, io)) {
	case BDEV_ERROR_NONE:
		pass(ch, io);
		break;
	case BDEV_ERROR_FAILURE:
		bdev_io_complete(io, -EIO);
		break;
	case BDEV_ERROR_NOMEM:
		bdev_io_complete(io, -ENOMEM);
		break;
	case BDEV_ERROR_PENDING:
		eio->stuck = true;
		TAILQ_INSERT_TAIL(&ec->stuck, io, link);
		break;
	case BDEV_ERROR_CORRUPT:
		pass_corrupted(ch, io, rule);
		break;
	}
}

static void error_submit(struct bdev_channel *ch, struct bdev_io **ios, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		submit_one(ch, ios[i]);
}

static void error_release(struct bdev_channel *ch, struct bdev_io *io)
{
	struct error_io *eio = bdev_io_ctx(ch->bdev, io);
	if (unlikely(eio->copy))
		free_copy(ch, eio);
	else
		bdev_layer_release(ch, io);
}

/* ---- What is held ---- */

/* Those that are held now; what a completion submits anew may be held again and is not taken. */
static struct bdev_io *take_stuck(struct bdev_channel *ch, struct error_list *taken)
{
	struct error_channel *ec = channel_of(ch);
	struct bdev_io *io;
	TAILQ_INIT(taken);
	TAILQ_CONCAT(taken, &ec->stuck, link);
	TAILQ_FOREACH (io, taken, link)
		((struct error_io *)bdev_io_ctx(ch->bdev, io))->stuck = false;
	return TAILQ_FIRST(taken);
}

static void resume_on_core(void *arg)
{
	struct bdev_channel *ch = bdev_channel_here(arg);
	struct error_list taken;
	struct bdev_io *io;
	if (!ch || !take_stuck(ch, &taken))
		return;
	while ((io = TAILQ_FIRST(&taken))) {
		TAILQ_REMOVE(&taken, io, link);
		pass(ch, io);
	}
}

static void error_cancel(struct bdev_channel *ch)
{
	struct error_list taken;
	struct bdev_io *io;
	take_stuck(ch, &taken);
	while ((io = TAILQ_FIRST(&taken))) {
		TAILQ_REMOVE(&taken, io, link);
		bdev_io_complete(io, -ECANCELED);
	}
	bdev_layer_cancel_below(ch);
}

static void error_abort(struct bdev_channel *ch, struct bdev_io *io)
{
	struct error_io *eio = bdev_io_ctx(ch->bdev, io);
	if (!eio->stuck) {
		bdev_layer_abort_below(ch, io);
		return;
	}
	eio->stuck = false;
	TAILQ_REMOVE(&channel_of(ch)->stuck, io, link);
	bdev_io_complete(io, -ETIMEDOUT);
}

struct resume {
	struct bdev *bdev;
	void (*done)(void *arg);
	void *arg;
};

static void resume_core(void *arg)
{
	const struct resume *resume = arg;
	resume_on_core(resume->bdev);
}

static void resume_ended(void *arg)
{
	struct resume *resume = arg;
	struct bdev *bdev = resume->bdev;
	resume->done(resume->arg);
	free(resume);
	bdev_layer_unhold(&disk_of(bdev)->layer);
}

void bdev_error_resume(struct bdev *bdev, void (*done)(void *arg), void *arg)
{
	struct resume *resume = calloc(1, sizeof(*resume));
	if (!resume)
		abort(); /* as everywhere on the control thread: nothing to go on with */
	*resume = (struct resume){bdev, done, arg};
	bdev_layer_hold(&disk_of(bdev)->layer);
	control_for_each_reactor(REACTOR_STORAGE, resume_core, resume_ended, resume);
}

/* ---- Object ---- */

static int error_channel_open(struct bdev_channel *ch)
{
	TAILQ_INIT(&channel_of(ch)->stuck);
	return bdev_layer_channel_open(ch);
}

static void error_dump_info(const struct bdev *bdev, json_t *object)
{
	json_object_set_new(object, "error_disk",
			    json_pack("{s:s}", "base_bdev", bdev->base->name));
}

const struct bdev_type bdev_error_type = {
	.name = "error",
	.product_name = "Error Injection Disk",
	.channel_ctx_bytes = sizeof(struct error_channel),
	.channel_open = error_channel_open,
	.channel_close = bdev_layer_channel_close,
	.submit = error_submit,
	.release = error_release,
	.abort = error_abort,
	.cancel = error_cancel,
	.destroy = bdev_layer_destroy,
	.context = bdev_layer_context,
	.dump_info = error_dump_info,
};

static void free_disk(struct bdev_layer *layer)
{
	free(container_of(layer, struct error_disk, layer));
}

int bdev_error_create(const char *base_name, const char *uuid, struct bdev **bdev, char *why,
		      size_t why_bytes)
{
	char name[BDEV_NAME_MAX_BYTES + 8];
	const struct bdev_layer_options layer = {
		.type = &bdev_error_type,
		.base_name = base_name,
		.name = name,
		.uuid = uuid,
		.io_ctx_bytes = sizeof(struct error_io),
	};
	struct error_disk *disk = calloc(1, sizeof(*disk));
	if (!disk)
		return why_refuse(why, why_bytes, -ENOMEM, "out of memory");
	snprintf(name, sizeof(name), "EE_%s", base_name);
	disk->layer.free = free_disk;
	int error = bdev_layer_register(&disk->layer, &layer, why, why_bytes);
	if (error)
		free(disk);
	else
		*bdev = &disk->layer.bdev;
	return error;
}
