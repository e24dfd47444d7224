"""TLS by the OpenSSL that is linked statically into the `cryptography` wheel, through its own bindings.

Standard input: {"url", "method", "headers", "body", "ca"}; standard output: the status.
"""
import json
import socket
import sys
from urllib.parse import urlsplit

from cryptography.hazmat.bindings.openssl.binding import Binding

plan = json.load(sys.stdin)
url = urlsplit(plan["url"])
lines = [f"{plan['method']} {url.path}{'?' + url.query if url.query else ''} HTTP/1.1", f"Host: {url.netloc}"]
lines += [f"{name}: {value}" for name, value in plan["headers"]]
lines += [f"Content-Length: {len(plan['body'])}", "Connection: close", "", ""]
message = ("\r\n".join(lines) + plan["body"]).encode()

lib, ffi = Binding.lib, Binding.ffi
context = lib.SSL_CTX_new(lib.TLS_method())
connection = lib.SSL_new(context)
with socket.create_connection((url.hostname, url.port)) as plain:
    lib.SSL_set_fd(connection, plain.fileno())
    lib.SSL_set_connect_state(connection)
    if lib.SSL_do_handshake(connection) != 1:
        sys.exit("handshake failed")
    lib.SSL_write(connection, message, len(message))
    answer, buffer = b"", ffi.new("char[]", 65536)
    while (count := lib.SSL_read(connection, buffer, 65536)) > 0:
        answer += ffi.buffer(buffer, count)[:]
print(answer.split(b" ", 2)[1].decode())
