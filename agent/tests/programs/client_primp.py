"""primp (rustls with aws-lc in a wheel). Standard input: {"url", "method", "headers", "body", "ca"}; output: status."""
import json
import sys

import primp

plan = json.load(sys.stdin)
client = primp.Client(ca_cert_file=plan["ca"], http2_only=False)
answer = client.request(plan["method"], plan["url"], headers=dict(plan["headers"]))
print(answer.status_code)
