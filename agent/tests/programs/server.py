"""HTTP/1.1 server of the tests: cleartext, TLS 1.2 and TLS 1.3 on free loopback ports, one thread per connection.

Standard input: one JSON line {"certificate", "key", "log"}. Standard output: one JSON line of the ports.
Every answered request is one JSON line in the log: what this process itself knows of the socket.
Answers: /...status/NNN that status; /.../chunked a chunked body; /.../big a large body by sendfile; anything else 200.
"""
import json
import os
import re
import socket
import ssl
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler

CONFIG = json.loads(sys.stdin.readline())
LOG = open(CONFIG["log"], "a", buffering=1)
BIG = tempfile.TemporaryFile()
BIG.write(b"big body of the test server\n" * 50000)
BIG.flush()
BIG_LENGTH = BIG.tell()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "tokentrail-test"
    timeout = 900
    wbufsize = -1

    def __init__(self, connection, peer, local):
        self.local = local
        super().__init__(connection, peer, None)

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline() not in (b"\r\n", b"\n", b""):
                pass
        else:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self):
        self.body()
        path = self.path.split("?")[0]
        found = re.search(r"/status/([0-9]{3})$", path)
        status = int(found.group(1)) if found else 200
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Bearer realm="test"')
        if path.endswith("/chunked"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in (b"first part\n", b"x" * 5000, b"last\n"):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        elif path.endswith("/big"):
            self.send_header("Content-Length", str(BIG_LENGTH))
            self.end_headers()
            self.wfile.flush()
            if self.command != "HEAD":
                self.connection.sendfile(BIG, 0)
        else:
            text = b"" if status in (204, 304) else b"ok\n"
            if status not in (204, 304):
                self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)
        self.wfile.flush()
        self.record(path, status)

    def handle_expect_100(self):
        done = super().handle_expect_100()
        self.wfile.flush()
        return done

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = answer

    def record(self, path, status):
        tls = self.connection.version() if isinstance(self.connection, ssl.SSLSocket) else ""
        LOG.write(json.dumps({
            "path": path, "method": self.command, "status": status, "pid": os.getpid(), "tls": tls,
            "remote": self.client_address[0], "remote_port": self.client_address[1],
            "local": self.local[0], "local_port": self.local[1],
        }) + "\n")

    def log_message(self, *_):
        pass


def serve(connection, context):
    try:
        with connection:
            peer, local = connection.getpeername(), connection.getsockname()
            if context:
                connection = context.wrap_socket(connection, server_side=True)
            Handler(connection, peer, local)
            if context:
                connection.unwrap()
    except (OSError, ValueError):
        pass  # hostile clients are part of the tests


def accept(listener, context):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, context), daemon=True).start()


def context(version):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(CONFIG["certificate"], CONFIG["key"])
    made.minimum_version = made.maximum_version = version
    return made


ports = {}
for name, version in (("http", None), ("tls12", ssl.TLSVersion.TLSv1_2), ("tls13", ssl.TLSVersion.TLSv1_3)):
    made = context(version) if version else None
    for family, address, suffix in ((socket.AF_INET, "127.0.0.1", ""), (socket.AF_INET6, "::1", "_v6")):
        listener = socket.create_server((address, 0), family=family, backlog=256)
        ports[name + suffix] = listener.getsockname()[1]
        threading.Thread(target=accept, args=(listener, made), daemon=True).start()
print(json.dumps(ports), flush=True)
sys.stdin.read()
