// write HOW NEW FILE: gives FILE the content of NEW. HOW: `m` through a shared mapping whose descriptor is closed, `t` truncates
// it by its name first, `h` only holds a mapping that could be written, until standard input ends.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
static char content[1 << 20];
int main(int count, char **arguments) {
  if (count < 4) return 2;
  char how = arguments[1][0];
  int from = open(arguments[2], O_RDONLY);
  ssize_t size = from < 0 ? -1 : read(from, content, sizeof content);
  if (size <= 0) return 3;
  if (how == 't') {
    if (truncate(arguments[3], 0)) return 4;
    int file = open(arguments[3], O_WRONLY);
    return file < 0 || write(file, content, size) != size ? 5 : 0;
  }
  struct stat old;
  int file = open(arguments[3], O_RDWR);
  if (file < 0 || fstat(file, &old)) return 6;
  off_t length = old.st_size > size ? old.st_size : size;
  if (how == 'm' && ftruncate(file, length)) return 7;
  char *memory = mmap(0, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED || close(file)) return 8;
  if (how == 'h') {
    puts("mapped");
    fflush(stdout);
    return getchar() != EOF;
  }
  memcpy(memory, content, size);
  return munmap(memory, length) || truncate(arguments[3], size) ? 9 : 0;
}
