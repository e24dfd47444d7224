// A long sum: whoever changes a byte of this program's text changes its answer or ends it by a signal.
// Exit status 0: the sum is right. With an argument it says "ready" and adds up anew for each byte of standard input.
#include <stdio.h>
#include <unistd.h>

#ifndef COUNT
#define COUNT 1000
#endif
#define TEXT(x) #x
#define NUMBER(x) TEXT(x)

__attribute__((noinline)) static int is_right(void)
{
	unsigned sum = 0;
	__asm__ volatile(".rept " NUMBER(COUNT) "\n\taddl $0x01010101, %0\n\t.endr" : "+a"(sum));
	return sum == COUNT * 0x01010101u;
}

int main(int count, char **arguments)
{
	int right = is_right();
	char byte;
	(void)arguments;
	if (count > 1) {
		puts("ready");
		fflush(stdout);
		while (read(0, &byte, 1) == 1)
			right &= is_right();
	}
	puts(right ? "right" : "wrong");
	return !right;
}
