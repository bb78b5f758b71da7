// SPDX-License-Identifier: Apache-2.0
// One static program with the small helpers of the guest's device jobs: `tools COMMAND WORD...`.
// Each prints its result as one line, or lines, for the host's test to read.

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools.h"

static const struct {
	const char *name;
	int (*run)(int count, char **words);
	const char *words;
} COMMANDS[] = {
	{ "console", console, "DEVICE [SECONDS]        answer each line typed there; `end` ends" },
	{ "dial", dial, "tcp:ADDRESS:PORT|vsock:CID:PORT [KIB [SEED]]   send, half-close, receive" },
	{ "hwrng", hwrng, "[DEVICE [BYTES]]        print random bytes" },
	{ "identity", identity, "[INTERFACE]          print random bytes and addresses for each line typed; `end` ends" },
	{ "listen", listens, "tcp:PORT|vsock:PORT [CONNECTIONS]   send all that is received back" },
	{ "memory", memory, "SECONDS [STEP_KIB]      print the memory's size when it has changed" },
	{ "offload", offload, "INTERFACE [on|off]      switch checksum and segmentation offloads" },
	{ "pattern", pattern, "FILE KIB [SEED]         write a file of pseudo-random bytes" },
	{ "steady", steady, "ROUNDS KIB SEED FILE...   write and read files on each CPU; 0 rounds are for ever" },
	{ "talk", talk, "tcp:ADDRESS:PORT|vsock:CID:PORT...   send, receive the same, for ever; connect again when lost" },
	{ "verify", verify, "DEVICE [MIB [KIB [SEED [write|check]]]]   random writes, read back" },
};
#define COMMAND_COUNT (sizeof COMMANDS / sizeof *COMMANDS)

void fail(const char *format, ...)
{
	int error = errno;
	va_list values;

	printf("failed ");
	va_start(values, format);
	vprintf(format, values);
	va_end(values);
	if (error)
		printf(": %s", strerror(error));
	putchar('\n');
	exit(1);
}

uint64_t number(int count, char **words, int index, uint64_t otherwise)
{
	char *end;
	uint64_t value;

	if (index >= count)
		return otherwise;
	errno = 0;
	value = strtoull(words[index], &end, 0);
	if (errno || end == words[index] || *end)
		fail("'%s' is not a number", words[index]);
	return value;
}

void *allocate(size_t bytes)
{
	void *memory = NULL;

	// Direct I/O wants its buffers aligned.
	errno = posix_memalign(&memory, 4096, bytes);
	if (errno)
		fail("allocate bytes=%zu", bytes);
	return memory;
}

uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000ull + time.tv_nsec / 1000000;
}

uint64_t next(uint64_t *state)
{
	uint64_t mixed = *state += 0x9e3779b97f4a7c15;

	mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
	mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
	return mixed ^ mixed >> 31;
}

void fill(uint64_t *state, void *buffer, size_t bytes)
{
	uint64_t *numbers = buffer;

	for (size_t index = 0; index < bytes / sizeof *numbers; index++)
		numbers[index] = next(state);
}

uint64_t fnv(uint64_t sum, const void *buffer, size_t bytes)
{
	const unsigned char *data = buffer;

	for (size_t index = 0; index < bytes; index++)
		sum = (sum ^ data[index]) * 0x100000001b3;
	return sum;
}

int main(int count, char **words)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t index = 0; count > 1 && index < COMMAND_COUNT; index++)
		if (!strcmp(words[1], COMMANDS[index].name)) {
			errno = 0;
			return COMMANDS[index].run(count - 2, words + 2);
		}
	fprintf(stderr, "usage:\n");
	for (size_t index = 0; index < COMMAND_COUNT; index++)
		fprintf(stderr, "  tools %-8s %s\n", COMMANDS[index].name, COMMANDS[index].words);
	return 2;
}
