"""impit (rustls in a wheel). Standard input and output as in client_requests.py."""
import json
import sys

import impit

plan = json.load(sys.stdin)
client = impit.Client(verify=False)
for url, headers in [(plan["url"], plan["headers"]), *plan.get("more", [])]:
    answer = client.request(plan["method"], url, headers=dict(headers))
    print(answer.status_code)
