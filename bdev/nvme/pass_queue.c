/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pass_queue: a namespace's commands on one core. They live as long as the queue; a request's path
 * allocates nothing. The kernel's driver watches over the time that a command takes, aborts it and
 * resets the controller: there is nothing to be ended early from here. Runs on the queue's core.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/nvme/pass_internal.h"
#include "bdev/nvme/status.h"
#include "reactor/control.h"

/* Of a command that the kernel took back when it reset the controller: it may be sent again. */
enum { HOST_ABORTED = NVME_STATUS(NVME_SCT_PATH, 0x71) };

static struct pass_queue *queue_of(struct nvme_queue *base)
{
	return container_of(base, struct pass_queue, base);
}

/* ---- Beginning and end ---- */

static void set_target(struct pass_target *target, struct side_ring *ring, const struct pass *pass)
{
	target->fd = pass->fd;
	target->fixed = pass->fixed;
	target->timeout_ms = pass->timeout_ms;
	target->slot = uring_file_add(&ring->uring, pass->fd);
}

static void let_go(struct side_ring *ring, const struct pass_target *target)
{
	if (target->slot >= 0)
		uring_file_remove(&ring->uring, target->slot);
	side_ring_put(ring, PASS_QUEUE_COMMANDS);
}

static bool get_rings(struct pass_queue *queue, const struct pass *pass)
{
	queue->ring = pass_ring_get(pass->polled, PASS_QUEUE_COMMANDS);
	if (!queue->ring)
		return false;
	set_target(&queue->target, queue->ring, pass);
	queue->quiet_ring = pass_ring_get(false, PASS_QUEUE_COMMANDS);
	if (!queue->quiet_ring) {
		int error = errno;
		let_go(queue->ring, &queue->target);
		errno = error;
		return false;
	}
	set_target(&queue->quiet_target, queue->quiet_ring, pass);
	return true;
}

static struct pass_queue *make(struct nvme_namespace *ns)
{
	struct pass *pass = pass_of(ns->controller);
	struct pass_queue *queue = calloc(1, sizeof(*queue));
	if (!queue)
		return NULL;
	queue->base.transport = ns->transport;
	queue->base.reactor = reactor_self;
	queue->base.depth = PASS_QUEUE_COMMANDS;
	queue->base.commands = calloc(PASS_QUEUE_COMMANDS, sizeof(*queue->base.commands));
	if (!queue->base.commands || !get_rings(queue, pass)) {
		free(queue->base.commands);
		free(queue);
		return NULL;
	}
	queue->pass = pass;
	nvme_queue_init(&queue->base);
	return queue;
}

struct nvme_queue *pass_queue_get(struct nvme_namespace *ns)
{
	struct pass_queue **queue = &pass_of(ns->controller)->queues[reactor_self->index];
	if (!*queue)
		*queue = make(ns);
	if (!*queue)
		return NULL;
	(*queue)->users++;
	return &(*queue)->base;
}

void pass_queue_put(struct nvme_queue *base)
{
	struct pass_queue *queue = queue_of(base);
	reactor_assert_owner(base->reactor);
	if (--queue->users)
		return;
	queue->pass->queues[base->reactor->index] = NULL;
	let_go(queue->ring, &queue->target);
	let_go(queue->quiet_ring, &queue->quiet_target);
	free(base->commands);
	free(queue);
}

/* ---- Commands ---- */

int pass_queue_issue(struct nvme_queue *base, struct nvme_command *command)
{
	struct pass_queue *queue = queue_of(base);
	reactor_assert_owner(base->reactor);
	if (unlikely(atomic_load_explicit(&queue->pass->lost, memory_order_relaxed)))
		return -ENODEV;
	command->issued = base->reactor->now;
	queue->sent_fixed[command->index] = command->bytes && queue->target.fixed;
	if (likely(command->bytes))
		pass_ring_command(queue->ring, command, &queue->target);
	else
		pass_ring_command(queue->quiet_ring, command, &queue->quiet_target);
	return 0;
}

void pass_queue_abort(struct nvme_queue *base, struct nvme_command *command)
{
}

static void tell_lost(void *arg)
{
	struct pass *pass = arg;
	nvme_controller_gone(&pass->base);
}

void pass_completed(struct nvme_command *command, int status, uint32_t result)
{
	struct pass_queue *queue = queue_of(command->queue);
	/* some kernels count the pieces of all that is registered, not of the command: without,
	 * then */
	if (unlikely(status == -EINVAL) && queue->sent_fixed[command->index]) {
		queue->sent_fixed[command->index] = queue->target.fixed = false;
		pass_ring_command(queue->ring, command, &queue->target);
		return;
	}
	if (unlikely(status == -EINTR))
		status = HOST_ABORTED;
	/* the channel, hence the controller, is there until this message has been taken: its
	 * closing comes behind it */
	if (unlikely(status == -ENODEV) && !atomic_exchange(&queue->pass->lost, true))
		control_send(tell_lost, queue->pass);
	command->done(command, status, result);
}
