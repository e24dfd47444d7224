"""curl_cffi (BoringSSL in a wheel), HTTP/1.1. Standard input and output as in client_requests.py."""
import json
import sys

from curl_cffi import CurlHttpVersion, requests

plan = json.load(sys.stdin)
with requests.Session(verify=plan["ca"], impersonate="chrome", http_version=CurlHttpVersion.V1_1) as session:
    for url, headers in [(plan["url"], plan["headers"]), *plan.get("more", [])]:
        answer = session.request(plan["method"], url, headers=dict(headers), data=plan["body"] or None)
        print(answer.status_code)
