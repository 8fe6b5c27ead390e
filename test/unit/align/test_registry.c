/* SPDX-License-Identifier: BSD-3-Clause */
/* registry: names, identities, geometry, claims, events, removal, stacks of layers. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test/unit/align/disk.h"
#include "test/unit/fake/reactor.h"

enum { SIZE = 1 << 20 };

static int start(void **state)
{
	fake_start(2);
	return 0;
}

static int stop(void **state)
{
	assert_null(bdev_first());
	fake_stop();
	return 0;
}

/* ---- A bdev that does nothing but exist ---- */

struct thing {
	struct bdev bdev;
	struct bdev_claim base_claim;
	unsigned destroyed;
	bool later; /* destroy() answers only when told */
};

static void thing_destroy(struct bdev *bdev)
{
	struct thing *thing = container_of(bdev, struct thing, bdev);
	thing->destroyed++;
	if (thing->base_claim.bdev)
		bdev_release(&thing->base_claim);
	if (!thing->later)
		bdev_destroyed(bdev);
}

static const struct bdev_type thing_type = {.name = "thing", .destroy = thing_destroy};

static void thing_init(struct thing *thing, const char *name)
{
	memset(thing, 0, sizeof(*thing));
	thing->bdev.type = &thing_type;
	snprintf(thing->bdev.name, sizeof(thing->bdev.name), "%s", name);
	thing->bdev.size_bytes = SIZE;
	thing->bdev.block_size = 512;
	thing->bdev.align_bytes = thing->bdev.mem_align_bytes = 1;
	thing->bdev.caps = BDEV_CAP_WRITE;
}

static struct thing *thing_make(const char *name)
{
	struct thing *thing = aligned_alloc(_Alignof(struct thing), sizeof(*thing));
	assert_non_null(thing);
	thing_init(thing, name);
	assert_int_equal(bdev_register(&thing->bdev), 0);
	return thing;
}

static void count_removed(void *arg, int error)
{
	assert_int_equal(error, 0);
	++*(unsigned *)arg;
}

static void thing_remove(struct thing *thing)
{
	unsigned removed = 0;
	assert_int_equal(bdev_remove(&thing->bdev, false, count_removed, &removed), 0);
	fake_settle();
	assert_int_equal(removed, 1);
	assert_int_equal(thing->destroyed, 1);
	free(thing);
}

/* ---- Names and identities ---- */

static int register_name(const char *name)
{
	static struct thing thing;
	thing_init(&thing, "");
	memcpy(thing.bdev.name, name, strnlen(name, sizeof(thing.bdev.name)));
	return bdev_register(&thing.bdev);
}

static void test_names(void **state)
{
	char longest[BDEV_NAME_MAX_BYTES + 2];
	memset(longest, 'n', sizeof(longest));
	longest[BDEV_NAME_MAX_BYTES] = 0;
	struct thing *first = thing_make("disk 0/ä");
	struct thing *second = thing_make(longest);
	assert_ptr_equal(bdev_find("disk 0/ä"), &first->bdev);
	assert_ptr_equal(bdev_find(longest), &second->bdev);
	assert_null(bdev_find("disk"));
	assert_null(bdev_find(""));
	assert_ptr_equal(bdev_first(), &first->bdev);
	assert_ptr_equal(bdev_next(&first->bdev), &second->bdev);
	assert_null(bdev_next(&second->bdev));
	assert_int_equal(register_name("disk 0/ä"), -EEXIST);
	assert_int_equal(register_name(""), -EINVAL);
	assert_int_equal(register_name("a\nb"), -EINVAL);
	assert_int_equal(register_name("a\x7f"), -EINVAL);
	longest[BDEV_NAME_MAX_BYTES] = 'n'; /* not ended within its room */
	assert_int_equal(register_name(longest), -EINVAL);
	assert_int_equal(bdev_check_name("disk 0/ä"), -EEXIST);
	assert_int_equal(bdev_check_name("DISK 0/ä"), 0);
	assert_int_equal(bdev_check_name(""), -EINVAL);
	thing_remove(first);
	assert_int_equal(bdev_check_name("disk 0/ä"), 0);
	thing_remove(second);
}

static void test_made_names_take_the_lowest_number(void **state)
{
	char name[BDEV_NAME_MAX_BYTES + 1];
	struct thing *things[3];
	for (unsigned i = 0; i < 3; i++) {
		bdev_make_name("Thing", name);
		things[i] = thing_make(name);
	}
	assert_string_equal(things[2]->bdev.name, "Thing2");
	thing_remove(things[1]);
	bdev_make_name("Thing", name);
	assert_string_equal(name, "Thing1");
	thing_remove(things[0]);
	thing_remove(things[2]);
}

static void test_uuids(void **state)
{
	static const char given[] = "01234567-89ab-4cde-8f01-23456789abcd";
	struct thing *made = thing_make("made"), *made_too = thing_make("made too");
	const char *uuid = made->bdev.uuid;
	assert_int_equal(strlen(uuid), 36);
	assert_int_equal(strspn(uuid, "0123456789abcdef-"), 36);
	assert_int_equal(uuid[14], '4');
	assert_non_null(strchr("89ab", uuid[19]));
	assert_string_not_equal(uuid, made_too->bdev.uuid);
	struct thing thing;
	thing_init(&thing, "given");
	strcpy(thing.bdev.uuid, given);
	assert_int_equal(bdev_register(&thing.bdev), 0);
	assert_ptr_equal(bdev_find("01234567-89AB-4cde-8f01-23456789abcd"), &thing.bdev);
	struct thing twice;
	thing_init(&twice, "twice");
	strcpy(twice.bdev.uuid, given);
	assert_int_equal(bdev_register(&twice.bdev), -EEXIST);
	assert_null(bdev_find("twice"));
	/* a name that is another's UUID would make bdev_find() ambiguous */
	assert_int_equal(bdev_check_name(given), -EEXIST);
	assert_int_equal(bdev_remove(&thing.bdev, false, NULL, NULL), 0);
	fake_settle();
	thing_remove(made);
	thing_remove(made_too);
}

/* ---- Geometry ---- */

static int register_changed(void (*change)(struct bdev *bdev))
{
	static struct thing thing;
	thing_init(&thing, "changed");
	change(&thing.bdev);
	int error = bdev_register(&thing.bdev);
	assert_ptr_equal(bdev_find("changed"), error ? NULL : &thing.bdev);
	if (!error) {
		assert_int_equal(bdev_remove(&thing.bdev, false, NULL, NULL), 0);
		fake_settle();
	}
	return error;
}

#define change(name, statement)                                                                    \
	static void name(struct bdev *bdev)                                                        \
	{                                                                                          \
		statement;                                                                         \
	}
change(no_size, bdev->size_bytes = 0) change(largest_size, bdev->size_bytes = INT64_MAX) change(
	too_large, bdev->size_bytes = INT64_MAX + 1ull) change(no_block, bdev->block_size = 0)
	change(odd_block, bdev->block_size = 520) change(no_align, bdev->align_bytes = 0) change(
		odd_align, bdev->align_bytes = 3) change(largest_align,
							 bdev->align_bytes = BDEV_MAX_ALIGN_BYTES)
		change(too_aligned, bdev->align_bytes = 2 * BDEV_MAX_ALIGN_BYTES) change(
			odd_memory, bdev->mem_align_bytes = 96) change(page_memory,
								       bdev->mem_align_bytes = 4096)
			change(beyond_a_page, bdev->mem_align_bytes = 8192) change(
				full_context, bdev->io_ctx_bytes = BDEV_IO_CTX_BYTES)
				change(too_much_context, bdev->io_ctx_bytes = BDEV_IO_CTX_BYTES + 1)
					change(lends_whole, bdev->caps |= BDEV_CAP_LEND)
						change(lends_blocks, bdev->caps |= BDEV_CAP_LEND;
						       bdev->align_bytes = 512)

							static void test_geometry(void **state)
{
	assert_int_equal(register_changed(no_size), -EINVAL);
	assert_int_equal(register_changed(largest_size), 0);
	assert_int_equal(register_changed(too_large), -EINVAL);
	assert_int_equal(register_changed(no_block), -EINVAL);
	assert_int_equal(register_changed(odd_block), -EINVAL);
	assert_int_equal(register_changed(no_align), -EINVAL);
	assert_int_equal(register_changed(odd_align), -EINVAL);
	assert_int_equal(register_changed(largest_align), 0);
	assert_int_equal(register_changed(too_aligned), -EINVAL);
	assert_int_equal(register_changed(odd_memory), -EINVAL);
	assert_int_equal(register_changed(page_memory), 0);
	assert_int_equal(register_changed(beyond_a_page), -EINVAL);
	assert_int_equal(register_changed(full_context), 0);
	assert_int_equal(register_changed(too_much_context), -EINVAL);
	assert_int_equal(register_changed(lends_whole), 0);
	assert_int_equal(register_changed(lends_blocks), -EINVAL);
}

static void test_defaults(void **state)
{
	struct thing *thing = thing_make("thing");
	assert_int_equal(thing->bdev.physical_block_size, 512);
	assert_null(thing->bdev.align); /* no alignment, no layer for it */
	assert_null(bdev_holder(&thing->bdev));
	thing_remove(thing);
	struct disk *disk = disk_create("disk", 4096, SIZE);
	assert_non_null(disk->bdev.align);
	assert_int_equal(bdev_remove(&disk->bdev, false, NULL, NULL), 0);
	fake_settle();
	disk_free(disk);
}

/* ---- Layers ---- */

static struct thing *stack_on(struct thing *base, uint32_t ctx_bytes, int *error)
{
	struct thing *thing = aligned_alloc(_Alignof(struct thing), sizeof(*thing));
	char name[BDEV_NAME_MAX_BYTES + 1];
	assert_non_null(thing);
	bdev_make_name("layer", name);
	thing_init(thing, name);
	thing->bdev.base = &base->bdev;
	thing->bdev.align_bytes = 4096; /* its base's business */
	thing->bdev.io_ctx_bytes = ctx_bytes;
	thing->base_claim.holder = thing->bdev.name;
	assert_int_equal(bdev_claim(&base->bdev, &thing->base_claim), 0);
	*error = bdev_register(&thing->bdev);
	if (!*error)
		return thing;
	bdev_release(&thing->base_claim);
	free(thing);
	return NULL;
}

static void test_contexts_do_not_overlap(void **state)
{
	struct thing *layers[BDEV_LAYERS_MAX];
	static const uint32_t bytes[BDEV_LAYERS_MAX] = {100, 0, 17, 1, 16, 33, 8, 24};
	int error;
	layers[0] = aligned_alloc(_Alignof(struct thing), sizeof(struct thing));
	thing_init(layers[0], "bottom");
	layers[0]->bdev.io_ctx_bytes = bytes[0];
	assert_int_equal(bdev_register(&layers[0]->bdev), 0);
	for (unsigned i = 1; i < BDEV_LAYERS_MAX; i++) {
		const struct bdev *base = &layers[i - 1]->bdev;
		layers[i] = stack_on(layers[i - 1], bytes[i], &error);
		assert_int_equal(error, 0);
		const struct bdev *bdev = &layers[i]->bdev;
		assert_int_equal(bdev->align_bytes, 1);
		assert_int_equal(bdev->io_ctx_offset % 16, 0);
		assert_true(bdev->io_ctx_offset >= base->io_ctx_offset + base->io_ctx_bytes);
		assert_true(bdev->io_ctx_offset + bdev->io_ctx_bytes <= BDEV_IO_CTX_BYTES);
		assert_int_equal(bdev->io_ctx_offset, bdev_io_ctx_end(base));
	}
	assert_null(stack_on(layers[BDEV_LAYERS_MAX - 1], 0, &error));
	assert_int_equal(error, -EINVAL); /* one too many */
	for (unsigned i = BDEV_LAYERS_MAX; i--;)
		thing_remove(layers[i]);
}

static void test_contexts_have_an_end(void **state)
{
	int error;
	struct thing *base = thing_make("base");
	struct thing *middle = stack_on(base, BDEV_IO_CTX_BYTES - 32, &error);
	assert_int_equal(error, 0);
	assert_null(stack_on(middle, 33, &error));
	assert_int_equal(error, -EINVAL);
	struct thing *top = stack_on(middle, 32, &error);
	assert_int_equal(error, 0);
	thing_remove(top);
	thing_remove(middle);
	thing_remove(base);
}

/* ---- Claims ---- */

static void test_claims(void **state)
{
	struct thing *thing = thing_make("thing");
	struct bdev_claim writer = {.holder = "writer", .write = true};
	struct bdev_claim second = {.holder = "second", .write = true};
	struct bdev_claim reader = {.holder = "reader"}, another = {.holder = "another"};
	assert_int_equal(bdev_claim(&thing->bdev, &reader), 0);
	assert_string_equal(bdev_holder(&thing->bdev), "reader");
	assert_int_equal(bdev_claim(&thing->bdev, &writer), 0);
	assert_string_equal(bdev_holder(&thing->bdev), "writer"); /* who keeps others away */
	assert_int_equal(bdev_claim(&thing->bdev, &second), -EBUSY);
	assert_null(second.bdev);
	assert_int_equal(bdev_claim(&thing->bdev, &another), 0);
	bdev_release(&writer);
	assert_null(writer.bdev);
	assert_int_equal(bdev_claim(&thing->bdev, &second), 0);
	bdev_release(&reader);
	bdev_release(&another);
	bdev_release(&second);
	assert_null(bdev_holder(&thing->bdev));
	thing->bdev.caps &= ~(uint32_t)BDEV_CAP_WRITE;
	assert_int_equal(bdev_claim(&thing->bdev, &writer), -EPERM);
	thing_remove(thing);
}

/* ---- Events and removal ---- */

struct holder {
	struct bdev_claim claim;
	unsigned resized, removed;
	uint64_t size_bytes;
	bool lets_go; /* in the event itself */
};

static void on_event(struct bdev_claim *claim, enum bdev_event event)
{
	struct holder *holder = container_of(claim, struct holder, claim);
	if (event == BDEV_EVENT_RESIZE) {
		holder->resized++;
		holder->size_bytes = atomic_load(&claim->bdev->size_bytes);
		return;
	}
	holder->removed++;
	if (holder->lets_go)
		bdev_release(claim);
}

static void hold(struct holder *holder, struct thing *thing, bool lets_go)
{
	*holder = (struct holder){.claim = {.holder = "holder", .event = on_event},
				  .lets_go = lets_go};
	assert_int_equal(bdev_claim(&thing->bdev, &holder->claim), 0);
}

static void test_resize_is_told(void **state)
{
	struct thing *thing = thing_make("thing");
	struct holder holders[3];
	struct bdev_claim deaf = {.holder = "deaf"};
	for (unsigned i = 0; i < 3; i++)
		hold(&holders[i], thing, false);
	assert_int_equal(bdev_claim(&thing->bdev, &deaf), 0);
	atomic_store(&thing->bdev.size_bytes, 2 * SIZE);
	bdev_resized(&thing->bdev);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(holders[i].resized, 1);
		assert_int_equal(holders[i].size_bytes, 2 * SIZE);
		assert_int_equal(holders[i].removed, 0);
		bdev_release(&holders[i].claim);
	}
	bdev_release(&deaf);
	thing_remove(thing);
}

static void test_what_is_held_stays(void **state)
{
	struct thing *thing = thing_make("thing");
	struct holder holder;
	unsigned removed = 0;
	hold(&holder, thing, false);
	assert_int_equal(bdev_remove(&thing->bdev, false, count_removed, &removed), -EBUSY);
	fake_settle();
	assert_int_equal(removed + holder.removed + thing->destroyed, 0);
	assert_ptr_equal(bdev_find("thing"), &thing->bdev);
	bdev_release(&holder.claim);
	assert_ptr_equal(bdev_find("thing"), &thing->bdev);
	thing_remove(thing);
}

static void test_force_waits_for_the_holders(void **state)
{
	struct thing *thing = thing_make("thing");
	struct holder quick, slow;
	struct bdev_claim late = {.holder = "late"};
	unsigned removed = 0;
	hold(&quick, thing, true);
	hold(&slow, thing, false);
	assert_int_equal(bdev_remove(&thing->bdev, true, count_removed, &removed), 0);
	assert_int_equal(quick.removed, 1);
	assert_int_equal(slow.removed, 1);
	assert_int_equal(bdev_claim(&thing->bdev, &late), -ENODEV);
	assert_int_equal(bdev_remove(&thing->bdev, true, NULL, NULL), -EBUSY);
	assert_int_equal(bdev_check_name("thing"), -EEXIST); /* still there */
	fake_settle();
	assert_int_equal(thing->destroyed, 0);
	bdev_release(&slow.claim);
	assert_null(bdev_find("thing"));
	fake_settle();
	assert_int_equal(removed, 1);
	assert_int_equal(thing->destroyed, 1);
	free(thing);
}

static void test_all_let_go_at_once(void **state)
{
	struct thing *thing = thing_make("thing");
	struct holder holders[3];
	unsigned removed = 0;
	for (unsigned i = 0; i < 3; i++)
		hold(&holders[i], thing, true);
	assert_int_equal(bdev_remove(&thing->bdev, true, count_removed, &removed), 0);
	fake_settle();
	assert_int_equal(removed, 1);
	assert_int_equal(thing->destroyed, 1);
	free(thing);
}

/* The name is free at once; the callback waits for the driver, as the process does at its end. */
static void test_destroy_takes_its_time(void **state)
{
	struct thing *thing = thing_make("thing");
	unsigned removed = 0;
	thing->later = true;
	assert_int_equal(bdev_remove(&thing->bdev, false, count_removed, &removed), 0);
	assert_null(bdev_find("thing"));
	assert_null(bdev_first());
	assert_false(bdev_all_gone());
	struct thing *next = thing_make("thing");
	fake_settle();
	assert_int_equal(thing->destroyed, 1);
	assert_int_equal(removed, 0);
	assert_false(bdev_all_gone());
	bdev_destroyed(&thing->bdev);
	assert_int_equal(removed, 1);
	free(thing);
	thing_remove(next);
	assert_true(bdev_all_gone());
}

static unsigned messages_seen;

static void see_message(void *arg)
{
	struct thing *thing = arg;
	assert_int_equal(thing->destroyed, 0);
	messages_seen++;
}

/* What was sent to a core before the removal still finds the bdev. */
static void test_destroy_comes_after_messages_under_way(void **state)
{
	struct thing *thing = thing_make("thing");
	for (unsigned i = 0; i < reactor_count; i++)
		reactor_send(reactors[i], see_message, thing);
	thing_remove(thing);
	assert_int_equal(messages_seen, 2);
}

#define test(name) cmocka_unit_test_setup_teardown(name, start, stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(test_names),
		test(test_made_names_take_the_lowest_number),
		test(test_uuids),
		test(test_geometry),
		test(test_defaults),
		test(test_contexts_do_not_overlap),
		test(test_contexts_have_an_end),
		test(test_claims),
		test(test_resize_is_told),
		test(test_what_is_held_stays),
		test(test_force_waits_for_the_holders),
		test(test_all_let_go_at_once),
		test(test_destroy_takes_its_time),
		test(test_destroy_comes_after_messages_under_way),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
