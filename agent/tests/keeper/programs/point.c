// A library with one function to attach to.
volatile int calls;
__attribute__((noinline)) int point(int number) { calls += number; return calls; }
