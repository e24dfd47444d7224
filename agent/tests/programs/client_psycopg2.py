"""TLS by the OpenSSL that the wheel `psycopg2-binary` brings beside its libpq, without a database.

Standard input: {"url", "method", "headers", "body", "ca"}; standard output: the status.
"""
import ctypes
import json
import pathlib
import socket
import sys
from urllib.parse import urlsplit

import psycopg2

plan = json.load(sys.stdin)
url = urlsplit(plan["url"])
lines = [f"{plan['method']} {url.path}{'?' + url.query if url.query else ''} HTTP/1.1", f"Host: {url.netloc}"]
lines += [f"{name}: {value}" for name, value in plan["headers"]]
lines += [f"Content-Length: {len(plan['body'])}", "Connection: close", "", ""]
message = ("\r\n".join(lines) + plan["body"]).encode()

folder = pathlib.Path(psycopg2.__file__).parent.parent / "psycopg2_binary.libs"
lib = ctypes.CDLL(str(next(folder.glob("libssl-*"))))


def function(name, result, *arguments):
    found = getattr(lib, name)
    found.restype, found.argtypes = result, arguments
    return found


pointer, number = ctypes.c_void_p, ctypes.c_int
context = function("SSL_CTX_new", pointer, pointer)(function("TLS_client_method", pointer)())
connection = function("SSL_new", pointer, pointer)(context)
with socket.create_connection((url.hostname, url.port)) as plain:
    function("SSL_set_fd", number, pointer, number)(connection, plain.fileno())
    if function("SSL_connect", number, pointer)(connection) != 1:
        sys.exit("handshake failed")
    function("SSL_write", number, pointer, ctypes.c_char_p, number)(connection, message, len(message))
    answer, buffer = b"", ctypes.create_string_buffer(65536)
    read = function("SSL_read", number, pointer, ctypes.c_char_p, number)
    while (count := read(connection, buffer, 65536)) > 0:
        answer += buffer.raw[:count]
print(answer.split(b" ", 2)[1].decode())
