/* How many times a second a program with a TLS library forks, makes a thread, or starts another program.
 *
 * rates fork|thread|exec SECONDS
 */
#include <dlfcn.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static int waited(pid_t child)
{
	int status;
	return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int one_fork(void)
{
	pid_t child = fork();
	if (child == 0)
		_exit(0);
	return waited(child);
}

static void *nothing(void *argument)
{
	return argument;
}

static int one_thread(void)
{
	pthread_t thread;
	return pthread_create(&thread, NULL, nothing, NULL) == 0 && pthread_join(thread, NULL) == 0;
}

static int one_exec(void)
{
	char *words[] = {"/bin/true", NULL};
	pid_t child;
	return posix_spawn(&child, words[0], NULL, NULL, words, environ) == 0 && waited(child);
}

int main(int count, char **words)
{
	if (count != 3)
		return fprintf(stderr, "rates: two arguments\n"), 1;
	int (*one)(void) = strcmp(words[1], "fork") == 0 ? one_fork : strcmp(words[1], "thread") == 0 ? one_thread : one_exec;
	double seconds = atof(words[2]);
	if (!dlopen("libssl.so.3", RTLD_NOW) && !dlopen("libssl.so.1.1", RTLD_NOW))
		return fprintf(stderr, "%s\n", dlerror()), 1;
	/* For who watches to see that. */
	struct timespec rest = {0, 500000000};
	nanosleep(&rest, NULL);
	long done = 0;
	double start = now(), end = start + seconds;
	do {
		if (!one())
			return perror(words[1]), 1;
		done++;
	} while (now() < end);
	printf("%f\n", done / (now() - start));
	return 0;
}
