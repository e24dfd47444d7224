"""primp (rustls with aws-lc in a wheel). Standard input and output as in client_requests.py."""
import json
import sys

import primp

plan = json.load(sys.stdin)
client = primp.Client(ca_cert_file=plan["ca"], http2_only=False)
for url, headers in [(plan["url"], plan["headers"]), *plan.get("more", [])]:
    answer = client.request(plan["method"], url, headers=dict(headers))
    print(answer.status_code)
