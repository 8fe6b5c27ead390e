/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * verify: the table of generations, the file it is kept in, and the findings. The file is a header
 * and the entries, in the machine's byte order: it is for the next run on this machine.
 */
#include "app/perf/verify.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/compiler.h"
#include "lib/base/counter.h"
#include "lib/base/why.h"

enum { PATH_BYTES = 4096 };

struct header {
	char magic[8];
	uint64_t seed, run, offset, blocks, block_bytes, open;
};

static const char magic[8] = "pxverif2";

int verify_table_init(struct verify_table *table, uint64_t offset, uint64_t blocks,
		      uint32_t block_bytes)
{
	*table = (struct verify_table){
		.offset = offset,
		.blocks = blocks,
		.block_bytes = block_bytes,
		.entries = calloc(blocks, sizeof(uint32_t)),
	};
	return table->entries ? 0 : -ENOMEM;
}

void verify_table_fini(struct verify_table *table)
{
	free(table->entries);
	table->entries = NULL;
}

/* ---- The file ---- */

static int read_state(struct verify_table *table, FILE *file, const char *path, char *why,
		      size_t why_bytes)
{
	struct header header;
	if (fread(&header, sizeof(header), 1, file) != 1 ||
	    memcmp(header.magic, magic, sizeof(magic)) != 0)
		return why_refuse(why, why_bytes, -EINVAL, "%s was not written by --verify-state",
				  path);
	if (header.offset != table->offset || header.blocks != table->blocks ||
	    header.block_bytes != table->block_bytes)
		return why_refuse(
			why, why_bytes, -EINVAL,
			"%s is of %llu blocks of %llu bytes from offset %llu on: use the same "
			"--bs, --offset and --size",
			path, (unsigned long long)header.blocks,
			(unsigned long long)header.block_bytes, (unsigned long long)header.offset);
	if (header.open)
		return why_refuse(why, why_bytes, -EBUSY,
				  "%s: a run that is still under way, or was killed, has it: what "
				  "is written now is not known (remove it to begin anew)",
				  path);
	if (fread(table->entries, sizeof(uint32_t), table->blocks, file) != table->blocks)
		return why_refuse(why, why_bytes, -EINVAL, "%s is cut short", path);
	table->seed = header.seed;
	table->run = table->first_run = header.run;
	table->any_seed = table->any_run = false;
	return 0;
}

int verify_load(struct verify_table *table, const char *path, char *why, size_t why_bytes)
{
	FILE *file = fopen(path, "rb");
	if (!file) {
		int error = -errno;
		snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
		return error;
	}
	int rc = read_state(table, file, path, why, why_bytes);
	fclose(file);
	return rc;
}

static int write_state(const struct verify_table *table, FILE *file, bool open)
{
	struct header header = {
		.seed = table->seed,
		.run = table->run,
		.offset = table->offset,
		.blocks = table->blocks,
		.block_bytes = table->block_bytes,
		.open = open,
	};
	memcpy(header.magic, magic, sizeof(magic));
	if (fwrite(&header, sizeof(header), 1, file) != 1)
		return -errno;
	for (uint64_t i = 0; i < table->blocks && !open; i++) {
		/* what was never answered: writes have left their mark, reads change nothing */
		uint32_t entry = table->entries[i] & ~VERIFY_BUSY;
		if (fwrite(&entry, sizeof(entry), 1, file) != 1)
			return -errno;
	}
	return fflush(file) || fsync(fileno(file)) ? -errno : 0;
}

int verify_save(const struct verify_table *table, const char *path, bool open, char *why,
		size_t why_bytes)
{
	char beside[PATH_BYTES];
	int rc = -ENAMETOOLONG;
	if (snprintf(beside, sizeof(beside), "%s.new", path) < PATH_BYTES) {
		/* a run that is killed here leaves the old file whole */
		FILE *file = fopen(beside, "wb");
		rc = file ? write_state(table, file, open) : -errno;
		if (file && fclose(file) && !rc)
			rc = -errno;
		if (!rc && rename(beside, path))
			rc = -errno;
	}
	if (rc)
		snprintf(why, why_bytes, "%s: %s", path, strerror(-rc));
	return rc;
}

/* ---- Blocks ---- */

static uint64_t offset_of(const struct verify_table *table, uint64_t block)
{
	return table->offset + block * table->block_bytes;
}

static uint32_t next_generation(uint32_t entry)
{
	uint32_t generation = (entry & VERIFY_GENERATIONS) + 1;
	return generation > VERIFY_GENERATIONS ? 1 : generation;
}

void verify_begin_write(struct verify_table *table, uint64_t block, void *data)
{
	uint32_t *entry = &table->entries[block];
	const struct stamp stamp = {table->seed, table->run, next_generation(*entry)};
	stamp_write(data, table->block_bytes, offset_of(table, block), &stamp);
	/* whatever becomes of it, its generation is used up */
	*entry = stamp.generation | VERIFY_BUSY | VERIFY_UNCERTAIN;
}

void verify_end_write(struct verify_table *table, uint64_t block, bool good)
{
	table->entries[block] &= good ? VERIFY_GENERATIONS : VERIFY_GENERATIONS | VERIFY_UNCERTAIN;
}

void verify_begin_read(struct verify_table *table, uint64_t block)
{
	table->entries[block] |= VERIFY_BUSY;
}

static void keep_finding(struct verify_log *log, enum stamp_verdict verdict, const char *uri,
			 uint64_t offset, const char *detail)
{
	struct verify_finding *finding;
	counter_add(&log->bad, 1);
	if (log->finding_count == VERIFY_FINDINGS_MAX)
		return;
	finding = &log->findings[log->finding_count++];
	finding->verdict = verdict;
	finding->uri = uri;
	finding->offset = offset;
	snprintf(finding->detail, sizeof(finding->detail), "%s", detail);
}

void verify_end_read(struct verify_table *table, uint64_t block, const void *data, const char *uri,
		     struct verify_log *log)
{
	uint32_t *entry = &table->entries[block];
	struct stamp_expected expected = {
		.offset = offset_of(table, block),
		.stamp = {table->seed, table->run, *entry & VERIFY_GENERATIONS},
		.any_seed = table->any_seed,
		.any_run = table->any_run,
		.first_run = table->first_run,
		.runs = table->runs,
	};
	char detail[STAMP_DETAIL_BYTES];
	*entry &= ~VERIFY_BUSY;
	/* a write that failed may have left anything */
	if (!data || *entry & VERIFY_UNCERTAIN ||
	    (!expected.stamp.generation && !table->judge_unknown))
		return;
	enum stamp_verdict verdict = stamp_check(data, table->block_bytes, &expected, detail);
	log->counts[verdict]++;
	if (unlikely(verdict > STAMP_UNWRITTEN))
		keep_finding(log, verdict, uri, expected.offset, detail);
}

void verify_log_add(struct verify_log *log, const struct verify_log *from)
{
	for (unsigned i = 0; i < STAMP_VERDICTS; i++)
		log->counts[i] += from->counts[i];
	log->bad += from->bad;
	for (unsigned i = 0; i < from->finding_count; i++) {
		if (log->finding_count == VERIFY_FINDINGS_MAX)
			return;
		log->findings[log->finding_count++] = from->findings[i];
	}
}
