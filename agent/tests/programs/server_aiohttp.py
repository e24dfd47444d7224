"""An aiohttp server: asyncio's TLS runs over memory BIOs, so no socket descriptor is known to OpenSSL.

Standard input, output and log as in server.py.
"""
import asyncio
import json
import os
import ssl
import sys

from aiohttp import web

CONFIG = json.loads(sys.stdin.readline())
LOG = open(CONFIG["log"], "a", buffering=1)


async def answer(request):
    await request.read()
    peer = request.transport.get_extra_info("peername")
    local = request.transport.get_extra_info("sockname")
    tls = request.transport.get_extra_info("ssl_object")
    LOG.write(json.dumps({
        "path": request.path, "method": request.method, "status": 200, "pid": os.getpid(),
        "tls": tls.version() if tls else "",
        "remote": peer[0], "remote_port": peer[1], "local": local[0], "local_port": local[1],
    }) + "\n")
    return web.Response(text="ok\n")


def context(version):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(CONFIG["certificate"], CONFIG["key"])
    made.minimum_version = made.maximum_version = version
    return made


async def main():
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    ports = {}
    for name, version in (("http", None), ("tls12", ssl.TLSVersion.TLSv1_2), ("tls13", ssl.TLSVersion.TLSv1_3)):
        for address, suffix in (("127.0.0.1", ""), ("::1", "_v6")):
            site = web.TCPSite(runner, address, 0, ssl_context=context(version) if version else None)
            await site.start()
            ports[name + suffix] = site._server.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


asyncio.run(main())
