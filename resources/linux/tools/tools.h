// SPDX-License-Identifier: Apache-2.0
// What the commands of `tools` share.
#ifndef TOOLS_H
#define TOOLS_H

#include <stddef.h>
#include <stdint.h>

#define KIB 1024ull
#define MIB (1024 * KIB)

// The commands. Each gets its own words, counted, without its name.
int console(int count, char **words);
int dial(int count, char **words);
int hwrng(int count, char **words);
int identity(int count, char **words);
int listens(int count, char **words);
int memory(int count, char **words);
int offload(int count, char **words);
int pattern(int count, char **words);
int steady(int count, char **words);
int talk(int count, char **words);
int verify(int count, char **words);

// Prints a line that starts with `failed`, with errno's text if it is not 0, and exits with 1.
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
// The number in word `index`, or `otherwise` where there are fewer words.
uint64_t number(int count, char **words, int index, uint64_t otherwise);
void *allocate(size_t bytes);
// Milliseconds of a clock that only goes forward.
uint64_t now(void);

// splitmix64: the next number of the sequence that starts with this seed.
uint64_t next(uint64_t *state);
// The sequence's numbers as little-endian bytes; `bytes` is a multiple of 8.
void fill(uint64_t *state, void *buffer, size_t bytes);
// FNV-1a of 64 bits, continued from `sum`.
#define FNV_START 0xcbf29ce484222325ull
uint64_t fnv(uint64_t sum, const void *buffer, size_t bytes);

#endif
