// SPDX-License-Identifier: Apache-2.0
// verify: writes a block device in pieces of odd sizes at random offsets, a quarter of them twice,
// then reads all of it back. Everything follows from the seed, so that a later run can check only.
// pattern: a file of known content.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools.h"

#define SECTOR 512

struct piece {
	uint64_t offset;
	size_t bytes;
	uint64_t content;	// the seed of its content
};

static struct piece *plan(uint64_t total, size_t longest, uint64_t *random, size_t *count)
{
	// All pieces are longer than half the longest.
	struct piece *pieces = allocate((total / (longest / 2) + 1) * sizeof *pieces);

	*count = 0;
	for (uint64_t offset = 0; offset < total;) {
		size_t bytes = longest - next(random) % (longest / 2 / SECTOR) * SECTOR;

		if (bytes > total - offset)
			bytes = total - offset;
		pieces[(*count)++] = (struct piece) { offset, bytes, next(random) };
		offset += bytes;
	}
	return pieces;
}

static void shuffle(struct piece *pieces, size_t count, uint64_t *random)
{
	for (size_t last = count; last > 1; last--) {
		size_t other = next(random) % last;
		struct piece piece = pieces[other];

		pieces[other] = pieces[last - 1];
		pieces[last - 1] = piece;
	}
}

static void write_piece(int device, const struct piece *piece, void *buffer)
{
	uint64_t state = piece->content;

	fill(&state, buffer, piece->bytes);
	errno = 0;
	if (pwrite(device, buffer, piece->bytes, piece->offset) != (ssize_t)piece->bytes)
		fail("write offset=%llu bytes=%zu", (long long)piece->offset, piece->bytes);
}

static void check_piece(int device, const struct piece *piece, unsigned char *expected, unsigned char *found)
{
	uint64_t state = piece->content;
	size_t first = 0, wrong = 0;

	fill(&state, expected, piece->bytes);
	memset(found, 0, piece->bytes);
	errno = 0;
	if (pread(device, found, piece->bytes, piece->offset) != (ssize_t)piece->bytes)
		fail("read offset=%llu bytes=%zu", (long long)piece->offset, piece->bytes);
	if (!memcmp(expected, found, piece->bytes))
		return;
	for (size_t index = piece->bytes; index-- > 0;)
		if (expected[index] != found[index]) {
			first = index;
			wrong++;
		}
	fail("verify offset=%llu expected=%#x found=%#x wrong=%zu of=%zu", (long long)(piece->offset + first),
	     expected[first], found[first], wrong, piece->bytes);
}

int verify(int count, char **words)
{
	uint64_t total = number(count, words, 1, 0) * MIB, size, written = 0, started;
	size_t longest = number(count, words, 2, 256) * KIB, pieces, twice;
	uint64_t seed = number(count, words, 3, 1), random = seed;
	int writes = count < 5 || strcmp(words[4], "check"), checks = count < 5 || strcmp(words[4], "write");
	void *expected = allocate(longest), *found = allocate(longest);
	struct piece *list;
	int device;

	if (!count)
		fail("verify: no device named");
	if (longest < 4 * KIB)
		fail("verify: pieces of less than 4 KiB");
	device = open(words[0], (writes ? O_RDWR : O_RDONLY) | O_DIRECT);
	if (device < 0)
		fail("open %s", words[0]);
	size = lseek(device, 0, SEEK_END);
	if (!total)
		total = size;
	if (total > size)
		fail("verify: %s has only bytes=%llu", words[0], (long long)size);

	started = now();
	list = plan(total, longest, &random, &pieces);
	twice = pieces / 4;
	shuffle(list, pieces, &random);
	for (size_t index = 0; writes && index < pieces; index++) {
		write_piece(device, &list[index], expected);
		written += list[index].bytes;
	}
	shuffle(list, pieces, &random);
	for (size_t index = 0; index < twice; index++) {
		list[index].content = next(&random);
		if (!writes)
			continue;
		write_piece(device, &list[index], expected);
		written += list[index].bytes;
	}
	if (writes && fsync(device))
		fail("fsync %s", words[0]);
	shuffle(list, pieces, &random);
	for (size_t index = 0; checks && index < pieces; index++)
		check_piece(device, &list[index], expected, found);
	printf("verify ok bytes=%llu pieces=%zu written=%llu read=%llu seed=%llu ms=%llu\n", (long long)total, pieces,
	       (long long)written, checks ? (long long)total : 0, (long long)seed, (long long)(now() - started));
	return 0;
}

int pattern(int count, char **words)
{
	uint64_t left = number(count, words, 1, 0) * KIB, state = number(count, words, 2, 1);
	char buffer[4 * KIB];
	int file;

	if (count < 2)
		fail("pattern: no file and size named");
	file = open(words[0], O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (file < 0)
		fail("open %s", words[0]);
	while (left) {
		size_t bytes = left < sizeof buffer ? left : sizeof buffer;

		fill(&state, buffer, bytes);
		errno = 0;
		if (write(file, buffer, bytes) != (ssize_t)bytes)
			fail("write %s", words[0]);
		left -= bytes;
	}
	if (close(file))
		fail("close %s", words[0]);
	return 0;
}
