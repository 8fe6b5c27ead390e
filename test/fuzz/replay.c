/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * replay: a main() for a fuzz target where there is no libFuzzer. It runs the target on each file
 * named, and on each file of each folder named, then on their prefixes and on copies with one byte
 * changed. Exit status 0: all ran; 1: there was nothing to run.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifndef REPLAY_STRIDE
#define REPLAY_STRIDE 1 /* of the bytes that are changed; more where a run takes long */
#endif

enum { MAX_PATH_BYTES = 4096, MAX_VARIED_BYTES = 600 };

static unsigned runs;

/* In a block of just this size, for the sanitizer to watch. */
static void run(const uint8_t *data, size_t size)
{
	uint8_t *exact = malloc(size ? size : 1);

	if (!exact)
		abort();
	if (size)
		memcpy(exact, data, size);
	LLVMFuzzerTestOneInput(exact, size);
	free(exact);
	runs++;
}

static void run_varied(uint8_t *data, size_t size)
{
	static const uint8_t patterns[] = {0x01, 0x80, 0xff};

	run(data, size);
	if (size > MAX_VARIED_BYTES)
		return;
	for (size_t i = 0; i < size; i += REPLAY_STRIDE) {
		run(data, i);
		for (size_t p = 0; p < sizeof(patterns); p++) {
			data[i] ^= patterns[p];
			run(data, size);
			data[i] ^= patterns[p];
		}
	}
}

static int run_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data;
	long size;

	if (!file) {
		perror(path);
		return 1;
	}
	fseek(file, 0, SEEK_END);
	size = ftell(file);
	rewind(file);
	data = malloc(size + 1);
	if (!data || fread(data, 1, size, file) != (size_t)size) {
		fprintf(stderr, "%s: cannot be read\n", path);
		free(data);
		fclose(file);
		return 1;
	}
	run_varied(data, size);
	free(data);
	fclose(file);
	return 0;
}

static int run_folder(DIR *folder, const char *path)
{
	struct dirent *entry;
	int failed = 0;

	while ((entry = readdir(folder))) {
		char name[MAX_PATH_BYTES];

		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		failed |= run_file(name);
	}
	return failed;
}

int main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++) {
		DIR *folder = opendir(argv[i]);

		if (folder) {
			failed |= run_folder(folder, argv[i]);
			closedir(folder);
		} else {
			failed |= run_file(argv[i]);
		}
	}
	printf("%u inputs\n", runs);
	return failed || !runs;
}
