"""One request over libcurl as pycurl brings it. Standard input: {"url", "ca", "credential", "proxy" or null,
"proxy_credential"}; a proxy is spoken to by HTTP/2. Output: status, own and other end of the socket."""
import io
import json
import sys

import pycurl

# CURLPROXY_HTTPS2 of curl.h, for which pycurl has no name.
HTTPS2 = 3
plan = json.load(sys.stdin)
curl = pycurl.Curl()
curl.setopt(pycurl.URL, plan["url"])
curl.setopt(pycurl.CAINFO, plan["ca"])
curl.setopt(pycurl.HTTPHEADER, [f"Authorization: Bearer {plan['credential']}"])
curl.setopt(pycurl.WRITEDATA, io.BytesIO())
if plan["proxy"]:
    curl.setopt(pycurl.PROXY, plan["proxy"])
    curl.setopt(pycurl.PROXYTYPE, HTTPS2)
    curl.setopt(pycurl.HTTPPROXYTUNNEL, 1)
    curl.setopt(pycurl.PROXY_CAINFO, plan["ca"])
    curl.setopt(pycurl.PROXYHEADER, [f"Proxy-Authorization: Bearer {plan['proxy_credential']}"])
curl.perform()
ends = [curl.getinfo(item) for item in (pycurl.LOCAL_IP, pycurl.LOCAL_PORT, pycurl.PRIMARY_IP, pycurl.PRIMARY_PORT)]
print(curl.getinfo(pycurl.RESPONSE_CODE), *ends)
