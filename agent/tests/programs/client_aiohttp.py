"""aiohttp (TLS over memory BIOs). Standard input and output as in client_requests.py."""
import asyncio
import json
import ssl
import sys

import aiohttp

plan = json.load(sys.stdin)


async def main():
    context = ssl.create_default_context(cafile=plan["ca"])
    async with aiohttp.ClientSession() as client:
        for url, headers in [(plan["url"], plan["headers"]), *plan.get("more", [])]:
            async with client.request(plan["method"], url, headers=headers, data=plan["body"] or None,
                                      ssl=context) as answer:
                await answer.read()
                print(answer.status)


asyncio.run(main())
