"""Opens connections to 127.0.0.1, sends one request with a credential on each, and holds them."""
import resource
import socket
import ssl
import sys
import time

port, scheme, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 100) if hard > 0 else count + 100, hard))
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
held = []
for number in range(count):
    connection = socket.create_connection(("127.0.0.1", port))
    if scheme == "https":
        connection = context.wrap_socket(connection)
    connection.sendall(
        b"GET /v1/items HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
        b"User-Agent: tokentrail-bench/1\r\nAuthorization: Bearer bench-%030d\r\n\r\n" % number
    )
    if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
        sys.exit("not answered")
    held.append(connection)
print("ready", flush=True)
time.sleep(3600)
