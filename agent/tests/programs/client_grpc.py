"""gRPC calls on one channel (grpcio). Standard input: {"target", "ca" or null, "concurrent", "calls": [{"path",
"metadata": [[name, value]], "status"}]}; a name that ends in -bin gets the value's bytes. Output: 200 when every call
ended with its status."""
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

plan = json.load(sys.stdin)
if plan["ca"]:
    channel = grpc.secure_channel(plan["target"], grpc.ssl_channel_credentials(open(plan["ca"], "rb").read()))
else:
    channel = grpc.insecure_channel(plan["target"])


def call(one):
    metadata = [(name, value.encode() if name.endswith("-bin") else value) for name, value in one["metadata"]]
    metadata.append(("x-want-status", str(one["status"])))
    try:
        if one["path"].endswith("-stream"):
            answers = list(channel.unary_stream(one["path"])(b"asked", metadata=metadata, timeout=20))
            assert answers == [b"asked"] * 3, answers
        else:
            assert channel.unary_unary(one["path"])(b"asked", metadata=metadata, timeout=20) == b"asked"
        code = 0
    except grpc.RpcError as error:
        code = error.code().value[0]
    assert code == one["status"], (one["path"], code)


with ThreadPoolExecutor(20 if plan["concurrent"] else 1) as pool:
    list(pool.map(call, plan["calls"]))
channel.close()
print(200)
