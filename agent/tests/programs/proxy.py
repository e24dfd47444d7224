"""A CONNECT proxy on a free loopback port, one thread per direction.

Standard output: {"port"}, then one JSON line per tunnel with the addresses of both its sockets.
"""
import json
import os
import socket
import sys
import threading

LOCK = threading.Lock()


def say(**fact):
    with LOCK:
        print(json.dumps(fact), flush=True)


def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def tunnel(client):
    head = b""
    while b"\r\n\r\n" not in head:
        data = client.recv(65536)
        if not data:
            return
        head += data
    target = head.split(b" ", 2)[1].decode()
    host, port = target.rsplit(":", 1)
    upstream = socket.create_connection((host.strip("[]"), int(port)))
    say(target=target, pid=os.getpid(),
        inner_local=client.getsockname()[:2], inner_peer=client.getpeername()[:2],
        outer_local=upstream.getsockname()[:2], outer_peer=upstream.getpeername()[:2])
    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
    back = threading.Thread(target=pump, args=(upstream, client), daemon=True)
    back.start()
    pump(client, upstream)
    back.join()
    client.close()
    upstream.close()


def accept(listener):
    while True:
        client, _ = listener.accept()
        threading.Thread(target=tunnel, args=(client,), daemon=True).start()


listener = socket.create_server(("127.0.0.1", 0), backlog=64)
say(port=listener.getsockname()[1])
threading.Thread(target=accept, args=(listener,), daemon=True).start()
sys.stdin.read()
