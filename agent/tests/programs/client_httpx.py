"""httpx, which offers HTTP/2. Standard input and output as in client_requests.py."""
import json
import ssl
import sys

import httpx

plan = json.load(sys.stdin)
with httpx.Client(verify=ssl.create_default_context(cafile=plan["ca"]), trust_env=False,
                  http2=True) as client:
    for url, headers in [(plan["url"], plan["headers"]), *plan.get("more", [])]:
        answer = client.request(plan["method"], url, headers=headers, content=plan["body"] or None)
        print(answer.status_code)
