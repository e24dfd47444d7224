"""An HTTP server in cleartext with 500 threads, each of which serves one connection at a time, in a program that has OpenSSL
loaded. Arguments: two that are ignored, and the file that gets its port."""
import socket
import ssl  # Loads libssl, and that is all.
import sys
import threading

THREADS = 500
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n"
    b'{"ok":true}\n'
)
assert ssl.OPENSSL_VERSION


def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    waiting = b""
    while read := connection.recv(4096):
        waiting += read
        while b"\r\n\r\n" in waiting:
            _, waiting = waiting.split(b"\r\n\r\n", 1)
            connection.sendall(ANSWER)


def work(listener):
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                serve(connection)
            except OSError:
                pass  # The client has gone.


threading.stack_size(256 * 1024)
listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
threads = [threading.Thread(target=work, args=(listener,)) for _ in range(THREADS)]
for thread in threads:
    thread.start()
with open(sys.argv[3], "w") as told:
    told.write(f"{listener.getsockname()[1]}\n")
