"""A gRPC server of grpcio over TLS: every method answers with what it got. Arguments: certificate, key, the file that gets
its port."""
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc


class Echo(grpc.GenericRpcHandler):
    def service(self, call):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)


certificate, key = (open(path, "rb").read() for path in sys.argv[1:3])
server = grpc.server(ThreadPoolExecutor(4), handlers=[Echo()], options=[("grpc.so_reuseport", 0)])
port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
server.start()
with open(sys.argv[3], "w") as told:
    told.write(f"{port}\n")
server.wait_for_termination()
