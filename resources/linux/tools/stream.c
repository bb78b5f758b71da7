// SPDX-License-Identifier: Apache-2.0
// dial and listen: byte streams over TCP and vsock, with checksums of what went each way.
// talk: questions and answers for ever, over connections that are made anew when they are lost.

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "tools.h"

#define CHUNK (64 * KIB)

struct totals {
	uint64_t sent, received, sent_sum, received_sum;
};

// The socket for `tcp:ADDRESS:PORT`, `vsock:CID:PORT`, or without the middle any address; its address.
static int parse(const char *text, struct sockaddr_storage *address, socklen_t *bytes)
{
	const char *colon = strchr(text, ':'), *last = strrchr(text, ':');
	char host[64] = "";
	uint16_t family;
	int fd;

	if (!colon)
		fail("'%s' is not tcp:ADDRESS:PORT or vsock:CID:PORT", text);
	if (last > colon)
		snprintf(host, sizeof host, "%.*s", (int)(last - colon - 1), colon + 1);
	memset(address, 0, sizeof *address);
	if (!strncmp(text, "vsock:", 6)) {
		struct sockaddr_vm *vsock = (void *)address;

		family = AF_VSOCK;
		vsock->svm_cid = *host ? strtoul(host, NULL, 0) : VMADDR_CID_ANY;
		vsock->svm_port = strtoul(last + 1, NULL, 0);
		*bytes = sizeof *vsock;
	} else if (!strncmp(text, "tcp:", 4)) {
		struct sockaddr_in *ip = (void *)address;

		family = AF_INET;
		ip->sin_port = htons(strtoul(last + 1, NULL, 0));
		if (*host && inet_pton(AF_INET, host, &ip->sin_addr) != 1)
			fail("'%s' is not an IPv4 address", host);
		*bytes = sizeof *ip;
	} else {
		fail("'%s' is neither tcp nor vsock", text);
	}
	address->ss_family = family;
	fd = socket(family, SOCK_STREAM, 0);
	if (fd < 0)
		fail("socket for %s", text);
	return fd;
}

static void report(const char *what, const char *address, const struct totals *totals, uint64_t started)
{
	int same = totals->sent == totals->received && totals->sent_sum == totals->received_sum;

	printf("%s %s sent=%llu sum=%016llx received=%llu sum=%016llx same=%s ms=%llu\n", what, address,
	       (long long)totals->sent, (long long)totals->sent_sum, (long long)totals->received,
	       (long long)totals->received_sum, same ? "yes" : "no", (long long)(now() - started));
}

// Receives once. Returns whether there is more to come.
static int receive(int fd, char *buffer, struct totals *totals, ssize_t *bytes)
{
	*bytes = recv(fd, buffer, CHUNK, 0);
	if (*bytes < 0)
		fail("receive after received=%llu", (long long)totals->received);
	totals->received += *bytes;
	totals->received_sum = fnv(totals->received_sum, buffer, *bytes);
	return *bytes > 0;
}

int dial(int count, char **words)
{
	uint64_t left = number(count, words, 1, 0) * KIB, state = number(count, words, 2, 1), started = now();
	struct totals totals = { .sent_sum = FNV_START, .received_sum = FNV_START };
	char *outgoing = allocate(CHUNK), *incoming = allocate(CHUNK), *from = outgoing;
	struct sockaddr_storage address;
	size_t pending = 0;
	ssize_t bytes;
	socklen_t length;
	struct pollfd socket = { .events = POLLIN | POLLOUT };

	if (!count)
		fail("dial: no address");
	socket.fd = parse(words[0], &address, &length);
	if (connect(socket.fd, (void *)&address, length))
		fail("connect %s", words[0]);
	printf("dial %s connected ms=%llu\n", words[0], (long long)(now() - started));
	for (;;) {
		if ((socket.events & POLLOUT) && !left && !pending) {
			// Nothing more to say, but the other side may have.
			if (shutdown(socket.fd, SHUT_WR))
				fail("shutdown after sent=%llu", (long long)totals.sent);
			socket.events = POLLIN;
		}
		if (poll(&socket, 1, -1) < 0)
			fail("poll");
		if (socket.revents & POLLOUT) {
			if (!pending) {
				pending = left < CHUNK ? left : CHUNK;
				left -= pending;
				from = outgoing;
				fill(&state, outgoing, pending);
			}
			bytes = send(socket.fd, from, pending, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (bytes < 0 && errno != EAGAIN)
				fail("send after sent=%llu", (long long)totals.sent);
			if (bytes > 0) {
				totals.sent_sum = fnv(totals.sent_sum, from, bytes);
				totals.sent += bytes;
				from += bytes;
				pending -= bytes;
			}
		}
		if ((socket.revents & (POLLIN | POLLHUP | POLLERR)) && !receive(socket.fd, incoming, &totals, &bytes))
			break;
	}
	if (left || pending)
		fail("closed by the other side after sent=%llu", (long long)totals.sent);
	close(socket.fd);
	report("dial", words[0], &totals, started);
	return 0;
}

static void echo(int connection, const char *address, char *buffer)
{
	struct totals totals = { .sent_sum = FNV_START, .received_sum = FNV_START };
	uint64_t started = now();
	ssize_t bytes;

	while (receive(connection, buffer, &totals, &bytes)) {
		for (ssize_t done = 0, sent; done < bytes; done += sent) {
			sent = send(connection, buffer + done, bytes - done, MSG_NOSIGNAL);
			if (sent < 0)
				fail("send after sent=%llu", (long long)totals.sent);
			totals.sent += sent;
			totals.sent_sum = fnv(totals.sent_sum, buffer + done, sent);
		}
	}
	if (shutdown(connection, SHUT_WR))
		fail("shutdown after sent=%llu", (long long)totals.sent);
	close(connection);
	report("listen", address, &totals, started);
}

int listens(int count, char **words)
{
	uint64_t connections = number(count, words, 1, 1);
	char *buffer = allocate(CHUNK);
	struct sockaddr_storage address;
	socklen_t length;
	int fd, on = 1;

	if (!count)
		fail("listen: no address");
	fd = parse(words[0], &address, &length);
	if (address.ss_family == AF_INET && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on))
		fail("reuse address");
	if (bind(fd, (void *)&address, length) || listen(fd, 8))
		fail("listen at %s", words[0]);
	printf("listen %s ready\n", words[0]);
	while (connections--) {
		int connection = accept(fd, NULL, NULL);

		if (connection < 0)
			fail("accept at %s", words[0]);
		echo(connection, words[0], buffer);
	}
	return 0;
}

#define QUESTION (2 * KIB)
// From one question to the next, and from one attempt to connect to the next.
#define REST_MS 100
#define RETRY_MS 200
// Each so many are told of.
#define TOLD 8

static void rest(int ms)
{
	const struct timespec time = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

// Sends this and receives as much. Returns whether the connection is still there; errno says why not, 0 for its end.
static int ask(int fd, const char *question, char *answer, size_t bytes)
{
	size_t done = 0;
	ssize_t some;

	for (; done < bytes; done += some) {
		some = send(fd, question + done, bytes - done, MSG_NOSIGNAL);
		if (some < 0)
			return 0;
	}
	for (done = 0; done < bytes; done += some) {
		errno = 0;
		some = recv(fd, answer + done, bytes - done, 0);
		if (some <= 0)
			return 0;
	}
	return 1;
}

static _Noreturn void talks(const char *name)
{
	char question[QUESTION], answer[QUESTION];
	struct sockaddr_storage address;
	unsigned long long asked = 0;
	socklen_t length;

	for (;;) {
		int fd = parse(name, &address, &length);

		while (connect(fd, (void *)&address, length)) {
			printf("talk %s unconnected: %s\n", name, strerror(errno));
			rest(RETRY_MS);
			close(fd);
			fd = parse(name, &address, &length);
		}
		printf("talk %s connected\n", name);
		for (;;) {
			uint64_t state = asked;

			fill(&state, question, sizeof question);
			if (!ask(fd, question, answer, sizeof question))
				break;
			if (memcmp(question, answer, sizeof question))
				fail("talk %s asked=%llu: another answer", name, asked);
			if (++asked % TOLD == 0)
				printf("talk %s answered=%llu\n", name, asked);
			rest(REST_MS);
		}
		printf("talk %s lost: %s\n", name, errno ? strerror(errno) : "end");
		close(fd);
	}
}

int talk(int count, char **words)
{
	if (!count)
		fail("talk: no address");
	for (int index = 0; index < count; index++) {
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (!child) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			talks(words[index]);
		}
	}
	while (wait(NULL) > 0)
		;
	return 1;
}
