"""aiohttp (TLS over memory BIOs). Standard input: {"url", "method", "headers", "body", "ca"}; output: the status."""
import asyncio
import json
import ssl
import sys

import aiohttp

plan = json.load(sys.stdin)


async def main():
    context = ssl.create_default_context(cafile=plan["ca"])
    async with aiohttp.ClientSession(headers=plan["headers"]) as client:
        async with client.request(plan["method"], plan["url"], data=plan["body"] or None, ssl=context) as answer:
            await answer.read()
            print(answer.status)


asyncio.run(main())
