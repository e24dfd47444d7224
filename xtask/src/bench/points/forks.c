/* An HTTP server that forks for each connection, as PostgreSQL does, with a TLS library loaded that it does not use.
 *
 * Arguments: two that are ignored, and the file that gets its port.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void must(int good, const char *what)
{
	if (!good) {
		perror(what);
		exit(1);
	}
}

/* One request, one answer. */
static void serve(int connection)
{
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n"
				     "Connection: close\r\n\r\n{\"ok\":true}\n";
	char request[4096];
	size_t length = 0;
	while (length + 1 < sizeof request) {
		ssize_t got = read(connection, request + length, sizeof request - 1 - length);
		if (got <= 0)
			return;
		length += got;
		request[length] = 0;
		if (strstr(request, "\r\n\r\n")) {
			if (write(connection, answer, sizeof answer - 1) > 0)
				shutdown(connection, SHUT_WR);
			return;
		}
	}
}

int main(int count, char **words)
{
	if (count != 4)
		return fprintf(stderr, "forks: three arguments\n"), 1;
	if (!dlopen("libssl.so.3", RTLD_NOW) && !dlopen("libssl.so.1.1", RTLD_NOW))
		return fprintf(stderr, "%s\n", dlerror()), 1;
	/* Children are not waited for. */
	signal(SIGCHLD, SIG_IGN);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof address;
	must(bind(listener, (struct sockaddr *)&address, size) == 0, "bind");
	must(listen(listener, 1024) == 0, "listen");
	must(getsockname(listener, (struct sockaddr *)&address, &size) == 0, "getsockname");
	FILE *told = fopen(words[3], "w");
	must(told != NULL, words[3]);
	fprintf(told, "%d\n", ntohs(address.sin_port));
	must(fclose(told) == 0, words[3]);
	for (;;) {
		int connection = accept(listener, NULL, NULL);
		if (connection < 0)
			continue;
		pid_t child = fork();
		if (child == 0) {
			close(listener);
			serve(connection);
			_exit(0);
		}
		close(connection);
	}
}
