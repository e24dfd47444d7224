"""impit (rustls in a wheel). Standard input: {"url", "method", "headers", "body", "ca"}; output: status."""
import json
import sys

import impit

plan = json.load(sys.stdin)
client = impit.Client(verify=False)
answer = client.request(plan["method"], plan["url"], headers=dict(plan["headers"]))
print(answer.status_code)
