// target LIBRARY: does as it is told on standard input, one line a command, and answers each with a line.
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static int (*point)(int);
static void *call(void *times) {
  for (long left = (long)times; left > 0; left--) point(1);
  return 0;
}
int main(int count, char **arguments) {
  char line[64], what;
  long times;
  void *library = count > 1 ? dlopen(arguments[1], RTLD_NOW) : 0;
  point = library ? (int (*)(int))dlsym(library, "point") : 0;
  if (!point) return 1;
  setvbuf(stdout, 0, _IOLBF, 0);
  printf("%p\n", (void *)point);
  while (fgets(line, sizeof line, stdin)) {
    if (sscanf(line, "%c %ld", &what, &times) != 2) return 2;
    if (what == 'c') call((void *)times);
    if (what == 't') {
      pthread_t thread;
      if (pthread_create(&thread, 0, call, (void *)times) || pthread_join(thread, 0)) return 3;
    }
    if (what == 'f') { // by a child
      int status = 0;
      pid_t child = fork();
      if (child == 0) {
        call((void *)times);
        _exit(0);
      }
      if (child < 0 || waitpid(child, &status, 0) != child || status) {
        puts("failed");
        continue;
      }
    }
    puts("done");
  }
  return 0;
}
