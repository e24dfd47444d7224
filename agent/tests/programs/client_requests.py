"""requests. Standard input: {"url", "method", "headers", "body", "ca"}, and as "more" [url, headers] of further requests
on the same connection; standard output: each status.
"""
import json
import sys

import requests

plan = json.load(sys.stdin)
with requests.Session() as session:
    for url, headers in [(plan["url"], plan["headers"]), *plan.get("more", [])]:
        answer = session.request(plan["method"], url, headers=dict(headers), data=plan["body"] or None,
                                 verify=plan["ca"])
        print(answer.status_code)
