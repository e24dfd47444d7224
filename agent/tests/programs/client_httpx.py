"""httpx, which offers HTTP/2. Standard input: {"url", "method", "headers", "body", "ca"}; standard output: the status."""
import json
import ssl
import sys

import httpx

plan = json.load(sys.stdin)
with httpx.Client(verify=ssl.create_default_context(cafile=plan["ca"]), trust_env=False,
                  http2=True) as client:
    answer = client.request(plan["method"], plan["url"], headers=plan["headers"], content=plan["body"] or None)
print(answer.status_code)
