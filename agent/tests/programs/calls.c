// Socket calls that Python does not have: sendmmsg and recvmmsg, and io_uring by its raw system calls.
// Arguments: way (mmsg | io_uring), port, path. The credential comes on standard input.
// Prints one JSON line {"pid", "local", "peer", "status"} with ports of 127.0.0.1; 77 says that the kernel refuses.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int connection;

static void die(const char *what) {
	perror(what);
	exit(1);
}

static size_t receive_mmsg(char *into, size_t room) {
	struct iovec parts[2] = {{into, 10}, {into + 10, room - 10}};
	struct mmsghdr messages[1] = {{.msg_hdr = {.msg_iov = parts, .msg_iovlen = 2}}};
	if (recvmmsg(connection, messages, 1, 0, NULL) != 1)
		die("recvmmsg");
	return messages[0].msg_len;
}

static void send_mmsg(char *data, size_t length) {
	struct iovec first[2] = {{data, 5}, {data + 5, 20}}, second[1] = {{data + 25, length - 25}};
	struct mmsghdr messages[2] = {{.msg_hdr = {.msg_iov = first, .msg_iovlen = 2}},
				      {.msg_hdr = {.msg_iov = second, .msg_iovlen = 1}}};
	if (sendmmsg(connection, messages, 2, 0) != 2)
		die("sendmmsg");
}

static struct {
	int fd;
	unsigned *tail, *mask, *array, *done_head, *done_tail, *done_mask;
	struct io_uring_sqe *entries;
	struct io_uring_cqe *results;
} ring;

static void ring_open(void) {
	struct io_uring_params p = {0};
	ring.fd = syscall(SYS_io_uring_setup, 4, &p);
	if (ring.fd < 0)
		exit(77);
	char *sq = mmap(NULL, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQ_RING);
	char *cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED,
			ring.fd, IORING_OFF_CQ_RING);
	ring.entries = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd,
			    IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || ring.entries == MAP_FAILED)
		die("mmap");
	ring.tail = (unsigned *)(sq + p.sq_off.tail);
	ring.mask = (unsigned *)(sq + p.sq_off.ring_mask);
	ring.array = (unsigned *)(sq + p.sq_off.array);
	ring.done_head = (unsigned *)(cq + p.cq_off.head);
	ring.done_tail = (unsigned *)(cq + p.cq_off.tail);
	ring.done_mask = (unsigned *)(cq + p.cq_off.ring_mask);
	ring.results = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
}

static size_t ring_do(int operation, char *data, size_t length) {
	unsigned tail = *ring.tail, slot = tail & *ring.mask;
	memset(&ring.entries[slot], 0, sizeof ring.entries[slot]);
	ring.entries[slot].opcode = operation;
	ring.entries[slot].fd = connection;
	ring.entries[slot].addr = (unsigned long)data;
	ring.entries[slot].len = length;
	ring.array[slot] = slot;
	__atomic_store_n(ring.tail, tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		die("io_uring_enter");
	if (__atomic_load_n(ring.done_tail, __ATOMIC_ACQUIRE) == *ring.done_head)
		die("no completion");
	int result = ring.results[*ring.done_head & *ring.done_mask].res;
	__atomic_store_n(ring.done_head, *ring.done_head + 1, __ATOMIC_RELEASE);
	if (result <= 0) {
		fprintf(stderr, "io_uring operation %d gave %d\n", operation, result);
		exit(1);
	}
	return result;
}

int main(int count, char **arguments) {
	if (count != 4)
		return 2;
	int uring = !strcmp(arguments[1], "io_uring");
	char credential[4096] = "", message[8192], answer[65536];
	if (!fgets(credential, sizeof credential, stdin))
		return 2;
	credential[strcspn(credential, "\n")] = 0;
	struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[2]))}, local;
	peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (uring)
		ring_open();
	connection = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(connection, (struct sockaddr *)&peer, sizeof peer))
		die("connect");
	size_t length = snprintf(message, sizeof message, "GET %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n",
				 arguments[3], credential);
	if (uring) {
		for (size_t at = 0; at < length;)
			at += ring_do(IORING_OP_SEND, message + at, length - at);
	} else {
		send_mmsg(message, length);
	}
	size_t got = 0;
	while (got < sizeof answer - 1 && !memmem(answer, got, "ok\n", 3))
		got += uring ? ring_do(IORING_OP_RECV, answer + got, sizeof answer - got - 1)
			     : receive_mmsg(answer + got, sizeof answer - got - 1);
	answer[got] = 0;
	socklen_t size = sizeof local;
	getsockname(connection, (struct sockaddr *)&local, &size);
	printf("{\"pid\": %d, \"local\": [\"127.0.0.1\", %d], \"peer\": [\"127.0.0.1\", %d], \"status\": %d}\n", getpid(),
	       ntohs(local.sin_port), ntohs(peer.sin_port), atoi(answer + 9));
	return 0;
}
