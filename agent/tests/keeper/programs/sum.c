// A library whose text is one long sum: a breakpoint anywhere in it gives another answer or a signal.
#define ONE __asm__ volatile("addl $0x01010101, %0" : "+r"(sum));
#define TEN ONE ONE ONE ONE ONE ONE ONE ONE ONE ONE
#define HUNDRED TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN
__attribute__((noinline)) unsigned add(void) {
  unsigned sum = 0;
  HUNDRED HUNDRED HUNDRED HUNDRED
  return sum;
}
