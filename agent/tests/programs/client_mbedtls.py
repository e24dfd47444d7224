"""mbedTLS, by python-mbedtls. Standard input: {"url", "headers", "ca"}; standard output: the status.

Nothing here brings another TLS library into the process.
"""
import json
import socket
import sys
from urllib.parse import urlsplit

from mbedtls import tls

plan = json.load(sys.stdin)
url = urlsplit(plan["url"])
# The test's certificate is its own authority, of a kind that this library has no name for.
context = tls.ClientContext(tls.TLSConfiguration(validate_certificates=False))
with socket.create_connection((url.hostname, url.port)) as plain:
    secure = context.wrap_socket(plain, server_hostname=None)
    secure.do_handshake()
    # Without "Connection: close": an answer that comes together with the end of the connection is lost by this library.
    lines = [f"GET {url.path} HTTP/1.1", f"Host: {url.netloc}"]
    lines += [f"{name}: {value}" for name, value in plan["headers"]]
    secure.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while len(answer.split()) < 2:
        try:
            answer += secure.recv(4096)
        except tls.WantReadError:
            continue
    print(answer.split()[1].decode())
