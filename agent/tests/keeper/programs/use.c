// use LIBRARY: status 0 if the sum of its `add` is right.
#include <dlfcn.h>
int main(int count, char **arguments) {
  void *library = count > 1 ? dlopen(arguments[1], RTLD_NOW) : 0;
  unsigned (*add)(void) = library ? (unsigned (*)(void))dlsym(library, "add") : 0;
  if (!add) return 2;
  return add() == 400u * 0x01010101u ? 0 : 1;
}
