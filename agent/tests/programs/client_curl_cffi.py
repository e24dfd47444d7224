"""curl_cffi (BoringSSL in a wheel), HTTP/1.1. Standard input: {"url", "method", "headers", "body", "ca"}; output: status."""
import json
import sys

from curl_cffi import CurlHttpVersion, requests

plan = json.load(sys.stdin)
answer = requests.request(plan["method"], plan["url"], headers=dict(plan["headers"]), data=plan["body"] or None,
                          verify=plan["ca"], impersonate="chrome", http_version=CurlHttpVersion.V1_1)
print(answer.status_code)
