/* Becomes a program in a cgroup, and tells when.
 *
 * launch CGROUP.PROCS COUNT [FROM TO PLACE]... PROGRAM [ARGUMENT]...
 *
 * Joins the cgroup; copies COUNT files as a downloader would write them (the mode of a program, and, where PLACE is not
 * 0, eight random bytes at that place of the copy, so that it is nobody's build); writes the time, in nanoseconds since
 * the epoch, to standard output, which then leads to /dev/null; and becomes the program.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(127);
}

static void put(int file, const char *bytes, size_t count, const char *name)
{
	while (count > 0) {
		ssize_t written = write(file, bytes, count);
		if (written < 0)
			fail(name);
		bytes += written;
		count -= written;
	}
}

static void copy(const char *from, const char *to, long long place)
{
	static char buffer[1 << 20];
	int in = open(from, O_RDONLY | O_CLOEXEC);
	if (in < 0)
		fail(from);
	int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	if (out < 0)
		fail(to);
	ssize_t got;
	while ((got = read(in, buffer, sizeof buffer)) > 0)
		put(out, buffer, got, to);
	if (got < 0)
		fail(from);
	if (place > 0) {
		char bytes[8];
		if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes || pwrite(out, bytes, sizeof bytes, place) != sizeof bytes)
			fail(to);
	}
	if (close(out) < 0)
		fail(to);
	close(in);
}

int main(int count, char **words)
{
	if (count < 4)
		return fprintf(stderr, "launch: too few arguments\n"), 127;
	int procs = open(words[1], O_WRONLY | O_CLOEXEC);
	if (procs < 0)
		fail(words[1]);
	char text[32];
	put(procs, text, snprintf(text, sizeof text, "%d\n", getpid()), words[1]);
	close(procs);
	int copies = atoi(words[2]);
	char **next = words + 3;
	if (copies < 0 || count < 4 + 3 * copies)
		return fprintf(stderr, "launch: too few arguments\n"), 127;
	for (; copies > 0; copies--, next += 3)
		copy(next[0], next[1], atoll(next[2]));
	int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (nowhere < 0)
		fail("/dev/null");
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	put(1, text, snprintf(text, sizeof text, "%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec), "standard output");
	if (dup2(nowhere, 1) < 0)
		fail("/dev/null");
	execv(next[0], next);
	fail(next[0]);
}
