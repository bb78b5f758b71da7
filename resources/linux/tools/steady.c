// SPDX-License-Identifier: Apache-2.0
// steady and identity: what a guest does and tells while its machine is stopped, kept and multiplied.

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "tools.h"

// From one round to the next.
#define REST_MS 100

static uint64_t uptime(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

// All interrupts since the start: the first number in the line `intr` of /proc/stat.
static unsigned long long interrupts(void)
{
	char text[4096];
	int file = open("/proc/stat", O_RDONLY);
	ssize_t bytes = file < 0 ? -1 : read(file, text, sizeof text - 1);
	const char *line;

	if (bytes < 0)
		fail("read /proc/stat");
	close(file);
	text[bytes] = 0;
	line = strstr(text, "\nintr ");
	return line ? strtoull(line + 6, NULL, 10) : 0;
}

// Whether a file holds something else. What the kernel does not keep it reads from the disk.
static int differs(int file, const char *path, const void *expected, void *buffer, size_t bytes)
{
	posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
	memset(buffer, 0, bytes);
	if (pread(file, buffer, bytes, 0) != (ssize_t)bytes)
		fail("read %s", path);
	return !!memcmp(expected, buffer, bytes);
}

// One CPU's rounds, with files of its own. What the last round has left is looked at before it is written over.
static int rounds(int cpu, uint64_t count, size_t bytes, uint64_t seed, int paths, char **names)
{
	unsigned char *data = allocate(bytes), *buffer = allocate(bytes);
	uint64_t last = uptime(CLOCK_MONOTONIC), wrong = 0, most = 0, sum = 0;
	const struct timespec rest = { 0, REST_MS * 1000000 };
	int files[4];

	for (int index = 0; index < paths; index++) {
		char path[256];

		snprintf(path, sizeof path, "%s.%d", names[index], cpu);
		files[index] = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
		if (files[index] < 0)
			fail("open %s", path);
	}
	for (uint64_t round = 1; !count || round <= count; round++) {
		uint64_t state = seed ^ round << 16, before, after;

		if (round > 1) {
			wrong += fnv(FNV_START, data, bytes) != sum;
			for (int index = 0; index < paths; index++)
				wrong += differs(files[index], names[index], data, buffer, bytes);
		}
		fill(&state, data, bytes);
		sum = fnv(FNV_START, data, bytes);
		for (int index = 0; index < paths; index++) {
			if (pwrite(files[index], data, bytes, 0) != (ssize_t)bytes || fsync(files[index]))
				fail("write %s", names[index]);
			wrong += differs(files[index], names[index], data, buffer, bytes);
		}

		before = uptime(CLOCK_MONOTONIC);
		nanosleep(&rest, NULL);
		after = uptime(CLOCK_MONOTONIC);
		// A timer is late on a busy host, and never early; time does not go back.
		wrong += before < last || after < before + REST_MS * 1000000ull;
		last = after;
		if (after - before > most)
			most = after - before;
		printf("steady cpu=%d round=%llu wrong=%llu sum=%016llx uptime_ms=%llu sleep_ms=%llu interrupts=%llu\n",
		       cpu, (unsigned long long)round, (unsigned long long)wrong, (unsigned long long)sum,
		       (unsigned long long)uptime(CLOCK_BOOTTIME) / 1000000, (unsigned long long)most / 1000000,
		       interrupts());
	}
	return wrong > 0;
}

int steady(int count, char **words)
{
	uint64_t turns = number(count, words, 0, 0), seed = number(count, words, 2, 1);
	size_t bytes = number(count, words, 1, 64) * KIB;
	int cpus = sysconf(_SC_NPROCESSORS_ONLN), paths = count - 3, failed = 0, status;

	if (paths < 1 || paths > 4 || !bytes)
		fail("steady ROUNDS KIB SEED FILE..., with up to 4 files");
	for (int cpu = 0; cpu < cpus; cpu++) {
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (!child) {
			cpu_set_t set;

			prctl(PR_SET_PDEATHSIG, SIGKILL);
			CPU_ZERO(&set);
			CPU_SET(cpu, &set);
			if (sched_setaffinity(0, sizeof set, &set))
				fail("bind to cpu %d", cpu);
			exit(rounds(cpu, turns, bytes, seed + cpu, paths, words + 3));
		}
	}
	while (wait(&status) > 0)
		failed |= status;
	return failed != 0;
}

static void print_hex(const char *name, const unsigned char *data, size_t bytes)
{
	printf(" %s=", name);
	for (size_t index = 0; index < bytes; index++)
		printf("%02x", data[index]);
}

// The last of more bytes than the driver may have had ready (it asks for 64 ahead, and copies have these in common).
static void print_hwrng(void)
{
	unsigned char random[192];
	int file = open("/dev/hwrng", O_RDONLY);
	size_t done = 0;
	ssize_t some;

	for (; file >= 0 && done < sizeof random; done += some) {
		some = read(file, random + done, sizeof random - done);
		if (some <= 0)
			break;
	}
	close(file);
	if (done < sizeof random)
		printf(" hwrng=none");
	else
		print_hex("hwrng", random + sizeof random - 16, 16);
}

static void print_identity(const char *interface)
{
	int urandom = open("/dev/urandom", O_RDONLY), vsock = open("/dev/vsock", O_RDONLY);
	int any = socket(AF_INET, SOCK_DGRAM, 0);
	unsigned char random[16], *mac;
	struct ifreq request = { 0 };
	unsigned int cid;

	if (urandom < 0 || read(urandom, random, sizeof random) != sizeof random)
		fail("read /dev/urandom");
	printf("identity");
	print_hex("random", random, sizeof random);
	print_hwrng();
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", interface);
	mac = (unsigned char *)request.ifr_hwaddr.sa_data;
	if (any < 0 || ioctl(any, SIOCGIFHWADDR, &request))
		printf(" mac=none");
	else
		printf(" mac=%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
	if (vsock < 0 || ioctl(vsock, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) || cid == VMADDR_CID_ANY)
		printf(" cid=none\n");
	else
		printf(" cid=%u\n", cid);
	close(urandom);
	close(vsock);
	close(any);
}

// For each line that is typed, and for each word of the kernel's about a copied machine, past ones included.
int identity(int count, char **words)
{
	const char *interface = count ? words[0] : "eth0";
	struct pollfd sources[2] = {
		{ STDIN_FILENO, POLLIN, 0 },
		{ open("/dev/kmsg", O_RDONLY | O_NONBLOCK), POLLIN, 0 },
	};
	char text[1024];

	if (sources[1].fd < 0)
		fail("open /dev/kmsg");
	print_identity(interface);
	while (poll(sources, 2, -1) >= 0) {
		ssize_t bytes;

		// A record a read (Linux, Documentation/ABI/testing/dev-kmsg): numbers, `;`, the text.
		while (sources[1].revents && (bytes = read(sources[1].fd, text, sizeof text - 1)) > 0) {
			char *said;

			text[bytes] = 0;
			said = strchr(text, ';');
			if (said && strstr(said, "virtual machine fork")) {
				said[strcspn(said, "\n")] = 0;
				printf("identity kernel said: %s\n", said + 1);
				print_identity(interface);
			}
		}
		if (sources[0].revents) {
			bytes = read(STDIN_FILENO, text, sizeof text - 1);
			if (bytes <= 0 || (bytes >= 3 && !memcmp(text, "end", 3)))
				return 0;
			print_identity(interface);
		}
	}
	fail("poll");
}
