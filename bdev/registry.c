/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * registry: the table of bdevs, their names, claims, events and removal. Control thread only.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "bdev/align.h"
#include "bdev/bdev.h"
#include "reactor/control.h"

static TAILQ_HEAD(, bdev) bdevs = TAILQ_HEAD_INITIALIZER(bdevs);
static unsigned leaving; /* off the list, their drivers are not done with them */

static bool name_is_good(const char *name)
{
	size_t length = strnlen(name, BDEV_NAME_MAX_BYTES + 1);
	if (!length || length > BDEV_NAME_MAX_BYTES)
		return false;
	for (size_t i = 0; i < length; i++) {
		if (iscntrl((unsigned char)name[i]))
			return false;
	}
	/* UTF-8: what is not could not be told over JSON-RPC */
	json_t *string = json_string(name);
	json_decref(string);
	return string != NULL;
}

struct bdev *bdev_find(const char *name)
{
	struct bdev *bdev;
	TAILQ_FOREACH (bdev, &bdevs, link) {
		if (!strcmp(bdev->name, name) || !strcasecmp(bdev->uuid, name))
			return bdev;
	}
	return NULL;
}

struct bdev *bdev_first(void)
{
	return TAILQ_FIRST(&bdevs);
}

struct bdev *bdev_next(const struct bdev *bdev)
{
	return TAILQ_NEXT(bdev, link);
}

int bdev_check_name(const char *name)
{
	if (!name_is_good(name))
		return -EINVAL;
	return bdev_find(name) ? -EEXIST : 0;
}

void bdev_make_name(const char *prefix, char name[BDEV_NAME_MAX_BYTES + 1])
{
	for (unsigned i = 0;; i++) {
		snprintf(name, BDEV_NAME_MAX_BYTES + 1, "%s%u", prefix, i);
		if (!bdev_find(name))
			return;
	}
}

/* A random UUID (RFC 4122, version 4). */
static void make_uuid(char text[37])
{
	uint8_t u[16];
	ssize_t ignored = getrandom(u, sizeof(u), 0);
	(void)ignored;
	u[6] = (u[6] & 0x0f) | 0x40;
	u[8] = (u[8] & 0x3f) | 0x80;
	snprintf(text, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
		 u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12],
		 u[13], u[14], u[15]);
}

static bool is_power_of_two(uint64_t value)
{
	return value && !(value & (value - 1));
}

static int lay_out_contexts(struct bdev *bdev)
{
	unsigned layers = 1;
	bdev->io_ctx_offset = 0;
	if (bdev->base)
		bdev->io_ctx_offset = bdev_io_ctx_end(bdev->base);
	for (const struct bdev *at = bdev->base; at; at = at->base)
		layers++;
	if (layers > BDEV_LAYERS_MAX ||
	    bdev->io_ctx_offset + bdev->io_ctx_bytes > BDEV_IO_CTX_BYTES)
		return -EINVAL;
	return 0;
}

int bdev_register(struct bdev *bdev)
{
	uint64_t size = atomic_load(&bdev->size_bytes);
	int error = bdev_check_name(bdev->name);
	if (error)
		return error;
	if (bdev->uuid[0] ? bdev_find(bdev->uuid) != NULL : false)
		return -EEXIST;
	if (bdev->base)
		bdev->align_bytes = 1;
	if (!size || size > INT64_MAX || !is_power_of_two(bdev->block_size) ||
	    !is_power_of_two(bdev->align_bytes) || bdev->align_bytes > BDEV_MAX_ALIGN_BYTES ||
	    !is_power_of_two(bdev->mem_align_bytes) || bdev->mem_align_bytes > REGION_PAGE_BYTES)
		return -EINVAL;
	/* a loan of bytes between blocks would need a bounce buffer of whoever lends */
	if (bdev->caps & BDEV_CAP_LEND && bdev->align_bytes > 1)
		return -EINVAL;
	error = lay_out_contexts(bdev);
	if (!error)
		error = align_state_init(bdev);
	if (error)
		return error;
	if (!bdev->uuid[0])
		make_uuid(bdev->uuid);
	if (!bdev->physical_block_size)
		bdev->physical_block_size = bdev->block_size;
	TAILQ_INIT(&bdev->claims);
	bdev->removing = false;
	bdev->removed = NULL;
	memset(&bdev->past, 0, sizeof(bdev->past));
	TAILQ_INSERT_TAIL(&bdevs, bdev, link);
	return 0;
}

/* ---- Claims ---- */

int bdev_claim(struct bdev *bdev, struct bdev_claim *claim)
{
	const struct bdev_claim *other;
	if (bdev->removing)
		return -ENODEV;
	if (claim->write && !(bdev->caps & BDEV_CAP_WRITE))
		return -EPERM;
	TAILQ_FOREACH (other, &bdev->claims, link) {
		if (claim->write && other->write)
			return -EBUSY;
	}
	claim->bdev = bdev;
	TAILQ_INSERT_TAIL(&bdev->claims, claim, link);
	return 0;
}

const char *bdev_holder(const struct bdev *bdev)
{
	const struct bdev_claim *claim;
	TAILQ_FOREACH (claim, &bdev->claims, link) {
		if (claim->write)
			return claim->holder;
	}
	claim = TAILQ_FIRST(&bdev->claims);
	return claim ? claim->holder : NULL;
}

static void tell_holders(struct bdev *bdev, enum bdev_event event)
{
	struct bdev_claim *claim, *next;
	for (claim = TAILQ_FIRST(&bdev->claims); claim; claim = next) {
		next = TAILQ_NEXT(claim, link);
		if (claim->event)
			claim->event(claim, event);
	}
}

void bdev_resized(struct bdev *bdev)
{
	tell_holders(bdev, BDEV_EVENT_RESIZE);
}

/* ---- Removal ---- */

static void nothing_on_core(void *arg)
{
}

/* Every message that named the bdev has been taken by its core. */
static void destroy(void *arg)
{
	struct bdev *bdev = arg;
	bdev->type->destroy(bdev);
}

static void finish_removal(struct bdev *bdev)
{
	TAILQ_REMOVE(&bdevs, bdev, link);
	leaving++;
	control_for_each_reactor(0, nothing_on_core, destroy, bdev);
}

void bdev_release(struct bdev_claim *claim)
{
	struct bdev *bdev = claim->bdev;
	TAILQ_REMOVE(&bdev->claims, claim, link);
	claim->bdev = NULL;
	if (bdev->removing && TAILQ_EMPTY(&bdev->claims))
		finish_removal(bdev);
}

int bdev_remove(struct bdev *bdev, bool force, void (*done)(void *arg, int error), void *arg)
{
	if (bdev->removing)
		return -EBUSY;
	if (!TAILQ_EMPTY(&bdev->claims) && !force)
		return -EBUSY;
	bdev->removing = true;
	bdev->removed = done;
	bdev->removed_arg = arg;
	if (TAILQ_EMPTY(&bdev->claims))
		finish_removal(bdev);
	else
		tell_holders(bdev, BDEV_EVENT_REMOVE);
	return 0;
}

bool bdev_all_gone(void)
{
	return TAILQ_EMPTY(&bdevs) && !leaving;
}

void bdev_destroyed(struct bdev *bdev)
{
	leaving--;
	align_state_fini(bdev);
	if (bdev->removed)
		bdev->removed(bdev->removed_arg, 0);
}
