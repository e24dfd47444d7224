/* Starts a program again and again at a steady rate, as a build or a script does.
 *
 * flood RATE SECONDS FIRST URL PROGRAM [ARGUMENT]...
 *
 * The program's last argument is URL with a number of eight digits behind it, counted up from FIRST. At most CROWD of
 * them run at a time; where the machine is slower than the rate, fewer are started in the time. At the end: started,
 * ended well, and milliseconds from the first start to the last end.
 */
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

enum { CROWD = 64 };

extern char **environ;

static long long now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int running, ended_well;

/* Takes those that have ended; waits for one with flags 0. */
static void reap(int flags)
{
	int status;
	pid_t pid;
	while (running > 0 && (pid = waitpid(-1, &status, flags)) != 0) {
		if (pid < 0) {
			if (errno == EINTR)
				continue;
			perror("waitpid");
			exit(1);
		}
		running--;
		ended_well += WIFEXITED(status) && WEXITSTATUS(status) == 0;
		if (flags == 0)
			return;
	}
}

int main(int count, char **words)
{
	if (count < 6)
		return fprintf(stderr, "flood: too few arguments\n"), 127;
	long long rate = atoll(words[1]), seconds = atoll(words[2]), first = atoll(words[3]), started = 0;
	if (rate < 1 || seconds < 1)
		return fprintf(stderr, "flood: no rate\n"), 127;
	char url[1024];
	char *arguments[64];
	int length = count - 5;
	if (length > 62)
		return fprintf(stderr, "flood: too many arguments\n"), 127;
	for (int i = 0; i < length; i++)
		arguments[i] = words[5 + i];
	arguments[length] = url;
	arguments[length + 1] = NULL;
	long long start = now();
	long long end = start + seconds * 1000000000LL;
	for (; started < rate * seconds && now() < end; started++) {
		for (long long due = start + started * 1000000000LL / rate, at; (at = now()) < due;) {
			struct timespec rest = {(due - at) / 1000000000LL, (due - at) % 1000000000LL};
			nanosleep(&rest, NULL);
		}
		reap(WNOHANG);
		while (running >= CROWD)
			reap(0);
		snprintf(url, sizeof url, "%s%08lld", words[4], first + started);
		pid_t pid;
		int error = posix_spawn(&pid, arguments[0], NULL, NULL, arguments, environ);
		if (error) {
			errno = error;
			perror(arguments[0]);
			return 1;
		}
		running++;
	}
	while (running > 0)
		reap(0);
	printf("%lld %d %lld\n", started, ended_well, (now() - start) / 1000000);
	return 0;
}
