"""A gRPC server (grpcio: BoringSSL in a wheel). Standard input, output and log as in server.py.

A call of /SERVICE/METHOD answers with what it got, or ends with the status that `x-want-status` asks for; a method whose
name ends in `-stream` answers with three messages.
"""
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

CONFIG = json.loads(sys.stdin.readline())
LOG = open(CONFIG["log"], "a", buffering=1)
CODES = {code.value[0]: code for code in grpc.StatusCode}


def note(context, path, local):
    _, address, port = context.peer().split(":", 2)
    LOG.write(json.dumps({
        "path": path, "method": "POST", "status": 200, "pid": os.getpid(), "tls": "",
        "remote": address, "remote_port": int(port), "local": "127.0.0.1", "local_port": local,
    }) + "\n")
    wanted = int(dict(context.invocation_metadata()).get("x-want-status", 0))
    if wanted:
        context.abort(CODES[wanted], "as asked")


class Handler(grpc.GenericRpcHandler):
    def __init__(self):
        self.port = 0

    def service(self, call):
        path = call.method

        def one(request, context):
            note(context, path, self.port)
            return request

        def many(request, context):
            note(context, path, self.port)
            for _ in range(3):
                yield request

        if path.endswith("-stream"):
            return grpc.unary_stream_rpc_method_handler(many)
        return grpc.unary_unary_rpc_method_handler(one)


def start(credentials):
    handler = Handler()
    server = grpc.server(ThreadPoolExecutor(16), handlers=[handler], options=[("grpc.so_reuseport", 0)])
    if credentials:
        handler.port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        handler.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, handler.port


key, certificate = (open(CONFIG[name], "rb").read() for name in ("key", "certificate"))
clear, http = start(None)
sealed, tls13 = start(grpc.ssl_server_credentials([(key, certificate)]))
print(json.dumps({"http": http, "tls13": tls13}), flush=True)
sys.stdin.read()
os._exit(0)
