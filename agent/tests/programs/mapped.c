// mapped FILE...: a process for each file, which maps it as the loader maps code, and waits.
// Says "mapped" when all have; they end when standard input does. Exit status 1: one of them could not.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

static void map_and_wait(const char *path, int done)
{
	struct stat about;
	int file;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0 || fstat(file, &about) ||
	    mmap(NULL, about.st_size, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) == MAP_FAILED) {
		perror(path);
		_exit(1);
	}
	close(file);
	if (write(done, "+", 1) != 1)
		_exit(1);
	close(done);
	for (;;)
		pause();
}

int main(int count, char **paths)
{
	int done[2];
	char byte;
	if (pipe2(done, O_CLOEXEC))
		return 1;
	for (int i = 1; i < count; i++) {
		pid_t child = fork();
		if (child < 0) {
			perror("fork");
			return 1;
		}
		if (!child) {
			close(done[0]);
			map_and_wait(paths[i], done[1]);
		}
	}
	close(done[1]);
	for (int i = 1; i < count; i++)
		if (read(done[0], &byte, 1) != 1)
			return 1;
	puts("mapped");
	fflush(stdout);
	while (read(0, &byte, 1) == 1)
		;
	return 0;
}
