/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pcie_queue: submitting and completing on one core. A command's id is its index, so a completion
 * finds its command by a load; one that names none in flight is counted and left alone. The
 * doorbells of a pass are rung once: submission by a deferred call, completion behind the poller's
 * loop.
 *
 * How full the submission queue is need not be followed: it has more entries than there are
 * commands, and a command in it is one in flight.
 */
#include "bdev/nvme/pcie_queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/nvme/status.h"
#include "lib/base/clock.h"

static struct pcie_queue *queue_of(struct nvme_queue *base)
{
	return container_of(base, struct pcie_queue, base);
}

static struct pcie_slot *slot_of(struct pcie_queue *queue, const struct nvme_command *command)
{
	return &queue->slots[command->index];
}

static struct nvme_command *command_of(struct pcie_queue *queue, const struct pcie_slot *slot)
{
	return &queue->base.commands[slot - queue->slots];
}

/* ---- Submitting ---- */

static void hold(struct pcie_queue *queue, struct pcie_slot *slot)
{
	slot->state = PCIE_SLOT_HELD;
	TAILQ_INSERT_TAIL(&queue->held, slot, link);
}

/* -EAGAIN: pages to bounce through are missing; -EINVAL. */
static int start(struct pcie_queue *queue, struct nvme_command *command)
{
	int error = pcie_prp_set(queue, command);
	if (unlikely(error))
		return error;
	slot_of(queue, command)->state = PCIE_SLOT_FLIGHT;
	pcie_ring_push(&queue->ring, &command->sqe);
	reactor_defer(queue->base.reactor, &queue->bell);
	return 0;
}

/* What a status that is not plainly 0 comes to. */
static int outcome(const struct pcie_slot *slot, int status)
{
	status = nvme_status_plain(status);
	return status && slot->aborted && status != -ENODEV ? -ETIMEDOUT : status;
}

/* The slot is free before done(): that may issue the same command anew. */
static void finish(struct pcie_queue *queue, struct pcie_slot *slot, int status, uint32_t result)
{
	struct nvme_command *command = command_of(queue, slot);
	if (unlikely(slot->state == PCIE_SLOT_HELD))
		TAILQ_REMOVE(&queue->held, slot, link);
	if (unlikely(status))
		status = outcome(slot, status);
	if (unlikely(slot->bounced))
		pcie_prp_end(queue, command, !status);
	slot->state = PCIE_SLOT_FREE;
	queue->flying--;
	command->done(command, status, result);
}

static uint64_t watch_us(const struct pcie_queue *queue)
{
	uint64_t us = queue->options.timeout_us ? queue->options.timeout_us / 4 : PCIE_WATCH_MAX_US;
	return MAX_OF(MIN_OF(us, (uint64_t)PCIE_WATCH_MAX_US), (uint64_t)PCIE_WATCH_MIN_US);
}

int pcie_queue_issue(struct nvme_queue *base, struct nvme_command *command)
{
	struct pcie_queue *queue = queue_of(base);
	struct pcie_slot *slot = slot_of(queue, command);
	reactor_assert_owner(base->reactor);
	if (unlikely(queue->state == PCIE_QUEUE_DEAD))
		return -ENODEV;
	command->issued = base->reactor->now;
	command->sqe.cid = command->index;
	slot->tries = 0;
	slot->aborted = slot->late = slot->retry = false;
	int error = -EAGAIN;
	if (likely(queue->state == PCIE_QUEUE_RUNS && TAILQ_EMPTY(&queue->held)))
		error = start(queue, command);
	if (unlikely(error == -EAGAIN))
		hold(queue, slot);
	else if (unlikely(error))
		return error;
	queue->flying++;
	if (unlikely(!queue->watch.armed))
		reactor_arm_timer(&queue->watch, watch_us(queue));
	return 0;
}

/* Those that were asked to end and have not begun; the others, in order, as far as pages go. */
static void start_held(struct pcie_queue *queue)
{
	struct pcie_slot *slot, *next;
	for (slot = TAILQ_FIRST(&queue->held); slot; slot = next) {
		next = TAILQ_NEXT(slot, link);
		if (slot->aborted)
			finish(queue, slot, -ETIMEDOUT, 0);
	}
	while (queue->state == PCIE_QUEUE_RUNS && (slot = TAILQ_FIRST(&queue->held))) {
		TAILQ_REMOVE(&queue->held, slot, link);
		int error = start(queue, command_of(queue, slot));
		if (error == -EAGAIN) {
			TAILQ_INSERT_HEAD(&queue->held, slot, link);
			return;
		}
		if (error) {
			slot->state = PCIE_SLOT_FLIGHT;
			finish(queue, slot, error, 0);
		}
	}
}

/* At the end of the pass. */
static void ring_bell(struct deferred *deferred)
{
	struct pcie_queue *queue = container_of(deferred, struct pcie_queue, bell);
	if (unlikely(!TAILQ_EMPTY(&queue->held)))
		start_held(queue);
	if (likely(queue->state == PCIE_QUEUE_RUNS))
		pcie_ring_submit(&queue->ring);
}

/* ---- Completing ---- */

static void complete(struct pcie_queue *queue, const struct nvme_cqe *cqe)
{
	bool known = cqe->cid < queue->base.depth && cqe->sqid == queue->ring.id &&
		     queue->slots[cqe->cid].state == PCIE_SLOT_FLIGHT;
	if (unlikely(!known)) {
		counter_add(&queue->stats.strays, 1);
		return;
	}
	int status = cqe->status >> 1;
	/* an Abort that came late, and was for the command before: this one may be tried again */
	if (unlikely((status & NVME_STATUS_CODE) == NVME_SC_ABORT_REQUESTED &&
		     !queue->slots[cqe->cid].aborted))
		status = NVME_SC_ABORT_SQ_DELETED;
	finish(queue, &queue->slots[cqe->cid], status, cqe->result);
}

static unsigned poll(struct poller *poller)
{
	struct pcie_queue *queue = container_of(poller, struct pcie_queue, poller);
	struct nvme_cqe cqe;
	unsigned count = 0;
	if (!queue->flying || unlikely(queue->state != PCIE_QUEUE_RUNS))
		return 0;
	/* done() may issue more, which may end at once: the pass has others to serve, too */
	while (count < queue->base.depth && pcie_ring_take(&queue->ring, &cqe)) {
		complete(queue, &cqe);
		count++;
	}
	if (!count)
		return 0;
	pcie_ring_ack(&queue->ring);
	if (unlikely(!TAILQ_EMPTY(&queue->held)))
		reactor_defer(queue->base.reactor, &queue->bell);
	return count;
}

static bool may_sleep(struct poller *poller)
{
	const struct pcie_queue *queue = container_of(poller, struct pcie_queue, poller);
	return !queue->flying || queue->state != PCIE_QUEUE_RUNS;
}

/* ---- Watching ---- */

static void ask_for_abort(struct pcie_queue *queue, struct pcie_slot *slot)
{
	slot->aborted = true;
	slot->aborted_at = queue->base.reactor->now;
	counter_add(&queue->stats.timeouts, 1);
	queue->alarm(queue, PCIE_ALARM_TIMEOUT, (uint16_t)(slot - queue->slots));
}

void pcie_queue_abort(struct nvme_queue *base, struct nvme_command *command)
{
	struct pcie_queue *queue = queue_of(base);
	struct pcie_slot *slot = slot_of(queue, command);
	reactor_assert_owner(base->reactor);
	if (slot->state == PCIE_SLOT_FREE || slot->aborted)
		return;
	if (slot->state == PCIE_SLOT_HELD) {
		slot->aborted = true;
		slot->aborted_at = base->reactor->now;
		reactor_defer(base->reactor, &queue->bell);
	} else {
		ask_for_abort(queue, slot);
	}
}

/* It is older than it may be. True: the controller is to be reset. */
static bool too_old(struct pcie_queue *queue, struct pcie_slot *slot)
{
	if (slot->late)
		return false;
	slot->late = true;
	switch (queue->options.action_on_timeout) {
	case NVME_TIMEOUT_NONE:
		counter_add(&queue->stats.timeouts, 1);
		queue->alarm(queue, PCIE_ALARM_LATE, (uint16_t)(slot - queue->slots));
		return false;
	case NVME_TIMEOUT_RESET:
		counter_add(&queue->stats.timeouts, 1);
		slot->aborted = true;
		slot->aborted_at = queue->base.reactor->now;
		return true;
	default:
		ask_for_abort(queue, slot);
		return false;
	}
}

/*
 * True: the controller is to be reset: an Abort was asked for long ago and has not ended the command,
 * or that is what is done about one that is too old.
 */
static bool check_age(struct pcie_queue *queue, struct pcie_slot *slot)
{
	uint64_t now = queue->base.reactor->now;
	uint64_t issued = command_of(queue, slot)->issued;
	if (slot->state != PCIE_SLOT_FLIGHT)
		return false;
	if (slot->aborted)
		return now - slot->aborted_at >= clock_us_to_ticks(PCIE_ABORT_GRACE_MS * 1000ull);
	uint64_t limit = queue->options.timeout_us;
	return limit && now - issued >= clock_us_to_ticks(limit) && too_old(queue, slot);
}

/* While commands are under way: the only reads of a register beside a reset. */
static void watch(struct timer *timer)
{
	struct pcie_queue *queue = container_of(timer, struct pcie_queue, watch);
	if (!queue->flying)
		return;
	reactor_arm_timer(&queue->watch, watch_us(queue));
	if (queue->state != PCIE_QUEUE_RUNS)
		return;
	uint32_t csts = pcie_read(&queue->registers, NVME_REG_CSTS);
	if (pcie_is_gone(csts)) {
		queue->alarm(queue, PCIE_ALARM_GONE, 0);
		return;
	}
	bool fatal = csts & NVME_CSTS_CFS;
	for (unsigned i = 0; i < queue->base.depth; i++)
		fatal |= check_age(queue, &queue->slots[i]);
	if (fatal)
		queue->alarm(queue, PCIE_ALARM_FATAL, 0);
}

/* ---- Pauses ---- */

void pcie_queue_pause(struct pcie_queue *queue)
{
	if (queue->state == PCIE_QUEUE_RUNS)
		queue->state = PCIE_QUEUE_PAUSED;
}

static void retry(struct pcie_queue *queue, struct pcie_slot *slot)
{
	struct nvme_command *command = command_of(queue, slot);
	slot->retry = slot->late = false;
	if (slot->aborted || ++slot->tries >= PCIE_TRIES_MAX) {
		finish(queue, slot, slot->aborted ? -ETIMEDOUT : -EIO, 0);
		return;
	}
	counter_add(&queue->stats.retries, 1);
	command->issued = queue->base.reactor->now;
	/* its PRPs, and what was copied for them, are still good */
	pcie_ring_push(&queue->ring, &command->sqe);
}

void pcie_queue_resume(struct pcie_queue *queue)
{
	if (queue->state != PCIE_QUEUE_PAUSED)
		return;
	queue->state = PCIE_QUEUE_RUNS;
	/* done() may put a new command into a slot: only those that were in flight are meant */
	for (unsigned i = 0; i < queue->base.depth; i++)
		queue->slots[i].retry = queue->slots[i].state == PCIE_SLOT_FLIGHT;
	for (unsigned i = 0; i < queue->base.depth; i++) {
		if (queue->slots[i].retry)
			retry(queue, &queue->slots[i]);
	}
	if (queue->users)
		reactor_defer(queue->base.reactor, &queue->bell);
}

void pcie_queue_fail(struct pcie_queue *queue)
{
	queue->state = PCIE_QUEUE_DEAD;
	for (unsigned i = 0; i < queue->base.depth; i++) {
		if (queue->slots[i].state != PCIE_SLOT_FREE)
			finish(queue, &queue->slots[i], -ENODEV, 0);
	}
}

/* ---- Beginning and end ---- */

void pcie_queue_open(struct pcie_queue *queue)
{
	if (queue->users++)
		return;
	queue->base.reactor = reactor_self;
	queue->poller = (struct poller){.poll = poll, .may_sleep = may_sleep};
	queue->bell.run = ring_bell;
	queue->watch.fire = watch;
	reactor_add_poller(&queue->poller);
}

void pcie_queue_close(struct nvme_queue *base)
{
	struct pcie_queue *queue = queue_of(base);
	reactor_assert_owner(base->reactor);
	if (--queue->users)
		return;
	reactor_remove_poller(&queue->poller);
	reactor_disarm_timer(&queue->watch);
}

/* One behind the other: the rings, a page-aligned area each; the lists; the pages. */
static void lay_out_memory(struct pcie_queue *queue)
{
	uint8_t *base = queue->memory.region.base;
	uint64_t iova = queue->memory.iova;
	size_t sq = PCIE_QUEUE_ENTRIES * NVME_SQE_BYTES;
	size_t cq = PCIE_QUEUE_ENTRIES * NVME_CQE_BYTES;
	size_t lists = PCIE_QUEUE_ENTRIES * PCIE_PRP_LIST_BYTES;
	size_t pages = sq + cq + lists;
	_Static_assert(
		PCIE_QUEUE_ENTRIES * (NVME_SQE_BYTES + NVME_CQE_BYTES + PCIE_PRP_LIST_BYTES) +
				PCIE_TRANSFER_MAX_BYTES <=
			PCIE_QUEUE_BYTES,
		"a payload of any size can be bounced");
	queue->ring.sq = (struct nvme_sqe *)base;
	queue->ring.sq_iova = iova;
	queue->ring.cq = (struct nvme_cqe *)(base + sq);
	queue->ring.cq_iova = iova + sq;
	queue->lists = (uint64_t *)(base + sq + cq);
	queue->lists_iova = iova + sq + cq;
	queue->pages = base + pages;
	queue->pages_iova = iova + pages;
	for (uint16_t i = 0; i < queue->page_count; i++)
		queue->page_stack[i] = i;
	queue->page_free = queue->page_count;
}

int pcie_queue_init(struct pcie_queue *queue, uint16_t id, uint16_t entries, uint32_t stride)
{
	struct nvme_queue *base = &queue->base;
	volatile uint8_t *bells = queue->registers.base + NVME_REG_DOORBELLS;
	size_t rings = PCIE_QUEUE_ENTRIES * (NVME_SQE_BYTES + NVME_CQE_BYTES + PCIE_PRP_LIST_BYTES);
	base->depth = entries - 1u;
	base->commands = aligned_alloc(
		CACHE_LINE_BYTES, (base->depth * sizeof(*base->commands) + CACHE_LINE_BYTES - 1) /
					  CACHE_LINE_BYTES * CACHE_LINE_BYTES);
	queue->slots = calloc(base->depth, sizeof(*queue->slots));
	queue->page_count = (uint16_t)((PCIE_QUEUE_BYTES - rings) / NVME_PAGE_BYTES);
	queue->page_stack = calloc(queue->page_count, sizeof(*queue->page_stack));
	if (!base->commands || !queue->slots || !queue->page_stack) {
		pcie_queue_fini(queue);
		return -ENOMEM;
	}
	memset(base->commands, 0, base->depth * sizeof(*base->commands));
	nvme_queue_init(&queue->base);
	TAILQ_INIT(&queue->held);
	lay_out_memory(queue);
	queue->ring.id = id;
	queue->ring.entries = entries;
	queue->ring.sq_bell.reg =
		(volatile uint32_t *)(bells + pcie_doorbell_offset(id, false, stride));
	queue->ring.cq_bell.reg =
		(volatile uint32_t *)(bells + pcie_doorbell_offset(id, true, stride));
	pcie_ring_reset(&queue->ring);
	return 0;
}

void pcie_queue_fini(struct pcie_queue *queue)
{
	free(queue->base.commands);
	free(queue->slots);
	free(queue->page_stack);
	queue->base.commands = NULL;
	queue->slots = NULL;
	queue->page_stack = NULL;
}
