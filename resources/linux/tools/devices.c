// SPDX-License-Identifier: Apache-2.0
// hwrng, memory, console and offload: one look at a device each.

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include <linux/ethtool.h>
#include <linux/sockios.h>

#include "tools.h"

int hwrng(int count, char **words)
{
	const char *path = count ? words[0] : "/dev/hwrng";
	size_t wanted = number(count, words, 1, 64), got = 0;
	unsigned char *bytes = allocate(wanted);
	uint64_t started = now();
	int device = open(path, O_RDONLY);

	if (device < 0)
		fail("open %s", path);
	while (got < wanted) {
		ssize_t more = read(device, bytes + got, wanted - got);

		if (more < 0)
			fail("read %s after bytes=%zu", path, got);
		if (!more)
			break;
		got += more;
	}
	printf("hwrng bytes=%zu ms=%llu data=", got, (long long)(now() - started));
	for (size_t index = 0; index < got; index++)
		printf("%02x", bytes[index]);
	putchar('\n');
	return got != wanted;
}

static void meminfo(uint64_t *total, uint64_t *unused)
{
	char text[256];
	int file = open("/proc/meminfo", O_RDONLY);
	ssize_t bytes = file < 0 ? -1 : read(file, text, sizeof text - 1);
	unsigned long long values[2];

	if (bytes < 0)
		fail("read /proc/meminfo");
	close(file);
	text[bytes] = 0;
	if (sscanf(text, "MemTotal: %llu kB MemFree: %llu kB", &values[0], &values[1]) != 2)
		fail("unknown format of /proc/meminfo");
	*total = values[0];
	*unused = values[1];
}

// The memory's size at the start, each time it has changed by a step and stands still, and at the end: when the size is
// again what it was, or the time is up.
int memory(int count, char **words)
{
	uint64_t seconds = number(count, words, 0, 10), step = number(count, words, 1, 1024), started = now();
	uint64_t total, unused, first, said, before;

	meminfo(&total, &unused);
	printf("memory at=start total=%llu free=%llu KiB\n", (long long)total, (long long)unused);
	first = said = before = total;
	while (now() - started < seconds * 1000) {
		uint64_t change;

		poll(NULL, 0, 250);
		meminfo(&total, &unused);
		change = total > said ? total - said : said - total;
		if (change >= step && total == before) {
			printf("memory at=change total=%llu free=%llu KiB\n", (long long)total, (long long)unused);
			said = total;
			if (total == first)
				break;
		}
		before = total;
	}
	printf("memory at=end total=%llu free=%llu KiB\n", (long long)total, (long long)unused);
	return 0;
}

static void print_size(int device, const char *path, struct winsize *last)
{
	struct winsize size;

	if (ioctl(device, TIOCGWINSZ, &size))
		fail("window size of %s", path);
	if (last && size.ws_col == last->ws_col && size.ws_row == last->ws_row)
		return;
	printf("console %s columns=%u rows=%u\n", path, size.ws_col, size.ws_row);
	if (last)
		*last = size;
}

// Answers each line that is typed on a terminal, and prints its size whenever that has changed.
int console(int count, char **words)
{
	uint64_t seconds = number(count, words, 1, 0), started = now(), lines = 0;
	const char *path = count ? words[0] : "/dev/hvc0";
	int device = open(path, O_RDWR | O_NOCTTY);
	struct pollfd input = { .fd = device, .events = POLLIN };
	struct winsize size = { .ws_col = 0xffff };
	struct termios mode;
	char line[4096];

	if (device < 0)
		fail("open %s", path);
	if (tcgetattr(device, &mode))
		fail("terminal mode of %s", path);
	// Whole lines, but no echo: what comes out is said here.
	mode.c_lflag &= ~ECHO;
	if (tcsetattr(device, TCSANOW, &mode))
		fail("terminal mode of %s", path);
	print_size(device, path, &size);
	dprintf(device, "ready\n");
	while (!seconds || now() - started < seconds * 1000) {
		ssize_t bytes;

		print_size(device, path, &size);
		errno = 0;
		if (poll(&input, 1, 200) < 0)
			fail("poll %s", path);
		if (!input.revents)
			continue;
		bytes = read(device, line, sizeof line - 1);
		if (bytes <= 0)
			break;
		line[bytes] = 0;
		line[strcspn(line, "\n")] = 0;
		if (!strcmp(line, "end"))
			break;
		lines++;
		dprintf(device, "echo %s\n", line);
	}
	dprintf(device, "end\n");
	// Let it out before the device closes.
	tcdrain(device);
	printf("console %s lines=%llu\n", path, (long long)lines);
	return 0;
}

static const struct {
	const char *name;
	uint32_t get, set;
} OFFLOADS[] = {
	// Segmentation wants scatter-gather and checksums: on in this order, off in the other.
	{ "rx-checksum", ETHTOOL_GRXCSUM, ETHTOOL_SRXCSUM },
	{ "tx-checksum", ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM },
	{ "sg", ETHTOOL_GSG, ETHTOOL_SSG },
	{ "tso", ETHTOOL_GTSO, ETHTOOL_STSO },
	{ "gso", ETHTOOL_GGSO, ETHTOOL_SGSO },
	{ "gro", ETHTOOL_GGRO, ETHTOOL_SGRO },
};
#define OFFLOAD_COUNT (sizeof OFFLOADS / sizeof *OFFLOADS)

// Refusals are no error: the line says what is on in the end.
static int ethtool(int fd, struct ifreq *request, uint32_t command, uint32_t *value)
{
	struct ethtool_value data = { .cmd = command, .data = *value };

	request->ifr_data = (void *)&data;
	if (ioctl(fd, SIOCETHTOOL, request))
		return -1;
	*value = data.data;
	return 0;
}

int offload(int count, char **words)
{
	struct ifreq request = { 0 };
	uint32_t value;
	int fd = socket(AF_INET, SOCK_DGRAM, 0), on;

	if (!count)
		fail("offload: no interface");
	if (fd < 0)
		fail("socket");
	strncpy(request.ifr_name, words[0], IFNAMSIZ - 1);
	on = count > 1 && !strcmp(words[1], "on");
	for (size_t index = 0; count > 1 && index < OFFLOAD_COUNT; index++) {
		value = on;
		ethtool(fd, &request, OFFLOADS[on ? index : OFFLOAD_COUNT - 1 - index].set, &value);
	}
	printf("offload %s", words[0]);
	for (size_t index = 0; index < OFFLOAD_COUNT; index++) {
		value = 0;
		printf(" %s=%s", OFFLOADS[index].name,
		       ethtool(fd, &request, OFFLOADS[index].get, &value) ? "unknown" : value ? "on" : "off");
	}
	putchar('\n');
	return 0;
}
