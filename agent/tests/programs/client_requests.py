"""requests. Standard input: {"url", "method", "headers", "body", "ca"}; standard output: the status."""
import json
import sys

import requests

plan = json.load(sys.stdin)
answer = requests.request(plan["method"], plan["url"], headers=dict(plan["headers"]), data=plan["body"] or None,
                          verify=plan["ca"])
print(answer.status_code)
